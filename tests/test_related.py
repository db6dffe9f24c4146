"""Relations between lists of sequences, beside a search through all pairs."""
import time

import numpy as np
import pytest

from aam_nb.data.related import (
    KINDS, PIECE, agree, begin_one, begun_by_one, likely_shifts, related, related_within, reverse_complement)


def drawn(rng, n, low, high):
    "Sequences of random letters, of `low` to `high` bases."
    return ["".join(rng.choice(list("ACGT"), rng.integers(low, high + 1))) for _ in range(n)]


def changed(rng, word):
    "A known sequence cut, moved, lengthened or left as it is, on either strand; or another one."
    cut = int(rng.choice([0, 3, 7]))
    made = [word, word[:len(word) - cut], word[cut:], word + "ACGTTGCA"[:cut], "TTGACCAT"[:cut] + word,
            drawn(rng, 1, 60, 70)[0]][rng.integers(6)]
    return reverse_complement(made) if rng.random() < .4 else made


def overlap_agrees(new, known, shift):
    "Whether a pair agrees in all bases that both have, of which there must be enough."
    mine, its = new[max(-shift, 0):], known[max(shift, 0):]
    shared = min(len(mine), len(its))
    whole = known if len(its) < len(mine) else new
    return shared >= max(PIECE, len(whole)/2) and mine[:shared] == its[:shared]


def slow_relation(new, known, shifts):
    "The same as `related` gives for one sequence, by looking at each pair."
    for move in ([0], [o for o in shifts if o]):
        for turned in (False, True):
            word = reverse_complement(new) if turned else new
            fits = {s for s in move for o in known if overlap_agrees(word, o, s)}
            if not fits: continue
            if word in known: return "same", turned, {0}
            if fits != {0}: return "shifted", turned, fits
            begins = any(o.startswith(word) for o in known)
            return ("beginning" if begins else "longer"), turned, {0}
    return None, False, {0}


@pytest.mark.parametrize("seed", range(8))
def test_relations_are_those_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    known = drawn(rng, 25, 60, 70)
    new = [changed(rng, known[rng.integers(25)]) for _ in range(60)]
    found = related(new, known)
    for i, word in enumerate(new):
        kind, turned, shifts = slow_relation(word, known, range(-14, 15))
        if kind is None:
            assert found.kind[i] in ("akin", "other"), (word, found.kind[i])
            continue
        assert (found.kind[i], found.turned[i]) == (kind, turned)
        assert found.shift[i] in shifts
    assert (found.kind != "other").sum() > 35


@pytest.mark.parametrize("seed", range(5))
def test_beginnings_are_those_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    wholes = ["".join(rng.choice(list("AC"), rng.integers(1, 9))) for _ in range(60)]
    parts = ["".join(rng.choice(list("AC"), rng.integers(1, 9))) for _ in range(30)]
    assert begin_one(parts, wholes).tolist() == [any(w.startswith(p) for w in wholes) for p in parts]
    assert begun_by_one(wholes, parts).tolist() == [any(w.startswith(p) for p in parts) for w in wholes]


def test_each_kind_has_its_name():
    rng = np.random.default_rng(1)
    known = drawn(rng, 30, 100, 100)
    cases = dict(same=known, beginning=[o[:90] for o in known], longer=[o + "ACGTA" for o in known],
                 shifted=[o[3:] for o in known], other=drawn(rng, 30, 100, 100))
    for kind, new in cases.items():
        for turned in (False, True):
            found = related([reverse_complement(o) for o in new] if turned else new, known)
            assert set(found.kind) == {kind} <= set(KINDS)
            if kind != "other": assert set(found.turned) == {turned}
            assert set(found.shift) == {3 if kind == "shifted" else 0}
            if kind != "other": assert found.of_kind(kind, turned=turned).all()


@pytest.mark.parametrize("shift", [-60, -19, -1, 1, 4, 19, 60])
def test_the_shift_is_found(shift):
    rng = np.random.default_rng(2)
    whole = drawn(rng, 40, 300, 300)
    new, known = [o[100 + shift:250 + shift] for o in whole], [o[100:250] for o in whole]
    assert likely_shifts(new, known)[0] == shift
    assert set(related(new, known).shift) == {shift}


def test_a_region_inside_a_longer_one_is_found():
    rng = np.random.default_rng(3)
    whole = drawn(rng, 40, 460, 460)
    inner = [o[180:430] for o in whole]
    assert set(related(inner, whole).shift) == {180} and set(related(whole, inner).shift) == {-180}


def test_an_overlap_at_the_ends_is_no_relation():
    "Two regions that overlap by 30 bases are two regions."
    rng = np.random.default_rng(4)
    whole = drawn(rng, 40, 370, 370)
    assert set(related([o[170:] for o in whole], [o[:200] for o in whole]).kind) == {"other"}
    assert not agree([o[170:] for o in whole], [o[:200] for o in whole], 170).any()


def test_other_organisms_of_the_region_are_akin():
    rng = np.random.default_rng(5)
    kept = drawn(rng, 1, 40, 40)[0]
    known = [o + kept + p for o, p in zip(drawn(rng, 20, 24, 24), drawn(rng, 20, 50, 50), strict=True)]
    new = [o + kept + p for o, p in zip(drawn(rng, 20, 24, 24), drawn(rng, 20, 50, 50), strict=True)]
    for moved, shift in ((new, 0), ([o[5:] for o in new], 5), (["TTGACCA" + o for o in new], -7)):
        for turned in (False, True):
            found = related([reverse_complement(o) for o in moved] if turned else moved, known)
            assert found.of_kind("akin", turned=turned).all() and set(found.shift) == {shift}
    assert set(related(drawn(rng, 20, 114, 114), known).kind) == {"other"}


def test_one_list_with_itself():
    rng = np.random.default_rng(6)
    words = drawn(rng, 50, 100, 100)
    assert not (related_within(words).kind != "other").any()
    palindrome = words[0][:50] + reverse_complement(words[0][:50])
    found = related_within([*words, palindrome, *map(reverse_complement, words[:7]), words[20][4:]])
    assert found.turned.sum() == 14 and found.kind[50] == "same" and not found.turned[50]
    assert found.of_kind("shifted").sum() == 2


@pytest.mark.parametrize("new, known", [([], []), (["ACGT"], []), ([], ["ACGT"]), (["A"], ["A"]),
                                        (["A"*50, "A"*49], ["A"*50]), (["ACGT"*30], ["ACGT"*29, "N"*40])])
def test_few_short_and_dull_sequences_are_compared(new, known):
    assert len(related(new, known).kind) == len(new)
    assert len(related_within(new).kind) == len(new)


def test_long_lists_take_seconds():
    "Work grows with the number of sequences, not with that of pairs."
    rng = np.random.default_rng(7)
    letters = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), (20_000, 100))
    known = [bytes(o).decode() for o in letters]
    begun = time.perf_counter()
    found = related([reverse_complement(o)[:95] for o in known], known)
    assert found.turned.all() and set(found.shift) == {5}
    assert time.perf_counter() - begun < 10
