"Scores are those that others also compute, within folds, and a score is written with the digits that count."
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from aam_nb.evaluation.scores import fold_auc, show

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=40)


@given(ROWS, st.integers(0, 5))
def test_fold_auc_is_sklearn_within_folds(rows, seed):
    yes, score, fold = (np.array(o) for o in zip(*rows, strict=True))
    yes = yes.astype(bool)
    drawn = np.random.default_rng(seed).integers(len(yes), size=len(yes)) # with repeats, as in a bootstrap
    ours, total, pairs = fold_auc(yes, score, fold)(drawn), 0., 0
    for k in set(fold):
        at = drawn[fold[drawn] == k]
        n = yes[at].sum()*(~yes[at]).sum()
        if not n: continue
        total += n*roc_auc_score(yes[at], score[at])
        pairs += n
    assert ours == pytest.approx(total/pairs) if pairs else np.isnan(ours)


def test_training_shares_get_one_half():
    "Pooled over folds the shares would get less, since a fold rich in a class leaves fewer of it to train."
    rng, fold = np.random.default_rng(0), np.repeat(np.arange(5), 20)
    y = rng.random(100) < np.array([.1, .3, .5, .7, .9])[fold]
    share = np.array([y[fold != k].mean() for k in range(5)])[fold]
    assert roc_auc_score(y, share) < .3 and fold_auc(y, share, fold)(np.arange(100)) == .5


def test_a_score_is_shown_with_three_digits():
    assert (show(2.8312), show(12345.6), show(-.0123)) == ("2.83", "12,346", "\u22120.0123")
    assert (show(.5, .1), show(float("nan"))) == ("0.500", "\u2013")
