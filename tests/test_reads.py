"Reads drawn anew and ASVs selected, against their definitions and scikit-bio."
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse
from small_samples import drawn, sample

from aam_nb.batches.reads import draw_dirichlet, draw_multinomial, rarefy, rarefy_counts, redraw, select_asvs
from aam_nb.core import AamError, keyed_rng
from aam_nb.types import Sample, Table, strings


@pytest.mark.parametrize("depth", [5, 60, 99])
def test_rarefaction_has_the_mean_and_variance_of_drawing_without_replacement(depth):
    counts = np.array([50, 30, 15, 4, 1, 0])
    n = 4000
    p = counts/100
    draws = np.array([rarefy_counts(counts, depth, keyed_rng("test", depth, i)) for i in range(n)])
    var = depth*p*(1 - p)*(100 - depth)/99
    assert (draws.sum(1) == depth).all() and (draws <= counts).all()
    assert (abs(draws.mean(0) - depth*p) <= 4.5*np.sqrt(var/n)).all()
    assert np.allclose(draws.var(0), var, rtol=.12, atol=.004)
    # A pair of ASVs is negatively correlated: cov = -d p q (N - d)/(N - 1)
    assert np.isclose(np.cov(draws[:, 0], draws[:, 1])[0, 1], -depth*.5*.3*(100 - depth)/99, rtol=.15,
                      atol=.02)

def test_rarefaction_equals_scikit_bio_in_distribution():
    subsample = pytest.importorskip("skbio.stats").subsample_counts
    counts = np.array([200, 90, 40, 9, 1])
    n = 3000
    ours = np.array([rarefy_counts(counts, 120, keyed_rng("test", i)) for i in range(n)])
    theirs = np.array([subsample(counts, 120, seed=i) for i in range(n)])
    spread = np.sqrt(theirs.var(0)*2/n) + 1e-9
    assert (abs(ours.mean(0) - theirs.mean(0)) < 4.5*spread).all()
    assert np.allclose(ours.var(0), theirs.var(0), rtol=.15, atol=.01)
    assert np.isclose((ours > 0).sum(1).mean(), (theirs > 0).sum(1).mean(), atol=.06) # Richness

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 999))
def test_any_draw_is_part_of_the_sample(counts, seed):
    counts = np.array(counts, dtype=np.int32)
    total = int(counts.sum())
    depth = seed % (total + 1)
    drawn = rarefy_counts(counts, depth, keyed_rng(seed))
    assert drawn.dtype == np.int32 and drawn.sum() == depth and (drawn >= 0).all() and (drawn <= counts).all()
    assert (rarefy_counts(counts, total, keyed_rng(seed)) == counts).all()

def test_impossible_draws_are_refused():
    with pytest.raises(AamError, match="Cannot draw 11 of 10 reads"):
        rarefy_counts(np.array([10]), 11, keyed_rng())
    with pytest.raises(AamError, match="Cannot draw -1 of 10"): rarefy_counts(np.array([10]), -1, keyed_rng())
    with pytest.raises(AamError, match="2,000,000,000 reads"):
        rarefy_counts(np.array([2_000_000_000]), 5, keyed_rng())

def table(seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, (8, 15))
    counts[2] = 0
    counts[5, 3:] = 0
    return Table(counts=sparse.csr_matrix(counts.astype(np.int32)),
                 sample_ids=strings([f"S{i}" for i in range(8)]),
                 sequences=strings(["".join(rng.choice(list("ACGT"), 9))
                                    for _ in range(15)]), notes=("read",))

def test_a_rarefied_table_has_one_depth_and_says_what_it_lost():
    full = table()
    low = rarefy(full, 120, seed=3)
    assert list(low.sample_ids) == [o for o, d in zip(full.sample_ids, full.depths, strict=True) if d >= 120]
    assert set(low.depths) == {120} and low.counts.dtype == np.int32 and (low.counts.data > 0).all()
    assert list(low.sequences) == list(full.sequences) and low.notes[0] == "read"
    assert "2 of 8 samples have fewer than 120" in low.notes[1]
    assert "'S2'" in low.notes[1] and "'S5'" in low.notes[1]
    before = full.counts[[i for i, d in enumerate(full.depths) if d >= 120]]
    assert (low.counts.toarray() <= before.toarray()).all()
    assert (rarefy(full, 120, seed=3).counts != low.counts).nnz == 0
    assert (rarefy(full, 120, seed=4).counts != low.counts).nnz
    assert rarefy(low, 120).notes == low.notes and (rarefy(low, 120).counts != low.counts).nnz == 0

def test_the_order_of_rows_and_columns_does_not_change_a_rarefied_table():
    full = table()
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(8), rng.permutation(15)
    other = replace(full, counts=full.counts[rows][:, columns], sample_ids=full.sample_ids[rows],
                    sequences=full.sequences[columns])
    # Unsorted rows
    backwards = np.concatenate([np.arange(a, b)[::-1] for a,
                                b in zip(other.counts.indptr, other.counts.indptr[1:])])
    same = sparse.csr_matrix((other.counts.data[backwards], other.counts.indices[backwards],
                              other.counts.indptr), shape=(8, 15))
    one, two = rarefy(full, 120, seed=3), rarefy(replace(other, counts=same), 120, seed=3)
    at = [list(two.sample_ids).index(o) for o in one.sample_ids]
    assert (two.counts.toarray()[at][:, np.argsort(columns)] == one.counts.toarray()).all()

def test_depths_that_leave_nothing_are_refused():
    low, high = table().depths.min(), table().depths.max()
    with pytest.raises(AamError, match=f"No sample has 10,000 reads: the 8 samples have {low} to {high}"):
        rarefy(table(), 10_000)
    with pytest.raises(AamError, match="wanted 1 read or more"): rarefy(table(), 0)
    with pytest.raises(AamError, match="No sample"): rarefy(table().samples([]), 5)

def test_a_view_of_a_given_depth_is_a_draw_without_replacement():
    counts = np.array([12, 6, 2, 0])
    views = drawn(redraw, 12_000, counts, .6)
    assert abs(views.mean(0) - .6*counts).max() < .1 and np.allclose(views.var(0), .24*counts, rtol=.1)
    assert drawn(redraw, 50, counts, 1e-9).sum(1).tolist() == [1]*50
    assert drawn(redraw, 5, counts*0, .5).sum() == 0
    for depth in (10, 14):
        given = views[views.sum(1) == depth]
        p = counts/20
        var = depth*p*(1 - p)*(20 - depth)/19
        assert len(given) > 500
        assert (abs(given.mean(0) - depth*p) <= 4.5*np.sqrt(var/len(given))).all()
        assert np.allclose(given.var(0), var, rtol=.15, atol=.01)
        theirs = pytest.importorskip("skbio.stats").subsample_counts
        theirs = np.array([theirs(counts, depth, seed=i) for i in range(1500)])
        assert np.allclose(given.var(0), theirs.var(0), rtol=.2, atol=.02)

@pytest.mark.parametrize("draw", [draw_multinomial, draw_dirichlet])
def test_jitter_keeps_depth_and_mean_and_has_the_variance_of_its_name(draw):
    counts = np.array([50, 30, 15, 4, 1, 0])
    p = counts/100
    views = drawn(draw, 6000, counts)
    var = 100*p*(1 - p)*(2*100/101 if draw is draw_dirichlet else 1)
    assert (views.sum(1) == 100).all() and not views[:, 5].any()
    assert (abs(views.mean(0) - counts) <= 4.5*np.sqrt(var/6000)).all()
    assert np.allclose(views.var(0), var, rtol=.1, atol=.03)

def test_jitter_is_scikit_bio_drawing_with_replacement():
    theirs = pytest.importorskip("skbio.stats").subsample_counts
    counts = np.array([40, 25, 10, 4, 1])
    theirs = np.array([theirs(counts, 80, replace=True, seed=i) for i in range(3000)])
    ours = drawn(draw_multinomial, 3000, counts)
    assert np.allclose(ours.mean(0), theirs.mean(0), atol=.5)
    assert np.allclose(ours.var(0), theirs.var(0), rtol=.15, atol=.05)
    assert np.isclose((ours > 0).sum(1).mean(), (theirs > 0).sum(1).mean(), atol=.06)

@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=25), st.integers(0, 30), st.integers(0, 99))
def test_a_selection_is_of_the_sample_and_of_its_size(counts, limit, seed):
    one = Sample(asv=np.arange(len(counts))*2, counts=np.array(counts, np.int32),
                 target=np.zeros(1, np.float32), index=3, id="S1")
    for how in ("abundance", "random"):
        few = select_asvs(one, limit, how, seed)
        at = few.asv//2
        assert len(few.asv) == (min(limit, len(counts)) or len(counts)) and (np.diff(few.asv) > 0).all()
        assert (few.counts == one.counts[at]).all() and (few.index, few.id) == (3, "S1")
        assert (few is one) == (not limit or len(counts) <= limit)
    most = select_asvs(one, limit).asv//2
    wanted = sorted(sorted(range(len(counts)), key=lambda i: (-counts[i], i))[:limit or None])
    assert most.tolist() == wanted # Of equals, the first in the order of sequences

def test_random_selections_take_each_asv_alike_whatever_its_reads_and_differ_by_key_and_sample():
    one = sample(n=12)
    times = np.zeros(12)
    took = [select_asvs(one, 4, "random", 7, o).asv//3 for o in range(3000)]
    for o in took: times[o] += 1
    assert abs(times - 1000).max() < 5*np.sqrt(3000*2/9)
    pairs = np.zeros((12, 12))
    for o in took: pairs[np.ix_(o, o)] += 1
    # Without replacement, pairs alike
    assert abs(pairs[~np.eye(12, dtype=bool)] - 3000*12/132).max() < 5*np.sqrt(273)
    assert len({tuple(o) for o in took}) > 400
    assert (select_asvs(one, 4, "random", 7, 3).asv == took[3]*3).all()
    assert (select_asvs(replace(one, id="S2"), 20, "random", 7, 3).asv == one.asv).all()
    assert any((select_asvs(replace(one, id="S2"), 4, "random", 7, o).asv != took[o]*3).any()
               for o in range(3))
    with pytest.raises(AamError, match="'abundance' or 'random'"): select_asvs(one, 0, "most")
