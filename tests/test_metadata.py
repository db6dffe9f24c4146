"Metadata by QIIME 2's rules, conditions against pandas, and targets that come back as they went in."
import csv, gzip, json
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from aam_nb.core import AamError
from aam_nb.data.metadata import TargetCodec, is_id_header, is_missing, is_number, read_metadata, select
from aam_nb.types import strings


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
    ("id,age\nS1,3\n", "Separated by commas"), ("id\ta\ta\nS1\t1\t2\n", "line 1: the columns 'a' occur more than once"),
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
    ("aeg == 1", "'aeg'.*Did you mean 'age'"), ("age", "has its end, and wanted is a comparison"), ("age ==", "its end"),
    ("== 1", "wanted is a column"), ("age = 1", "cannot be read from '= 1'"),
    ("age == 1 site == gut", "has 'site', and wanted is 'and', 'or'"), ("(age == 1", r"wanted is a '\)'"), ("age == 1)", r"has '\)'"),
    ("age in 1", r"wanted is a '\('"), ("age in ()", "wanted is a value"),
    ("age in (1", r"wanted is a '\)'"), ("age == old", "numbers, with 'old'"), ("age == nan", "numbers, with 'nan'"), ("site > gut", "holds text"),
    ("site == guts", "Did you mean 'gut'"), ("site != guts", "no sample has"),
    ("age not 1", "wanted is 'in'"), ("and age == 1", "wanted is a column"), ("age == 'x", "cannot be read"), ("age == 1 and", "its end"),
    ("__import__('os')", "wanted is a column|not among"), ("("*500 + "age == 1", "nested"),
    ("not "*500 + "age == 1", "nested"), ("age == 1 && age == 2", "has '&&'"), ("age == 1; drop", "'1;'"),
])
def test_conditions_that_cannot_be_meant(where, says):
    with pytest.raises(AamError, match=f"where.*({says})"): select(M, where)


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
