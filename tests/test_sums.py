"Columns and rows that are sums of the others are left out of every form of a table, and nothing else is."
import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_forms import as_json, as_tsv, numbered, same, table

from aam_nb.batches.stream import cache_biom
from aam_nb.data.biom import write_table
from aam_nb.data.slices import open_table
from aam_nb.data.table import read_table

NOTE = "is the sum of all other"


def made(samples=6, asvs=9, seed=1):
    rng = np.random.default_rng(seed)
    some = rng.integers(0, 90, (samples, asvs))*(rng.random((samples, asvs)) < .6)
    return some + np.eye(samples, asvs, dtype=int)


def with_sums(counts, name, row=True, column=False):
    "A table with a sample and a feature more that are sums."
    ids, features = [f"S{i}" for i in range(len(counts))], [numbered(i) for i in range(counts.shape[1])]
    if row: counts, ids = np.vstack([counts, counts.sum(0)]), [*ids, name]
    if column: counts, features = np.column_stack([counts, counts.sum(1)]), [*features, name]
    return table(counts, ids, features)


def written(t, folder, form):
    "One form of a table; ids may be anything."
    path = folder/f"t.{form}"
    if form == "biom": write_table(t, path)
    if form == "tsv": path.write_text(as_tsv(t))
    if form == "json": path.write_text(json.dumps(as_json(t)))
    if form == "dense.json": path.write_text(json.dumps(as_json(t, dense=True)))
    return path


@pytest.mark.parametrize("form", ["biom", "tsv", "json", "dense.json"])
@pytest.mark.parametrize("name", ["total", "Total", "SUM", "Grand total", "pooled", "x"])
@pytest.mark.parametrize("row, column", [(True, False), (False, True), (True, True)])
def test_sums_are_left_out_with_a_note(tmp_path, form, name, row, column):
    counts = made()
    t = read_table(written(with_sums(counts, name, row, column), tmp_path, form))
    same(t, table(counts))
    notes = [o for o in t.notes if NOTE in o]
    assert len(notes) == row + column and all(f"'{name}'" in o for o in notes)


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("zeros", [False, True])
def test_slices_leave_them_out_as_well(tmp_path, place, zeros):
    counts = made()
    rows = np.insert(counts, place, counts.sum(0), 0)
    ids = [f"S{i}" for i in range(6)]
    ids.insert(place, "total")
    write_table(table(rows, ids), tmp_path/"t.biom")
    if zeros: # A file that stores its zeros too
        with h5py.File(tmp_path/"t.biom", "a") as f:
            for o in ("data", "indices", "indptr"): del f[f"sample/matrix/{o}"]
            f["sample/matrix/data"] = rows.ravel().astype(float)
            f["sample/matrix/indices"] = np.tile(np.arange(9), 7)
            f["sample/matrix/indptr"] = np.arange(8)*9
    whole = read_table(tmp_path/"t.biom")
    with open_table(tmp_path/"t.biom") as slices:
        assert len(slices) == 6 and list(slices.sample_ids) == list(whole.sample_ids)
        for a in range(7):
            for b in range(a, 7): assert (slices.counts(a, b) != whole.counts[a:b]).nnz == 0
        assert slices.notes == whole.notes and len(slices.indptr) == 7
    same(whole, table(counts))
    store = cache_biom(tmp_path/"t.biom", tmp_path/"store")
    assert "total" not in list(store.study().ids) and store.study().table.counts.sum() == counts.sum()


def test_a_table_of_many_slices(tmp_path):
    counts = made(300, 40)
    for row, column in ((True, False), (False, True), (True, True)):
        write_table(with_sums(counts, "all of them", row, column), tmp_path/"t.biom")
        with open_table(tmp_path/"t.biom") as slices:
            assert (slices.counts(0, 300).toarray() == counts).all() and len(slices.sequences) == 40


@pytest.mark.parametrize("counts, name, out", [
    ([[3, 1, 5, 2, 4, 1]], "total", True), ([[3, 1, 5, 2, 4, 1]], "S9", False),
    ([[3, 1, 5, 2, 4, 1], [1]*6], "total", True), ([[3, 1, 5, 2, 4, 1], [1]*6], "S9", False),
    ([[3, 1, 5, 2, 4, 1], [1]*6, [2, 0, 1, 1, 0, 7]], "S9", True), ([[3, 1], [1, 0], [2, 5]], "S9", False),
    ([[3, 1, 5, 2, 4, 1], [0]*6, [0]*6], "S9", False)])
def test_few_samples_need_a_name_that_says_so(tmp_path, counts, name, out):
    t = read_table(written(with_sums(np.array(counts), name), tmp_path, "tsv"))
    assert (name not in t.sample_ids) == out
    assert any(NOTE in o for o in t.notes) == out


def test_several_sums(tmp_path):
    counts = made()
    rows = np.vstack([counts, counts.sum(0), counts.sum(0)])
    t = read_table(written(table(rows, [*(f"S{i}" for i in range(6)), "total", "Sum"]), tmp_path, "tsv"))
    same(t, table(counts))
    assert "'total', 'Sum' are sums of the other samples" in t.notes[0]


def test_a_sample_that_is_only_called_a_sum_stays(tmp_path):
    counts = made()
    rows = np.vstack([counts, counts.sum(0) + np.eye(9, dtype=int)[0]])
    t = read_table(written(table(rows, [*(f"S{i}" for i in range(6)), "Total"]), tmp_path, "tsv"))
    assert len(t.sample_ids) == 7 and "'Total' is named like a sum, but is not the sum" in t.notes[0]


@settings(max_examples=100)
@given(st.integers(1, 9), st.integers(5, 12), st.integers(0, 10**6))
def test_ordinary_tables_have_none(tmp_path_factory, samples, asvs, seed):
    counts = made(samples, asvs, seed)
    t = read_table(written(table(counts), tmp_path_factory.getbasetemp(), "tsv"))
    same(t, table(counts))
    assert not any(NOTE in o for o in t.notes)


def test_the_check_ends_at_the_first_samples_of_an_ordinary_table():
    from scipy import sparse

    from aam_nb.data.totals import without_sums
    counts, read = sparse.csr_matrix(made(2000, 50)), []
    def rows(a, b):
        read.append(b - a)
        return counts[a:b]
    without_sums(rows, np.diff(counts.indptr), [str(i) for i in range(2000)], ["x"]*50, "t")
    assert sum(read) < 400


def test_predict_and_embed_leave_them_out_and_say_so(tmp_path, capsys):
    from aam_nb.runs.predict import as_store
    counts = made()
    store = as_store(written(with_sums(counts, "pooled"), tmp_path, "biom"))
    assert list(store.study().ids) == [f"S{i}" for i in range(6)]
    said = capsys.readouterr().err
    assert said.startswith("note: ") and "'pooled' is the sum of all other samples" in said


def test_inspect_says_so(tmp_path):
    from aam_nb.config import config_from
    from aam_nb.runs.inspect import inspect_run
    path, said = written(with_sums(made(), "pooled"), tmp_path, "tsv"), []
    inspect_run(config_from({"data": dict(table=str(path))}), say=said.append)
    assert said[0].startswith("note: ") and "'pooled' is the sum of all other samples" in said[0]
    assert "6 samples, 9 ASVs" in said[-1]
