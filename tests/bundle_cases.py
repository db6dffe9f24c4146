"A small bundle with all that a bundle may hold, and a table that it predicts."
import numpy as np
import pandas as pd
import torch

from aam_nb.config import config_from
from aam_nb.data.covariates import CovariateCodec
from aam_nb.data.simulate import simulate
from aam_nb.data.targets import Targets
from aam_nb.data.tokens import sequence_keys
from aam_nb.inference.bundle import Bundle
from aam_nb.inference.predict import predict_table
from aam_nb.model.aam import AamModel
from aam_nb.stack.features import Features
from aam_nb.stack.keep import pack_reads, unpack_reads
from aam_nb.stack.members import fit_forest, MEMBERS
from aam_nb.stack.pool import plain_mean
from aam_nb.stack.targets import Stacks, TargetStack
from aam_nb.stack.with_net import encoded_fold, NET

SMALL = dict(width=8, layers=1, heads=2, sample_width=8, head_width=8, identity=8, covariate_width=4,
             linear="both", components=3, scale_by=["diet"])
BASES = 24
STUDY = simulate(samples=6, asvs=20, groups=3, length=BASES, seed=1)
ABOUT = pd.DataFrame(dict(age=[1., 4, 9, 2, 3, 5], site=list("abcabc"), diet=list("vmvmvm"),
                          ph=[5., 6, 7, 5, 6, 8]), index=STUDY.table.sample_ids)


def small_stack(targets):
    "Two linear members and a forest for each target."
    rows, found = np.arange(6), {}
    for codec, y in zip(targets, targets.encode(ABOUT).T, strict=True):
        fold = encoded_fold(Features(STUDY), codec, y, rows, threads=1)
        members = {o: MEMBERS[o].fit(fold) for o in ("clr", "log_unifrac")}
        members["extra_trees"] = fit_forest(fold, "branch", True, 2)
        found[codec.name] = TargetStack(members=members, pool=plain_mean([NET, *members]), rows=rows)
    return Stacks(known=unpack_reads(pack_reads(STUDY, rows)), of=found)


def small_bundle(seed=0, stack=False):
    "Two targets, two covariates, a linear path on ASVs and branches, a distance and hidden reads."
    torch.manual_seed(seed)
    config = config_from({"model": SMALL, "data": dict(target=["age", "site"], covariates=["diet", "ph"]),
                          "loss": dict(distance=.1)})
    targets = Targets.fit(ABOUT, config)
    covariates = CovariateCodec.fit(ABOUT, config.data.covariates)
    keys, tree = sequence_keys(STUDY.table.sequences), STUDY.tree
    model = AamModel(config.model, BASES, targets.columns, ("unweighted",), covariates.shape, known=len(keys),
                     branches=len(tree.length), counts=True)
    order = np.argsort(keys)
    model.linear.fit(STUDY.table.counts[:, order], tree, STUDY.tip[order])
    return Bundle(model=model.eval(), config=config, targets=targets, covariates=covariates,
                  known=keys[order], sequences=STUDY.table.sequences[:5],
                  samples=np.sort(sequence_keys(ABOUT.index)), about=dict(samples=6),
                  stack=small_stack(targets) if stack else None)


def predicted(bundle):
    "What it says of the samples that it was made from."
    return predict_table(bundle, STUDY.table, metadata=ABOUT)
