"Batches of ASVs: distinct and random, path lengths against sums of branches, every ASV once for validation."
import numpy as np
import pytest
from small_batches import CORPUS, STORE, made, same

from aam_nb.batches.asv_batches import AsvBatches, PlainAsvBatches
from aam_nb.batches.build import build_store
from aam_nb.batches.view import View
from aam_nb.core import AamError
from aam_nb.data.tree import path_lengths


def test_asv_batches_are_distinct_random_and_pure():
    rows, view, times = [4, 30, 9, 9, 17, 22, 5], View(seed=7, patch=3, mask=.15), np.zeros(40)
    source, reverse = (AsvBatches(STORE, o, view, batch=4, steps=300) for o in (rows, rows[::-1]))
    for i, o in enumerate(source):
        at = o.rows.tolist()
        assert at == sorted(set(at)) and len(at) == 4 and set(at) <= set(rows)
        times[at] += 1
        if i < 20: assert same(o, reverse[i])
    assert (abs(times[sorted(set(rows))] - 200) < 45).all() # 300 x 4/6 each, standard deviation 8
    assert AsvBatches(STORE, rows, batch=100)[0].rows.tolist() == sorted(set(rows))
    with pytest.raises(AamError, match="no ASVs to learn from"): AsvBatches(STORE, [])


def test_distances_of_asv_batches_equal_the_sum_of_branches_apart():
    batch, tree = AsvBatches(STORE, view=View(seed=3), batch=25)[0], STORE.tree
    tips = STORE.tip[batch.rows]
    def below(t): return (tree.start <= t) & (t < tree.stop)
    for i, j in np.ndindex(25, 25):
        found = batch.distance[i, j]
        if min(tips[i], tips[j]) < 0: assert found.isnan()
        else: assert np.isclose(found, tree.length[below(tips[i]) != below(tips[j])].sum(), atol=1e-5)


def test_without_a_tree_there_are_no_distances():
    store = build_store(made(tree=False))
    assert AsvBatches(store, batch=5)[0].distance is None and PlainAsvBatches(store)[0].distance is None


def test_validation_parts_cover_every_asv_once_and_stay():
    view = View(seed=5, patch=3, mask=.15)
    source = PlainAsvBatches(STORE, np.arange(40)[::-1], view, batch=13)
    again = PlainAsvBatches(STORE, view=view, batch=13)
    assert sorted(sum((o.rows.tolist() for o in source), [])) == list(range(40))
    assert [len(o.rows) for o in source] == [10]*4 and len(source) == 4
    for i, o in enumerate(source): assert same(o, again[i])
    assert len(PlainAsvBatches(STORE, [])) == 0


def test_asvs_of_a_corpus_keep_to_their_study_and_tree():
    drawn = []
    for o in AsvBatches(CORPUS, view=View(seed=1), batch=12, steps=60, temperature=100.):
        k, = set(np.searchsorted([40, 70], o.rows.numpy(), side="right"))
        drawn.append(int(k))
        store = CORPUS.stores[k]
        if store.tip is None:
            assert o.distance.isnan().all()
            continue
        wanted = path_lengths(store.tree, store.tip[o.rows.numpy() - CORPUS.asv_edges[k]])
        assert np.allclose(o.distance.numpy(), wanted, equal_nan=True, atol=1e-5) and len(o.rows) == 12
    assert set(drawn) == {0, 1, 2} and max(map(drawn.count, (0, 1, 2))) < 35


def test_validation_parts_of_a_corpus_are_of_one_study():
    parts = PlainAsvBatches(CORPUS, batch=16)
    assert sorted(r for o in parts for r in o.rows.tolist()) == list(range(79))
    assert all(len(set(np.searchsorted([40, 70], o.rows.numpy(), side="right"))) == 1 for o in parts)
