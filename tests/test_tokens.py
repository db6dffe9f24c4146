"Tokens: the matrix against a plain loop, the hashes against hashlib, and what is refused."
import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.tokens import OTHER, VOCAB, detokenize, identity_signs, sequence_keys, tokenize

sequences = st.lists(st.text("ACGTNRYSWKMBDHV", min_size=1, max_size=40), min_size=1, max_size=12)

@settings(max_examples=80, deadline=None)
@given(sequences, st.integers(0, 9))
def test_tokens_equal_a_plain_loop(seqs, more):
    length = max(map(len, seqs)) + more
    numbers = dict(A=1, C=2, G=3, T=4)
    wanted = []
    for s in seqs: wanted.append([numbers.get(o, OTHER) for o in s] + [0]*(length - len(s)))
    found = tokenize(seqs, length)
    assert found.dtype == np.uint8 and found.tolist() == wanted and found.max() < VOCAB
    assert list(detokenize(found)) == [re.sub("[^ACGT]", "N", s) for s in seqs]

BAD = ["acgt", "ACGU", "AC-T", "AC T", "AC\0T", "ACÄT", "AC菌T", "ACGT\n", "EQIL", "ACG?"]

@pytest.mark.parametrize("bad", BAD)
def test_letters_that_are_no_nucleotide_codes_are_refused_with_their_place(bad):
    with pytest.raises(AamError, match="1 of 2 sequences.* at base [1-5] of"): tokenize(["ACGTACGT", bad])

def test_none_is_cut_and_none_is_empty():
    with pytest.raises(AamError, match="1 of 2 sequences are longer than 4 bases"):
        tokenize(["ACGT", "ACGTA"], 4)
    with pytest.raises(AamError, match="Sequence 2 is empty"): tokenize(["ACGT", ""])
    assert tokenize([], 5).shape == (0, 5) and list(detokenize(tokenize(["A"], 3))) == ["A"]

@pytest.mark.parametrize("width", [8, 64, 512])
def test_signs_are_the_bits_of_the_hash(width):
    seq = "ACGTTGCAN"
    number = int.from_bytes(hashlib.blake2b(seq.encode(), digest_size=width//8).digest(), "big")
    wanted = [1 if c == "1" else -1 for c in f"{number:0{width}b}"]
    assert identity_signs([seq, "A", seq], width)[[0, 2]].tolist() == [wanted, wanted]

def test_signs_of_different_sequences_are_unrelated():
    rng = np.random.default_rng(0)
    signs = identity_signs(["".join(rng.choice(list("ACGT"), 20)) for _ in range(400)], 64).astype(float)
    agree = (signs @ signs.T/64)[np.triu_indices(400, 1)]
    assert abs(agree.mean()) < .002 and abs(agree.std() - 1/8) < .003 and abs(signs.mean()) < .02

@pytest.mark.parametrize("width", [-8, 4, 520])
def test_other_widths_are_refused(width):
    with pytest.raises(AamError, match="multiple of 8"): identity_signs(["ACGT"], width)
    assert identity_signs(["ACGT"], 0).shape == (1, 0)

def test_keys_follow_the_sequence_and_nothing_else():
    seqs = ["ACGT", "ACGA", "AC", "ACN"]
    keys = sequence_keys(seqs)
    assert keys.dtype == np.int64 and len(set(keys)) == 4
    assert sequence_keys(seqs[::-1]).tolist() == keys.tolist()[::-1]
    assert sequence_keys(["ACGT"]).tobytes() == hashlib.blake2b(b"ACGT", digest_size=8).digest()
