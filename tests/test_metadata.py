"Metadata by QIIME 2's rules: names, types, missing words, and files that are refused."
import csv
import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_columns import back

from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.metadata import is_id_header, is_missing, is_number, read_metadata
from aam_nb.types import strings


def read(path, text, name="m.tsv"):
    (path/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_metadata(path/name)


def nan(column): return [None if pd.isna(o) else o for o in column]


@pytest.mark.parametrize("header", [
    "id", "ID", "sampleid", "SampleID", "sample id", "Sample-ID", "sample_id", "feature-id", "#SampleID",
    "#Sample ID", "#OTU ID", "sample_name",
])
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
    lines = ["# first a remark", "", '#SampleID\t age \t"a site"\t', "#q2:types", "S1\t 1\tgut \t",
             '"S2"\t\t"left\thand"',
             "# and one between", "S3", "\t\t"]
    for end in ("\n", "\r\n", "\r"):
        m = read(tmp_path, b"\xef\xbb\xbf" + end.join(lines).encode())
        assert list(m.index) == ["S1", "S2", "S3"] and list(m.columns) == ["age", "a site"]
        assert nan(m.age) == [1., None, None] and nan(m["a site"]) == ["gut", "left\thand", None]
    (tmp_path/"m.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    pd.testing.assert_frame_equal(read_metadata(tmp_path/"m.tsv.gz"), m)
    assert read(tmp_path, 'id\ta\nS1\t"two\nlines"\n').a.tolist() == ["two\nlines"]


@pytest.mark.parametrize("cells, numeric", [
    ("1 2.5 -3e-2 +.5 7.", True), ("1  missing NA 2", True), ("1 2 x", False), ("1 inf 2", False),
    ("1 0x1F", False), ("1 1_000", False), ("1 1,5", False), ("1 1e999", False),
    ("Missing:_Not_provided 3", True), ("1 unknown", False), ("1 None", False), ("true false", False),
    ("١ ٢", False),
])
def test_what_is_numeric(tmp_path, cells, numeric):
    cells = [o.replace("_", " ") if o.startswith("Missing") else o for o in cells.split(" ")]
    m = read(tmp_path, "id\ta\n" + "".join(f"S{i}\t{o}\n" for i, o in enumerate(cells)))
    assert (m.a.dtype == np.float64) == numeric
    want = [None if is_missing(o) else float(o) if numeric else o for o in cells]
    assert nan(m.a) == want


def test_all_missing_is_text_and_types_are_obeyed(tmp_path):
    m = read(tmp_path, "id\ta\tb\tc\td\n#q2:types\tcategorical\tNumeric\t\t\n"
                       "#q2:missing\tINSDC:missing\t\t\t\n"
                       "S1\t01\t\tnot collected\t2\nS2\t1\t\t\t3\n")
    assert nan(m.a) == ["01", "1"] and nan(m.b) == nan(m.c) == [None, None]
    assert m.b.dtype == m.d.dtype == np.float64 and m.c.dtype != np.float64


@pytest.mark.parametrize("word", [
    "", "missing", "Not Applicable", "not collected", "NOT PROVIDED", "restricted access",
    "Missing: Not provided", "missing: control sample", "not applicable: lab stock", "<not provided>", "NA",
    "n/a", "nan", "NaN", "null",
])
def test_missing_words(word): assert is_missing(word)


@pytest.mark.parametrize("word", [
    "0", "None", "none", "unknown", "missing link", "nana", "no", "control", "not",
])
def test_words_that_are_answers(word): assert not is_missing(word)


@pytest.mark.parametrize("text, says", [
    ("", "m.tsv holds nothing"), ("\n\n# only\n", "is empty"), ("id\ta\n", "no samples"),
    ("age\tid\n3\tS1\n", "line 1: the first column is 'age'.*Move 'id' to the front"),
    ("id,age\nS1,3\n", "separated by commas"),
    ("id\ta\ta\nS1\t1\t2\n", "line 1: these columns occur more than once: 'a'"),
    ("id\t\tb\nS1\t1\t2\n", "column 2 has no name"),
    ("id\ta\nS1\t1\nS2\t2\nS1\t3\n", "line 4: the id 'S1' has a row already"),
    ("id\ta\nS1\t1\t2\n", "line 2: 3 cells for the 2 columns"),
    ("id\ta\n\t1\n", "line 2: the row has no id"),
    ("id\ta\nS1\t1\nid\ta\nS2\t2\n", "line 3: 'id' is a header"),
    ("id\ta\n#q2:types\tnumber\nS1\t1\n", "column 'a' is declared 'number'"),
    ("id\ta\n#q2:types\tnumeric\nS1\t1\nS2\tx\n", "'a' is declared numeric in #q2:types, but holds 'x'"),
    ("id\ta\nS1\t1\n#q2:types\tnumeric\n", "line 3: '#q2:types' is not known here"),
    ("id\ta\n#q2:units\tkg\nS1\t1\n", "line 2: '#q2:units' is not known"),
    ('id\ta\nS1\t"open\nS2\t2\n', "line 3: .*quotation mark"),
    ("#q2:types\tnumeric\nid\ta\nS1\t1\n", "first column is '#q2:types'"),
    (b"id\ta\nS1\t\xe9\n", "not UTF-8"), ("id\ta\n".encode("utf-16"), "UTF-16"),
    (b"PK\x03\x04", "zip archive"), (b"\x89HDF\r\n\x1a\n", "HDF5"), ("<html>", "web page"), ("{}", "JSON"),
])
def test_files_that_are_no_metadata(tmp_path, text, says):
    with pytest.raises(AamError, match=f"m.tsv.*{says}" if "holds nothing" not in says else says):
        read(tmp_path, text)
    with pytest.raises(AamError, match="There is no file"): read_metadata(tmp_path/"absent.tsv")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n",
                              exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8).map(str.strip)


@given(st.dictionaries(CELLS.filter(lambda o: o and not o.startswith("#") and not is_id_header(o)),
                       st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_any_cells_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp()/"any.tsv"
    with open(path, "w", newline="", encoding="utf-8") as f:
        lines = [["sample-id", "a", "b"], *([k, *v] for k, v in rows.items())]
        csv.writer(f, dialect="excel-tab").writerows(lines)
    m = read_metadata(path)
    assert list(m.index) == list(rows)
    for k, c in enumerate("ab"):
        known = [None if is_missing(v[k]) else v[k] for v in rows.values()]
        numeric = any(known) and all(is_number(o) for o in known if o)
        assert (m[c].dtype == np.float64) == numeric
        assert nan(m[c]) == ([o and float(o) for o in known] if numeric else known)


SEED = ("# a remark\n#SampleID\tage\tsite\n#q2:types\tnumeric\tcategorical\nS1\t3.5\tgut\n"
        "S2\tnot collected\t\"left hand\"\nS3\t1e2\n").encode()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6),
       st.integers(0, len(SEED)))
def test_damage_is_refused_or_harmless(tmp_path_factory, hits, end):
    data = bytearray(SEED)
    for i, value in hits: data[i] = value
    path = tmp_path_factory.getbasetemp()/"damaged.tsv"
    path.write_bytes(data[:end] if end % 2 else data)
    try: m = read_metadata(path)
    except AamError as e: assert "damaged.tsv" in str(e)
    else: assert m.index.is_unique and all(type(o) is str and o for o in m.index)


@pytest.mark.parametrize("name, samples, targets", [
    ("tiny_ecam60/metadata.tsv", 60, dict(month_of_life="regression", delivery="classification")),
    ("ecam_infant/metadata.tsv", 741,
     dict(month_of_life="regression", delivery="classification", diet_3="classification")),
    ("ibd_crohns_2538/metadata.tsv", 449, dict(ibd="classification")),
    ("cfs87/metadata.tsv", 87, dict(Subject="classification")),
    ("global_gut/metadata.tsv", 528, dict(age_years="regression", country="classification")),
    ("hmp_v35_bodysite/metadata.tsv", 5452,
     dict(HMPbodysupersite="classification", HMPbodysubsite="classification")),
    ("qiime2_files/cfs-map.txt", 88, dict(Subject="classification", Age="regression")),
    ("qiime2_files/ibd-metadata.tsv", 646, dict(ibd="classification")),
])
def test_real_metadata(data_dir, name, samples, targets):
    m = read_metadata(data_dir/name)
    plain = pd.read_csv(data_dir/name, sep="\t", dtype=str, keep_default_na=False, index_col=0)
    assert list(m.index) == [o.strip() for o in plain.index] and len(m) == samples
    assert list(m.columns) == [o.strip() for o in plain.columns]
    for c in m:
        raw = plain[c].str.strip().tolist()
        assert m[c].isna().tolist() == [is_missing(o) for o in raw]
        known = [o for o in raw if not is_missing(o)]
        assert m[c].dropna().tolist() == ([float(o) for o in known] if m[c].dtype == np.float64 else known)
    for c, task in targets.items():
        codec = TargetCodec.fit(m[c])
        z = codec.encode(m[c])
        assert codec.task == task and back(codec) == codec and (np.isnan(z[:, 0]) == m[c].isna()).all()
        if task == "regression":
            assert np.allclose(codec.decode(z), m[c], rtol=1e-6, atol=1e-6*codec.sd, equal_nan=True)


def test_ids_join_the_table(data_dir):
    from aam_nb.data.table import read_table
    for name in ("tiny_ecam60", "ecam_infant", "ibd_crohns_2538"):
        ids = read_table(data_dir/name/"table.biom").sample_ids
        assert list(read_metadata(data_dir/name/"metadata.tsv").index) == list(ids)
    assert strings(["a"]).dtype == object


@pytest.mark.parametrize("name", ["S\t2", "S\n2", "S\u20282"])
def test_ids_that_would_break_a_line_are_refused(tmp_path, name):
    (tmp_path/"m.tsv").write_text(f'sample-id\tage\nS1\t3\n"{name}"\t4\n')
    with pytest.raises(AamError, match="m.tsv: 1 sample id has a tab, a line break"):
        read_metadata(tmp_path/"m.tsv")
