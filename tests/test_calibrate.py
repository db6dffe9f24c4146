"Intervals hold what they promise, few large groups included, and probabilities can be trusted."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.evaluation.calibrate import calibrated, conformal_margin, fit_temperature, outside
from aam_nb.training.metrics import calibration_error, interval_metrics


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 7)), min_size=1, max_size=40),
       st.sampled_from([.5, .6, .75, .8, .9]))
def test_margin_is_numpys_weighted_quantile_with_one_group_at_infinity(rows, level):
    scores, groups = (np.array(o, dtype=float) for o in zip(*rows, strict=True))
    n = len(set(groups))
    mass = np.append([1/((n + 1)*(groups == g).sum()) for g in groups], 1/(n + 1))
    margin, reached = conformal_margin(scores, groups, level)
    assert reached == min(level, n/(n + 1))
    if reached == level < n/(n + 1) - 1e-6: # on a step of the mass the two may round to either side
        def quantile(q): return np.quantile(np.append(scores, np.inf), q, weights=mass, method="inverted_cdf")
        assert margin in [quantile(level + o) for o in (-1e-7, 0, 1e-7)]
    if reached < level: assert margin == scores.max()


@pytest.mark.parametrize("n", [9, 10, 19, 57, 200])
def test_without_groups_it_is_the_order_statistic_of_split_conformal(n):
    scores = np.random.default_rng(n).exponential(size=n)
    assert conformal_margin(scores, None, .9) == (np.sort(scores)[int(np.ceil(.9*(n + 1) - 1e-9)) - 1], .9)


def test_too_few_groups_say_what_they_reach():
    for n in (1, 2, 5, 8):
        margin, reached = conformal_margin(np.arange(3.*n), np.repeat(np.arange(n), 3), .9)
        assert margin == 3*n - 1 and reached == n/(n + 1)
    assert conformal_margin(np.arange(9.), np.arange(9), .9) == (8., .9)      # nine are just enough


@pytest.mark.parametrize("infants", [10, 15, 30])
def test_covers_a_new_group_where_plain_split_conformal_does_not(infants):
    "Few groups of very different sizes, whose samples err alike. 2,000 studies: a standard error of .007."
    hits = []
    for i in range(2000):
        rng = np.random.default_rng([infants, i])
        size = np.ceil(rng.lognormal(1.5, 1.2, infants)).astype(int)
        group = np.repeat(np.arange(infants), size)
        own = rng.normal(0, 2, infants + 1)[np.append(group, infants)]
        error = np.abs(own + rng.normal(0, .7, len(group) + 1))
        hits.append([error[-1] <= conformal_margin(error[:-1], o, .9)[0] for o in (group, None)])
    grouped, plain = np.mean(hits, axis=0)
    assert .885 < grouped < .965 and plain < .885 and grouped > plain + .03


def test_a_group_weighs_the_same_however_many_samples_it_has():
    scores, groups = np.array([1., 2., 3., 4., 9.]), np.array(["a", "b", "c", "d", "e"])
    often = np.append(np.arange(5), np.full(50, 4))        # fifty more samples of e, all as bad
    assert conformal_margin(scores, groups, .6) == (4., .6)
    assert conformal_margin(scores[often], groups[often], .6) == (4., .6)
    assert conformal_margin(scores[often], None, .6)[0] == 9.


@pytest.mark.parametrize("call,said", [
    (lambda: conformal_margin([]), "0 of 0 scores"),
    (lambda: conformal_margin([1., np.nan]), "1 of 2 scores"),
    (lambda: conformal_margin([1., 2.], ["a"]), "one group for each"),
    (lambda: conformal_margin([1., 2.], None, 1.), "between 0 and 1"),
    (lambda: conformal_margin([1., 2.], None, 90), "between 0 and 1"),
    (lambda: calibrated(number(), np.zeros((3, 1)), np.full(3, np.nan)),
     "None of the 3 samples held out has a value of 'age'"),
    (lambda: calibrated(number(), np.zeros((3, 2)), np.zeros(3)), r"shape \(3, 2\); wanted \(3, 1\)"),
    (lambda: calibrated(number(), np.full((3, 1), np.nan), np.zeros(3)), "not finite"),
    (lambda: calibrated(number(), np.zeros((3, 1)), np.zeros(3), ["a"]), "one group for each"),
])
def test_what_cannot_be_calibrated_is_said(call, said):
    with pytest.raises(AamError, match=said): call()


AGES = pd.Series(np.random.default_rng(0).gamma(2., 3., 2000).clip(.1, 40), name="age")
FARM = pd.Series(np.random.default_rng(1).integers(0, 4, 2000).astype(str), name="farm")


def number(**how): return TargetCodec.fit(AGES, "regression", **how)


def predicted(codec, spread=.5):
    "Encoded truth, outputs that are off by a spread of each group, and the groups. Quantiles are too narrow."
    rng, group = np.random.default_rng(2), np.repeat(np.arange(200), 10)
    truth = codec.encode(AGES, FARM)[:, 0].astype(float)
    point = truth + rng.normal(0, spread, 200)[group] + rng.normal(0, spread/2, 2000)
    wide = np.zeros(1) if codec.outputs == 1 else np.linspace(-.1, .1, codec.outputs)
    return truth, point[:, None] + wide, group


CODECS = [dict(), dict(transform="none"), dict(transform="minmax"), dict(transform="log1p_zscore"),
          dict(transform="log1p_minmax"), dict(transform="zscore_by", by=FARM), dict(bounds=(0., 40.)),
          dict(loss="quantile", levels=(.05, .5, .95)),
          dict(loss="quantile", levels=(.1, .25, .5, .75, .9), transform="log1p_zscore", bounds=(0., None))]


@pytest.mark.parametrize("how", CODECS)
@pytest.mark.parametrize("level", [.6, .9])
def test_intervals_cover_in_original_units(how, level):
    "Half of the groups calibrate, the others are new: the interval holds with every transform."
    codec = number(**how)
    truth, outputs, group = predicted(codec)
    held = group < 100
    better, note = calibrated(codec, outputs[held], truth[held], group[held], level)
    low, high = better.interval(outputs[~held], FARM[~held]).T
    found = interval_metrics(AGES[~held], low, high)
    assert abs(found["coverage"] - level) < .07 and "1,000 samples of 100 groups" in note
    point = better.decode(outputs[~held], FARM[~held])
    assert ((low <= point) & (point <= high)).all()
    again = TargetCodec.from_dict(json.loads(json.dumps(better.to_dict())))
    assert (again.interval(outputs[~held], FARM[~held]).T == (low, high)).all() and again.level == level


def test_quantiles_that_are_too_wide_are_drawn_in():
    codec = number(loss="quantile", levels=(.05, .5, .95))
    truth, outputs, group = predicted(codec)
    wide = outputs + [-9., 0., 9.]
    better, _ = calibrated(codec, wide, truth, group)
    assert better.margin < -5 and (outside(wide, truth) < 0).all()
    low, high = better.interval(wide).T
    coverage = interval_metrics(AGES, low, high)["coverage"]
    assert .87 < coverage < .93


def test_one_output_is_its_own_first_and_last_quantile():
    assert outside(np.array([[1.], [1.], [1.]]), [0., 1., 3.]).tolist() == [1., 0., 2.]
    assert outside(np.array([[0., 1., 4.]]*3), [-1., 3., 6.]).tolist() == [1., -1., 2.]


def test_samples_without_truth_are_left_out_with_their_groups():
    codec = number()
    truth, outputs, group = predicted(codec)
    keep = group % 3 > 0
    some = np.where(keep, truth, np.nan)
    outputs[~keep] = np.nan # what is predicted there does not matter
    without = calibrated(codec, outputs[keep], truth[keep], group[keep])
    assert calibrated(codec, outputs, some[:, None], group) == without


def test_a_level_out_of_reach_is_said():
    codec = number()
    truth, outputs, group = predicted(codec)
    few = group < 4
    better, note = calibrated(codec, outputs[few], truth[few], group[few], .9)
    assert better.level == .8 and "80 % intervals" in note and "cannot promise 90 %" in note
    assert better.margin == outside(outputs[few], truth[few]).max()
    one, note = calibrated(codec, outputs[:3], truth[:3], group[:3], .9)
    assert one.level == .5 and "3 samples of 1 group held" in note


# Probabilities


class Logits(ClassifierMixin, BaseEstimator):
    "A classifier whose scores are its features."
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self
    def decision_function(self, X): return X
    def predict(self, X): return self.classes_[X.argmax(1)]


def drawn(n, k, seed, sharp=1.):
    "Logits that are `sharp` times too sure, and a class for each sample."
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, k))
    p = np.exp(logits)/np.exp(logits).sum(1, keepdims=True)
    return sharp*logits, (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(max=k - 1)


@pytest.mark.parametrize("sharp", [.4, 1., 4.])
def test_temperature_equals_sklearn(sharp):
    "scikit-learn has no allowance for the truth of a finite sample, which is small in 20,000."
    logits, y = drawn(20_000, 4, 0, sharp)
    frozen = FrozenEstimator(Logits().fit(logits, y))
    found = CalibratedClassifierCV(frozen, method="temperature", ensemble=False).fit(logits, y)
    beta = found.calibrated_classifiers_[0].calibrators[0].beta_
    assert fit_temperature(logits, y) == pytest.approx(1/beta, rel=2e-3) == pytest.approx(sharp, rel=.05)


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_equal_logistic_regression_with_platts_targets_and_weights(seed):
    "One slope on the difference of the logits; a sample counts for both classes."
    logits, y = drawn(60, 2, seed, 2.)
    n = len(y)
    weight, label = np.random.default_rng(seed).uniform(.1, 3, n), np.repeat([0, 1], n)
    x = np.tile(logits[:, 1] - logits[:, 0], 2)[:, None]
    truth = np.where(label == np.tile(y, 2), (n + 1)/(n + 2), 1/(n + 2))
    m = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    slope = m.fit(x, label, truth*np.tile(weight, 2)).coef_[0, 0]
    assert fit_temperature(logits, y, weight) == pytest.approx(1/slope, rel=1e-4)
    assert fit_temperature(logits, y) != pytest.approx(1/slope, rel=1e-3)


def test_all_right_is_not_taken_for_certain():
    for n, most in ((6, .95), (60, .99), (600, .999)):
        y = np.arange(n) % 3
        t = fit_temperature(5*np.eye(3)[y], y)
        p = np.exp(5/t)/(np.exp(5/t) + 2)
        assert p == pytest.approx((n + 1)/(n + 3), abs=1e-4) and p < most


def test_worse_than_chance_becomes_even():
    logits, y = drawn(400, 3, 1)
    t = fit_temperature(-logits, y)
    assert t > 20 and np.isfinite(t)


def test_classes_keep_their_order_and_lose_their_overconfidence():
    logits, y = drawn(3000, 5, 2, 3.)
    codec, new = TargetCodec.fit(pd.Series(np.array(list("abcde"))[y], name="site")), slice(1000, None)
    better, note = calibrated(codec, logits[:1000], y[:1000].astype(float))
    before, after = (o.decode(logits[new]) for o in (codec, better))
    assert (before.argmax(1) == after.argmax(1)).all()
    assert calibration_error(y[new], before) > .2 and calibration_error(y[new], after) < .06
    assert "1,000 samples held out" in note and "log loss" in note
    again = TargetCodec.from_dict(json.loads(json.dumps(better.to_dict())))
    assert (again.decode(logits[new]) == after).all() and again.margin is None


def test_each_group_weighs_the_same_in_the_temperature():
    "Group 'a' is sure and right, group 'b' sure and half wrong; many more samples of 'a' do not outvote 'b'."
    y = np.array([0, 1]*200)
    logits = 4*np.eye(2)[y]
    logits[:20] = 4*np.eye(2)[np.append(y[:10], 1 - y[10:20])]
    groups = np.array(["b"]*20 + ["a"]*380)
    codec = TargetCodec.fit(pd.Series(np.array(["x", "z"])[y], name="kind"))
    by_group, alone = (calibrated(codec, logits, y.astype(float), o)[0].temperature for o in (groups, None))
    assert by_group > 1.5*alone
