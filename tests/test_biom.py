"BIOM files: equal to biom-format's own reading, and refused by name where they are not sound."

import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_forms import TINY, as_json, same, table

from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.sequences import LETTERS
from aam_nb.data.table import read_table


def test_what_is_written_biom_reads_and_the_other_way_round(tmp_path):
    import biom
    rng = np.random.default_rng(0)
    ours = table(rng.integers(0, 4, (7, 2500)) * (rng.random((7, 2500)) < .2)) # Several chunks of ids
    write_table(ours, tmp_path/"a.biom")
    theirs = biom.load_table(str(tmp_path/"a.biom"))
    assert (theirs.matrix_data.T != ours.counts).nnz == 0
    assert list(theirs.ids("observation")) == list(ours.sequences)
    assert list(theirs.ids()) == list(ours.sample_ids)
    with h5py.File(tmp_path/"b.biom", "w") as f: theirs.to_hdf5(f, "a test", compress=False)
    (tmp_path/"c.biom").write_text(theirs.to_json("a test"))
    (tmp_path/"d.tsv").write_text(theirs.to_tsv())
    for name in ("a.biom", "b.biom", "c.biom", "d.tsv"): same(read_table(tmp_path/name), ours)


@given(st.data())
def test_any_table_survives(tmp_path_factory, data):
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    cells = data.draw(st.lists(st.sampled_from([0, 0, 1, 7, 2**31 - 1]), min_size=n*m,
                               max_size=n*m).filter(any))
    samples = data.draw(st.lists(st.text("aé0. #'\"-", min_size=1,
                                         max_size=5).map(str.strip).filter(lambda o: o), min_size=n,
                                 max_size=n, unique=True))
    sequences = data.draw(st.lists(st.text(LETTERS, min_size=1, max_size=9), min_size=m, max_size=m,
                                   unique=True))
    t = table(np.reshape(cells, (n, m)), samples, sequences)
    path = tmp_path_factory.getbasetemp()/"any.biom"
    write_table(t, path)
    same(read_table(path), t)


@pytest.mark.parametrize("kind", ["fixed", "shuffled", "plain", "numbers"])
def test_ids_however_they_are_stored(tmp_path, kind):
    """Strings of one length, ids that are numbers, and those that HDF5 keeps in heaps, over several chunks
    or in one piece."""
    n = 300
    samples = [str(1000 + i) for i in range(n)]
    t = table(np.ones((n, 2)), samples)
    write_table(t, tmp_path/"t.biom")
    how = dict(compression="gzip", shuffle=True, chunks=(64,)) if kind == "shuffled" else {}
    with h5py.File(tmp_path/"t.biom", "a") as f:
        del f["sample/ids"]
        values = {"fixed": np.array(samples, "S"), "numbers": np.arange(1000, 1000 + n)}
        value = values.get(kind, samples)
        f.create_dataset("sample/ids", data=value, **how,
                         **({} if kind in ("fixed", "numbers") else dict(dtype=h5py.string_dtype())))
    same(read_table(tmp_path/"t.biom"), t)


@pytest.mark.parametrize("lzf", [False, True])
def test_a_dataset_that_cannot_be_followed_is_refused(tmp_path, lzf):
    write_table(TINY, tmp_path/"t.biom")
    write_table(TINY, tmp_path/"other.biom")
    with h5py.File(tmp_path/"t.biom", "a") as f:
        del f["sample/ids"]
        if lzf:
            f.create_dataset("sample/ids", data=["S0", "S1", "S2"], dtype=h5py.string_dtype(),
                             compression="lzf", chunks=(3,))
        else: f["sample/ids"] = h5py.ExternalLink(str(tmp_path/"other.biom"), "sample/ids")
    with pytest.raises(AamError, match="t.biom is HDF5, but not a sound BIOM 2.1 table: .*(wanted gzip|it "
                                       "has no dataset|points outside)"):
        read_table(tmp_path/"t.biom")


def h5_with(path, **change):
    "A BIOM file with some of its arrays replaced."
    write_table(TINY, path)
    with h5py.File(path, "a") as f:
        for name, value in change.items():
            del f[f"sample/{name.replace('__', '/')}"]
            if value is not None: f[f"sample/{name.replace('__', '/')}"] = value
    return path


@pytest.mark.parametrize("change, says", [
    (dict(matrix__indices=np.array([0, 2, 1, 99])), "features beyond its 3"),
    (dict(matrix__indices=np.array([0, 2, 1, -1])), "beyond its 3"),
    (dict(matrix__indptr=np.array([0, 3, 1, 4])), "do not divide into 3 samples"),
    (dict(matrix__indptr=np.array([0, 2, 4])), "do not divide"),
    (dict(matrix__indices=np.array([0, 0, 1, 2])), "counts a feature twice in one sample"),
    (dict(matrix__data=None), "no dataset 'sample/matrix/data'"),
    (dict(matrix__data=np.ones((2, 2))), "2-dimensional"),
    (dict(matrix__data=np.array([b"a", b"b", b"c", b"d"])), r"dimensional, of type \|S1"),
    (dict(matrix__data=np.array([1, .5, 2, 3])), "feature 'GAAAAAAA' has 0.5|feature '.*' has 0.5.*relative "
                                                 "abundances"),
    (dict(matrix__data=np.array([1, -5, 2, 3.])), "has -5.*log ratios"),
    (dict(matrix__data=np.array([1, np.nan, 2, 3])), "has nan"),
    (dict(matrix__data=np.array([1, 3e9, 2, 3])), "has 3e.09.*2,147,483,647"),
    (dict(matrix__data=np.zeros(4)), "empty table"),
    (dict(ids=["S0", "S1", "S0"]), r"sample ids that occur more than once: 'S0'"),
    (dict(ids=["S0", "", "S2"]), "sample number 2 has no id"),
])
def test_hdf5_that_is_not_sound(tmp_path, change, says):
    with pytest.raises(AamError, match=f"bad.biom.*({says})"):
        read_table(h5_with(tmp_path/"bad.biom", **change))


def test_hdf5_cannot_claim_more_than_it_holds(tmp_path):
    write_table(TINY, tmp_path/"bomb.biom")
    with h5py.File(tmp_path/"bomb.biom", "a") as f:
        del f["sample/matrix/data"]
        f.create_dataset("sample/matrix/data", shape=10**12, dtype="f8", chunks=10**6)
    with pytest.raises(AamError, match="claims 8,000,000,000,000 bytes"): read_table(tmp_path/"bomb.biom")


def test_nothing_is_written_where_it_cannot_be(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(AamError): write_table(TINY, tmp_path/"file"/"t.biom")
    assert [o.name for o in tmp_path.iterdir()] == ["file"]


def old(path, text=None, **change):
    "A BIOM 1.0 file with some of its values replaced, or with this text."
    path.write_text(json.dumps(as_json(TINY) | change) if text is None else text)
    return path


@pytest.mark.parametrize("change, says", [
    (dict(shape=[3, 2]), r"its shape is \[3, 2\], but it has 3 rows and 3 columns"),
    (dict(shape=[9, 9]), "but it has 3 rows"), (dict(shape="3x3"), "its shape is 3x3"),
    (dict(rows=[dict(id="ACGT")]), r"its shape is \[3, 3\], but it has 1 rows"),
    (dict(matrix_type="dense"), "says that its matrix is dense, but not every row|its data has 4 rows for 3"),
    (dict(data=TINY.counts.toarray().T[:, :2].tolist()), "says that its matrix is sparse, but not every row"),
    (dict(matrix_type="dense", data=[[1, 2, 3]]*2), "its data has 2 rows for 3 features. Is it cut short"),
    (dict(matrix_type="full"), 'its matrix_type is "full"; wanted'),
    (dict(matrix_element_type="unicode"), 'its matrix_element_type is "unicode"; wanted'),
    (dict(matrix_element_type="int", data=[[0, 0, .5]]), "is 'int', but it holds 0.5"),
    (dict(matrix_element_type="float", data=[[0, 0, .5]]), "relative abundances"),
    (dict(data=[[0, 0, "3"]]), 'holds "3" where a number'),
    (dict(data=[[0, 0, True]]), "holds true where a number"),
    (dict(data=[[0, 0, None]]), "holds null"), (dict(data=[[0, 0, [1]]]), r"holds \[1\] where"),
    (dict(data=[[0, 0, 3], [1, 2, 4], [1, 2, 5]]), "feature 'CAAAAAAA' comes 2 times for sample 'S2'"),
    (dict(data=[[0, 3, 3]]), r"outside the 3 features and 3 samples \(row 0, column 3\)"),
    (dict(data=[[-1, 0, 3]]), "outside the 3"), (dict(data=[[.5, 0, 3]]), "row 0.5, column 0"),
    (dict(columns=["S0", "S1", "S2"]), "its 'columns' are not a list of objects with an 'id'"),
    (dict(columns=[dict(id=o) for o in ("S0", "S\t1", "S2")]), "1 sample id has a tab"),
    (dict(rows=[dict(id=o) for o in ("AC\nGT", "A\u2028A", "TT")]), "2 feature ids have tabs, line breaks"),
    (dict(columns=[dict(id=o) for o in ("S0", "S\ud800", "S2")]), "1 sample id has a tab"),
    (dict(data=[[0, 0, 10**400]]), "cannot be read as BIOM 1.0"),
])
def test_json_that_contradicts_itself(tmp_path, change, says):
    with pytest.raises(AamError, match=f"old.biom.*({says})"): read_table(old(tmp_path/"old.biom", **change))


@pytest.mark.parametrize("change, says", [
    (('"shape"', '"data": [], "shape"'), "the key 'data' occurs more than once"),
    (('"id": "S1"', '"id": "S1", "id": "S7"'), "the key 'id' occurs more than once"),
    (("[0, 0, 3]", "[0, 0, NaN]"), "NaN is no count"),
    (("[0, 0, 3]", "[0, 0, -Infinity]"), "-Infinity is no count"),
    (("[0, 0, 3]", "[0, 0, 1e400]"), "feature 'AAAAAAAA' has inf"),
    (("[0, 0, 3]", "[0, 0, 1_0]"), "BIOM 1.0"),
    (("[0, 0, 3]", f"[0, 0, {'9'*5000}]"), "holds a number of thousands of digits"),
    (("[0, 0, 3]", "["*100_000), "nests brackets too deeply"),
    (("[0, 0, 3]", '{"a":'*100_000), "nests brackets"),
])
def test_json_text_that_is_not_sound(tmp_path, change, says):
    text = json.dumps(as_json(TINY))
    assert change[0] in text
    with pytest.raises(AamError, match=f"old.biom.*{says}"):
        read_table(old(tmp_path/"old.biom", text.replace(*change, 1)))


@pytest.mark.parametrize("name", ["S\t1", "S\n1", "S\r1", "S\x0b1", "S\x851", "S\u20281"])
def test_ids_that_would_break_a_line_are_refused(tmp_path, name):
    write_table(table([[3, 0], [1, 2]], ["S0", "x"]), tmp_path/"t.biom")
    for axis, ids in (("sample", ["S0", name]), ("observation", [name, "ACGT"])):
        write_table(table([[3, 0], [1, 2]]), tmp_path/"t.biom")
        with h5py.File(tmp_path/"t.biom", "a") as f:
            del f[f"{axis}/ids"]
            f.create_dataset(f"{axis}/ids", data=ids, dtype=h5py.string_dtype())
        with pytest.raises(AamError, match="t.biom: 1 (sample|feature) id has a tab, a line break or other"):
            read_table(tmp_path/"t.biom")
