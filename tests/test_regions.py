"Primers found as a slow search finds them, and what lies between."
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_folder import gene, plain

from aam_nb.core import AamError
from aam_nb.data.regions import (
    amplicons, find_primer, LONGEST, other_strand, PRIMERS, REGIONS, SHORTEST)
from aam_nb.data.sequences import LETTERS
from aam_nb.data.tokens import tokenize

IUPAC = dict(zip(LETTERS, "A C G T AG CT CG AT GT AC CGT AGT ACT ACG ACGT".split(), strict=True))


def mismatches(sequence, primer):
    "Mismatches at each place, letter by letter."
    places = range(len(sequence) - len(primer) + 1)
    def agree(a, b): return a == "N" or a in IUPAC[b]
    return [sum(not agree(sequence[i+k], o) for k, o in enumerate(primer)) for i in places]


@settings(max_examples=60)
@given(st.lists(st.text("ACGTN", min_size=1, max_size=40), min_size=1, max_size=5),
       st.text(LETTERS, min_size=1, max_size=6), st.integers(0, 3))
def test_primers_are_found_as_a_slow_search_finds_them(sequences, primer, most):
    longest = max(map(len, sequences)) # What is right of a sequence's end agrees with nothing
    for sequence, at in zip(sequences, find_primer(tokenize(sequences), primer, most), strict=True):
        missed = mismatches(sequence.ljust(longest, "-"), primer)
        best = min(missed, default=99)
        assert at == (missed.index(best) if best <= most else -1)


def test_degenerate_primers_agree_with_regular_expressions():
    rng = np.random.default_rng(3)
    for primer in PRIMERS.values():
        inside = ["".join(rng.choice([*"ACGT"], 60)) for _ in range(50)]
        inside = [o[:20] + plain(primer) + o[20:] for o in inside]
        pattern = "".join(f"[{IUPAC[o]}]" for o in primer)
        found = [re.search(pattern, o).start() for o in inside]
        assert find_primer(tokenize(inside), primer, 0).tolist() == found


def test_the_other_strand_agrees_with_scikit_bio():
    skbio = pytest.importorskip("skbio")
    for o in [*PRIMERS.values(), LETTERS]: assert other_strand(o) == str(skbio.DNA(o).reverse_complement())


def test_regions_of_a_gene_are_what_lies_between_their_primers():
    letters = "".join(np.random.default_rng(0).choice([*"ACGT"], 700))
    whole = gene(letters)
    one, two, three = (amplicons([whole], o)[0] for o in REGIONS)
    assert one.startswith(letters[:300]) and three == letters[390:670]
    assert two.startswith(letters[300:390])
    for o in (one, two, three): assert o in whole and SHORTEST <= len(o) <= LONGEST


def test_a_primer_may_differ_in_two_letters_but_not_in_three():
    letters = "".join(np.random.default_rng(1).choice([*"ACGT"], 700))
    whole, primer = gene(letters), plain(PRIMERS["806R"], True)
    def changed(n):
        other = primer[:6] + primer[6:6+n].translate(str.maketrans("ACGT", "CATG")) + primer[6+n:]
        return amplicons([whole.replace(primer, other)], "V4")[0]
    assert changed(2) == letters[390:670] and changed(3) == ""


def test_genes_without_a_primer_and_with_primers_in_the_wrong_order_have_no_amplicon():
    forward, reverse = plain(PRIMERS["515F"]), plain(PRIMERS["806R"], True)
    middle = "ACGGT"*40
    assert amplicons([forward + middle + reverse], "V4") == [middle]
    genes = ["A" + forward + middle, reverse + middle + forward, "A" + forward + "ACGT" + reverse,
             "A" + forward + middle*4 + reverse, "A"]
    assert amplicons(genes, "V4") == [""]*5
    with pytest.raises(AamError, match="no region 'V6'; wanted one of V1-V3, V3-V4"): amplicons(["A"], "V6")
