"""Transforms of numbers against scikit-learn, and categories with a mean of their own against the analysis
of variance."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_columns import back, some

from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.targets import Targets
from aam_nb.sections import TRANSFORMS
from aam_nb.types import Column


@pytest.mark.parametrize("transform", TRANSFORMS[:5])
def test_transforms_are_those_of_scikit_learn(transform):
    from sklearn.preprocessing import MinMaxScaler, StandardScaler
    (y, _), (new, _) = some(), some(seed=1)
    codec = TargetCodec.fit(y, transform=transform)
    log = transform.startswith("log1p")
    f, back_f = (np.log1p, np.expm1) if log else (np.asarray, np.asarray)
    scaler = MinMaxScaler if transform.endswith("minmax") else StandardScaler
    made = None if transform == "none" else scaler().fit(f(y.to_numpy())[:, None])
    for v in (y.to_numpy(), new.to_numpy()):
        wanted = f(v)[:, None] if made is None else made.transform(f(v)[:, None])
        np.testing.assert_allclose(codec.encode(pd.Series(v)), wanted, rtol=1e-5, atol=1e-6)
        outputs = wanted + .3
        unscaled = outputs if made is None else made.inverse_transform(outputs)
        np.testing.assert_allclose(codec.decode(outputs), back_f(unscaled)[:, 0], rtol=1e-9)
    assert back(codec) == codec and codec.column == Column(name="y", task="regression")


@settings(max_examples=40)
@given(st.lists(st.floats(-.9, 1e6, allow_subnormal=False), min_size=3,
                max_size=20).filter(lambda v: max(v) - min(v) > 1e-3*(1 + max(map(abs, v)))),
       st.sampled_from(TRANSFORMS), st.data())
def test_all_transforms_come_back(values, transform, data):
    y = pd.Series([*values, np.nan], name="y")
    drawn = data.draw(st.lists(st.sampled_from(["1", "2", None]), min_size=len(y), max_size=len(y)))
    by = pd.Series(drawn, name="g", dtype=object)
    codec = TargetCodec.fit(y, transform=transform, by=by if transform == "zscore_by" else None,
                            bounds=(-1., 1e7))
    again = back(codec)
    out = again.decode(codec.encode(y, by), by)
    scale = np.ptp(np.append(values, 0)) + 1
    assert again == codec and np.isnan(out[-1]) and np.allclose(out[:-1], values, rtol=1e-5, atol=1e-5*scale)


def test_wild_outputs_stay_finite():
    codec = TargetCodec.fit(some()[0], transform="log1p_zscore")
    out = codec.decode(np.array([[1e9], [-1e9], [np.nan]]))
    assert np.isfinite(out[:2]).all() and out[1] == -1 and np.isnan(out[2])


@pytest.mark.parametrize("kwargs, says", [
    (dict(transform="log1p_zscore"), "1 of the 3 values of the target 'y' is -1 or less and has no "
                                     "log1p_zscore.*first: -4 of the sample 'B'"),
    (dict(transform="log1p_minmax"), "no log1p_minmax"),
    (dict(bounds=(0., None)), "1 of the 3 .* below the bound 0.*-4 of the sample 'B'"),
    (dict(bounds=(None, 5.)), "1 of the 3 .* above the bound 5.*first: 9 of the sample 'D'"),
    (dict(bounds=(9., -4.)), "bound|not sound"),
    (dict(transform="sqrt"), "transform of the target 'y' is 'sqrt'; wanted one of none, minmax"),
    (dict(loss="rmse"), "loss of the target 'y' is 'rmse'"),
    (dict(transform="zscore_by"), "wanted the category of each sample .target.by."),
    (dict(loss="quantile"), "quantiles '' cannot be used"),
    (dict(loss="quantile", levels=(.1, .9)), ".5 among them"),
    (dict(loss="quantile", levels=(.9, .5)), "rising"),
    (dict(loss="asymmetric", under=0., over=0.), "not sound"), (dict(under=-1.), "not sound"),
])
def test_what_a_transform_cannot_take(kwargs, says):
    with pytest.raises(AamError, match=says):
        TargetCodec.fit(pd.Series([2., -4., np.nan, 9.], index=list("ABCD"), name="y"), **kwargs)


def test_numbers_that_cannot_be_are_refused_in_every_sample():
    codec = TargetCodec.fit(pd.Series([1., 5.], name="ph"), bounds=(0., 14.))
    logged = TargetCodec.fit(pd.Series([1., 5.], name="reads"), transform="log1p_minmax")
    with pytest.raises(AamError, match="'ph' lies above the bound 14.*first: 15 of the sample 'Z'"):
        codec.encode(pd.Series([3., 15.], index=["Y", "Z"]))
    with pytest.raises(AamError, match="has no log1p_minmax.*first: -1 of the sample '0'"):
        logged.encode(pd.Series([-1.]))
    assert np.isnan(codec.encode(pd.Series([np.nan, 14.]))).ravel().tolist() == [True, False]


def own(y, by):
    return TargetCodec.fit(pd.Series(y, name="y"), transform="zscore_by",
                           by=pd.Series(by, name="g", dtype=object))


def test_equal_categories_keep_one_less_the_inverse_of_f():
    "With categories of one size, the share kept is 1 - 1/F of the analysis of variance."
    from scipy.stats import f_oneway
    rng = np.random.default_rng(0)
    y = rng.normal(rng.normal(0, 1, 7)[:, None], 2, (7, 12))
    F = f_oneway(*y).statistic
    codec = own(y.ravel(), np.repeat(list("abcdefg"), 12))
    w = 1 - 1/F
    assert 0 < w < 1
    for name, v in zip("abcdefg", y):
        assert codec.places[name] == pytest.approx((y.mean() + w*(v.mean() - y.mean()),
                                                    np.sqrt(w*v.var() + (1 - w)*y.var())), rel=1e-9)


def test_large_categories_are_their_own_and_alike_ones_are_the_whole():
    rng = np.random.default_rng(0)
    by = np.repeat(["a", "b"], 4000)
    y = np.concatenate([rng.normal(10, 1, 4000), rng.normal(30, 5, 4000)])
    codec = own(y, by)
    for i, name in enumerate("ab"):
        v = y[4000*i:4000*(i + 1)]
        assert codec.places[name] == pytest.approx((v.mean(), v.std()), rel=1e-3)
    y = np.tile([1., 2., 3.], 20)
    codec = own(y, np.repeat(list("abcd"), 15)) # Equal means: F is 0
    assert all(o == pytest.approx((2., y.std())) for o in codec.places.values())


def test_drawn_means_are_nearer_to_the_truth():
    "Efron & Morris: nearer than the means of the samples, and nearer than the mean of all."
    lost = np.zeros(3)
    variances = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = rng.integers(1, 9, 30)
        truth = rng.normal(5, 1, 30)
        by = np.repeat(np.arange(30), n)
        y = rng.normal(truth[by], 2)
        places = own(y, by.astype(str)).places
        drawn = np.array([places[str(i)][0] for i in range(30)])
        raw = np.array([y[by == i].mean() for i in range(30)])
        lost += [((o - truth)**2).mean() for o in (drawn, raw, y.mean())]
        variances += [places[str(i)][1]**2 for i in np.flatnonzero(n == 1)]
    assert lost[0] < .8*lost[1] and lost[0] < .9*lost[2]
    # The variance within, though each of these categories has one sample
    assert np.mean(variances) == pytest.approx(4, rel=.15)


def test_B11_a_category_of_one_sample_is_safe():
    rng = np.random.default_rng(0)
    y = np.append(rng.normal(50, 5, 40), 20.)
    by = ["a"]*20 + ["b"]*20 + ["lone"]
    codec = own(y, by)
    z = codec.encode(pd.Series([20., 25., 60.]), pd.Series(["lone"]*3))
    assert np.abs(z).max() < 12 and codec.places["lone"][1] > 1
    one_large, all_lone = ["x"]*20 + ["lone"], [f"s{i}" for i in range(21)]
    constant = ["x"]*10 + ["y"]*10 + ["lone"]
    for labels, v in ((one_large, np.array([3.]*20 + [9.])), (all_lone, np.arange(21.)),
                      (constant, np.array([3.]*10 + [4.]*10 + [9.]))):
        codec = own(v, labels)
        assert min(sd for _, sd in codec.places.values()) >= .1
        assert np.abs(codec.encode(pd.Series(v), pd.Series(labels))).max() < 12


@pytest.mark.parametrize("there", [
    ["1", "2", "3"], [1, 2, 3], [1., 2., 3.], np.array([1, 2, 3], dtype=np.int32),
    pd.Series([1, 2, 3], dtype="Int64"),
])
def test_B12_categories_are_found_however_they_are_typed(there):
    y = np.concatenate([np.arange(20.), np.arange(20.) + 100])
    for kind in (int, float, str): # Whole numbers, the same with a missing one beside them, text
        by = pd.Series(np.repeat([1, 2], 20).astype(kind), name="g")
        codec = TargetCodec.fit(pd.Series(y, name="y"), transform="zscore_by", by=by)
        assert sorted(codec.places) == ["1", "2"]
        out = codec.decode(np.zeros((3, 1)), pd.Series(there))
        assert out[:2] == pytest.approx([codec.places["1"][0],
                                         codec.places["2"][0]])
        assert out[2] == pytest.approx(y.mean()) # 3 is not known
    gone = pd.Series([1., np.nan], name="g") # A missing category is no category, in fitting and in use
    assert codec.decode(np.zeros((2, 1)), gone)[1] == pytest.approx(y.mean())
    assert "" not in own(y, [None] + ["a"]*39).places and "nan" not in own(y, [np.nan] + ["a"]*39).places


def test_B12_a_row_of_numbers_keeps_its_category():
    "A row of a table of numbers alone is made of floats; the category of row 1 is still '2'."
    meta = pd.DataFrame(dict(g=np.repeat([1, 2], 20),
                             y=np.concatenate([np.arange(20.), np.arange(20.) + 100])))
    codec = TargetCodec.fit(meta.y, transform="zscore_by", by=meta.g)
    row = meta.iloc[[30]].astype(float)
    assert codec.encode(row.y, row.g) == pytest.approx(codec.encode(meta.y, meta.g)[30:31])


def test_B13_what_is_relative_is_never_read_without_its_category():
    y, by = some()
    codec = TargetCodec.fit(y, transform="zscore_by", by=by)
    z = codec.encode(y, by)
    for use in (lambda: codec.decode(z), lambda: codec.encode(y),
                lambda: replace(codec, margin=1.).interval(z)):
        with pytest.raises(AamError, match="'y' is relative to the categories of 'g'. Give that column"):
            use()
    with pytest.raises(AamError, match="60 samples, but 'g' has 3"): codec.decode(z, by[:3])
    targets = Targets((codec,))
    meta = pd.DataFrame(dict(y=y, g=by))
    assert targets.needs == ("g",)
    assert np.allclose(targets.decode(targets.encode(meta), meta)["y"], y, rtol=1e-5, equal_nan=True)
    with pytest.raises(AamError, match="Decoding needs the metadata's 'g'"): targets.decode(z)
    with pytest.raises(AamError, match="Decoding needs the column 'g'"): targets.decode(z, meta[["y"]])
    with pytest.raises(AamError, match="Learning needs the column 'g'"): targets.encode(meta[["y"]])
