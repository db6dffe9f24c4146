"""Covariates of a model: codes against scikit-learn's, nested places, and what is missing, unknown or typed
otherwise."""
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.covariates import CovariateCodec
from aam_nb.data.metadata import read_metadata
from aam_nb.shorthand import nested_names_in
from aam_nb.types import Covariates

PLACES = pd.DataFrame(dict(country=["US", "US", "US", "FR", "FR", None, "IT", "IT"],
                           state=["TX", "TX", "CO", "IDF", None, "TX", None, "LZ"],
                           city=["Paris", "Austin", "Boulder", "Paris", "Lyon", "Paris", None, None],
                           diet=["milk", "solid", None, "milk", "milk", "solid", "milk", "tea"],
                           age=[1., 2., 3., np.nan, 5., 6., 7., 8.]), index=[f"S{i}" for i in range(8)])


def fitted(rows, text): return CovariateCodec.fit(rows, nested_names_in(text))


def back(codec): return CovariateCodec.from_dict(json.loads(json.dumps(codec.to_dict())))


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=12).filter(any),
       st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=12))
def test_codes_are_those_of_scikit_learn(seen, new):
    "Of one plain column: sorted categories from 2 on, 1 for what is not in training, 0 for what is missing."
    from sklearn.preprocessing import OrdinalEncoder
    known = np.array([o for o in seen if o], dtype=object)[:, None]
    train, frame = (pd.DataFrame(dict(diet=pd.Series(o, dtype=object))) for o in (seen, new))
    codec = fitted(train, "diet")
    category, number = back(codec).encode(frame)
    assert category.dtype == np.int64 and category.shape == (len(new), 1) and number.dtype == np.float32
    assert number.shape == (len(new), 0)
    assert back(codec) == codec
    assert codec.shape == Covariates(chains=(("diet",),), sizes=(len(set(known[:, 0])),))
    assert codec.names == ("diet",)
    if new:
        oracle = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(known)
        made = oracle.transform(np.array([o or "-" for o in new], dtype=object)[:, None])
        assert category[:, 0].tolist() == [0 if o is None else int(v) + 2 for o, v in zip(new, made[:, 0])]


@settings(max_examples=40)
@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(np.nan)), min_size=3,
                max_size=20).filter(lambda v: np.nanmax(np.abs([0., *v])) > 1))
def test_numbers_are_those_of_scikit_learn(values):
    from sklearn.preprocessing import StandardScaler
    seen = pd.DataFrame(dict(age=[*values, 0.]))
    codec = fitted(seen, "age")
    category, number = back(codec).encode(seen)
    assert codec.shape == Covariates(numbers=("age",)) and category.shape == (len(seen), 0)
    assert category.dtype == np.int64 and number.dtype == np.float32
    np.testing.assert_allclose(number, StandardScaler().fit_transform(seen), rtol=1e-5, atol=1e-5)


def test_a_part_is_known_by_its_whole_path():
    codec = fitted(PLACES, "diet, country/state/city, age")
    category, number = codec.encode(PLACES)
    assert codec.shape == Covariates(chains=(("diet",), ("country", "state", "city")), sizes=(3, 3, 4, 4),
                                     numbers=("age",))
    assert codec.names == ("diet", "country", "state", "city", "age") and back(codec) == codec
    assert codec.known[3] == (("FR", "IDF", "Paris"), ("US", "CO", "Boulder"), ("US", "TX", "Austin"),
                              ("US", "TX", "Paris"))
    assert category[:, 1:].tolist() == [[4, 5, 5], [4, 5, 4], [4, 4, 3], [2, 2, 2], [2, 0, 1], [0, 1, 1],
                                        [3, 0, 0], [3, 3, 0]]
    assert np.isnan(number).ravel().tolist() == PLACES.age.isna().tolist()


def test_an_unseen_part_leaves_the_whole_as_it_is():
    codec = fitted(PLACES, "country/state/city")
    new = pd.DataFrame(dict(country=["US", "US", "FR", "PE", None], state=["TX", "UT", "TX", "TX", None],
                            city=["Lyon", "Paris", "Paris", "Paris", None]))
    assert codec.encode(new)[0].tolist() == [[4, 5, 1], [4, 1, 1], [2, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_missing_is_not_unknown_and_not_a_category():
    codec = fitted(PLACES, "diet")
    new = pd.DataFrame(dict(diet=["broth", None, np.nan, "milk"]))
    assert codec.encode(new)[0][:, 0].tolist() == [1, 0, 0, 2]
    assert all(o[0] not in ("", "nan", "None") for o in codec.known[0])
    numbers = fitted(PLACES, "age").encode(pd.DataFrame(dict(age=[None, None])))[1]
    assert numbers.shape == (2, 1) and np.isnan(numbers).all()


@pytest.mark.parametrize("there", [
    ["1", "2", "3"], [1, 2, 3], [1., 2., 3.], np.array([1, 2, 3], dtype=np.int16),
    pd.Series([1, 2, 3], dtype="Int64"),
])
def test_B12_a_category_is_found_however_it_is_typed(there):
    """Codes that were text in training may be read as numbers later, whole or with a missing one beside
    them; in a chain they are categories always."""
    codec = fitted(pd.DataFrame(dict(kit=["1", "2", "x"])), "kit")
    new = pd.DataFrame(dict(kit=there))
    assert codec.encode(new)[0][:, 0].tolist() == [2, 3, 1]
    for seen in ([1, 2, 2], [1., 2., np.nan], ["1", "2", None]):
        chain = fitted(pd.DataFrame(dict(site=["a", "a", "a"], kit=seen)), "site/kit")
        assert chain.encode(new.assign(site="a"))[0].tolist() == [[2, 2], [2, 3], [2, 1]]
    row = pd.DataFrame(dict(kit=[2], age=[1.5])).iloc[0].to_frame().T # A row of numbers is made of floats
    assert codec.encode(row)[0].tolist() == [[3]]


def test_numbers_that_were_read_as_text_are_numbers():
    codec = fitted(PLACES, "age")
    text = pd.DataFrame(dict(age=["1", "2.0", None]))
    assert np.array_equal(codec.encode(text)[1], codec.encode(pd.DataFrame(dict(age=[1., 2., np.nan])))[1],
                          equal_nan=True)
    with pytest.raises(AamError, match="covariate 'age' must be a number, but 1 of 2 values are text "
                                       ".first: 'old'.. It was a number in training"):
        codec.encode(pd.DataFrame(dict(age=["old", "3"])))


@pytest.mark.parametrize("text, rows, says", [
    ("diet, aeg", PLACES, "data.covariates needs the column 'aeg'.*lack. Did you mean 'age'. Add it"),
    ("country/town/street", PLACES, "needs the columns 'town', 'street', which the 5 columns"),
    ("age", PLACES[3:4], "'age' is missing for the only training sample"),
    ("age", PLACES.assign(age=4), "'age' is 4 for all 8 training samples"),
    ("diet", PLACES[2:3], "'diet' is missing for the only training sample"),
    ("country/state", PLACES[4:7:2], "'state' is missing for all 2 training samples"),
])
def test_covariates_that_cannot_be_used(text, rows, says):
    with pytest.raises(AamError, match=says): fitted(rows, text)


def test_all_columns_must_be_there_at_use():
    codec = fitted(PLACES, "diet, country/state, age")
    with pytest.raises(AamError, match="This model needs the columns 'state', 'age', which the 3 columns of "
                                       "the metadata lack"):
        codec.encode(PLACES[["diet", "country", "city"]])
    category, number = codec.encode(PLACES[:0])
    assert category.shape == (0, 3) and number.shape == (0, 1)
    nothing = fitted(PLACES, "")
    category, number = nothing.encode(PLACES)
    assert nothing.names == () and category.shape == number.shape == (8, 0) and back(nothing) == nothing


def test_each_row_stands_for_itself():
    codec = fitted(PLACES[:5], "age, diet, country/state/city")
    order = np.random.default_rng(0).permutation(8)
    whole, apart = codec.encode(PLACES), [codec.encode(PLACES.iloc[[i]]) for i in order]
    for k in range(2): np.testing.assert_array_equal(whole[k][order], np.vstack([o[k] for o in apart]))
    more = PLACES.assign(extra=1.)[["extra", *reversed(PLACES.columns)]] # Columns in another order, and more
    for k in range(2): np.testing.assert_array_equal(whole[k], codec.encode(more)[k])


SAVED = fitted(PLACES, "diet, country/state, age").to_dict()


@pytest.mark.parametrize("change", [
    dict(chains=[["diet"]]), dict(chains=[["diet"], ["country", "diet"]]), dict(chains=3),
    dict(chains=[["diet"], ["country", "state"], []]), dict(numbers=["diet"]),
    dict(known=SAVED["known"][:2]), dict(known=[[], *SAVED["known"][1:]]),
    dict(known=[[["milk"], ["milk"]], *SAVED["known"][1:]]),
    dict(known=[[["milk", "tea"]], *SAVED["known"][1:]]), dict(known=[[[""]], *SAVED["known"][1:]]),
    dict(known=[[[3]], *SAVED["known"][1:]]), dict(known=[3, 4, 5]), dict(mean=[]), dict(mean=["x"]),
    dict(mean=[float("nan")]), dict(sd=[0.]), dict(sd=[-1.]), dict(more=1),
])
def test_damaged_codecs_are_refused(change):
    assert CovariateCodec.from_dict(SAVED).to_dict() == SAVED
    with pytest.raises(AamError): CovariateCodec.from_dict(SAVED | change)
    for k in SAVED:
        with pytest.raises(AamError, match=f"'{k}' is missing or not known"):
            CovariateCodec.from_dict({a: b for a, b in SAVED.items() if a != k})
    for bad in (None, [], "x", 3):
        with pytest.raises(AamError): CovariateCodec.from_dict(bad)


def test_real_covariates(data_dir):
    m = read_metadata(data_dir/"ecam_infant"/"metadata.tsv")
    train = m.iloc[::2]
    codec = fitted(train, "delivery/diet_3, month_of_life")
    category, number = codec.encode(m)
    seen = {tuple(o) for o in train[["delivery", "diet_3"]].dropna().to_numpy()}
    assert codec.shape.sizes == (train.delivery.nunique(), len(seen))
    assert number[::2].mean() == pytest.approx(0, abs=1e-5)
    for row, (delivery, diet) in zip(category, m[["delivery", "diet_3"]].to_numpy()):
        assert row[0] >= 2 and (row[1] == 0) == pd.isna(diet)
        assert pd.isna(diet) or (row[1] >= 2) == ((delivery, diet) in seen)
    assert len(set(map(tuple, category[category[:, 1] >= 2]))) == len(seen)
