"Metadata by QIIME 2's rules, conditions against pandas, targets that come back as they went in, and weights against scikit-learn."
import csv
import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.metadata import is_id_header, is_missing, is_number, read_metadata
from aam_nb.data.targets import Targets
from aam_nb.data.weights import target_weights
from aam_nb.data.where import select
from aam_nb.sections import TRANSFORMS
from aam_nb.types import Column, strings


def read(path, text, name="m.tsv"):
    (path/name).write_bytes(text if isinstance(text, bytes) else text.encode()); return read_metadata(path/name)


def nan(column): return [None if pd.isna(o) else o for o in column]


@pytest.mark.parametrize("header", [
    "id", "ID", "sampleid", "SampleID", "sample id", "Sample-ID", "sample_id", "feature-id", "#SampleID", "#Sample ID", "#OTU ID", "sample_name"])
def test_each_name_of_the_id_column(tmp_path, header):
    m = read(tmp_path, f"{header}\tage\n007\t3\n")
    assert list(m.index) == ["007"] and m.index.name == "sample_id" and m.age.tolist() == [3.]


@pytest.mark.parametrize("header", ["#sampleid", "Sample_Name", "sample", "name", "#Run"])
def test_other_names_are_refused(tmp_path, header):
    with pytest.raises(AamError, match="m.tsv"): read(tmp_path, f"{header}\tage\n007\t3\n")


def test_ids_stay_text(tmp_path):
    m = read(tmp_path, "id\ta\n00123\t1\n1e5\t2\nNA\t3\n1.0\t4\n True \t5\n")
    assert list(m.index) == ["00123", "1e5", "NA", "1.0", "True"] and all(type(o) is str for o in m.index)


def test_blanks_marks_quotes_and_line_ends(tmp_path):
    lines = ["# first a remark", "", '#SampleID\t age \t"a site"\t', "#q2:types", "S1\t 1\tgut \t", '"S2"\t\t"left\thand"',
             "# and one between", "S3", "\t\t"]
    for end in ("\n", "\r\n", "\r"):
        m = read(tmp_path, b"\xef\xbb\xbf" + end.join(lines).encode())
        assert list(m.index) == ["S1", "S2", "S3"] and list(m.columns) == ["age", "a site"]
        assert nan(m.age) == [1., None, None] and nan(m["a site"]) == ["gut", "left\thand", None]
    (tmp_path/"m.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    pd.testing.assert_frame_equal(read_metadata(tmp_path/"m.tsv.gz"), m)
    assert read(tmp_path, 'id\ta\nS1\t"two\nlines"\n').a.tolist() == ["two\nlines"]


@pytest.mark.parametrize("cells, numeric", [
    ("1 2.5 -3e-2 +.5 7.", True), ("1  missing NA 2", True), ("1 2 x", False), ("1 inf 2", False), ("1 0x1F", False), ("1 1_000", False),
    ("1 1,5", False), ("1 1e999", False),
    ("Missing:_Not_provided 3", True), ("1 unknown", False), ("1 None", False), ("true false", False), ("١ ٢", False),
])
def test_what_is_numeric(tmp_path, cells, numeric):
    cells = [o.replace("_", " ") if o.startswith("Missing") else o for o in cells.split(" ")]
    m = read(tmp_path, "id\ta\n" + "".join(f"S{i}\t{o}\n" for i, o in enumerate(cells)))
    assert (m.a.dtype == np.float64) == numeric
    want = [None if is_missing(o) else float(o) if numeric else o for o in cells]
    assert nan(m.a) == want


def test_all_missing_is_text_and_types_are_obeyed(tmp_path):
    m = read(tmp_path, "id\ta\tb\tc\td\n#q2:types\tcategorical\tNumeric\t\t\n#q2:missing\tINSDC:missing\t\t\t\n"
                       "S1\t01\t\tnot collected\t2\nS2\t1\t\t\t3\n")
    assert nan(m.a) == ["01", "1"] and nan(m.b) == nan(m.c) == [None, None]
    assert m.b.dtype == m.d.dtype == np.float64 and m.c.dtype != np.float64


@pytest.mark.parametrize("word", [
    "", "missing", "Not Applicable", "not collected", "NOT PROVIDED", "restricted access", "Missing: Not provided", "missing: control sample",
    "not applicable: lab stock", "<not provided>", "NA", "n/a", "nan", "NaN", "null"])
def test_missing_words(word): assert is_missing(word)


@pytest.mark.parametrize("word", ["0", "None", "none", "unknown", "missing link", "nana", "no", "control", "not"])
def test_words_that_are_answers(word): assert not is_missing(word)


@pytest.mark.parametrize("text, says", [
    ("", "m.tsv holds nothing"), ("\n\n# only\n", "is empty"), ("id\ta\n", "no samples"),
    ("age\tid\n3\tS1\n", "line 1: the first column is 'age'.*Move 'id' to the front"),
    ("id,age\nS1,3\n", "separated by commas"), ("id\ta\ta\nS1\t1\t2\n", "line 1: these columns occur more than once: 'a'"),
    ("id\t\tb\nS1\t1\t2\n", "column 2 has no name"),
    ("id\ta\nS1\t1\nS2\t2\nS1\t3\n", "line 4: the id 'S1' has a row already"), ("id\ta\nS1\t1\t2\n", "line 2: 3 cells for the 2 columns"),
    ("id\ta\n\t1\n", "line 2: the row has no id"),
    ("id\ta\nS1\t1\nid\ta\nS2\t2\n", "line 3: 'id' is a header"), ("id\ta\n#q2:types\tnumber\nS1\t1\n", "column 'a' is declared 'number'"),
    ("id\ta\n#q2:types\tnumeric\nS1\t1\nS2\tx\n", "'a' is declared numeric in #q2:types, but holds 'x'"),
    ("id\ta\nS1\t1\n#q2:types\tnumeric\n", "line 3: '#q2:types' is not known here"),
    ("id\ta\n#q2:units\tkg\nS1\t1\n", "line 2: '#q2:units' is not known"), ('id\ta\nS1\t"open\nS2\t2\n', "line 3: .*quotation mark"),
    ("#q2:types\tnumeric\nid\ta\nS1\t1\n", "first column is '#q2:types'"),
    (b"id\ta\nS1\t\xe9\n", "not UTF-8"), ("id\ta\n".encode("utf-16"), "UTF-16"), (b"PK\x03\x04", "zip archive"), (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ("<html>", "web page"), ("{}", "JSON"),
])
def test_files_that_are_no_metadata(tmp_path, text, says):
    with pytest.raises(AamError, match=f"m.tsv.*{says}" if "holds nothing" not in says else says): read(tmp_path, text)
    with pytest.raises(AamError, match="There is no file"): read_metadata(tmp_path/"absent.tsv")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8).map(str.strip)


@given(st.dictionaries(CELLS.filter(lambda o: o and not o.startswith("#") and not is_id_header(o)), st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_any_cells_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp()/"any.tsv"
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, dialect="excel-tab").writerows([["sample-id", "a", "b"], *([k, *v] for k, v in rows.items())])
    m = read_metadata(path)
    assert list(m.index) == list(rows)
    for k, c in enumerate("ab"):
        known = [None if is_missing(v[k]) else v[k] for v in rows.values()]
        numeric = any(known) and all(is_number(o) for o in known if o)
        assert (m[c].dtype == np.float64) == numeric
        assert nan(m[c]) == ([o and float(o) for o in known] if numeric else known)


SEED = "# a remark\n#SampleID\tage\tsite\n#q2:types\tnumeric\tcategorical\nS1\t3.5\tgut\nS2\tnot collected\t\"left hand\"\nS3\t1e2\n".encode()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(SEED)))
def test_damage_is_refused_or_harmless(tmp_path_factory, hits, end):
    data = bytearray(SEED)
    for i, value in hits: data[i] = value
    path = tmp_path_factory.getbasetemp()/"damaged.tsv"; path.write_bytes(data[:end] if end % 2 else data)
    try: m = read_metadata(path)
    except AamError as e: assert "damaged.tsv" in str(e)
    else: assert m.index.is_unique and all(type(o) is str and o for o in m.index)


# Conditions.

M = pd.DataFrame(dict(age=[1., 2., np.nan, 10.], site=["gut", "left hand", None, "skin"], code=["1", "01", "2", None],
                      flag=[True, False, True, True]), index=list("abcd"))


@pytest.mark.parametrize("where, rows", [
    ("", "abcd"), ("  ", "abcd"), ("age == 2", "b"), ("age != 2", "ad"), ("age<2", "a"), ("age <= 2.0", "ab"), ("age > 1e0", "bd"), ("age>=10", "d"),
    ("age in (1, 10)", "ad"), ("age not in (1,10)", "b"),
    ("site == gut", "a"), ("site != gut", "bd"), ("not site == gut", "bd"), ("site in (gut, 'left hand')", "ab"), ('site == "left hand"', "b"),
    ("'site' == gut", "a"), ("code == 1", "a"), ("code == 01", "b"),
    ("age > 1 and site == skin or code == 1", "ad"), ("age > 1 and (site == skin or code == 1)", "d"), ("not (age > 1 and site == skin)", "ab"),
    ("not not age == 1", "a"), ("age == 1 or code == 2", "ac"),
    ("age > 5 or age <= 5", "abd"), ("flag == True and age > 1", "d"), ("age > -1", "abd"),
])
def test_conditions(where, rows):
    out = select(M, where)
    assert out.dtype == bool and "".join(M.index[out]) == rows


@pytest.mark.parametrize("where, says", [
    ("aeg == 1", "'aeg'.*Did you mean 'age'"), ("age", "ends where a comparison should be"), ("age ==", "ends where a value should be"),
    ("== 1", "where a column should be"), ("age = 1", "cannot be read from '= 1'"),
    ("age == 1 site == gut", "has 'site' where 'and', 'or' or the end should be"), ("(age == 1", r"where a '\)' should be"), ("age == 1)", r"has '\)'"),
    ("age in 1", r"where a '\(' should be"), ("age in ()", "where a value should be"),
    ("age in (1", r"where a '\)' should be"), ("age == old", "numbers, with 'old'"), ("age == nan", "numbers, with 'nan'"), ("site > gut", "holds text"),
    ("site == guts", "Did you mean 'gut'"), ("site != guts", "no sample has"),
    ("age not 1", "where 'in' should be"), ("and age == 1", "where a column should be"),
    ("age == 'x", "cannot be read"), ("age == 1 and", "ends where a column should be"),
    ("__import__('os')", "where a column should be|not among"), ("("*500 + "age == 1", "nested"),
    ("not "*500 + "age == 1", "nested"), ("age == 1 && age == 2", "has '&&'"), ("age == 1; drop", "'1;'"),
])
def test_conditions_that_cannot_be_meant(where, says):
    with pytest.raises(AamError, match=f"The condition .*({says})"): select(M, where)


ATOM = st.one_of(st.tuples(st.just("age"), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.sampled_from(["1", "2", "3.5", "10"])),
                 st.tuples(st.just("site"), st.sampled_from(["==", "!="]), st.sampled_from(["gut", "'left hand'", "skin"]))).map(" ".join)
TREE = st.recursive(ATOM, lambda o: st.one_of(st.tuples(o, st.sampled_from(["and", "or"]), o).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    o.map(lambda t: f"not ({t})")), max_leaves=6)


@given(TREE)
def test_conditions_agree_with_pandas(where):
    "Where nothing is missing, the grammar is that of pandas."
    known = M.assign(age=[1., 2., 3.5, 10.], site=["gut", "left hand", "gut", "skin"])
    assert select(known, where).tolist() == known.eval(where.replace("gut", "'gut'").replace("skin", "'skin'"), engine="python").tolist()


@given(st.text("age site()'\"<>=!,andornti120. ", max_size=30))
def test_any_text_is_read_or_refused(where):
    try: assert select(M, where).shape == (4,)
    except AamError: pass


# Targets.

def back(codec): return TargetCodec.from_dict(json.loads(json.dumps(codec.to_dict())))


@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=2, max_size=30).filter(lambda v: max(v) - min(v) > 1e-6*max(map(abs, v))))
def test_numbers_come_back(values):
    s = pd.Series([*values, np.nan], name="y"); codec = TargetCodec.fit(s); z = codec.encode(s)
    assert back(codec) == codec and codec.outputs == 1 and z.dtype == np.float32 and z.shape == (len(s), 1) and np.isnan(z[-1, 0])
    assert codec.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12) and codec.sd == pytest.approx(np.std(values), rel=1e-9)
    y = codec.decode(z)
    assert y.dtype == np.float64 and np.isnan(y[-1]) and np.allclose(y[:-1], values, rtol=1e-6, atol=1e-6*codec.sd)
    assert (back(codec).decode(z)[:-1] == y[:-1]).all() # Bit for bit


@pytest.mark.parametrize("values, task, classes", [
    ([1., 2., 10., np.nan, 2.], "classification", ("1", "2", "10")), ([1, 2, 10], "classification", ("1", "2", "10")),
    (["1", "2", "10", "01"], "classification", ("01", "1", "2", "10")),
    ([.5, 1.5, 1.5], "classification", ("0.5", "1.5")), (["b", "a", None, "b"], "auto", ("a", "b")), ([True, False, True], "auto", ("False", "True")),
    (pd.Categorical(["x", "y", "x"], categories=["y", "x", "z"]), "auto", ("x", "y")), (["1", "2", "1"], "auto", ("1", "2")),
])
def test_classes_keep_their_names(values, task, classes):
    s = pd.Series(values, name="c"); codec = TargetCodec.fit(s, task=task)
    assert codec.classes == classes and codec.outputs == len(classes) and back(codec) == codec
    z = codec.encode(s)[:, 0]; known = s.notna().to_numpy()
    assert np.isnan(z[~known]).all() and z.dtype == np.float32
    logits = np.eye(len(classes))[z[known].astype(int)]*9
    assert list(codec.labels(codec.decode(logits))) == [f"{o:g}" if isinstance(o, float) else str(o) for o in s[known]]


def test_the_same_class_from_a_number_or_its_text():
    codec = TargetCodec.fit(pd.Series([1., 2., 1.], name="c"), task="classification")
    assert codec.encode(pd.Series(["1", "2", "3"]))[:2, 0].tolist() == [0, 1] and np.isnan(codec.encode(pd.Series(["3"]))).all()
    assert codec.encode(pd.Series([2, 1]))[:, 0].tolist() == [1, 0]


def test_probabilities_are_those_of_scipy():
    from scipy.special import softmax
    x = np.random.default_rng(0).normal(size=(50, 3))*200; codec = TargetCodec.fit(pd.Series(list("abc")))
    assert np.allclose(codec.decode(x.astype(np.float32)), softmax(x.astype(np.float32).astype(np.float64), axis=1), atol=1e-12)
    assert list(codec.labels(codec.decode(x))) == [codec.classes[i] for i in x.argmax(1)]
    assert codec.labels(np.zeros((0, 3))).shape == (0,) and codec.decode(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("values, task, says", [
    ([None, None], "auto", "'y' is missing for all 2 samples"), ([np.nan], "regression", "missing for all 1"),
    ([3., 3., np.nan], "auto", "is 3 for all 2 samples"),
    (["a", "a", None], "auto", "one class only, 'a', in all 2 samples"), ([1., 1.], "classification", "one class only, '1'"),
    (["a", "3", "b"], "regression", "2 of 3 values are text .first: 'a', 'b'"),
    (["1", "2", "3", "unknown"], "auto", "1 of 4 values that are none .first: 'unknown'"),
    ([f"S{i}" for i in range(12)], "auto", "12 classes in 12 samples"),
    (np.arange(12.)/7, "classification", "too many to learn"), ([1., 2.], "ranking", "The task is 'ranking'"),
    ([1e308, -1e308], "regression", "not sound"),
])
def test_what_cannot_be_a_target(values, task, says):
    with pytest.raises(AamError, match=says), np.errstate(all="ignore"): TargetCodec.fit(pd.Series(values, name="y"), task=task)


def test_text_that_is_all_numbers_can_be_regressed():
    s = pd.Series(["1", "2.5", None]); codec = TargetCodec.fit(s, task="regression", name="dose")
    assert codec.name == "dose" and codec.mean == 1.75 and np.allclose(codec.decode(codec.encode(s))[:2], [1, 2.5])
    with pytest.raises(AamError, match="'dose' shall be a number.*'high'"): codec.encode(pd.Series(["high"]))


@pytest.mark.parametrize("change", [dict(sd=0.), dict(sd=float("nan")), dict(mean=None), dict(task="both"), dict(classes=["a"]),
    dict(task="classification", classes=["a", "a"]), dict(classes=3), dict(odd=1)])
def test_damaged_codecs_are_refused(change):
    saved = TargetCodec.fit(pd.Series([1., 2.], name="y")).to_dict() | change
    with pytest.raises(AamError): TargetCodec.from_dict(saved)
    with pytest.raises(AamError): TargetCodec.from_dict({})


def test_outputs_of_the_wrong_shape():
    codec = TargetCodec.fit(pd.Series(list("abc")))
    for o in (np.zeros((2, 1)), np.zeros(3)):
        with pytest.raises(AamError, match="wanted .samples, 3."): codec.decode(o)
    with pytest.raises(AamError, match="has no labels"): TargetCodec.fit(pd.Series([1., 2.])).labels(np.zeros((2, 1)))


# Transforms.

def some(n=60, seed=0, missing=5):
    "Skewed numbers in [-.5, ...), a category for each, and a few of either missing."
    rng = np.random.default_rng(seed); names = [f"S{i}" for i in range(n)]
    y = pd.Series(np.exp(rng.normal(2, 1, n)) - .5, index=names, name="y"); by = pd.Series(rng.choice(list("aaab"), n), index=names, name="g", dtype=object)
    y.iloc[rng.choice(n, missing, replace=False)] = np.nan; by.iloc[rng.choice(n, missing, replace=False)] = None
    return y, by


@pytest.mark.parametrize("transform", TRANSFORMS[:5])
def test_transforms_are_those_of_scikit_learn(transform):
    from sklearn.preprocessing import MinMaxScaler, StandardScaler
    (y, _), (new, _) = some(), some(seed=1); codec = TargetCodec.fit(y, transform=transform); log = transform.startswith("log1p")
    f, back_f = (np.log1p, np.expm1) if log else (np.asarray, np.asarray)
    made = None if transform == "none" else (MinMaxScaler if transform.endswith("minmax") else StandardScaler)().fit(f(y.to_numpy())[:, None])
    for v in (y.to_numpy(), new.to_numpy()):
        wanted = f(v)[:, None] if made is None else made.transform(f(v)[:, None])
        np.testing.assert_allclose(codec.encode(pd.Series(v)), wanted, rtol=1e-5, atol=1e-6)
        outputs = wanted + .3
        np.testing.assert_allclose(codec.decode(outputs), back_f(outputs if made is None else made.inverse_transform(outputs))[:, 0], rtol=1e-9)
    assert back(codec) == codec and codec.column == Column(name="y", task="regression")


@settings(max_examples=40)
@given(st.lists(st.floats(-.9, 1e6, allow_subnormal=False), min_size=3, max_size=20).filter(lambda v: max(v) - min(v) > 1e-3*(1 + max(map(abs, v)))),
       st.sampled_from(TRANSFORMS), st.data())
def test_all_transforms_come_back(values, transform, data):
    y = pd.Series([*values, np.nan], name="y"); drawn = data.draw(st.lists(st.sampled_from(["1", "2", None]), min_size=len(y), max_size=len(y)))
    by = pd.Series(drawn, name="g", dtype=object)
    codec = TargetCodec.fit(y, transform=transform, by=by if transform == "zscore_by" else None, bounds=(-1., 1e7)); again = back(codec)
    out = again.decode(codec.encode(y, by), by); scale = np.ptp(np.append(values, 0)) + 1
    assert again == codec and np.isnan(out[-1]) and np.allclose(out[:-1], values, rtol=1e-5, atol=1e-5*scale)


def test_wild_outputs_stay_finite():
    codec = TargetCodec.fit(some()[0], transform="log1p_zscore")
    out = codec.decode(np.array([[1e9], [-1e9], [np.nan]]))
    assert np.isfinite(out[:2]).all() and out[1] == -1 and np.isnan(out[2])


@pytest.mark.parametrize("kwargs, says", [
    (dict(transform="log1p_zscore"), "1 of the 3 values of the target 'y' are -1 or less and have no log1p_zscore.*first: -4 of the sample 'B'"),
    (dict(transform="log1p_minmax"), "no log1p_minmax"), (dict(bounds=(0., None)), "1 of the 3 .* below the bound 0.*-4 of the sample 'B'"),
    (dict(bounds=(None, 5.)), "1 of the 3 .* above the bound 5.*first: 9 of the sample 'D'"), (dict(bounds=(9., -4.)), "bound|not sound"),
    (dict(transform="sqrt"), "transform of the target 'y' is 'sqrt'; wanted one of none, minmax"), (dict(loss="rmse"), "loss of the target 'y' is 'rmse'"),
    (dict(transform="zscore_by"), "wanted the category of each sample .target.by."), (dict(loss="quantile"), "quantiles '' cannot be used"),
    (dict(loss="quantile", levels=(.1, .9)), ".5 among them"), (dict(loss="quantile", levels=(.9, .5)), "rising"),
    (dict(loss="asymmetric", under=0., over=0.), "not sound"), (dict(under=-1.), "not sound"),
])
def test_what_a_transform_cannot_take(kwargs, says):
    with pytest.raises(AamError, match=says): TargetCodec.fit(pd.Series([2., -4., np.nan, 9.], index=list("ABCD"), name="y"), **kwargs)


def test_numbers_that_cannot_be_are_refused_in_every_sample():
    codec = TargetCodec.fit(pd.Series([1., 5.], name="ph"), bounds=(0., 14.))
    logged = TargetCodec.fit(pd.Series([1., 5.], name="reads"), transform="log1p_minmax")
    with pytest.raises(AamError, match="'ph' lie above the bound 14.*first: 15 of the sample 'Z'"): codec.encode(pd.Series([3., 15.], index=["Y", "Z"]))
    with pytest.raises(AamError, match="have no log1p_minmax.*first: -1 of the sample '0'"): logged.encode(pd.Series([-1.]))
    assert np.isnan(codec.encode(pd.Series([np.nan, 14.]))).ravel().tolist() == [True, False]


# Categories with a mean of their own.

def own(y, by): return TargetCodec.fit(pd.Series(y, name="y"), transform="zscore_by", by=pd.Series(by, name="g", dtype=object))


def test_equal_categories_keep_one_less_the_inverse_of_f():
    "With categories of one size, the share kept is 1 - 1/F of the analysis of variance."
    from scipy.stats import f_oneway
    rng = np.random.default_rng(0); y = rng.normal(rng.normal(0, 1, 7)[:, None], 2, (7, 12)); F = f_oneway(*y).statistic
    codec = own(y.ravel(), np.repeat(list("abcdefg"), 12)); w = 1 - 1/F
    assert 0 < w < 1
    for name, v in zip("abcdefg", y):
        assert codec.places[name] == pytest.approx((y.mean() + w*(v.mean() - y.mean()), np.sqrt(w*v.var() + (1 - w)*y.var())), rel=1e-9)


def test_large_categories_are_their_own_and_alike_ones_are_the_whole():
    rng = np.random.default_rng(0); by = np.repeat(["a", "b"], 4000)
    y = np.concatenate([rng.normal(10, 1, 4000), rng.normal(30, 5, 4000)]); codec = own(y, by)
    for i, name in enumerate("ab"):
        v = y[4000*i:4000*(i + 1)]
        assert codec.places[name] == pytest.approx((v.mean(), v.std()), rel=1e-3)
    y = np.tile([1., 2., 3.], 20); codec = own(y, np.repeat(list("abcd"), 15)) # Equal means: F is 0
    assert all(o == pytest.approx((2., y.std())) for o in codec.places.values())


def test_drawn_means_are_nearer_to_the_truth():
    "Efron & Morris: nearer than the means of the samples, and nearer than the mean of all."
    lost = np.zeros(3); variances = []
    for seed in range(40):
        rng = np.random.default_rng(seed); n = rng.integers(1, 9, 30); truth = rng.normal(5, 1, 30); by = np.repeat(np.arange(30), n)
        y = rng.normal(truth[by], 2); places = own(y, by.astype(str)).places
        drawn = np.array([places[str(i)][0] for i in range(30)]); raw = np.array([y[by == i].mean() for i in range(30)])
        lost += [((o - truth)**2).mean() for o in (drawn, raw, y.mean())]; variances += [places[str(i)][1]**2 for i in np.flatnonzero(n == 1)]
    assert lost[0] < .8*lost[1] and lost[0] < .9*lost[2]
    assert np.mean(variances) == pytest.approx(4, rel=.15) # The variance within, though each of these categories has one sample


def test_B11_a_category_of_one_sample_is_safe():
    rng = np.random.default_rng(0); y = np.append(rng.normal(50, 5, 40), 20.); by = ["a"]*20 + ["b"]*20 + ["lone"]; codec = own(y, by)
    z = codec.encode(pd.Series([20., 25., 60.]), pd.Series(["lone"]*3))
    assert np.abs(z).max() < 12 and codec.places["lone"][1] > 1
    for labels in (["x"]*20 + ["lone"], [f"s{i}" for i in range(21)], ["x"]*10 + ["y"]*10 + ["lone"]): # One large; all lone; all constant
        v = np.arange(21.) if labels[1] == "s1" else np.array([3.]*10 + [3. if labels[10] == "x" else 4.]*10 + [9.])
        codec = own(v, labels)
        assert min(sd for _, sd in codec.places.values()) >= .1 and np.abs(codec.encode(pd.Series(v), pd.Series(labels))).max() < 12


@pytest.mark.parametrize("there", [["1", "2", "3"], [1, 2, 3], [1., 2., 3.], np.array([1, 2, 3], dtype=np.int32), pd.Series([1, 2, 3], dtype="Int64")])
def test_B12_categories_are_found_however_they_are_typed(there):
    y = np.concatenate([np.arange(20.), np.arange(20.) + 100])
    for kind in (int, float, str): # Whole numbers, the same with a missing one beside them, text
        by = pd.Series(np.repeat([1, 2], 20).astype(kind), name="g"); codec = TargetCodec.fit(pd.Series(y, name="y"), transform="zscore_by", by=by)
        assert sorted(codec.places) == ["1", "2"]
        out = codec.decode(np.zeros((3, 1)), pd.Series(there))
        assert out[:2] == pytest.approx([codec.places["1"][0], codec.places["2"][0]]) and out[2] == pytest.approx(y.mean()) # 3 is not known
    gone = pd.Series([1., np.nan], name="g") # A missing category is no category, neither in fitting nor in use
    assert codec.decode(np.zeros((2, 1)), gone)[1] == pytest.approx(y.mean())
    assert "" not in own(y, [None] + ["a"]*39).places and "nan" not in own(y, [np.nan] + ["a"]*39).places


def test_B12_a_row_of_numbers_keeps_its_category():
    "A row of a table of numbers alone is made of floats; the category of row 1 is still '2'."
    meta = pd.DataFrame(dict(g=np.repeat([1, 2], 20), y=np.concatenate([np.arange(20.), np.arange(20.) + 100])))
    codec = TargetCodec.fit(meta.y, transform="zscore_by", by=meta.g); row = meta.iloc[[30]].astype(float)
    assert codec.encode(row.y, row.g) == pytest.approx(codec.encode(meta.y, meta.g)[30:31])


def test_B13_what_is_relative_is_never_read_without_its_category():
    y, by = some(); codec = TargetCodec.fit(y, transform="zscore_by", by=by); z = codec.encode(y, by)
    for use in (lambda: codec.decode(z), lambda: codec.encode(y), lambda: replace(codec, margin=1.).interval(z)):
        with pytest.raises(AamError, match="'y' is relative to the categories of 'g'. Give that column"): use()
    with pytest.raises(AamError, match="60 samples and 'g' 3"): codec.decode(z, by[:3])
    targets = Targets((codec,)); meta = pd.DataFrame(dict(y=y, g=by))
    assert targets.needs == ("g",) and np.allclose(targets.decode(targets.encode(meta), meta)["y"], y, rtol=1e-5, equal_nan=True)
    with pytest.raises(AamError, match="Decoding needs the metadata's 'g'"): targets.decode(z)
    with pytest.raises(AamError, match="Decoding needs the column 'g'"): targets.decode(z, meta[["y"]])
    with pytest.raises(AamError, match="Learning needs the column 'g'"): targets.encode(meta[["y"]])


# Bounds, quantiles, intervals, temperature.

@settings(max_examples=40)
@given(st.sampled_from(TRANSFORMS), st.floats(-8, 8), st.integers(0, 59))
def test_B14_bounds_hold_in_the_targets_own_unit_and_never_cost(transform, output, row):
    y, by = some(missing=0); kwargs = dict(transform=transform, by=by if transform == "zscore_by" else None)
    free, bounded = TargetCodec.fit(y, **kwargs), TargetCodec.fit(y, bounds=(-.5, 80.), **kwargs); x = np.full((1, 1), output); at = by.iloc[[row]]
    out, plain, truth = bounded.decode(x, at)[0], free.decode(x, at)[0], y.iloc[row]
    assert -.5 <= out <= 80 and abs(out - truth) <= abs(plain - truth) + 1e-12 and (out == plain or not -.5 <= plain <= 80)
    if truth <= 80: assert bounded.decode(bounded.encode(y.iloc[[row]], at), at)[0] == pytest.approx(truth, rel=1e-5, abs=1e-4) # All of the range can be said


def test_B14_a_z_score_can_be_below_the_mean():
    codec = TargetCodec.fit(pd.Series([2., 4., 6.]), bounds=(0., None))
    assert codec.decode(np.array([[-1.], [-9.]])) == pytest.approx([4 - codec.sd, 0])


def test_the_prediction_is_the_level_a_half_wherever_it_stands():
    y, by = some()
    for levels, at in (((.5, .9), 0), ((.1, .5), 1), ((.05, .25, .5, .95), 2)):
        codec = TargetCodec.fit(y, loss="quantile", levels=levels, transform="log1p_zscore")
        x = np.sort(np.random.default_rng(0).normal(size=(9, len(levels))), axis=1)
        q = codec.quantiles(x)
        assert codec.outputs == len(levels) == codec.column.outputs and codec.column.levels == levels and back(codec) == codec
        assert (codec.decode(x) == q[:, at]).all() and (np.diff(q, axis=1) >= 0).all() and q.shape == x.shape
    with pytest.raises(AamError, match="no quantiles"): TargetCodec.fit(y).quantiles(np.zeros((1, 1)))
    assert TargetCodec.fit(y, levels=(.5,)).levels == () # Levels are of the quantile loss alone


@settings(max_examples=40)
@given(st.sampled_from(TRANSFORMS), st.sampled_from(["mae", "quantile"]), st.floats(0, 2), st.integers(0, 2**31))
def test_an_interval_holds_what_lies_within_the_margin_when_encoded(transform, loss, margin, seed):
    y, by = some(missing=0); rng = np.random.default_rng(seed); levels = (.1, .5, .9) if loss == "quantile" else ()
    codec = TargetCodec.fit(y, transform=transform, by=by if transform == "zscore_by" else None, loss=loss, levels=levels, bounds=(-.5, None))
    codec = back(replace(codec, margin=margin)); z = codec.encode(y, by).astype(np.float64); x = np.sort(z + rng.normal(size=(60, codec.outputs)), axis=1)
    low, high = codec.interval(x, by).T; score = np.maximum(x[:, :1] - z, z - x[:, -1:])[:, 0]; clear = np.abs(score - margin) > 1e-3
    assert ((low <= y) & (y <= high))[clear].tolist() == (score <= margin)[clear].tolist()
    assert (low <= codec.decode(x, by)).all() and (codec.decode(x, by) <= high).all() and low.min() >= -.5


def test_an_interval_that_is_drawn_in_still_holds_the_prediction():
    codec = replace(TargetCodec.fit(pd.Series([1., 3.]), loss="quantile", levels=(.1, .5, .9)), margin=-.5)
    assert codec.interval(np.array([[-1., 0., 1.], [-.2, 0., .2]])) == pytest.approx(np.array([[1.5, 2.5], [2, 2]]))
    with pytest.raises(AamError, match="not calibrated"): TargetCodec.fit(pd.Series([1., 3.])).interval(np.zeros((1, 1)))
    with pytest.raises(AamError, match="not calibrated"): TargetCodec.fit(pd.Series(list("ab"))).interval(np.zeros((1, 2)))
    with pytest.raises(AamError, match="not sound"): replace(codec, margin=np.inf)


def test_temperature_is_that_of_a_softmax():
    from scipy.special import softmax
    codec = TargetCodec.fit(pd.Series(list("abc"))); x = np.random.default_rng(0).normal(size=(30, 3))*5
    for t in (.5, 3.):
        warm = back(replace(codec, temperature=t)); p = warm.decode(x)
        assert warm.temperature == t and np.allclose(p, softmax(x/t, axis=1), atol=1e-12) and (warm.labels(p) == codec.labels(codec.decode(x))).all()
    for t in (0., -1., np.nan, np.inf):
        with pytest.raises(AamError, match="not sound"): replace(codec, temperature=t)


@pytest.mark.parametrize("change", [dict(transform="cube"), dict(places={"a": [1., 0.]}), dict(places={"a": [1.]}), dict(places=[]),
    dict(places={"a": ["x", 1.]}), dict(by=""), dict(mean="3"), dict(low=3., high=1.), dict(low="0"), dict(loss="mse"), dict(levels=[.1, .9]), dict(levels=3),
    dict(under=-1.), dict(temperature=2.), dict(margin="wide"), dict(level=1.), dict(name=3)])
def test_damaged_codecs_of_numbers_are_refused(change):
    y, by = some(); saved = TargetCodec.fit(y, transform="zscore_by", by=by, loss="quantile", levels=(.1, .5, .9)).to_dict()
    assert TargetCodec.from_dict(saved).to_dict() == saved
    with pytest.raises(AamError): TargetCodec.from_dict(saved | change)
    for k in saved:
        with pytest.raises(AamError, match=f"'{k}' is missing or not known"): TargetCodec.from_dict({a: b for a, b in saved.items() if a != k})


@pytest.mark.parametrize("change", [dict(sd=2.), dict(places={"a": [0., 1.]}), dict(margin=1.), dict(low=0.), dict(loss="mae"), dict(classes=["a", 3]),
    dict(classes=["a", "b"], task="regression")])
def test_damaged_codecs_of_classes_are_refused(change):
    with pytest.raises(AamError): TargetCodec.from_dict(TargetCodec.fit(pd.Series(list("ab"))).to_dict() | change)


# Several targets.

META = pd.DataFrame(dict(age=[1., 2., 3., 4., np.nan, 60.], ph=[5., 6., 7., 8., 6., 7.], site=["gut", "skin", None, "gut", "skin", "oral"],
                         run=["a", "a", "b", "b", "b", "b"], w=[1., 2., 0., 1., 1., 3.]), index=list("ABCDEF"))


def several(target="age, site, ph", task="auto", **kwargs): return config_from({"data": dict(target=target, task=task), "target": kwargs})


def test_targets_stand_side_by_side():
    targets = Targets.fit(META, several(loss="mse, ph=quantile", bounds="ph=0:14", transform="log1p_minmax, ph=none", quantiles=".1, .5, .9"))
    assert targets.names == ("age", "site", "ph") and targets.outputs == 7 and targets.slices == [slice(0, 1), slice(1, 4), slice(4, 7)] and len(targets) == 3
    assert [(o.task, o.outputs, o.loss, o.levels) for o in targets.columns] == [
        ("regression", 1, "mse", ()), ("classification", 3, "mse", ()), ("regression", 3, "quantile", (.1, .5, .9))]
    age, site, ph = targets
    assert (age.transform, ph.transform, age.low, ph.low, ph.high) == ("log1p_minmax", "none", None, 0., 14.) and site == TargetCodec.fit(META.site)
    z = targets.encode(META)
    assert z.shape == (6, 3) and z.dtype == np.float32 and np.array_equal(np.isnan(z), META[["age", "site", "ph"]].isna())
    assert np.array_equal(z, np.hstack([o.encode(META[o.name]) for o in targets]), equal_nan=True)
    x = np.random.default_rng(0).normal(size=(4, 7)); out = targets.decode(x)
    assert list(out) == ["age", "site", "ph"] and all(np.array_equal(out[o.name], o.decode(x[:, k])) for o, k in zip(targets, targets.slices))
    assert Targets.from_dict(json.loads(json.dumps(targets.to_dict()))) == targets and targets.needs == ()


def test_numbers_are_of_training_rows_and_classes_of_all():
    rows = np.array([0, 1, 3])
    for train in (rows, np.isin(np.arange(6), rows)):
        age, site, _ = Targets.fit(META, several(), train)
        assert age.mean == pytest.approx(7/3) and site.classes == ("gut", "oral", "skin")
    assert Targets.fit(META, several()).codecs[0].mean == 14. # All rows


def test_only_training_rows_teach_the_categories():
    config = several("age", transform="zscore_by", by="run"); codec, = Targets.fit(META, config, np.arange(2))
    assert set(codec.places) == {"a"} and codec.by == "run" and Targets((codec,)).needs == ("run",)
    changed = META.assign(age=META.age.where(META.index < "C", 1e3), run=["a", "a", *"xyzz"])
    assert Targets.fit(changed, config, np.arange(2)) == Targets((codec,))


@pytest.mark.parametrize("config, says", [
    (several("aeg"), "Predicting needs the column 'aeg'.*Did you mean 'age'"),
    (several(loss="mse, site=mae"), "target.loss names 'site', whose values are classes"),
    (several(bounds="site=0:"), "target.bounds names 'site'"), (several(transform="zscore, site=none"), "target.transform names 'site'"),
    (several(transform="zscore_by", by="ph"), "target.by is 'ph', which is to be predicted"),
    (several(transform="zscore_by", by="rnu"), "needs the column 'rnu'"),
    (several(bounds="ph=0:6"), "'ph' lie above the bound 6"), (several(task="auto, site=regression"), "'site' shall be a number"),
])
def test_targets_that_cannot_be(config, says):
    with pytest.raises(AamError, match=says): Targets.fit(META, config)


def test_targets_that_are_not_there_or_not_whole():
    targets = Targets.fit(META, several()); saved = targets.to_dict()
    with pytest.raises(AamError, match="Learning needs the columns 'age', 'site'"): targets.encode(META[["ph"]])
    with pytest.raises(AamError, match=r"outputs of the shape \(2, 3\); wanted .samples, 5"): targets.decode(np.zeros((2, 3)))
    for bad in ({}, [], {"codecs": []}, {"codecs": {}}, {"codecs": saved["codecs"][:1]*2}, saved | {"more": 1}, {"codecs": [{}]}):
        with pytest.raises(AamError): Targets.from_dict(bad)


# Weights.

def weights(train=None, **kwargs): config = several(**kwargs); return target_weights(Targets.fit(META, config), META, config, train)


def test_nothing_said_weighs_nothing():
    assert weights() is None and weights(class_weights="gut=1") is None and weights(balance="run:a=1") is None


@pytest.mark.parametrize("train", [None, np.array([0, 2, 3, 4]), np.array([True, True, False, True, True, True])])
def test_balanced_weights_are_those_of_scikit_learn(train):
    from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
    rows = np.arange(6) if train is None else np.arange(6)[train]; w = weights(train, balance="run")
    assert w.dtype == np.float32 and w.shape == (6, 3)
    for k in range(3): np.testing.assert_allclose(w[rows, k], compute_sample_weight("balanced", META.run.iloc[rows]), rtol=1e-6)
    w = weights(train, class_weights="balanced"); known = META.site.iloc[rows].dropna(); classes = np.unique(known)
    given = dict(zip(classes, compute_class_weight("balanced", classes=classes, y=known)))
    np.testing.assert_allclose(w[:, 1], [given.get(o, 1.) for o in META.site], rtol=1e-6) # 1 for the missing, and for a class that no training row has
    assert (w[:, [0, 2]] == 1).all() and w[rows][META.site.iloc[rows].notna(), 1].mean() == pytest.approx(1)


def test_weights_multiply():
    w = weights(weights="w", balance="run:a=3", class_weights="skin=.5, gut=2")
    sample = META.w.to_numpy()*[3, 3, 1, 1, 1, 1]
    np.testing.assert_allclose(w, np.stack([sample, sample*[2, .5, 1, 2, .5, 1], sample], axis=1), rtol=1e-6)


def test_numbers_and_missing_categories_weigh_too():
    meta = META.assign(run=[1, 1, 2, 2, 2, np.nan]); config = several(balance="run:1=2,2=5"); w = target_weights(Targets.fit(meta, config), meta, config)
    assert w[:, 0].tolist() == [2, 2, 5, 5, 5, 1]
    config = several(balance="run"); w = target_weights(Targets.fit(meta, config), meta, config)
    np.testing.assert_allclose(w[:, 0], [5/4, 5/4, 5/6, 5/6, 5/6, 1])


@pytest.mark.parametrize("kwargs, says", [
    (dict(weights="wieght"), "target.weights needs the column 'wieght'"), (dict(weights="run"), "weight 'run' shall be a number"),
    (dict(weights="age"), "'age' has no weight of 0 or more for 1 of 6 samples .first: 'E'"),
    (dict(balance="rnu"), "target.balance needs the column 'rnu'.*'run'"), (dict(balance="run:c=2"), "target.balance names 'c', which is not among 'a', 'b'"),
    (dict(balance="run:a"), "target.balance has 'a'; wanted NAME=WEIGHT"), (dict(balance="run:"), "wanted COLUMN, or a form such as site: gut=2"),
    (dict(balance="run:a=-1"), "each weight 0 or more"), (dict(balance="run:a=1,a=2"), "each name once"),
    (dict(class_weights="Gut=2"), "target.class_weights names 'Gut'.*Did you mean 'gut'"),
    (dict(class_weights="balance"), "target.class_weights has 'balance'; wanted NAME=WEIGHT"),
    (dict(class_weights="gut=many"), "has 'gut=many'"), (dict(class_weights="balanced", target="age"), "no target has classes"),
    (dict(balance="run:a=0,b=0"), "All training samples weigh 0 for the target 'age'"),
])
def test_weights_that_cannot_be(kwargs, says):
    with pytest.raises(AamError, match=says): weights(**kwargs)


def test_training_samples_that_weigh_nothing():
    targets, config = Targets.fit(META, several()), several(weights="w")
    with pytest.raises(AamError, match="All training samples weigh 0 for the target 'age'"): target_weights(targets, META, config, np.array([2]))
    assert target_weights(targets, META, config, np.array([2, 3]))[2].tolist() == [0, 0, 0]


# Real files.

@pytest.mark.parametrize("name, samples, targets", [
    ("tiny_ecam60/metadata.tsv", 60, dict(month_of_life="regression", delivery="classification")),
    ("ecam_infant/metadata.tsv", 741, dict(month_of_life="regression", delivery="classification", diet_3="classification")),
    ("ibd_crohns_2538/metadata.tsv", 449, dict(ibd="classification")), ("cfs87/metadata.tsv", 87, dict(Subject="classification")),
    ("global_gut/metadata.tsv", 528, dict(age_years="regression", country="classification")),
    ("hmp_v35_bodysite/metadata.tsv", 5452, dict(HMPbodysupersite="classification", HMPbodysubsite="classification")),
    ("qiime2_files/cfs-map.txt", 88, dict(Subject="classification", Age="regression")),
    ("qiime2_files/ibd-metadata.tsv", 646, dict(ibd="classification")),
])
def test_real_metadata(data_dir, name, samples, targets):
    m = read_metadata(data_dir/name)
    plain = pd.read_csv(data_dir/name, sep="\t", dtype=str, keep_default_na=False, index_col=0)
    assert list(m.index) == [o.strip() for o in plain.index] and len(m) == samples and list(m.columns) == [o.strip() for o in plain.columns]
    for c in m:
        raw = plain[c].str.strip().tolist()
        assert m[c].isna().tolist() == [is_missing(o) for o in raw]
        known = [o for o in raw if not is_missing(o)]
        assert m[c].dropna().tolist() == ([float(o) for o in known] if m[c].dtype == np.float64 else known)
    for c, task in targets.items():
        codec = TargetCodec.fit(m[c]); z = codec.encode(m[c])
        assert codec.task == task and back(codec) == codec and (np.isnan(z[:, 0]) == m[c].isna()).all()
        if task == "regression": assert np.allclose(codec.decode(z), m[c], rtol=1e-6, atol=1e-6*codec.sd, equal_nan=True)


def test_real_conditions(data_dir):
    m = read_metadata(data_dir/"ecam_infant"/"metadata.tsv")
    assert select(m, "is_infant == 1").sum() == 699
    young = select(m, "is_infant == 1 and delivery in (Vaginal) and month_of_life < 6")
    assert young.tolist() == ((m.is_infant == 1) & (m.delivery == "Vaginal") & (m.month_of_life < 6)).tolist()
    with pytest.raises(AamError, match="Did you mean 'Vaginal'"): select(m, "delivery == vaginal")
    with pytest.raises(AamError, match="text"): TargetCodec.fit(m.delivery, task="regression")
    for path in ("ecam_infant/table.biom", "qiime2_files/ibd-table.qza"):
        with pytest.raises(AamError, match=path.split("/")[1]): read_metadata(data_dir/path)


def test_ids_join_the_table(data_dir):
    from aam_nb.data.table import read_table
    for name in ("tiny_ecam60", "ecam_infant", "ibd_crohns_2538"):
        assert list(read_metadata(data_dir/name/"metadata.tsv").index) == list(read_table(data_dir/name/"table.biom").sample_ids)
    assert strings(["a"]).dtype == object


def test_real_targets_together(data_dir):
    from sklearn.utils.class_weight import compute_sample_weight
    m = read_metadata(data_dir/"ecam_infant"/"metadata.tsv"); train = np.arange(0, len(m), 2)
    config = config_from({"data": dict(target="month_of_life, delivery"), "target": dict(bounds="month_of_life=0:", class_weights="balanced")})
    targets = Targets.fit(m, config, train); z = targets.encode(m); w = target_weights(targets, m, config, train)
    assert z.shape == w.shape == (741, 2) and targets.outputs == 3 and z[train, 0].mean() == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(w[train, 1], compute_sample_weight("balanced", m.delivery.iloc[train]), rtol=1e-6)
    wide = np.stack([z[:, 0], -z[:, 1], z[:, 1]], axis=1); out = targets.decode(wide)
    np.testing.assert_allclose(out["month_of_life"], m.month_of_life, rtol=1e-5, atol=1e-5)
    assert (targets.codecs[1].labels(out["delivery"])[m.delivery == "Vaginal"] == "Vaginal").all()
