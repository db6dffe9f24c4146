"Augmentation: each step against its definition and, where it has one, scikit-bio; draws that follow their key alone."
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from aam_nb.batches.augment import augment_sample, augment_samples, augment_tokens, false_for
from aam_nb.batches.bases import insert_and_delete, reverse_complement, reverse_some, shuffle_windows, substitute
from aam_nb.batches.build import build_store
from aam_nb.batches.draws import AsvDraws, generator_from, keyed_draws, pair_draws, unit_draws, view_words
from aam_nb.batches.hide import hide_covariates, hide_reads, mask_patches
from aam_nb.batches.mix import mix_pair, mix_samples, whole_reads
from aam_nb.batches.reads import draw_dirichlet, draw_multinomial, drop_asvs, rarefy, rarefy_counts, read_share, redraw, select_asvs
from aam_nb.batches.source import StudyPart
from aam_nb.core import AamError, keyed_rng
from aam_nb.data.simulate import simulate
from aam_nb.data.tokens import MASK, PAD, detokenize, sequence_keys, tokenize
from aam_nb.sections import AugmentConfig
from aam_nb.types import Sample, Table, Tree, strings


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

def drawn(step, n, *args): return np.array([step(*args, keyed_rng("test", i)) for i in range(n)])
def same(a, b): return a.asv.tolist() == b.asv.tolist() and a.counts.tolist() == b.counts.tolist()
def one_by_one(config, n, one): return [augment_sample(one, config, 7, i) for i in range(n)]

def test_views_take_the_chance_and_the_depths_they_are_given():
    one = sample(depth=50_000); config = AugmentConfig(rarefy=.7, rarefy_low=.3, rarefy_cap=20_000, asv_dropout=0.)
    views = one_by_one(config, 1500, one); depths = np.array([o.counts.sum() for o in views]); depths = depths[depths < 50_000]
    assert abs(len(depths)/1500 - .7) < .05
    assert 5700 < depths.min() < 6300 and 19_000 < depths.max() < 20_500 # Each read decides by itself: give or take a hundred
    share = np.log(depths/20_000)/np.log(.3) # Uniform from 0 to 1 when the share is log-uniform
    assert abs(share.mean() - .5) < .03 and abs(share.var() - 1/12) < .01
    assert read_share(10_000, config, 1.) == .3 and read_share(10_000, config, 0.) == 1 and read_share(80_000, config, 0.) == .25

def test_a_view_of_a_given_depth_is_a_draw_without_replacement():
    counts = np.array([12, 6, 2, 0]); views = drawn(redraw, 12_000, counts, .6)
    assert abs(views.mean(0) - .6*counts).max() < .1 and np.allclose(views.var(0), .24*counts, rtol=.1)
    assert drawn(redraw, 50, counts, 1e-9).sum(1).tolist() == [1]*50 and drawn(redraw, 5, counts*0, .5).sum() == 0
    for depth in (10, 14):
        given = views[views.sum(1) == depth]; p = counts/20; var = depth*p*(1 - p)*(20 - depth)/19
        assert len(given) > 500
        assert (abs(given.mean(0) - depth*p) <= 4.5*np.sqrt(var/len(given))).all() and np.allclose(given.var(0), var, rtol=.15, atol=.01)
        theirs = pytest.importorskip("skbio.stats").subsample_counts
        theirs = np.array([theirs(counts, depth, seed=i) for i in range(1500)])
        assert np.allclose(given.var(0), theirs.var(0), rtol=.2, atol=.02)

@pytest.mark.parametrize("draw", [draw_multinomial, draw_dirichlet])
def test_jitter_keeps_depth_and_mean_and_has_the_variance_of_its_name(draw):
    counts = np.array([50, 30, 15, 4, 1, 0]); p = counts/100; views = drawn(draw, 6000, counts)
    var = 100*p*(1 - p)*(2*100/101 if draw is draw_dirichlet else 1)
    assert (views.sum(1) == 100).all() and not views[:, 5].any()
    assert (abs(views.mean(0) - counts) <= 4.5*np.sqrt(var/6000)).all()
    assert np.allclose(views.var(0), var, rtol=.1, atol=.03)

def test_jitter_is_scikit_bio_drawing_with_replacement():
    theirs = pytest.importorskip("skbio.stats").subsample_counts; counts = np.array([40, 25, 10, 4, 1])
    theirs = np.array([theirs(counts, 80, replace=True, seed=i) for i in range(3000)])
    ours = drawn(draw_multinomial, 3000, counts)
    assert np.allclose(ours.mean(0), theirs.mean(0), atol=.5) and np.allclose(ours.var(0), theirs.var(0), rtol=.15, atol=.05)
    assert np.isclose((ours > 0).sum(1).mean(), (theirs > 0).sum(1).mean(), atol=.06)

def test_dropout_leaves_out_the_share_and_never_all():
    one = sample(200); config = AugmentConfig(rarefy=0., asv_dropout=.1); views = one_by_one(config, 600, one)
    kept = np.array([len(o.asv) for o in views])
    assert abs(kept.mean() - 180) < 1 and abs(kept.var() - 18) < 5
    often = np.bincount(np.concatenate([o.asv for o in views])//3, minlength=200)/600
    assert abs(often - .9).max() < .06 and all((o.counts == one.counts[o.asv//3]).all() for o in views)
    lone = sample(1); assert all(same(o, lone) for o in one_by_one(AugmentConfig(rarefy=0., asv_dropout=.9), 40, lone))
    counts, of = np.array([3, 0, 5, 0, 9, 1]), np.array([0, 0, 0, 1, 2, 2])
    assert drop_asvs(counts, of, .5, np.array([.4, .9, .1, .2, .6, .3])).tolist() == [3, 0, 5, 0, 9, 0] # The first would have lost all
    assert drop_asvs(counts, of, 0., np.zeros(6)).tolist() == counts.tolist()

steps = st.builds(AugmentConfig, rarefy=st.sampled_from([0., .5, 1.]), rarefy_low=st.sampled_from([.01, .5]), rarefy_cap=st.sampled_from([1, 50, 20_000]),
                  asv_dropout=st.sampled_from([0., .1, .9]), jitter=st.sampled_from(["none", "multinomial", "dirichlet"]), shuffle=st.booleans())

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=12), steps, st.integers(0, 99))
def test_any_view_is_a_sample_of_the_same_asvs(counts, config, seed):
    one = Sample(asv=np.arange(len(counts))*2, counts=np.array(counts, np.int32), target=np.zeros(1, np.float32), index=3, id="S")
    view = augment_sample(one, config, seed, 1)
    assert (view.id, view.index, view.target) == (one.id, one.index, one.target) and view.counts.dtype == np.int32 and view.asv.dtype == np.int64
    assert len(view.asv) == len(view.counts) == len(set(view.asv.tolist())) and set(view.asv.tolist()) <= set(one.asv.tolist())
    assert (view.counts > 0).all() and bool(len(view.asv)) == bool(counts) and view.counts.sum() <= max(1, sum(counts))
    if config.jitter == "none": assert all(c <= counts[a//2] for a, c in zip(view.asv, view.counts, strict=True))

def test_a_view_follows_its_key_alone():
    for config in (AugmentConfig(), AugmentConfig(jitter="dirichlet", shuffle=True)):
        one = augment_sample(sample(), config, 1, 2)
        np.random.seed(0); augment_sample(sample(id="S2"), config, 1, 2)
        assert same(one, augment_sample(sample(), config, 1, 2))
        for other in ((2, 2, "S1"), (1, 3, "S1"), (1, 2, "S2")):
            assert not same(one, augment_sample(sample(id=other[2]), config, *other[:2]))
    assert same(augment_sample(sample(), AugmentConfig(rarefy=0., asv_dropout=0.), 1, 2), sample())

def test_company_and_order_change_no_view():
    batch = [sample(n, id=f"S{n}", seed=n) for n in (40, 3, 1, 17, 60)]
    batch.insert(2, replace(batch[0], asv=batch[0].asv[:0], counts=batch[0].counts[:0], id="S0"))
    epochs = [3, 3, 4, 4, 3, 4]; order = [4, 0, 2, 5]
    for config in (AugmentConfig(), AugmentConfig(jitter="multinomial", asv_dropout=.5, shuffle=True)):
        whole = augment_samples(batch, config, 7, epochs)
        some = augment_samples([batch[i] for i in order], config, 7, [epochs[i] for i in order])
        assert all(same(a, whole[i]) for a, i in zip(some, order, strict=True))
        assert all(same(augment_sample(a, config, 7, e), o) for a, e, o in zip(batch, epochs, whole, strict=True))

def test_the_generators_of_views_are_uniform_and_independent():
    ones = [sample(1, 1, f"S{i}") for i in range(4000)]; words = view_words([o.id for o in ones], [0]*4000, 7, "augment")
    draws = np.array([generator_from(o[:4]).random(20) for o in words])
    for o in (draws, unit_draws(words), keyed_draws(words[:, 6:7], np.arange(20)), keyed_draws(words[:, 7:], np.arange(20))):
        assert abs(o.mean() - .5) < .005 and abs(o.var() - 1/12) < .0015 and len(np.unique(o)) == o.size
        assert abs(np.corrcoef(o[1:].ravel(), o[:-1].ravel())[0, 1]) < .018 and abs(np.corrcoef(o[:, 1:].ravel(), o[:, :-1].ravel())[0, 1]) < .018

def test_a_shuffled_sample_holds_the_same_reads_in_any_order():
    config = AugmentConfig(rarefy=0., asv_dropout=0., shuffle=True); one = sample(4); views = one_by_one(config, 2400, one)
    for o in views[:20]: assert sorted(zip(o.asv, o.counts, strict=True)) == sorted(zip(one.asv, one.counts, strict=True))
    often = np.unique([o.asv for o in views], axis=0, return_counts=True)[1]
    assert len(often) == 24 and abs(often - 100).max() < 45

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

def runs(hidden): return hidden.sum()/(np.diff(hidden, axis=1, prepend=False) & hidden).sum()

@pytest.mark.parametrize("span", [2, 3, 6])
def test_spans_have_the_share_and_the_length_they_are_given(span):
    tokens = np.ones((3000, 400), np.uint8) # 200 patches a row: ends and empty rows count for little
    hidden = (mask_patches(tokens, 2, .2, AsvDraws(np.arange(3000), span), span) == MASK)[:, ::2]
    assert abs(hidden.mean() - .2) < .006
    assert abs(hidden[:, 0].mean() - .2) < .03 and abs(hidden[:, -1].mean() - .2) < .03 # The ends as much as the middle
    assert abs(runs(hidden)/(span/.8) - 1) < .05 # One in five pieces goes on as another piece
    assert (mask_patches(tokens, 2, .2, AsvDraws(np.arange(3000), span), 1) == mask_patches(tokens, 2, .2, AsvDraws(np.arange(3000), span))).all()

@settings(max_examples=60, deadline=None)
@given(sequences, st.integers(1, 7), st.floats(0, 1), st.integers(2, 9), st.integers(0, 99))
def test_spans_hide_only_whole_patches_of_bases(seqs, patch, share, span, seed):
    tokens = tokenize(seqs); masked = mask_patches(tokens, patch, share, keyed_rng("test", seed), span)
    for row, seen, seq in zip(tokens, masked, seqs, strict=True):
        places = [j for j in range(0, len(seq) - patch + 1, patch) if "N" not in seq[j:j+patch]]
        hidden = [j for j in places if (seen[j:j+patch] == MASK).all()]; expected = row.copy()
        for j in hidden: expected[j:j+patch] = MASK
        assert (seen == expected).all() and len(hidden) >= min(1, len(places))

# Bases that vary

def random_tokens(u=3000, l=120, seed=0): return np.random.default_rng(seed).integers(1, 5, (u, l)).astype(np.uint8)

def test_substitution_takes_the_share_and_each_other_base_alike():
    tokens = random_tokens(); tokens[:, 100:] = PAD; tokens[:, 7] = 5
    out = substitute(tokens, .03, AsvDraws(np.arange(3000), 0)); base = (tokens >= 1) & (tokens <= 4)
    assert (out[~base] == tokens[~base]).all() and abs((out != tokens)[base].mean() - .03) < .002
    became = np.array([[(out[(tokens == a) & (out != tokens)] == b).mean() for b in (1, 2, 3, 4)] for a in (1, 2, 3, 4)])
    assert (became.diagonal() == 0).all() and abs(became[~np.eye(4, dtype=bool)] - 1/3).max() < .04

def edits(a, b):
    "Fewest insertions and deletions from one word to another: an independent oracle, by dynamic programming."
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1): before, row[j] = row[j], before if x == y else 1 + min(row[j], row[j-1])
    return row[-1]

def test_insertions_and_deletions_have_their_rates():
    tokens = np.pad(random_tokens(2000, 100), ((0, 0), (0, 60))) # Room on the right: nothing is cut off
    out = insert_and_delete(tokens, .05, AsvDraws(np.arange(2000), 0)); length = (out != PAD).sum(1)
    assert abs(length.mean() - 100) < .3 and abs(length.var() - 2*100*.05*.95) < .8
    assert all((row[n:] == PAD).all() and (row[:n] != PAD).all() for row, n in zip(out, length, strict=True))
    few = [edits(a[:100].tolist(), b[:n].tolist()) for a, b, n in zip(tokens[:150], out, length, strict=False)]
    assert 8 < np.mean(few) <= 10.5 # At most 2 x 100 x 0.05; fewer where two cancel

@settings(max_examples=60, deadline=None)
@given(sequences, st.sampled_from([.01, .2, .9]), st.integers(0, 99))
def test_indels_leave_sequences(seqs, share, seed):
    tokens = tokenize(seqs); out = insert_and_delete(tokens, share, keyed_rng("test", seed)); there = out != PAD
    assert out.shape == tokens.shape and out.dtype == np.uint8 and there[:, 0].all() and (np.diff(there.astype(int), axis=1) <= 0).all()
    assert (out <= 5).all() and (insert_and_delete(tokens, 1e-12, keyed_rng("test", seed)) == tokens).all()

@settings(max_examples=60, deadline=None)
@given(sequences, st.integers(1, 40), st.integers(0, 99))
def test_windows_keep_their_bases(seqs, window, seed):
    out = detokenize(shuffle_windows(tokenize(seqs), window, keyed_rng("test", seed)))
    for a, b in zip(seqs, out, strict=True):
        assert len(a) == len(b)
        for j in range(0, len(a), window): assert sorted(a[j:j+window]) == sorted(b[j:j+window])

def test_windows_are_shuffled_evenly():
    tokens = np.tile(np.array([1, 2, 3, 4, 1, 2, 3, 4], np.uint8), (6000, 1))
    out = shuffle_windows(tokens, 4, AsvDraws(np.arange(6000), 0))
    assert abs(np.array([(out == b).mean(0) for b in (1, 2, 3, 4)]) - .25).max() < .03
    often = np.unique(out[:, :4], axis=0, return_counts=True)[1]
    assert len(often) == 24 and abs(often - 250).max() < 80

@settings(max_examples=60, deadline=None)
@given(sequences)
def test_the_other_strand(seqs):
    out = detokenize(reverse_complement(tokenize(seqs)))
    assert list(out) == [o[::-1].translate(str.maketrans("ACGT", "TGCA")) for o in seqs]

def test_the_other_strand_is_scikit_bios():
    DNA = pytest.importorskip("skbio").DNA; seqs = detokenize(random_tokens(20, 40))
    assert [str(DNA(o).reverse_complement()) for o in seqs] == list(detokenize(reverse_complement(tokenize(seqs))))

def test_the_share_of_turned_sequences():
    tokens = random_tokens(4000, 30); out = reverse_some(tokens, .3, AsvDraws(np.arange(4000), 0))
    turned = (out == reverse_complement(tokens)).all(1)
    assert abs(turned.mean() - .3) < .03 and (out[~turned] == tokens[~turned]).all()

def test_the_view_of_bases_follows_key_and_sequence_alone():
    tokens = random_tokens(60); keys = sequence_keys(detokenize(tokens)); rows = np.array([41, 3, 17])
    config = AugmentConfig(substitution=.05, indel=.02, window=5, reverse=.5); view = augment_tokens(tokens, keys, config, 7, 3)
    assert (augment_tokens(tokens[rows], keys[rows], config, 7, 3) == view[rows]).all()
    assert (augment_tokens(tokens, keys, config, 7, 3) == view).all() and view.dtype == np.uint8
    for other in ((8, 3), (7, 4)): assert (augment_tokens(tokens, keys, config, *other) != view).any(1).all()
    assert augment_tokens(tokens, keys, AugmentConfig(), 7, 3) is tokens
    for name, change, amount in (("substitution", substitute, .05), ("indel", insert_and_delete, .02), ("window", shuffle_windows, 5),
                                 ("reverse", reverse_some, .5)):
        alone = augment_tokens(tokens, keys, AugmentConfig(**{name: amount}), 7, 3)
        assert (alone == change(tokens, amount, AsvDraws(keys, 7, 3, name))).all()

# Mixed samples

def pair_of(n=30, seed=0):
    counts = np.random.default_rng(seed).negative_binomial(.4, .02, (2, n)); counts[:, 0] += 1
    return counts

def tree_of(n):
    "A comb of n tips: the branch of each tip, and each clade of the last tips."
    return Tree(tips=strings(range(n)), start=np.array([*range(n), *range(n - 2, 0, -1)]), stop=np.array([*range(1, n + 1), *[n]*(n - 2)]),
                length=np.ones(2*n - 2))

@pytest.mark.parametrize("seed", range(4))
def test_mixes_are_scikit_bios(seed):
    skbio = pytest.importorskip("skbio.table"); from skbio import TreeNode
    counts = pair_of(seed=seed); shares = counts/counts.sum(1, keepdims=True); rng = lambda: np.random.default_rng(seed)
    mixed, share = mix_pair(counts, "reads", .8, rng())
    theirs, label = skbio.mixup(shares, 1, labels=[0, 1], alpha=.8, seed=rng())
    assert np.allclose(mixed, theirs[0]) and share == label[0, 0] and np.allclose(mixed, share*shares[0] + (1 - share)*shares[1])
    mixed, share = mix_pair(counts, "aitchison", .8, rng())
    theirs, label = skbio.aitchison_mixup(np.maximum(counts, .5), 1, labels=[0, 1], alpha=.8, seed=rng())
    powers = np.prod(np.maximum(counts, .5)**np.array([[share], [1 - share]]), axis=0)
    assert np.allclose(mixed, theirs[0]) and share == label[0, 0] and np.allclose(mixed, powers/powers.sum())
    mixed, share = mix_pair(counts, "phylomix", .8, rng(), tree_of(30), np.arange(30))
    comb = f"{','.join(f'({i}' for i in range(29))},29{')'*29};"
    theirs, label = skbio.phylomix(shares, 1, tree=TreeNode.read([comb]), taxa=list(map(str, range(30))), labels=[0, 1], alpha=.8, seed=rng())
    assert np.allclose(mixed, theirs[0]) and share == label[0, 0] and np.isclose(mixed.sum(), 1)

@pytest.mark.parametrize("seed", range(4))
def test_cutmix_takes_each_asv_from_one_sample_and_says_how_much_is_its_own(seed):
    skbio = pytest.importorskip("skbio.table"); counts = pair_of(seed=seed); shares = counts/counts.sum(1, keepdims=True)
    mixed, share = mix_pair(counts, "cutmix", .8, np.random.default_rng(seed))
    theirs, _ = skbio.compos_cutmix(np.pad(shares, ((0, 0), (0, 1)), constant_values=1.), 1, normalize=False, seed=np.random.default_rng(seed))
    assert np.allclose(mixed, theirs[0, :-1]/theirs[0, :-1].sum()) and np.isclose(mixed.sum(), 1)
    taken = theirs[0, :-1]/theirs[0, -1]; own, other = np.isclose(taken, shares[0]), np.isclose(taken, shares[1])
    assert (own | other).all() and np.isclose(share, taken[own].sum()/taken.sum())

def test_mixes_of_samples_that_share_nothing():
    pytest.importorskip("skbio"); counts = np.array([[5, 0], [0, 7]])
    for kind in ("reads", "aitchison", "cutmix", "phylomix"):
        for i in range(20):
            mixed, share = mix_pair(counts, kind, .4, keyed_rng("test", i), tree_of(2), np.arange(2))
            assert np.isfinite(mixed).all() and np.isclose(mixed.sum(), 1) and 0 <= share <= 1

@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 5000), st.integers(0, 99))
def test_whole_reads_round_up_or_down(shares, depth, seed):
    shares = np.array(shares) + 1e-3; exact = shares/shares.sum()*depth; counts = whole_reads(shares, depth, keyed_rng(seed))
    assert counts.sum() == depth and (abs(counts - exact) < 1 + 1e-9).all() and (counts >= 0).all() and counts.dtype == np.int32

def test_whole_reads_are_right_on_average():
    shares = np.array([.5, .3, .13, .0699, .0001]); counts = np.array([whole_reads(shares, 17, keyed_rng("test", i)) for i in range(4000)])
    assert abs(counts.mean(0) - 17*shares).max() < .04

@pytest.fixture(scope="module")
def store(): return build_store(simulate(samples=24, asvs=60, groups=8, seed=3))

def samples_of(store):
    return [Sample(asv=store.asv[a:b].astype(np.int64), counts=store.reads[a:b], target=np.full(1, i, np.float32), index=i, id=f"S{i}")
            for i, (a, b) in enumerate(zip(store.indptr, store.indptr[1:], strict=False))]

@pytest.mark.parametrize("mix", ["reads", "aitchison", "cutmix", "phylomix"])
def test_a_batch_is_mixed_by_its_step_and_ids(store, mix):
    pytest.importorskip("skbio"); before = samples_of(store)[:8]; config = AugmentConfig(mix=mix, mixup=.8)
    out, partner, share = mix_samples(before, config, 7, 2, store.studies[0]); again = mix_samples(before, config, 7, 2, store.studies[0])
    assert partner.dtype == np.int64 and share.dtype == np.float32 and sorted(partner) == list(range(8)) and ((0 <= share) & (share <= 1)).all()
    assert all((a.counts == b.counts).all() and (a.asv == b.asv).all() for a, b in zip(out, again[0], strict=True))
    assert (again[1] == partner).all() and (again[2] == share).all() and (mix_samples(before, config, 7, 3, store.studies[0])[2] != share).any()
    for a, o, j in zip(before, out, partner, strict=True):
        assert o.counts.sum() == a.counts.sum() and (o.counts > 0).all() and o.counts.dtype == np.int32 and (np.diff(o.asv) > 0).all()
        assert set(o.asv.tolist()) <= {*a.asv.tolist(), *before[j].asv.tolist()} and (o.id, o.index, o.target) == (a.id, a.index, a.target)
        if a is before[j]: assert o is a

def test_the_mix_of_a_pair_does_not_depend_on_the_rest_of_the_batch(store):
    pytest.importorskip("skbio"); before = samples_of(store)[:8]
    for mix in ("reads", "phylomix"):
        config = AugmentConfig(mix=mix, mixup=.8); out, partner, share = mix_samples(before, config, 7, 2, store.studies[0])
        i = next(i for i, j in enumerate(partner) if i != j)
        others = [o if k in (i, partner[i]) else samples_of(store)[12 + k] for k, o in enumerate(before)]
        two = mix_samples(others, config, 7, 2, store.studies[0])
        assert two[2][i] == share[i] and (two[0][i].counts == out[i].counts).all() and (two[0][i].asv == out[i].asv).all()

def test_asvs_without_a_tip_stay_their_own_in_phylomix(store):
    pytest.importorskip("skbio"); lost = np.arange(len(store.tokens)) % 2 == 0
    half = StudyPart(SimpleNamespace(tip=np.where(lost, -1, store.tip), branches=store.branches))
    before = samples_of(store)[:8]; out, partner, _ = mix_samples(before, AugmentConfig(mix="phylomix", mixup=.8), 7, 2, half)
    for a, o in zip(before, out, strict=True):
        full = np.zeros((2, len(lost))); full[0, a.asv] = a.counts; full[1, o.asv] = o.counts
        assert abs(full[0] - full[1])[lost].max() <= 1 # Rounded again
    none = StudyPart(SimpleNamespace(tip=np.full(len(lost), -1), branches=store.branches))
    assert all((a.counts == o.counts).all() for a, o in zip(before, mix_samples(before, AugmentConfig(mix="phylomix"), 7, 2, none)[0], strict=True))

def test_what_is_not_mixed(store):
    before = samples_of(store)[:4]; empty = replace(before[0], asv=before[0].asv[:0], counts=before[0].counts[:0])
    for config in (AugmentConfig(), AugmentConfig(mix="reads", mixup=0.)):
        out, partner, share = mix_samples(before, config, 7, 2)
        assert out is before and (partner == range(4)).all() and (share == 1).all()
    out, partner, share = mix_samples([empty, before[1]], AugmentConfig(mix="reads"), 7, 1)
    assert out[0] is empty and out[1] is before[1] and (partner == range(2)).all() and (share == 1).all()
    with pytest.raises(AamError, match="the tree of one study, and there is none"): mix_samples(before, AugmentConfig(mix="phylomix"), 7, 2)

def test_a_missing_scikit_bio_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "skbio.table", None)
    with pytest.raises(AamError, match=r"needs the package 'skbio'.*aam_nb\[mix\]"): mix_pair(pair_of(), "reads", 1., keyed_rng())

# Views and distances

def test_steps_that_make_distances_false_are_named():
    every = AugmentConfig(jitter="dirichlet", shuffle=True, substitution=.01, indel=.01, window=4, reverse=.5, mix="reads")
    assert false_for(every, tree=False) == [] and false_for(AugmentConfig(), tree=True, metrics=("weighted",)) == []
    assert [o.split(" ")[0] for o in false_for(every, tree=True)] == ["augment.window"]
    assert [o.split(" ")[0] for o in false_for(every, tree=False, metrics=("unweighted", "jaccard"))] == ["augment.window"]
    assert [o.split(" ")[0] for o in false_for(every, tree=False, metrics=("unweighted", "precomputed"))] == [
        "augment.window", "augment.rarefy", "augment.asv_dropout", "augment.jitter", "augment.mix"]
    quiet = AugmentConfig(rarefy=0., asv_dropout=0., shuffle=True, substitution=.01, mix="reads", mixup=0., window=1)
    assert false_for(quiet, tree=True, metrics=("precomputed",)) == []

def test_unifrac_of_a_view_is_of_its_own_counts(store):
    "The steps that are not refused change the counts before distances are taken from them."
    from aam_nb.batches.collate import collate
    from aam_nb.batches.view import View
    from aam_nb.data.distances import unifrac
    config = AugmentConfig(jitter="multinomial", rarefy_low=.05)
    views = [augment_sample(o, config, 7, 0) for o in samples_of(store)[:5]]
    counts = np.zeros((5, len(store.tokens)))
    for i, o in enumerate(views): counts[i, o.asv] = o.counts
    found = collate(views, store, View(metrics=("unweighted",))).distance[0].numpy()
    assert np.allclose(found, unifrac(counts, store.tree, store.tip, "unweighted"), atol=1e-6)

# Selected ASVs

@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=25), st.integers(0, 30), st.integers(0, 99))
def test_a_selection_is_of_the_sample_and_of_its_size(counts, limit, seed):
    one = Sample(asv=np.arange(len(counts))*2, counts=np.array(counts, np.int32), target=np.zeros(1, np.float32), index=3, id="S1")
    for how in ("abundance", "random"):
        few = select_asvs(one, limit, how, seed); at = few.asv//2
        assert len(few.asv) == (min(limit, len(counts)) or len(counts)) and (np.diff(few.asv) > 0).all()
        assert (few.counts == one.counts[at]).all() and (few.index, few.id) == (3, "S1")
        assert (few is one) == (not limit or len(counts) <= limit)
    most = select_asvs(one, limit).asv//2; wanted = sorted(sorted(range(len(counts)), key=lambda i: (-counts[i], i))[:limit or None])
    assert most.tolist() == wanted # Of equals, the first in the order of sequences

def test_random_selections_take_each_asv_alike_whatever_its_reads_and_differ_by_key_and_sample():
    one = sample(n=12); times = np.zeros(12); took = [select_asvs(one, 4, "random", 7, o).asv//3 for o in range(3000)]
    for o in took: times[o] += 1
    assert abs(times - 1000).max() < 5*np.sqrt(3000*2/9)
    pairs = np.zeros((12, 12))
    for o in took: pairs[np.ix_(o, o)] += 1
    assert abs(pairs[~np.eye(12, dtype=bool)] - 3000*12/132).max() < 5*np.sqrt(273) # Without replacement, pairs alike
    assert len({tuple(o) for o in took}) > 400 and (select_asvs(one, 4, "random", 7, 3).asv == took[3]*3).all()
    assert (select_asvs(replace(one, id="S2"), 20, "random", 7, 3).asv == one.asv).all()
    assert any((select_asvs(replace(one, id="S2"), 4, "random", 7, o).asv != took[o]*3).any() for o in range(3))
    with pytest.raises(AamError, match="'abundance' or 'random'"): select_asvs(one, 0, "most")

# Hidden covariates

def told_sample(i, c=3, v=2, seed=0):
    rng = np.random.default_rng(seed + i)
    return replace(sample(id=f"S{i}", seed=i), category=rng.integers(2, 9, c), number=rng.normal(size=v).astype(np.float32), weight=np.ones(1, np.float32))

def test_covariates_are_hidden_with_their_chance_as_missing_and_unknown_alike():
    many = [told_sample(i) for i in range(40)]; views = [augment_samples(many, AugmentConfig(covariate_dropout=.3), 7, [e]*40) for e in range(50)]
    before = np.stack([o.category for o in many]); after = np.array([[o.category for o in v] for v in views]); gone = after != before
    assert (np.isin(after, (0, 1)) == gone).all() and (abs(gone.mean((0, 1)) - .3) < .04).all() # Standard deviation .01
    assert abs((after[gone] == 1).mean() - .5) < .05
    numbers = np.array([[o.number for o in v] for v in views]); hidden = np.isnan(numbers)
    assert (abs(hidden.mean((0, 1)) - .3) < .04).all() and (numbers[~hidden] == np.broadcast_to([o.number for o in many], numbers.shape)[~hidden]).all()
    both = np.concatenate([gone, hidden], 2).reshape(-1, 5); assert abs(np.corrcoef(both.T) - np.eye(5)).max() < .1 # Each by itself

def test_hidden_covariates_follow_seed_epoch_and_id_alone_and_leave_the_reads_alone():
    many = [told_sample(i) for i in range(9)]; config = AugmentConfig(covariate_dropout=.5); view = augment_samples(many, config, 7, list(range(9)))
    key = lambda o: (o.category.tolist(), np.isnan(o.number).tolist())
    for i in (5, 2):
        alone = augment_sample(many[i], config, 7, i); assert key(alone) == key(view[i]) and same(alone, view[i])
    for other in (dict(seed=8, epochs=list(range(9))), dict(seed=7, epochs=[1]*9)):
        assert [key(o) for o in augment_samples(many, config, **other)] != [key(o) for o in view]
    bare = augment_samples([replace(o, category=None, number=None, weight=None) for o in many], config, 7, list(range(9)))
    assert all(same(a, b) and a.weight is not None and b.category is None for a, b in zip(view, bare, strict=True))
    still = augment_samples(many, replace(config, covariate_dropout=0.), 7, list(range(9)))
    assert all(same(a, b) and (a.category == o.category).all() for a, b, o in zip(still, view, many, strict=True))

@settings(max_examples=40)
@given(st.integers(0, 999), st.floats(.05, .9))
def test_what_lies_within_a_hidden_place_is_hidden_alike(seed, share):
    rng = np.random.default_rng(seed); category = rng.integers(0, 5, (30, 4)); number = rng.normal(size=(30, 1)).astype(np.float32); draw = rng.random((30, 5))
    before = category.copy(); found, numbers = hide_covariates(category, number, share, draw, [("diet",), ("country", "state", "city")])
    assert (category == before).all() and (np.isnan(numbers[:, 0]) == (draw[:, 4] < share)).all()
    for row in range(30):
        parent = None # How the place above is hidden
        for j in range(4):
            own = None if draw[row, j] >= share else int(draw[row, j] >= share/2)
            parent = own if j < 2 or parent is None else parent
            assert found[row, j] == (before[row, j] if parent is None or before[row, j] < 2 else parent)
    plain, _ = hide_covariates(category, number, share, draw); hit = (draw[:, :4] < share) & (before > 1)
    assert (plain == np.where(hit, draw[:, :4] >= share/2, before)).all()

# Hidden reads

@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.floats(.01, .99), st.integers(0, 99))
def test_hidden_reads_leave_something_to_see_and_something_to_guess(lengths, share, seed):
    offsets = np.cumsum([0, *lengths]); draw = np.random.default_rng(seed).random(offsets[-1]); hidden = hide_reads(draw, offsets, share)
    assert hidden.dtype == bool and len(hidden) == len(draw)
    for a, b in zip(offsets, offsets[1:]):
        own, n = hidden[a:b], b - a
        if n < 3: assert not own.any(); continue
        wanted = draw[a:b] < share
        if 2 <= wanted.sum() < n: assert (own == wanted).all(); continue
        assert own.sum() == (2 if wanted.sum() < 2 else n - 1) and draw[a:b][own].max() < draw[a:b][~own].min()

def test_draws_of_pairs_follow_key_sample_and_sequence_and_are_uniform():
    keys = np.random.default_rng(0).integers(-2**63, 2**63, 4000); of = np.repeat(np.arange(40), 100); ids = [f"S{i}" for i in range(40)]
    draw = pair_draws(keys, of, ids, 7, "hide", 3); assert np.histogram(draw, 20, (0, 1))[0].std() < 4*np.sqrt(200) and 0 <= draw.min() and draw.max() < 1
    back = np.random.default_rng(1).permutation(4000)[:900]; assert (pair_draws(keys[back], of[back], ids, 7, "hide", 3) == draw[back]).all()
    others = ((keys, ids, 4), (keys, ids[1:] + ids[:1], 3), (keys[::-1].copy(), ids, 3)) # Another step, samples, sequences
    for other in (pair_draws(k, of, names, 7, "hide", step) for k, names, step in others):
        assert abs(np.corrcoef(draw, other)[0, 1]) < .06 and not (draw == other).any()
