"What is hidden: whole patches, reads that can be guessed, covariates with what lies within."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_samples import sequences

from aam_nb.batches.draws import AsvDraws
from aam_nb.batches.hide import hide_covariates, hide_reads, mask_patches
from aam_nb.core import keyed_rng
from aam_nb.data.tokens import MASK, PAD, tokenize


@settings(max_examples=120, deadline=None)
@given(sequences, st.integers(1, 7), st.floats(0, 1), st.integers(0, 99))
def test_only_whole_patches_of_bases_are_hidden(seqs, patch, share, seed):
    tokens = tokenize(seqs)
    before = tokens.copy()
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
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 5, (4000, 150)).astype(np.uint8)
    tokens[:, 120:] = PAD
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
    # The ends as much as the middle
    assert abs(hidden[:, 0].mean() - .2) < .03 and abs(hidden[:, -1].mean() - .2) < .03
    assert abs(runs(hidden)/(span/.8) - 1) < .05 # One in five pieces goes on as another piece
    one, none_given = (mask_patches(tokens, 2, .2, AsvDraws(np.arange(3000), span), *o) for o in ((1,), ()))
    assert (one == none_given).all()

@settings(max_examples=60, deadline=None)
@given(sequences, st.integers(1, 7), st.floats(0, 1), st.integers(2, 9), st.integers(0, 99))
def test_spans_hide_only_whole_patches_of_bases(seqs, patch, share, span, seed):
    tokens = tokenize(seqs)
    masked = mask_patches(tokens, patch, share, keyed_rng("test", seed), span)
    for row, seen, seq in zip(tokens, masked, seqs, strict=True):
        places = [j for j in range(0, len(seq) - patch + 1, patch) if "N" not in seq[j:j+patch]]
        hidden = [j for j in places if (seen[j:j+patch] == MASK).all()]
        expected = row.copy()
        for j in hidden: expected[j:j+patch] = MASK
        assert (seen == expected).all() and len(hidden) >= min(1, len(places))

@settings(max_examples=40)
@given(st.integers(0, 999), st.floats(.05, .9))
def test_what_lies_within_a_hidden_place_is_hidden_alike(seed, share):
    rng = np.random.default_rng(seed)
    category = rng.integers(0, 5, (30, 4))
    number = rng.normal(size=(30, 1)).astype(np.float32)
    draw = rng.random((30, 5))
    before = category.copy()
    found, numbers = hide_covariates(category, number, share, draw, [("diet",), ("country", "state", "city")])
    assert (category == before).all() and (np.isnan(numbers[:, 0]) == (draw[:, 4] < share)).all()
    for row in range(30):
        parent = None # How the place above is hidden
        for j in range(4):
            own = None if draw[row, j] >= share else int(draw[row, j] >= share/2)
            parent = own if j < 2 or parent is None else parent
            assert found[row, j] == (before[row, j] if parent is None or before[row, j] < 2 else parent)
    plain, _ = hide_covariates(category, number, share, draw)
    hit = (draw[:, :4] < share) & (before > 1)
    assert (plain == np.where(hit, draw[:, :4] >= share/2, before)).all()

@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.floats(.01, .99), st.integers(0, 99))
def test_hidden_reads_leave_something_to_see_and_something_to_guess(lengths, share, seed):
    offsets = np.cumsum([0, *lengths])
    draw = np.random.default_rng(seed).random(offsets[-1])
    hidden = hide_reads(draw, offsets, share)
    assert hidden.dtype == bool and len(hidden) == len(draw)
    for a, b in zip(offsets, offsets[1:]):
        own, n = hidden[a:b], b - a
        if n < 3:
            assert not own.any()
            continue
        wanted = draw[a:b] < share
        if 2 <= wanted.sum() < n:
            assert (own == wanted).all()
            continue
        assert own.sum() == (2 if wanted.sum() < 2 else n - 1)
        assert draw[a:b][own].max() < draw[a:b][~own].min()
