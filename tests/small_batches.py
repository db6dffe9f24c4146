"Small studies, and what is compared of batches, for the tests of batches."
from dataclasses import fields, replace

import numpy as np
import torch
from scipy import sparse

from aam_nb.batches.build import build_store
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.data.tree import parse_newick
from aam_nb.sections import AugmentConfig
from aam_nb.types import Study, Table, strings


def made(samples=11, asvs=40, seed=0, tree=True):
    "A random study with one empty sample and a tree without the first two ASVs."
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 300, (samples, asvs))*(rng.random((samples, asvs)) < .3)
    counts[3] = 0
    seqs = set()
    while len(seqs) < asvs: seqs.add("".join(rng.choice(list("ACGT"), 14)))
    seqs = sorted(seqs)
    ids = strings([f"S{i}" for i in rng.permutation(samples)])
    table = Table(counts=sparse.csr_matrix(counts.astype(np.int32)), sample_ids=ids, sequences=strings(seqs))
    if not tree: return Study(table=table)
    nodes = [f"{o}:{rng.random():.3f}" for o in seqs[2:]]
    while len(nodes) > 1:
        a, b = nodes.pop(0), nodes.pop(0)
        nodes.append(f"({a},{b}):{rng.random():.3f}")
    tree = parse_newick(nodes[0] + ";")
    at = {o: i for i, o in enumerate(tree.tips)}
    return Study(table=table, tree=tree, tip=np.array([at.get(o, -1) for o in seqs], dtype=np.int32))


def named(study, ids): return replace(study, table=replace(study.table, sample_ids=strings(ids)))


def longer():
    "A study of other ASVs, of 20 bases, with a tree and sample ids of its own."
    study = made(17, 30, seed=4)
    table = replace(study.table, sequences=strings([o + "ACGTAC" for o in study.table.sequences]))
    return named(replace(study, table=table), [f"L{i}" for i in range(17)])


STORE = build_store(made())
OTHER = build_store(longer())
THIRD = build_store(named(made(7, 9, seed=3, tree=False), [f"T{i}" for i in range(7)]))
CORPUS = Corpus([STORE, OTHER, THIRD]) # 11, 17 and 7 samples; the last has no tree
DATA = SampleDataset(STORE, target=np.arange(22.).reshape(11, 2))
PLAIN = AugmentConfig(rarefy=0., asv_dropout=0.) # Leaves the reads as they are
VARIED = AugmentConfig(rarefy=1., substitution=.05, indel=.02, reverse=.3, window=4, shuffle=True,
                       jitter="multinomial",
                       identity_dropout=.3)
FULL = View(seed=7, augment=AugmentConfig(), identity=16, metrics=("unweighted",), mask=.2, patch=3)
ALL = replace(FULL, augment=VARIED, span=2)

RNG = np.random.default_rng(4)
WEIGHT, CATEGORY, NUMBER = RNG.random((11, 2)), RNG.integers(0, 6, (11, 3)), RNG.normal(size=(11, 1))


def with_covariates(**more): # The samples of DATA
    return SampleDataset(STORE, target=DATA.target, weight=WEIGHT, covariates=(CATEGORY, NUMBER), **more)


def same(a, b):
    "Equal in every field, bit for bit."
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if not isinstance(x, torch.Tensor):
            if x != y: return False
        elif x.dtype != y.dtype or x.shape != y.shape: return False
        elif not torch.equal(x.nan_to_num(-7), y.nan_to_num(-7)): return False
    return True


def reads_of(batch, asvs=40):
    "The reads [b, asvs] of a batch over all ASVs of the store."
    out = np.zeros((batch.size, asvs))
    out[batch.sample, batch.rows[batch.asv]] = batch.counts
    return out


def rows_of(batch, j):
    "Rows of the store and reads of sample `j`, in the order of the batch."
    at = slice(*batch.offsets[j:j+2].tolist())
    return batch.rows[batch.asv[at]].tolist(), batch.counts[at].tolist()


def shared(world, dataset, view, **how):
    "The sources of all processes that share batches."
    return [SampleBatches(dataset, view, **how, rank=o, world=world) for o in range(world)]


def _by_row(batch, j):
    "Reads of sample `j`, and whether they are hidden, by row of the store."
    at = slice(*batch.offsets[j:j+2].tolist())
    hidden = batch.counts[at]*0 if batch.hidden is None else batch.hidden[at]
    pairs = zip(batch.counts[at].tolist(), hidden.tolist(), strict=True)
    return dict(zip(batch.rows[batch.asv[at]].tolist(), pairs, strict=True))


def _same_samples(whole, parts):
    assert torch.cat([o.index for o in parts]).tolist() == whole.index.tolist()
    assert torch.cat([o.places for o in parts]).tolist() == list(range(whole.size))
    assert {o.total for o in parts} == {whole.size}
    for name in ("target", "distance", "partner", "share", "weight", "category", "number"):
        wanted = getattr(whole, name)
        if wanted is None:
            assert all(getattr(o, name) is None for o in parts)
            continue
        found = torch.cat([getattr(o, name) for o in parts], dim=int(name == "distance"))
        assert torch.equal(found.nan_to_num(-7), wanted.nan_to_num(-7))


def check_parts(whole, parts):
    "The parts of a batch, one after the other, are the batch."
    _same_samples(whole, parts)
    at, begin = {r: i for i, r in enumerate(whole.rows.tolist())}, 0
    for o in parts:
        own = torch.tensor([at[r] for r in o.rows.tolist()], dtype=torch.long)
        assert o.key == whole.key
        for name in ("tokens", "identity", "masked", "place"):
            wanted = getattr(whole, name)
            if wanted is not None: assert torch.equal(getattr(o, name), wanted[own])
        for j in range(o.size): assert _by_row(o, j) == _by_row(whole, begin + j)
        begin += o.size
    assert {r for o in parts for r in o.rows.tolist()} == set(at)
