"The store: what goes in comes out; what is damaged, stale or foreign is refused; builders do not collide."
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse
from small_stores import made, reordered

import aam_nb.batches.manifest as manifest_page
from aam_nb.batches.build import build_store
from aam_nb.batches.ragged import ragged
from aam_nb.batches.store import open_store
from aam_nb.core import AamError, digest
from aam_nb.data.tokens import identity_signs, sequence_keys, tokenize
from aam_nb.types import Study, Table, strings


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.booleans())
def test_round_trip(seed, tree):
    study = made(seed, tree=tree)
    store = build_store(study)
    order = np.argsort(study.table.sequences)
    assert list(store.sequences) == sorted(study.table.sequences)
    assert list(store.sample_ids) == list(study.ids)
    assert (store.counts().toarray() == study.table.counts[:, order].toarray()).all()
    assert store.reads.min() > 0
    assert (store.depths == study.table.depths).all() and len(store) == 7
    assert (store.tokens == tokenize(sorted(study.table.sequences))).all()
    assert (store.keys == sequence_keys(store.sequences)).all()
    assert (store.identity(16) == identity_signs(store.sequences, 16)).all()
    for i in range(7): assert (np.diff(store.asv[store.indptr[i]:store.indptr[i+1]]) > 0).all()
    if not tree: assert store.tree is None and store.tip is None
    else:
        assert all(s == store.tree.tips[t] for s, t in zip(store.sequences, store.tip, strict=True) if t >= 0)
        assert (store.tree.length == study.tree.length).all() and (store.tree.stop == study.tree.stop).all()
    rows = np.random.default_rng(seed).integers(0, 7, 5)
    assert (store.counts(rows).toarray() == store.counts().toarray()[rows]).all()

@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_ragged_equals_a_loop(lengths, data):
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=9))
    at, offsets = ragged(indptr, rows)
    parts = [list(range(indptr[r], indptr[r+1])) for r in rows]
    assert at.tolist() == sum(parts, []) and offsets.tolist() == np.cumsum([0, *map(len, parts)]).tolist()

def test_equal_content_equal_digest(tmp_path):
    study = made()
    other_way = reordered(study, np.random.default_rng(1).permutation(30))
    one, two = build_store(study, tmp_path/"one"), build_store(other_way, tmp_path/"two")
    assert one.digest == two.digest == build_store(study).digest
    for name in ("tokens", "indptr", "asv", "reads", "keys", "tip"):
        assert (getattr(one, name) == getattr(two, name)).all()
    other = replace(study, metadata=study.metadata.assign(age=7.))
    assert build_store(other).digest != one.digest == build_store(replace(study, notes=())).digest
    study.table.counts.data[0] += 1
    assert build_store(study).digest != one.digest

def test_a_store_that_stands_is_used_and_another_is_replaced(tmp_path):
    build_store(made(), tmp_path/"store")
    before = (tmp_path/"store"/"manifest.json").stat().st_ino
    build_store(made(), tmp_path/"store")
    assert (tmp_path/"store"/"manifest.json").stat().st_ino == before
    other = build_store(made(5, tree=False), tmp_path/"store")
    assert (tmp_path/"store"/"manifest.json").stat().st_ino != before
    assert open_store(tmp_path/"store").digest == other.digest
    assert not (tmp_path/"store"/"tip.npy").exists() and [o.name for o in tmp_path.iterdir()] == ["store"]

def test_arrays_are_mapped_and_read_only(tmp_path):
    store = build_store(made(), tmp_path/"store")
    assert isinstance(store.reads.base, np.memmap)
    for name in ("tokens", "reads", "asv", "indptr", "keys", "tip"):
        with pytest.raises(ValueError, match="read-only"): getattr(store, name)[0] = 1
        with pytest.raises(ValueError, match="read-only"): getattr(build_store(made()), name)[0] = 1

def test_a_pickled_store_is_a_folder_name(tmp_path):
    store = build_store(made(), tmp_path/"store")
    sent = pickle.dumps(store)
    assert len(sent) < 400
    assert pickle.loads(sent).digest == store.digest
    build_store(made(5), tmp_path/"store")
    with pytest.raises(AamError, match="was rebuilt"): pickle.loads(sent)
    memory = pickle.loads(pickle.dumps(build_store(made())))
    assert (memory.counts() != store.counts()).nnz == 0

@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, seed):
    "A flip in padding may change nothing; otherwise our error, never a crash, never other data."
    study = made()
    whole = build_store(study, tmp_path/"store")
    rng = np.random.default_rng(seed)
    refused = 0
    for path in sorted((tmp_path/"store").iterdir()):
        data = path.read_bytes()
        for at in {*rng.integers(0, len(data), 12).tolist(), 0, 8, len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at+1:])
            try: store = open_store(tmp_path/"store")
            except AamError: refused += 1
            else: assert store.digest == whole.digest and (store.counts() != whole.counts()).nnz == 0
        path.write_bytes(data)
    assert refused > 80

def test_each_file_cut_short_absent_or_emptied_is_named(tmp_path):
    build_store(made(), tmp_path/"store")
    for path in sorted((tmp_path/"store").iterdir()):
        data = path.read_bytes()
        for cut in (0, 1, 70, len(data)//2, len(data) - 2): # The last byte of the JSON is a newline
            path.write_bytes(data[:cut])
            with pytest.raises(AamError, match=path.name): open_store(tmp_path/"store")
        path.unlink()
        with pytest.raises(AamError, match=path.name): open_store(tmp_path/"store")
        path.write_bytes(data)
    open_store(tmp_path/"store")

def test_a_damaged_store_is_built_again(tmp_path):
    whole = build_store(made(), tmp_path/"store")
    for name in ("manifest.json", "reads.npy", "tokens.npy"):
        (tmp_path/"store"/name).write_bytes(b"")
        assert build_store(made(), tmp_path/"store").digest == whole.digest
        open_store(tmp_path/"store")

def test_another_layout_is_stale(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(manifest_page, "LAYOUT", 0)
        build_store(made(), tmp_path/"store")
    with pytest.raises(AamError, match="has layout 0, wanted 2.*build_store"): open_store(tmp_path/"store")
    build_store(made(), tmp_path/"store")
    open_store(tmp_path/"store")

def test_what_is_not_ours_is_refused_and_left(tmp_path):
    (tmp_path/"file").write_text("notes")
    (tmp_path/"thesis").mkdir()
    (tmp_path/"thesis"/"one.tex").touch()
    (tmp_path/"web").mkdir()
    (tmp_path/"web"/"manifest.json").write_text('{"kind": "web app"}')
    (tmp_path/"empty").mkdir()
    for name, why in (("file", "is a file"), ("thesis", "'one.tex'"), ("web", "not from a store")):
        with pytest.raises(AamError, match=why): build_store(made(), tmp_path/name)
        with pytest.raises(AamError, match="is not a store"): open_store(tmp_path/name)
    assert (tmp_path/"web"/"manifest.json").read_text() == '{"kind": "web app"}'
    assert (tmp_path/"file").read_text() == "notes"
    assert len(build_store(made(), tmp_path/"empty")) == 7
    with pytest.raises(AamError, match="Choose a place you can write to"):
        build_store(made(), tmp_path/"file"/"store")

def test_a_pickle_in_place_of_an_array_is_not_loaded(tmp_path):
    build_store(made(), tmp_path/"store")
    np.save(tmp_path/"store"/"sequences.npy", strings(["A", "C"]), allow_pickle=True)
    with pytest.raises(AamError, match="sequences.npy cannot be mapped"):
        open_store(tmp_path/"store", check=False)

def test_a_manifest_that_lies_about_its_arrays_is_refused(tmp_path):
    build_store(made(), tmp_path/"store")
    path = tmp_path/"store"/"manifest.json"
    for change in (dict(arrays=json.loads(path.read_text())["arrays"] | {"../secret": "0"}), dict(arrays=7),
                   dict(arrays={})):
        manifest = json.loads(path.read_text()) | change
        del manifest["seal"]
        (tmp_path/"store"/"manifest.json").write_text(json.dumps(manifest | dict(seal=digest(manifest))))
        with pytest.raises(AamError, match="manifest.json was altered"): open_store(tmp_path/"store")

@settings(max_examples=30)
@given(st.data())
def test_metadata_come_back(data):
    "Any text in any cell, column or id; numbers to the last digit; the types and gaps of `read_metadata`."
    n = data.draw(st.integers(1, 4))
    text = st.text(max_size=6, alphabet=st.characters(exclude_categories=["Cs"]))
    ids = data.draw(st.lists(text.filter(bool), min_size=n, max_size=n, unique=True))
    columns = {}
    for name in data.draw(st.lists(text, max_size=3, unique=True)):
        cell = data.draw(st.sampled_from([st.floats(), st.one_of(text.filter(bool), st.just(np.nan))]))
        values = data.draw(st.lists(cell, min_size=n, max_size=n))
        columns[name] = np.array(values, object if any(isinstance(o, str) for o in values) else float)
    frame = pd.DataFrame(columns, index=pd.Index(strings(ids), dtype=object, name="sample_id"))
    table = Table(counts=sparse.csr_matrix(np.ones((n, 1), np.int32)), sample_ids=strings(ids),
                  sequences=strings(["ACGT"]))
    pd.testing.assert_frame_equal(build_store(Study(table=table, metadata=frame)).metadata, frame,
                                  check_exact=True, check_column_type=False)

def test_a_study_comes_back_as_views(tmp_path):
    study = made()
    store = build_store(study, tmp_path/"store")
    back = store.study()
    order = np.argsort(study.table.sequences)
    assert (back.table.counts != study.table.counts[:, order]).nnz == 0 and back.notes == study.notes
    assert list(back.ids) == list(study.ids)
    assert list(back.table.sequences) == list(study.table.sequences[order])
    assert (back.tip == study.tip[order]).all() and list(back.tree.tips) == list(study.tree.tips)
    pd.testing.assert_frame_equal(back.metadata, study.metadata)
    assert np.shares_memory(back.table.counts.data, store.reads)
    assert np.shares_memory(back.table.counts.indices, store.asv)
    with pytest.raises(ValueError, match="read-only"): back.table.counts.data[0] = 1
    assert build_store(back).digest == store.digest and len(back.table.samples([2, 0]).sample_ids) == 2
    plain = build_store(made(tree=False)).study()
    assert plain.metadata is None and plain.tree is None and plain.tip is None

def test_a_large_store_is_read_only_when_it_was_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_page, "_ALWAYS_READ", 0)
    read = []
    by_blocks = manifest_page._read_by_blocks
    monkeypatch.setattr(manifest_page, "_read_by_blocks", lambda *o: read.append(o) or by_blocks(*o))
    build_store(made(), tmp_path/"store")
    path = tmp_path/"store"/"reads.npy"
    whole = path.read_bytes()
    read.clear()
    open_store(tmp_path/"store")
    assert not read # Nobody wrote to it
    open_store(tmp_path/"store", check=True)
    assert len(read) == len(json.loads((tmp_path/"store"/"manifest.json").read_text())["arrays"])
    path.write_bytes(whole[:-1] + b"\7")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**7)) # As if written a moment later
    with pytest.raises(AamError, match="reads.npy' was altered"): open_store(tmp_path/"store")
    path.write_bytes(whole[:-4])
    with pytest.raises(AamError, match="reads.npy cannot be mapped"):
        open_store(tmp_path/"store", check=False)
    path.write_bytes(whole)
    open_store(tmp_path/"store")
    (tmp_path/"store"/"metadata.tsv").write_bytes(b"sample_id\n")
    with pytest.raises(AamError, match="metadata.tsv has type .u1 and shape"):
        open_store(tmp_path/"store", check=False)

def test_nothing_to_store(tmp_path):
    study = made(tree=False)
    for table in (study.table.samples([]),
                  Table(counts=study.table.counts[:, :0], sample_ids=study.ids, sequences=strings([]))):
        with pytest.raises(AamError, match="it has no (samples|ASVs)"):
            build_store(Study(table=table), tmp_path/"store")
    assert not list(tmp_path.iterdir())

BUILDER = """
import sys; sys.path.insert(0, {tests!r})
from test_store import made, build_store
study = made(3, samples=300, asvs=400)
print("ready", flush=True); sys.stdin.readline()
print(build_store(study, {folder!r}).digest)
"""

@pytest.mark.parametrize("stale", [False, True])
def test_two_builders_at_once_end_with_one_whole_store(tmp_path, stale):
    if stale: build_store(made(5), tmp_path/"store")
    tests = Path(__file__).parent
    code = BUILDER.format(tests=str(tests), folder=str(tmp_path/"store"))
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(tests.parent))
    pipe = subprocess.PIPE
    both = [subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True,
                             env=env) for _ in range(2)]
    for o in both: assert o.stdout.readline() == "ready\n", o.stderr.read()
    for o in both:
        o.stdin.write("\n")
        o.stdin.flush()
    done = [o.communicate(timeout=60) for o in both]
    assert [o.returncode for o in both] == [0, 0], done
    assert done[0][0].strip() == done[1][0].strip() == open_store(tmp_path/"store").digest
    assert [o.name for o in tmp_path.iterdir()] == ["store"]

def test_what_killed_builders_left_is_swept(tmp_path):
    for name in (".store.999999999.part", ".store.999999998.old", ".other.123.part", ".store.mine.part"):
        (tmp_path/name).mkdir()
    (tmp_path/".store.lock").touch()
    build_store(made(), tmp_path/"store")
    assert sorted(o.name for o in tmp_path.iterdir()) == [".other.123.part", ".store.mine.part", "store"]
