"Bases misread, lost, added, shuffled and turned, against their definitions."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_samples import random_tokens, sequences

from aam_nb.batches.bases import (
    insert_and_delete, reverse_complement, reverse_some, shuffle_windows, substitute)
from aam_nb.batches.draws import AsvDraws
from aam_nb.core import keyed_rng
from aam_nb.data.tokens import PAD, detokenize, tokenize


def test_substitution_takes_the_share_and_each_other_base_alike():
    tokens = random_tokens()
    tokens[:, 100:] = PAD
    tokens[:, 7] = 5
    out = substitute(tokens, .03, AsvDraws(np.arange(3000), 0))
    base = (tokens >= 1) & (tokens <= 4)
    assert (out[~base] == tokens[~base]).all() and abs((out != tokens)[base].mean() - .03) < .002
    misread = [out[(tokens == a) & (out != tokens)] for a in (1, 2, 3, 4)]
    became = np.array([np.bincount(o, minlength=5)[1:5]/len(o) for o in misread])
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
    out = insert_and_delete(tokens, .05, AsvDraws(np.arange(2000), 0))
    length = (out != PAD).sum(1)
    assert abs(length.mean() - 100) < .3 and abs(length.var() - 2*100*.05*.95) < .8
    assert all((row[n:] == PAD).all() and (row[:n] != PAD).all() for row, n in zip(out, length, strict=True))
    few = [edits(a[:100].tolist(), b[:n].tolist()) for a, b,
           n in zip(tokens[:150], out, length, strict=False)]
    assert 8 < np.mean(few) <= 10.5 # At most 2 x 100 x 0.05; fewer where two cancel

@settings(max_examples=60, deadline=None)
@given(sequences, st.sampled_from([.01, .2, .9]), st.integers(0, 99))
def test_indels_leave_sequences(seqs, share, seed):
    tokens = tokenize(seqs)
    out = insert_and_delete(tokens, share, keyed_rng("test", seed))
    there = out != PAD
    assert out.shape == tokens.shape and out.dtype == np.uint8 and there[:, 0].all()
    assert (np.diff(there.astype(int), axis=1) <= 0).all()
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
    DNA = pytest.importorskip("skbio").DNA
    seqs = detokenize(random_tokens(20, 40))
    assert [str(DNA(o).reverse_complement())
            for o in seqs] == list(detokenize(reverse_complement(tokenize(seqs))))

def test_the_share_of_turned_sequences():
    tokens = random_tokens(4000, 30)
    out = reverse_some(tokens, .3, AsvDraws(np.arange(4000), 0))
    turned = (out == reverse_complement(tokens)).all(1)
    assert abs(turned.mean() - .3) < .03 and (out[~turned] == tokens[~turned]).all()
