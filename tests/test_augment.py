"Augmentation: rarefaction against theory and scikit-bio, whole patches hidden, draws that follow their key alone."
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse

from aam_nb.config import AugmentConfig
from aam_nb.core import AamError, keyed_rng
from aam_nb.data.augment import AsvDraws, augment_sample, drop_asvs, mask_patches, rarefy, rarefy_counts, redraw
from aam_nb.data.tokens import MASK, PAD, tokenize
from aam_nb.types import Sample, Table, strings

def sample(n=40, depth=5000, id="S1", seed=0):
    counts = np.random.default_rng(seed).multinomial(depth - n, np.random.default_rng(seed).dirichlet(np.full(n, .3))) + 1
    return Sample(asv=np.arange(n)*3, counts=counts.astype(np.int32), target=np.zeros(1, np.float32), index=0, id=id)

# Rarefaction

@pytest.mark.parametrize("depth", [5, 60, 99])
def test_rarefaction_has_the_mean_and_variance_of_drawing_without_replacement(depth):
    counts = np.array([50, 30, 15, 4, 1, 0]); n = 4000; p = counts/100
    draws = np.array([rarefy_counts(counts, depth, keyed_rng("test", depth, i)) for i in range(n)])
    var = depth*p*(1 - p)*(100 - depth)/99
    assert (draws.sum(1) == depth).all() and (draws <= counts).all()
    assert (abs(draws.mean(0) - depth*p) <= 4.5*np.sqrt(var/n)).all()
    assert np.allclose(draws.var(0), var, rtol=.12, atol=.004)
    # A pair of ASVs is negatively correlated: cov = -d p q (N - d)/(N - 1)
    assert np.isclose(np.cov(draws[:, 0], draws[:, 1])[0, 1], -depth*.5*.3*(100 - depth)/99, rtol=.15, atol=.02)

def test_rarefaction_equals_scikit_bio_in_distribution():
    subsample = pytest.importorskip("skbio.stats").subsample_counts
    counts = np.array([200, 90, 40, 9, 1]); n = 3000
    ours = np.array([rarefy_counts(counts, 120, keyed_rng("test", i)) for i in range(n)])
    theirs = np.array([subsample(counts, 120, seed=i) for i in range(n)])
    spread = np.sqrt(theirs.var(0)*2/n) + 1e-9
    assert (abs(ours.mean(0) - theirs.mean(0)) < 4.5*spread).all()
    assert np.allclose(ours.var(0), theirs.var(0), rtol=.15, atol=.01)
    assert np.isclose((ours > 0).sum(1).mean(), (theirs > 0).sum(1).mean(), atol=.06) # Richness

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 999))
def test_any_draw_is_part_of_the_sample(counts, seed):
    counts = np.array(counts, dtype=np.int32); total = int(counts.sum()); depth = seed % (total + 1)
    drawn = rarefy_counts(counts, depth, keyed_rng(seed))
    assert drawn.dtype == np.int32 and drawn.sum() == depth and (drawn >= 0).all() and (drawn <= counts).all()
    assert (rarefy_counts(counts, total, keyed_rng(seed)) == counts).all()

def test_impossible_draws_are_refused():
    with pytest.raises(AamError, match="Cannot draw 11 of 10 reads"): rarefy_counts(np.array([10]), 11, keyed_rng())
    with pytest.raises(AamError, match="Cannot draw -1 of 10"): rarefy_counts(np.array([10]), -1, keyed_rng())
    with pytest.raises(AamError, match="2,000,000,000 reads"): rarefy_counts(np.array([2_000_000_000]), 5, keyed_rng())

def table(seed=0):
    rng = np.random.default_rng(seed); counts = rng.integers(0, 40, (8, 15)); counts[2] = 0; counts[5, 3:] = 0
    return Table(counts=sparse.csr_matrix(counts.astype(np.int32)), sample_ids=strings([f"S{i}" for i in range(8)]),
                 sequences=strings(["".join(rng.choice(list("ACGT"), 9)) for _ in range(15)]), notes=("read",))

def test_a_rarefied_table_has_one_depth_and_says_what_it_lost():
    full = table(); low = rarefy(full, 120, seed=3)
    assert list(low.sample_ids) == [o for o, d in zip(full.sample_ids, full.depths, strict=True) if d >= 120]
    assert set(low.depths) == {120} and low.counts.dtype == np.int32 and (low.counts.data > 0).all()
    assert list(low.sequences) == list(full.sequences) and low.notes[0] == "read" and "2 of 8 samples have fewer than 120" in low.notes[1]
    assert "'S2'" in low.notes[1] and "'S5'" in low.notes[1]
    before = full.counts[[i for i, d in enumerate(full.depths) if d >= 120]]
    assert (low.counts.toarray() <= before.toarray()).all()
    assert (rarefy(full, 120, seed=3).counts != low.counts).nnz == 0 and (rarefy(full, 120, seed=4).counts != low.counts).nnz
    assert rarefy(low, 120).notes == low.notes and (rarefy(low, 120).counts != low.counts).nnz == 0

def test_the_order_of_rows_and_columns_does_not_change_a_rarefied_table():
    full = table(); rng = np.random.default_rng(1); rows, columns = rng.permutation(8), rng.permutation(15)
    other = replace(full, counts=full.counts[rows][:, columns], sample_ids=full.sample_ids[rows], sequences=full.sequences[columns])
    backwards = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(other.counts.indptr, other.counts.indptr[1:])]) # Unsorted rows
    same = sparse.csr_matrix((other.counts.data[backwards], other.counts.indices[backwards], other.counts.indptr), shape=(8, 15))
    one, two = rarefy(full, 120, seed=3), rarefy(replace(other, counts=same), 120, seed=3)
    at = [list(two.sample_ids).index(o) for o in one.sample_ids]
    assert (two.counts.toarray()[at][:, np.argsort(columns)] == one.counts.toarray()).all()

def test_depths_that_leave_nothing_are_refused():
    low, high = table().depths.min(), table().depths.max()
    with pytest.raises(AamError, match=f"No sample has 10,000 reads: the 8 samples have {low} to {high}"): rarefy(table(), 10_000)
    with pytest.raises(AamError, match="wanted 1 read or more"): rarefy(table(), 0)
    with pytest.raises(AamError, match="No sample"): rarefy(table().samples([]), 5)

# Views of a sample

def test_redraw_takes_the_chance_and_the_depths_it_is_given():
    one = sample(depth=50_000); config = AugmentConfig(rarefy=.7, rarefy_low=.3, rarefy_cap=20_000)
    views = [redraw(one, config, keyed_rng("test", i)) for i in range(1500)]
    drawn = np.array([o.counts.sum() for o in views if o is not one])
    assert abs(len(drawn)/1500 - .7) < .05
    assert drawn.min() >= 6000 and drawn.max() <= 20_000
    share = np.log(drawn/20_000)/np.log(.3) # Uniform from 0 to 1 when the share is log-uniform
    assert abs(share.mean() - .5) < .03 and abs(share.var() - 1/12) < .01
    for o in views: assert (o.counts > 0).all() and np.isin(o.asv, one.asv).all() and (o.counts <= one.counts[o.asv//3]).all()

def test_redraw_of_small_samples():
    lone = Sample(asv=np.array([4]), counts=np.array([1], np.int32), target=np.zeros(1, np.float32), index=0, id="S")
    none = replace(lone, asv=lone.asv[:0], counts=lone.counts[:0])
    for i in range(20):
        assert redraw(lone, AugmentConfig(rarefy=1.), keyed_rng(i)).counts.tolist() == [1]
        assert augment_sample(none, AugmentConfig(rarefy=1.), 0, i) is none

def test_dropout_leaves_out_the_share_and_never_all():
    one = sample(200); kept = [len(drop_asvs(one, .1, keyed_rng("test", i)).asv) for i in range(400)]
    assert abs(np.mean(kept) - 180) < 1 and abs(np.var(kept) - 18) < 5
    lone = [drop_asvs(sample(5), .99999, keyed_rng("test", i)).asv.tolist() for i in range(200)]
    assert all(len(o) == 1 for o in lone) and {o[0] for o in lone} == {0, 3, 6, 9, 12}
    assert drop_asvs(one, 0., keyed_rng()) is one

def test_a_view_follows_its_key_alone():
    config = AugmentConfig(); same = lambda a, b: a.asv.tolist() == b.asv.tolist() and a.counts.tolist() == b.counts.tolist()
    one = augment_sample(sample(), config, 1, 2)
    np.random.seed(0); augment_sample(sample(id="S2"), config, 1, 2)
    assert same(one, augment_sample(sample(), config, 1, 2))
    for other in ((2, 2, "S1"), (1, 3, "S1"), (1, 2, "S2")):
        assert not same(one, augment_sample(sample(id=other[2]), config, *other[:2]))
    off = AugmentConfig(rarefy=0., asv_dropout=0.)
    assert same(sample(), augment_sample(sample(), off, 1, 2))

# Draws by sequence

def test_draws_by_sequence_are_uniform_and_independent():
    keys = np.random.default_rng(0).integers(-2**63, 2**63, 3000); keys[:1000] = np.arange(1000) # Also keys that differ by little
    draws = AsvDraws(keys, 7, "mask", 3).random((3000, 25))
    assert 0 <= draws.min() and draws.max() < 1
    assert abs(draws.mean() - .5) < .004 and abs(draws.var() - 1/12) < .001
    assert np.histogram(draws, 20, (0, 1))[0].std() < 4*np.sqrt(75_000/20)
    other = AsvDraws(keys, 7, "mask", 4).random((3000, 25)); flat = lambda o: o.ravel()
    assert abs(np.corrcoef(flat(draws), flat(other))[0, 1]) < .015
    assert abs(np.corrcoef(flat(draws[1:]), flat(draws[:-1]))[0, 1]) < .015
    assert abs(np.corrcoef(flat(draws[:, 1:]), flat(draws[:, :-1]))[0, 1]) < .015

def test_draws_by_sequence_do_not_depend_on_company():
    keys = np.arange(50); rows = np.array([7, 3, 41])
    assert (AsvDraws(keys[rows], 1, 2).random((3, 9)) == AsvDraws(keys, 1, 2).random((50, 9))[rows]).all()
    assert (AsvDraws(keys, 1, 2).random((50, 4)) == AsvDraws(keys, 1, 2).random((50, 9))[:, :4]).all()

# Hidden bases

sequences = st.lists(st.text("ACGTN", min_size=1, max_size=33), min_size=1, max_size=8)

@settings(max_examples=120, deadline=None)
@given(sequences, st.integers(1, 7), st.floats(0, 1), st.integers(0, 99))
def test_only_whole_patches_of_bases_are_hidden(seqs, patch, share, seed):
    tokens = tokenize(seqs); before = tokens.copy()
    masked = mask_patches(tokens, patch, share, keyed_rng("test", seed))
    assert (tokens == before).all() and masked.dtype == np.uint8 and masked.shape == tokens.shape
    for row, seen, seq in zip(tokens, masked, seqs, strict=True):
        places = [j for j in range(0, len(seq) - patch + 1, patch) if "N" not in seq[j:j+patch]]
        hidden = [j for j in places if (seen[j:j+patch] == MASK).all()]
        expected = row.copy()
        for j in hidden: expected[j:j+patch] = MASK
        assert (seen == expected).all() # Nothing else is changed: no half patch, no N, no padding
        assert len(hidden) >= min(1, len(places)) and (share < 1 or hidden == places)

def test_the_share_of_hidden_patches():
    rng = np.random.default_rng(0); tokens = rng.integers(1, 5, (4000, 150)).astype(np.uint8); tokens[:, 120:] = PAD
    hidden = (mask_patches(tokens, 6, .15, AsvDraws(np.arange(4000), 0)) == MASK)[:, ::6]
    wanted = .15 + .85**20/20 # One of the twenty where chance hides none
    assert abs(hidden[:, :20].mean() - wanted) < .004 and not hidden[:, 20:].any()
    assert (abs(hidden[:, :20].mean(0) - wanted) < .03).all() # Every place alike
