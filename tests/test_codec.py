"Targets that come back as they went in: numbers, classes, bounds, quantiles, intervals and damaged codecs."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_columns import back, some

from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.sections import TRANSFORMS


@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=2,
                max_size=30).filter(lambda v: max(v) - min(v) > 1e-6*max(map(abs, v))))
def test_numbers_come_back(values):
    s = pd.Series([*values, np.nan], name="y")
    codec = TargetCodec.fit(s)
    z = codec.encode(s)
    assert back(codec) == codec and codec.outputs == 1 and z.dtype == np.float32 and z.shape == (len(s), 1)
    assert np.isnan(z[-1, 0])
    assert codec.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12)
    assert codec.sd == pytest.approx(np.std(values), rel=1e-9)
    y = codec.decode(z)
    assert y.dtype == np.float64 and np.isnan(y[-1])
    assert np.allclose(y[:-1], values, rtol=1e-6, atol=1e-6*codec.sd)
    assert (back(codec).decode(z)[:-1] == y[:-1]).all() # Bit for bit


@pytest.mark.parametrize("values, task, classes", [
    ([1., 2., 10., np.nan, 2.], "classification", ("1", "2", "10")),
    ([1, 2, 10], "classification", ("1", "2", "10")),
    (["1", "2", "10", "01"], "classification", ("01", "1", "2", "10")),
    ([.5, 1.5, 1.5], "classification", ("0.5", "1.5")), (["b", "a", None, "b"], "auto", ("a", "b")),
    ([True, False, True], "auto", ("False", "True")),
    (pd.Categorical(["x", "y", "x"], categories=["y", "x", "z"]), "auto", ("x", "y")),
    (["1", "2", "1"], "auto", ("1", "2")),
])
def test_classes_keep_their_names(values, task, classes):
    s = pd.Series(values, name="c")
    codec = TargetCodec.fit(s, task=task)
    assert codec.classes == classes and codec.outputs == len(classes) and back(codec) == codec
    z = codec.encode(s)[:, 0]
    known = s.notna().to_numpy()
    assert np.isnan(z[~known]).all() and z.dtype == np.float32
    logits = np.eye(len(classes))[z[known].astype(int)]*9
    names = [f"{o:g}" if isinstance(o, float) else str(o) for o in s[known]]
    assert list(codec.labels(codec.decode(logits))) == names


def test_the_same_class_from_a_number_or_its_text():
    codec = TargetCodec.fit(pd.Series([1., 2., 1.], name="c"), task="classification")
    assert codec.encode(pd.Series(["1", "2", "3"]))[:2, 0].tolist() == [0, 1]
    assert np.isnan(codec.encode(pd.Series(["3"]))).all()
    assert codec.encode(pd.Series([2, 1]))[:, 0].tolist() == [1, 0]


def test_probabilities_are_those_of_scipy():
    from scipy.special import softmax
    x = np.random.default_rng(0).normal(size=(50, 3))*200
    codec = TargetCodec.fit(pd.Series(list("abc")))
    assert np.allclose(codec.decode(x.astype(np.float32)),
                       softmax(x.astype(np.float32).astype(np.float64), axis=1), atol=1e-12)
    assert list(codec.labels(codec.decode(x))) == [codec.classes[i] for i in x.argmax(1)]
    assert codec.labels(np.zeros((0, 3))).shape == (0,) and codec.decode(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("values, task, says", [
    ([None, None], "auto", "'y' is missing for all 2 samples"),
    ([np.nan], "regression", "missing for the only sample"),
    ([3., 3., np.nan], "auto", "is 3 for all 2 samples"),
    (["a", "a", None], "auto", "one class only, 'a', in all 2 samples"),
    ([1., 1.], "classification", "one class only, '1'"),
    (["a", "3", "b"], "regression", "2 of 3 values are text .first: 'a', 'b'"),
    (["1", "2", "3", "unknown"], "auto", "1 of 4 values are not .first: 'unknown'"),
    ([f"S{i}" for i in range(12)], "auto", "12 classes in 12 samples"),
    (np.arange(12.)/7, "classification", "too many to learn"),
    ([1., 2.], "ranking", "The task is 'ranking'"), ([1e308, -1e308], "regression", "not sound"),
])
def test_what_cannot_be_a_target(values, task, says):
    with pytest.raises(AamError, match=says), np.errstate(all="ignore"):
        TargetCodec.fit(pd.Series(values, name="y"), task=task)


def test_text_that_is_all_numbers_can_be_regressed():
    s = pd.Series(["1", "2.5", None])
    codec = TargetCodec.fit(s, task="regression", name="dose")
    assert codec.name == "dose" and codec.mean == 1.75
    assert np.allclose(codec.decode(codec.encode(s))[:2], [1, 2.5])
    with pytest.raises(AamError, match="'dose' must be a number.*'high'"): codec.encode(pd.Series(["high"]))


@pytest.mark.parametrize("change", [
    dict(sd=0.), dict(sd=float("nan")), dict(mean=None), dict(task="both"), dict(classes=["a"]),
    dict(task="classification", classes=["a", "a"]), dict(classes=3), dict(odd=1),
])
def test_damaged_codecs_are_refused(change):
    saved = TargetCodec.fit(pd.Series([1., 2.], name="y")).to_dict() | change
    with pytest.raises(AamError): TargetCodec.from_dict(saved)
    with pytest.raises(AamError): TargetCodec.from_dict({})


def test_outputs_of_the_wrong_shape():
    codec = TargetCodec.fit(pd.Series(list("abc")))
    for o in (np.zeros((2, 1)), np.zeros(3)):
        with pytest.raises(AamError, match="wanted .samples, 3."): codec.decode(o)
    with pytest.raises(AamError, match="has no labels"):
        TargetCodec.fit(pd.Series([1., 2.])).labels(np.zeros((2, 1)))


@settings(max_examples=40)
@given(st.sampled_from(TRANSFORMS), st.floats(-8, 8), st.integers(0, 59))
def test_B14_bounds_hold_in_the_targets_own_unit_and_never_cost(transform, output, row):
    y, by = some(missing=0)
    kwargs = dict(transform=transform, by=by if transform == "zscore_by" else None)
    free, bounded = TargetCodec.fit(y, **kwargs), TargetCodec.fit(y, bounds=(-.5, 80.), **kwargs)
    x = np.full((1, 1), output)
    at = by.iloc[[row]]
    out, plain, truth = bounded.decode(x, at)[0], free.decode(x, at)[0], y.iloc[row]
    assert -.5 <= out <= 80 and abs(out - truth) <= abs(plain - truth) + 1e-12
    assert out == plain or not -.5 <= plain <= 80
    if truth <= 80:
        again = bounded.decode(bounded.encode(y.iloc[[row]], at), at)[0]
        assert again == pytest.approx(truth, rel=1e-5, abs=1e-4) # The whole range can be predicted


def test_B14_a_z_score_can_be_below_the_mean():
    codec = TargetCodec.fit(pd.Series([2., 4., 6.]), bounds=(0., None))
    assert codec.decode(np.array([[-1.], [-9.]])) == pytest.approx([4 - codec.sd, 0])


def test_the_prediction_is_the_level_a_half_wherever_it_stands():
    y, by = some()
    for levels, at in (((.5, .9), 0), ((.1, .5), 1), ((.05, .25, .5, .95), 2)):
        codec = TargetCodec.fit(y, loss="quantile", levels=levels, transform="log1p_zscore")
        x = np.sort(np.random.default_rng(0).normal(size=(9, len(levels))), axis=1)
        q = codec.quantiles(x)
        assert codec.outputs == len(levels) == codec.column.outputs and codec.column.levels == levels
        assert back(codec) == codec
        assert (codec.decode(x) == q[:, at]).all() and (np.diff(q, axis=1) >= 0).all() and q.shape == x.shape
    with pytest.raises(AamError, match="no quantiles"): TargetCodec.fit(y).quantiles(np.zeros((1, 1)))
    assert TargetCodec.fit(y, levels=(.5,)).levels == () # Levels are of the quantile loss alone


@settings(max_examples=40)
@given(st.sampled_from(TRANSFORMS), st.sampled_from(["mae", "quantile"]), st.floats(0, 2),
       st.integers(0, 2**31))
def test_an_interval_holds_what_lies_within_the_margin_when_encoded(transform, loss, margin, seed):
    y, by = some(missing=0)
    rng = np.random.default_rng(seed)
    levels = (.1, .5, .9) if loss == "quantile" else ()
    codec = TargetCodec.fit(y, transform=transform, by=by if transform == "zscore_by" else None, loss=loss,
                            levels=levels, bounds=(-.5, None))
    codec = back(replace(codec, margin=margin))
    z = codec.encode(y, by).astype(np.float64)
    x = np.sort(z + rng.normal(size=(60, codec.outputs)), axis=1)
    low, high = codec.interval(x, by).T
    score = np.maximum(x[:, :1] - z, z - x[:, -1:])[:, 0]
    clear = np.abs(score - margin) > 1e-3
    assert ((low <= y) & (y <= high))[clear].tolist() == (score <= margin)[clear].tolist()
    assert (low <= codec.decode(x, by)).all() and (codec.decode(x, by) <= high).all() and low.min() >= -.5


def test_an_interval_that_is_drawn_in_still_holds_the_prediction():
    codec = replace(TargetCodec.fit(pd.Series([1., 3.]), loss="quantile", levels=(.1, .5, .9)), margin=-.5)
    found = codec.interval(np.array([[-1., 0., 1.], [-.2, 0., .2]]))
    assert found == pytest.approx(np.array([[1.5, 2.5], [2, 2]]))
    with pytest.raises(AamError, match="not calibrated"):
        TargetCodec.fit(pd.Series([1., 3.])).interval(np.zeros((1, 1)))
    with pytest.raises(AamError, match="not calibrated"):
        TargetCodec.fit(pd.Series(list("ab"))).interval(np.zeros((1, 2)))
    with pytest.raises(AamError, match="not sound"): replace(codec, margin=np.inf)


def test_temperature_is_that_of_a_softmax():
    from scipy.special import softmax
    codec = TargetCodec.fit(pd.Series(list("abc")))
    x = np.random.default_rng(0).normal(size=(30, 3))*5
    for t in (.5, 3.):
        warm = back(replace(codec, temperature=t))
        p = warm.decode(x)
        assert warm.temperature == t and np.allclose(p, softmax(x/t, axis=1), atol=1e-12)
        assert (warm.labels(p) == codec.labels(codec.decode(x))).all()
    for t in (0., -1., np.nan, np.inf):
        with pytest.raises(AamError, match="not sound"): replace(codec, temperature=t)


@pytest.mark.parametrize("change", [
    dict(transform="cube"), dict(places={"a": [1., 0.]}), dict(places={"a": [1.]}), dict(places=[]),
    dict(places={"a": ["x", 1.]}), dict(by=""), dict(mean="3"), dict(low=3., high=1.), dict(low="0"),
    dict(loss="mse"), dict(levels=[.1, .9]), dict(levels=3), dict(under=-1.), dict(temperature=2.),
    dict(margin="wide"), dict(level=1.), dict(name=3),
])
def test_damaged_codecs_of_numbers_are_refused(change):
    y, by = some()
    saved = TargetCodec.fit(y, transform="zscore_by", by=by, loss="quantile", levels=(.1, .5, .9)).to_dict()
    assert TargetCodec.from_dict(saved).to_dict() == saved
    with pytest.raises(AamError): TargetCodec.from_dict(saved | change)
    for k in saved:
        with pytest.raises(AamError, match=f"'{k}' is missing or not known"):
            TargetCodec.from_dict({a: b for a, b in saved.items() if a != k})


@pytest.mark.parametrize("change", [
    dict(sd=2.), dict(places={"a": [0., 1.]}), dict(margin=1.), dict(low=0.), dict(loss="mae"),
    dict(classes=["a", 3]), dict(classes=["a", "b"], task="regression"),
])
def test_damaged_codecs_of_classes_are_refused(change):
    with pytest.raises(AamError):
        TargetCodec.from_dict(TargetCodec.fit(pd.Series(list("ab"))).to_dict() | change)
