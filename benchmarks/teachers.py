"""How well the sample level learns each distance: rank correlation, Mantel's r and stress on samples of
groups that did not train.

    python benchmarks/teachers.py ecam_infant            # under AAM_DATA; about 5 minutes
    python benchmarks/teachers.py ecam_infant --metrics unweighted,aitchison --steps 200 model.identity=256

The ASV encoder learns once, from the tree of the training samples' ASVs, and stays as it is; then one sample
level learns each metric.
"""
import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from aam_nb.recipe import load_config
from aam_nb.registry import metrics
from aam_nb.batches.collate import known_places
from aam_nb.batches.sample_batches import PlainBatches
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.batches.view import View
from aam_nb.data.metadata import read_metadata
from aam_nb.data.split import kfold
from aam_nb.batches.build import build_store
from aam_nb.data.table import read_table
from aam_nb.data.study import make_study
from aam_nb.data.tree import read_tree
from aam_nb.training.bench import Bench, new_model
from aam_nb.training.encoder_stage import pretrain_asvs
from aam_nb.training.sample_stage import sample_stage
from aam_nb.training.measure import measure_samples
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.outputs import embed_asvs

ROOT = Path(__file__).resolve().parent.parent


def divided(folder):
    "Store of a study, and rows that train and that are measured: a quarter of the groups."
    study = make_study(read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv"),
                       read_tree(folder/"tree.nwk"))
    groups = study.metadata["host_subject_id"].astype(str).to_numpy()
    train, test = kfold(study.ids, 4, groups, seed=0)[0]
    return build_store(study), study.positions(train), study.positions(test), len(set(groups))


def taught(bench, start, table, train, test):
    "What a sample level says of training and of other samples, once the metric has taught it."
    config, store = bench.config, bench.store
    model = new_model(bench, store.tokens.shape[1])
    model.encoder.load_state_dict(start.encoder.state_dict())
    model.freeze_encoder()
    objective, source = sample_stage(bench, model, train, embeddings=table)
    bench.fit(objective, source, config.pretrain_sample, "teacher")
    known = known_places(store.keys, np.sort(store.keys[asvs_in(store, train)]))
    view = View(identity=config.model.identity, alpha=config.loss.alpha, metrics=config.loss.metric,
                known=known)
    def measured(rows):
        return measure_samples(objective, PlainBatches(SampleDataset(store, rows), view, batch=64))
    return measured(train), measured(test)


if __name__ == "__main__":
    ask = argparse.ArgumentParser()
    ask.add_argument("study")
    ask.add_argument("words", nargs="*", help="section.key=value")
    ask.add_argument("--metrics", default=",".join(o for o in metrics if o != "precomputed"))
    ask.add_argument("--steps", type=int, default=400)
    ask.add_argument("--asv-steps", type=int, default=500)
    ask.add_argument("--batch", type=int, default=64)
    given = ask.parse_intermixed_args()
    data = Path(os.environ.get("AAM_DATA", ROOT.parent/"shared"/"data"))
    store, train, test, groups = divided(data/given.study)
    config = load_config("small", (f"pretrain_sample.steps={given.steps}",
                                   f"pretrain_sample.batch={given.batch}",
                                   f"pretrain_asv.steps={given.asv_steps}",
                                   "run.threads=1", "run.device=cpu", *given.words))
    bench = Bench(config=config, store=store, accelerator=make_accelerator(config.run))
    clock = time.perf_counter()
    start = pretrain_asvs(bench, train)
    table = embed_asvs(start.freeze_encoder(), store.tokens)
    print(f"{given.study}: {len(train)} samples train, {len(test)} of other hosts are measured "
          f"({groups} hosts in all); ASV encoder {config.pretrain_asv.steps} steps, "
          f"{time.perf_counter() - clock:.0f} s; then {given.steps} steps of {given.batch} samples a metric")
    print(f"{'metric':22}{'spearman':>10}{'mantel':>10}{'stress':>10}{'spearman of training samples':>32}"
          f"{'seconds':>10}")
    for metric in given.metrics.split(","):
        clock = time.perf_counter()
        one = replace(config, loss=replace(config.loss, metric=(metric,)))
        own, other = taught(replace(bench, config=one), start, table, train, test)
        figures = "".join(f"{other[f'distance_{o}']:10.3f}" for o in ("spearman", "mantel", "stress"))
        print(f"{metric:22}{figures}{own['distance_spearman']:32.3f}{time.perf_counter() - clock:10.0f}",
              flush=True)
