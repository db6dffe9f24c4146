"BIOM files: equal to biom-format's own reading, and refused by name where they are not sound."

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_forms import TINY, same, table

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
