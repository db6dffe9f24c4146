"Words of sequences against scikit-learn's count of character n-grams."
import numpy as np
import pytest

from aam_nb.data.simulate import simulate
from aam_nb.stack.features import relative
from aam_nb.stack.kmers import word_numbers, word_profiles, word_shares


@pytest.mark.parametrize("size", [1, 3, 6])
def test_words_as_scikit_learn_counts_them(size):
    from itertools import product

    from sklearn.feature_extraction.text import CountVectorizer
    rng = np.random.default_rng(size)
    sequences = ["".join(rng.choice(list("ACGT"), rng.integers(1, 60))) for _ in range(30)]
    words = ["".join(o) for o in product("ACGT", repeat=size)]
    count = CountVectorizer(analyzer="char", ngram_range=(size, size), lowercase=False, vocabulary=words)
    wanted = count.transform(sequences).toarray()
    wanted = wanted/np.maximum(wanted.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(word_shares(sequences, size).toarray(), wanted)


def test_uncertain_bases_are_in_no_word():
    assert list(word_numbers("AANTT", 2)) == [0, 15] and not len(word_numbers("ANA", 2))
    assert word_shares(["N", "ACGTAC"], 6).sum() == 1


def test_profiles_do_not_depend_on_the_order_of_asvs():
    table = simulate(samples=10, asvs=30, groups=5, seed=0).table
    order = np.random.default_rng(0).permutation(table.counts.shape[1])
    made = [word_profiles(relative(c), word_shares(s)) for c, s in
            ((table.counts, table.sequences), (table.counts[:, order], table.sequences[order]))]
    np.testing.assert_allclose(*made)
