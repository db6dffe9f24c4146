"Metrics against scikit-learn, SciPy and scikit-bio, on random input with ties and missing values."
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from aam_nb.core import AamError
from aam_nb.training.metrics import (
    bootstrap,
    calibration_error,
    class_metrics,
    correlation,
    distance_metrics,
    interval_metrics,
    paired_bootstrap,
    regression_metrics,
    reliability,
)


@pytest.mark.parametrize("seed", range(8))
def test_regression_equals_sklearn_and_scipy(seed):
    rng = np.random.default_rng(seed)
    true, pred = rng.integers(0, 12, 80).astype(float), rng.normal(5, 4, 80).round(int(seed % 2))
    true[rng.random(80) < .2] = np.nan
    got, t, p = regression_metrics(true, pred), true[~np.isnan(true)], pred[~np.isnan(true)]
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(t, p), abs=1e-12)
    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(t, p), abs=1e-12)
    assert got["r2"] == pytest.approx(sk.r2_score(t, p), abs=1e-12)
    assert got["spearman"] == pytest.approx(stats.spearmanr(t, p).statistic, abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_classes_equal_sklearn(k, seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, 120)
    prob = rng.dirichlet(np.ones(k), 120)
    prob[:, 0] = prob[:, 0].round(1)                           # ties
    prob /= prob.sum(1, keepdims=True)
    got, pred = class_metrics(true.astype(float), prob), prob.argmax(1)
    auc = sk.roc_auc_score(true, prob[:, 1]) if k == 2 else sk.roc_auc_score(true, prob, multi_class="ovr")
    assert got["auc"] == pytest.approx(auc, abs=1e-12)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(true, pred), abs=1e-12)
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, pred), abs=1e-12)
    assert got["f1"] == pytest.approx(sk.f1_score(true, pred, average="macro"), abs=1e-12)
    assert got["log_loss"] == pytest.approx(sk.log_loss(true, prob, labels=np.arange(k)), abs=1e-9)


def test_a_class_absent_from_the_truth_is_left_out():
    prob = np.array([[.7, .2, .1], [.1, .8, .1], [.3, .6, .1]])
    true = np.array([0, 1, 1])
    got = class_metrics(true, prob)
    expected = [sk.roc_auc_score(true == c, prob[:, c]) for c in (0, 1)]
    assert got["auc"] == pytest.approx(np.mean(expected))
    assert got["balanced_accuracy"] == 1.
    assert got["f1"] == pytest.approx(sk.f1_score(true, prob.argmax(1), average="macro"))


@pytest.mark.parametrize("k,bins", [(2, 10), (3, 15), (7, 15), (4, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_calibration_equals_sklearn(k, bins, seed):
    "scikit-learn's curve of 'the most probable class is the true one', weighed by the samples of each bin."
    rng = np.random.default_rng(seed)
    prob = rng.dirichlet(np.ones(k), 300)
    prob[:9] = np.eye(k)[np.arange(9) % k]                     # ends and edges of bins
    prob[9:30] = np.append([.6, .4], np.zeros(k - 2))
    true = rng.integers(0, k, 300).astype(float)
    true[rng.random(300) < .1] = np.nan
    have = ~np.isnan(true)
    top, right = prob[have].max(1), prob[have].argmax(1) == true[have]
    share, mean = calibration_curve(right, top, n_bins=bins)
    said, found, n = reliability(true, prob, bins)
    assert said == pytest.approx(mean) and found == pytest.approx(share) and n.sum() == have.sum()
    assert calibration_error(true, prob, bins) == pytest.approx((n*np.abs(share - mean)).sum()/have.sum())
    assert class_metrics(true, prob)["calibration_error"] == calibration_error(true, prob)


def test_calibration_error_is_the_gap_between_word_and_deed():
    "Always .9 sure and right in 6 of 10: off by .3; sure and right: 0; sure and wrong: 1."
    prob = np.tile([.9, .1], (10, 1))
    assert calibration_error([0]*6 + [1]*4, prob) == pytest.approx(.3)
    assert calibration_error([0, 1], np.eye(2)) == 0. and calibration_error([1, 0], np.eye(2)) == 1.


def test_intervals_count_their_ends_and_leave_out_what_is_not_known():
    true, low, high = [1., 2., np.nan, 4., 5.], [1., 0., 0., 5., 4.], [2., 2., 9., 6., 6.]
    assert interval_metrics(true, low, high) == pytest.approx(dict(coverage=.75, width=1.5))


def test_distances_equal_scikit_bio():
    from skbio import DistanceMatrix
    from skbio.stats.distance import mantel
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(15, 4)), rng.normal(size=(15, 4))
    d = lambda x: np.linalg.norm(x[:, None] - x, axis=2)
    true, pred = d(a), d(a + .3*b)
    got = distance_metrics(true, pred)
    for name, method in (("mantel", "pearson"), ("spearman", "spearman")):
        reference = mantel(DistanceMatrix(true), DistanceMatrix(pred), method, permutations=0)[0]
        assert got[name] == pytest.approx(reference, abs=1e-10)
    i = np.triu_indices(15, 1)
    assert got["stress"] == pytest.approx(np.linalg.norm(true[i] - pred[i])/np.linalg.norm(true[i]))
    hidden = true.copy()
    hidden[0] = hidden[:, 0] = np.nan
    assert distance_metrics(hidden, pred) == pytest.approx(distance_metrics(true[1:, 1:], pred[1:, 1:]))


def test_rows_of_distances_count_the_pairs_right_of_their_own_column():
    rng = np.random.default_rng(1)
    true, pred = rng.random((9, 9)), rng.random((9, 9))
    upper = np.triu_indices(9, 1)
    for start, stop in ((0, 3), (3, 8), (0, 9)):
        own = (upper[0] >= start) & (upper[0] < stop)
        a, b = true[upper][own], pred[upper][own]
        got = distance_metrics(true[start:stop], pred[start:stop], start)
        assert got["mantel"] == pytest.approx(stats.pearsonr(a, b)[0])
        assert got["spearman"] == pytest.approx(stats.spearmanr(a, b)[0])
        assert got["stress"] == pytest.approx(np.linalg.norm(a - b)/np.linalg.norm(a))
    assert distance_metrics(true, pred, 0) == distance_metrics(true, pred)


def test_nothing_warns_and_nothing_is_invented_for_constants():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = regression_metrics([2, 2, 2], [1, 2, 3])
        assert np.isnan(got["r2"]) and np.isnan(got["spearman"]) and got["mae"] == pytest.approx(2/3)
        one = class_metrics([1, 1], [[.2, .8], [.4, .6]])
        assert np.isnan(one["auc"]) and one["accuracy"] == 1.
        assert np.isnan(correlation(np.ones(3), np.arange(3.)))
        assert np.isnan(distance_metrics(np.zeros((3, 3)), np.ones((3, 3)))["stress"])


@pytest.mark.parametrize("call,said", [
    (lambda: regression_metrics([1, 2], [1]), r"true values \(2\) and predictions \(1\) differ"),
    (lambda: regression_metrics([np.nan], [1.]), "no sample"),
    (lambda: regression_metrics([], []), "no sample"),
    (lambda: regression_metrics([1, 2], [1, np.inf]), "not finite: 1 of 2"),
    (lambda: class_metrics([0, 1], [.2, .3]), "shape"),
    (lambda: class_metrics([0, 1], [[2., -1], [0, 1]]), "softmax"),
    (lambda: class_metrics([0, 2], [[.5, .5], [.5, .5]]), "0 to 1"),
    (lambda: class_metrics([0, .5], [[.5, .5], [.5, .5]]), "whole numbers"),
    (lambda: interval_metrics([1., 2.], [0., np.nan], [1., 2.]), "not finite: 1 of 2"),
    (lambda: calibration_error([0, 1], [[3., 1.], [0., 1.]]), "softmax"),
    (lambda: distance_metrics(np.zeros((1, 1)), np.zeros((1, 1))), "One sample"),
    (lambda: distance_metrics(np.zeros((2, 3)), np.zeros((2, 3))), "square"),
    (lambda: bootstrap(lambda r: 0., ["a", "a"]), "two groups"),
])
def test_what_cannot_be_scored_is_said(call, said):
    with pytest.raises(AamError, match=said): call()


def test_bootstrap_draws_whole_groups():
    groups = np.array(["a"]*3 + ["b"]*5 + ["c"])
    seen = []
    bootstrap(lambda rows: seen.append(np.bincount(rows, minlength=9)) or 0., groups, n=50)
    for times in seen:
        for g in "abc": assert len(set(times[groups == g])) == 1       # all samples of a group alike
    assert len({tuple(o) for o in seen}) > 5
    x = np.random.default_rng(1).normal(size=60)
    same = [bootstrap(lambda rows: x[rows].mean(), range(60), seed=3) for _ in range(2)]
    assert same[0] == same[1] != bootstrap(lambda rows: x[rows].mean(), range(60), seed=4)


def test_bootstrap_covers_as_often_as_it_says():
    "The interval holds the true mean in about 95 % of repeated studies; one without groups does not."
    g, hits, wrong = np.repeat(np.arange(30), 4), 0, 0

    def holds(x, groups):
        low, high = bootstrap(lambda rows: x[rows].mean(), groups, n=200)
        return low < 0 < high
    for i in range(150):
        rng = np.random.default_rng(i)
        x = rng.normal(size=30)[g] + .3*rng.normal(size=120)
        hits += holds(x, g)
        wrong += holds(x, range(120))
    assert .88 < hits/150 <= .99 and wrong/150 < .8


def test_paired_difference_is_narrower_than_either():
    rng = np.random.default_rng(0)
    true, hard = rng.normal(size=200), rng.normal(0, 2, 200)
    mae = lambda t, p: np.abs(t - p).mean()
    a, b = true + hard, true + hard + .2*rng.normal(size=200)
    gap, low, high = paired_bootstrap(mae, true, a, b, range(200))
    assert gap == pytest.approx(mae(true, a) - mae(true, b)) and low <= gap <= high
    alone = bootstrap(lambda r: mae(true[r], a[r]), range(200))
    assert high - low < .5*(alone[1] - alone[0])


def test_scipy_percentile_bootstrap_agrees():
    x = np.random.default_rng(0).exponential(size=80)
    low, high = bootstrap(lambda rows: x[rows].mean(), range(80), n=4000)
    ref = stats.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert (low, high) == pytest.approx(tuple(ref), abs=.03)
