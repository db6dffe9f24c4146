"A random study for the tests of stores."
import numpy as np
import pandas as pd
from scipy import sparse

from aam_nb.types import Study, Table, Tree, strings


def made(seed=0, samples=7, asvs=30, tree=True):
    "A random study: empty samples, ASVs without reads or tip, IUPAC codes, ids beyond ASCII, gaps."
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 900, (samples, asvs))*(rng.random((samples, asvs)) < .3)
    counts[1] = 0
    counts[:, 2] = 0
    seqs = set()
    while len(seqs) < asvs: seqs.add("".join(rng.choice(list("ACGTN"), rng.integers(4, 12))))
    seqs = strings(rng.permutation(sorted(seqs)))
    table = Table(counts=sparse.csr_matrix(counts.astype(np.int32)),
                  sample_ids=strings([f"Probe ä{i}" for i in range(samples)]), sequences=seqs)
    if not tree: return Study(table=table)
    site = np.where(rng.random(samples) < .2, None, rng.choice(["gut", "left\thand", "Füße"], samples))
    about = pd.DataFrame(dict(age=np.where(rng.random(samples) < .2, np.nan, rng.random(samples)), site=site),
                         index=pd.Index(table.sample_ids, dtype=object, name="sample_id"))
    at = rng.permutation(asvs)
    tip = np.full(asvs, -1, dtype=np.int32)
    tip[at[3:]] = np.arange(asvs - 3)
    n = asvs - 3
    tree = Tree(tips=strings(seqs[at[3:]]), start=np.r_[np.arange(n), 0].astype(np.int32),
                stop=np.r_[np.arange(n) + 1, n].astype(np.int32),
                length=rng.random(n + 1))
    return Study(table=table, metadata=about, notes=("3 ASVs are not in the tree",), tip=tip, tree=tree)

def reordered(study, order):
    table = Table(counts=study.table.counts[:, order], sample_ids=study.ids,
                  sequences=study.table.sequences[order])
    return Study(table=table, metadata=study.metadata, tree=study.tree, tip=None
                 if study.tip is None else study.tip[order])
