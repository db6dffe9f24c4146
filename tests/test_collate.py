"Samples put together: the ragged layout against a loop, distances of the very reads, names and covariates."
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_batches import (
    CATEGORY, CORPUS, DATA, NUMBER, STORE, THIRD, WEIGHT, made, reads_of, with_covariates)

from aam_nb.batches.build import build_store
from aam_nb.batches.collate import Signs, collate, known_places
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.core import AamError
from aam_nb.data.distances import aitchison, faith_pd, sample_distances, unifrac
from aam_nb.registry import metrics
from aam_nb.sections import AugmentConfig


def by_loops(counts, rows):
    "Distinct ASVs of some samples, and the samples as lists of places among them, reads and offsets."
    distinct = [a for a in range(40) if counts[rows, a].any()]
    asv, reads, offsets = [], [], [0]
    for r in rows:
        for a in np.flatnonzero(counts[r]):
            asv.append(distinct.index(a))
            reads.append(counts[r, a])
        offsets.append(len(asv))
    return distinct, asv, reads, offsets


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=8))
def test_the_ragged_layout_equals_a_plain_loop(rows):
    known = np.where(np.arange(40) % 3 > 0, np.arange(40)[::-1] + 5, -1)
    identity, view = STORE.identity(8), View(identity=8, known=known)
    batch = collate([DATA[i] for i in rows], STORE, view, key=5)
    distinct, asv, reads, offsets = by_loops(STORE.counts().toarray(), rows)
    assert batch.rows.tolist() == distinct and batch.asv.tolist() == asv
    assert batch.counts.tolist() == reads and batch.offsets.tolist() == offsets
    assert batch.tokens.numpy().tolist() == STORE.tokens[distinct].tolist()
    assert batch.identity.tolist() == [(identity[a]*(known[a] >= 0)).tolist() for a in distinct]
    assert batch.place.tolist() == known[distinct].tolist()
    assert batch.index.tolist() == rows and batch.target.tolist() == [[2*r, 2*r + 1] for r in rows]
    assert batch.size == len(rows) and batch.key == 5 and batch.distance is None and batch.masked is None
    assert batch.sample.tolist() == np.repeat(np.arange(len(rows)), np.diff(offsets)).tolist()
    types = dict(tokens=torch.uint8, rows=torch.int64, identity=torch.float32, asv=torch.int64,
                 counts=torch.float32,
                 offsets=torch.int64, index=torch.int64, target=torch.float32)
    assert {k: getattr(batch, k).dtype for k in types} == types


def test_a_part_of_a_batch_knows_its_place_and_has_distances_to_all():
    view = View(identity=8, metrics=("unweighted",))
    samples = [DATA[i] for i in (4, 1, 9, 1, 6)]
    whole, part = collate(samples, STORE, view), collate(samples, STORE, view, part=slice(2, 4))
    assert part.places.tolist() == [2, 3] and part.total == 5 and part.index.tolist() == [9, 1]
    assert torch.equal(part.distance, whole.distance[:, 2:4]) and part.distance.shape == (1, 2, 5)
    assert (reads_of(part) == reads_of(whole)[2:4]).all() and whole.places.tolist() == [0, 1, 2, 3, 4]


def test_targets_may_be_absent_one_column_or_missing():
    assert collate([SampleDataset(STORE)[0]], STORE).target.shape == (1, 0)
    missing = SampleDataset(STORE, target=np.full(11, np.nan))
    assert collate([missing[0]]*2, STORE).target.isnan().tolist() == [[True], [True]]
    assert collate([SampleDataset(STORE)[0]], STORE).identity.shape[1] == 0


def test_weights_and_covariates_stand_in_the_batch_in_the_order_of_the_samples():
    rows = [7, 2, 7]
    batch = collate([with_covariates()[i] for i in rows], STORE)
    wanted = dict(weight=(WEIGHT, torch.float32), category=(CATEGORY, torch.int64),
                  number=(NUMBER, torch.float32))
    for name, (values, dtype) in wanted.items():
        found = getattr(batch, name)
        assert found.dtype == dtype and np.allclose(found.numpy(), values[rows])
    bare = collate([DATA[7]], STORE)
    assert bare.weight is bare.category is bare.number is bare.place is bare.hidden is None


@settings(max_examples=40)
@given(st.lists(st.integers(-50, 50), max_size=20), st.sets(st.integers(-50, 50), max_size=20))
def test_places_among_known_keys(keys, known):
    known = np.array(sorted(known), dtype=np.int64)
    found = known_places(np.array(keys, dtype=np.int64), known)
    assert found.dtype == np.int64
    assert found.tolist() == [known.tolist().index(o) if o in known else -1 for o in keys]


def test_names_are_made_for_the_asvs_that_are_met():
    signs, rows = Signs(STORE, 24), np.array([3, 17, 30])
    assert (signs[rows] == STORE.identity(24)[rows]).all()
    assert np.flatnonzero(signs.made).tolist() == [3, 17, 30]
    assert (signs[np.arange(40)] == STORE.identity(24)).all()
    assert not pickle.loads(pickle.dumps(signs)).made.any()
    with pytest.raises(AamError, match="identity width is 12"): Signs(STORE, 12)


# Distances

def test_the_distance_equals_scikit_bio():
    skbio = pytest.importorskip("skbio")
    pytest.importorskip("skbio.diversity")
    from io import StringIO

    from aam_nb.data.tree import newick
    view = View(augment=AugmentConfig(rarefy=1.), metrics=("unweighted",))
    batch = SampleBatches(SampleDataset(STORE, [0, 1, 2, 4, 5]), view, batch=5, steps=1)[0]
    tree = skbio.TreeNode.read(StringIO(newick(STORE.tree)))
    dense, has = reads_of(batch).astype(int), STORE.tip >= 0
    taxa = STORE.tree.tips[STORE.tip[has]]
    wanted = skbio.diversity.beta_diversity("unweighted_unifrac", dense[:, has], taxa=taxa,
                                            tree=tree, validate=False)
    assert np.allclose(batch.distance[0].numpy(), wanted.data, atol=1e-6)


def test_without_a_tree_there_are_no_distances_along_it():
    store = build_store(made(tree=False))
    data = SampleDataset(store)
    view = View(metrics=("unweighted", "faith_pd"))
    assert SampleBatches(data, view, batch=4, steps=1)[0].distance is None
    found = collate([data[0], data[1]], store, View(metrics=("unweighted", "jaccard"))).distance
    assert found[0].isnan().all() and not found[1].isnan().any() # The first is not known, and keeps its place


def test_several_distances_are_those_of_each_metric_alone():
    names, augment = ("unweighted", "aitchison", "faith_pd", "generalized"), AugmentConfig(rarefy=1.)
    def source(*names):
        view = View(seed=7, augment=augment, metrics=names, alpha=.3)
        return SampleBatches(DATA, view, batch=6, steps=3)
    for step, batch in enumerate(source(*names)):
        assert batch.distance.shape == (4, 6, 6) and batch.distance.dtype == torch.float32
        for name, one in zip(names, batch.distance, strict=True):
            assert torch.equal(one, source(name)[step].distance[0])
        counts = sparse.csr_matrix(reads_of(batch))
        far = faith_pd(counts, STORE.tree, STORE.tip)
        assert np.allclose(batch.distance[1].numpy(), aitchison(counts), atol=1e-4)
        assert np.allclose(batch.distance[2].numpy(), abs(far[:, None] - far), atol=1e-5)


def test_faith_pd_is_computed_in_the_batch():
    batch = SampleBatches(DATA, View(seed=7, metrics=("faith_pd",)), batch=6, steps=1)[0]
    far = faith_pd(STORE.counts(batch.index.numpy()), STORE.tree, STORE.tip)
    assert np.allclose(batch.distance[0].numpy(), abs(far[:, None] - far), atol=1e-5)


def test_distances_in_a_corpus_are_those_within_each_study():
    samples = [SampleDataset(CORPUS)[i] for i in (0, 12, 30, 2, 13, 20, 31)]
    where = np.array([0, 1, 2, 0, 1, 1, 2])
    found = collate(samples, CORPUS, View(metrics=("weighted",))).distance[0]
    for k, base in ((0, 0), (1, 11)):
        at, store = np.flatnonzero(where == k), CORPUS.stores[k]
        rows = np.array([samples[i].index for i in at]) - base
        wanted = unifrac(store.counts(rows), store.tree, store.tip, "weighted")
        assert np.allclose(found[at][:, at].numpy(), wanted, atol=1e-6)
    assert found.isnan()[where[:, None] != where].all() and found[where == 2].isnan().all()
    source = PlainBatches(SampleDataset(CORPUS), View(metrics=("unweighted",)), batch=35)
    assert source[0].distance.shape == (1, 35, 35)
    alone = Corpus([THIRD])
    assert collate([SampleDataset(alone)[0]], alone, View(metrics=("weighted",))).distance is None


@pytest.mark.parametrize("metric", [o.name for o in metrics.values() if o.between and not o.needs_tree])
def test_distances_of_reads_need_no_tree(metric):
    samples = [SampleDataset(CORPUS)[i] for i in (0, 29, 12, 30, 2)]
    found, at = collate(samples, CORPUS, View(metrics=(metric,))).distance, [1, 3]
    # Over all ASVs of the study, also those that the batch lacks
    wanted = sample_distances(THIRD.counts([1, 2]), metric)
    assert np.allclose(found[0][at][:, at].numpy(), wanted, atol=1e-5) and wanted[0, 1] > 0
    assert found.isnan().sum() == 25 - 4 - 4 - 1


def test_a_real_study_comes_out_as_it_went_in(data_dir):
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    folder = data_dir/"tiny_ecam60"
    study = make_study(read_table(folder/"table.biom"), tree=read_tree(folder/"tree.nwk"))
    batch = PlainBatches(SampleDataset(build_store(study)), View(metrics=("unweighted",)), batch=60)[0]
    arrays = batch.counts.numpy(), batch.asv.numpy(), batch.offsets.numpy()
    reads = sparse.csr_matrix(arrays, shape=(60, 356))
    assert (reads != study.table.counts[:, np.argsort(study.table.sequences)]).nnz == 0
    lines = [o.split("\t") for o in (folder/"unweighted_unifrac.tsv").read_text().splitlines()]
    order = [lines[0].index(o) - 1 for o in study.ids]
    wanted = np.array([o[1:] for o in lines[1:]], dtype=float)
    assert [o[0] for o in lines[1:]] == lines[0][1:]
    assert np.allclose(batch.distance[0].numpy(), wanted[order][:, order], atol=2e-6)
