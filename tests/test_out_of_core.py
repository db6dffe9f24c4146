"A store by slices is that of the whole table, whatever kills it, whoever builds it too, whatever is damaged."
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import aam_nb.batches.stream as stream_page
from aam_nb.batches.build import build_store
from aam_nb.batches.cache import Cache
from aam_nb.batches.sample_batches import PlainBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.store import open_store
from aam_nb.batches.stream import cache_biom
from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.study import make_study
from aam_nb.data.slices import open_table
from aam_nb.data.table import read_table
from aam_nb.data.tree import newick, parse_newick, read_tree
from aam_nb.types import Table, strings

TESTS = Path(__file__).parent


def random_table(data):
    "Any valid table: blank samples and ASVs, counts of any size, sequences that fold to one."
    n, m = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    cells = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 7, 2**30]), min_size=n*m,
                               max_size=n*m).filter(any))
    samples = data.draw(st.lists(st.text("aé0. #'\"-", min_size=1, max_size=5).map(str.strip).filter(bool),
                                 min_size=n, max_size=n, unique=True))
    sequences = data.draw(st.lists(st.text("ACGTNacgu", min_size=1, max_size=6), min_size=m, max_size=m,
                                   unique=True))
    return Table(counts=sparse.csr_matrix(np.reshape(cells, (n, m)).astype(np.int32)),
                 sample_ids=strings(samples), sequences=strings(sequences))


def around(table, data):
    "Metadata that lack some samples, a choice of samples, a tree that lacks some ASVs; each of them perhaps."
    metadata = tree = None
    where = ""
    if data.draw(st.booleans()):
        have = data.draw(st.lists(st.sampled_from(table.sample_ids.tolist()), min_size=1, unique=True))
        n = len(have)
        site = ["gut", *data.draw(st.lists(st.sampled_from(["gut", "skin"]), min_size=n, max_size=n))]
        metadata = pd.DataFrame(dict(site=site, age=np.arange(len(site))/7),
                                index=pd.Index(strings(["spare", *have]), dtype=object))
        where = data.draw(st.sampled_from(["", "site == gut"]))
    if data.draw(st.booleans()):
        known = sorted({o.upper().replace("U", "T") for o in table.sequences})
        tips = data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
        tree = parse_newick(f"(({','.join(f'{o}:{i + 1}' for i, o in enumerate(tips))}):.5,other:3);")
    return dict(metadata=metadata, tree=tree, where=where)


def fresh(folder, name):
    "A place that is empty, in a folder that hypothesis uses again and again."
    shutil.rmtree(folder/name, ignore_errors=True)
    return folder/name


@settings(max_examples=30)
@given(st.data())
def test_slices_end_with_the_store_of_the_whole_table(tmp_path_factory, data):
    "The oracle is `build_store` of the study in memory: content, notes and errors are the same."
    folder = tmp_path_factory.getbasetemp()
    table = random_table(data)
    write_table(table, folder/"any.biom")
    more = around(table, data)
    def oracle():
        return build_store(make_study(read_table(folder/"any.biom"), more["metadata"], more["tree"], "drop",
                                      more["where"]))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stream_page, "_SLICE", data.draw(st.integers(1, 9)))
        try: wanted = oracle()
        except AamError as e:
            with pytest.raises(AamError) as found:
                cache_biom(folder/"any.biom", fresh(folder, "s"), missing="drop", **more)
            assert str(found.value)[:30] == str(e)[:30]
            assert not [o for o in folder.iterdir() if o.name.startswith(".s.")]
            return
        store = cache_biom(folder/"any.biom", fresh(folder, "s"), missing="drop", **more)
    assert store.digest == wanted.digest and store.manifest["notes"] == wanted.manifest["notes"]
    assert store.manifest["arrays"] == wanted.manifest["arrays"]
    assert open_store(folder/"s", check=True).digest == store.digest
    assert not [o for o in folder.iterdir() if o.name.startswith(".s.")]


@settings(max_examples=30)
@given(st.data())
def test_any_table_survives_to_the_batch(tmp_path_factory, data):
    "write -> read -> store -> batch: each sample's reads of each sequence are what they were."
    folder = tmp_path_factory.getbasetemp()
    table = random_table(data)
    write_table(table, folder/"to_batch.biom")
    wanted = [{} for _ in table.sample_ids]
    for i, j, v in zip(*sparse.find(table.counts)):
        name = table.sequences[j].upper().replace("U", "T")
        wanted[i][name] = wanted[i].get(name, 0) + int(v)
    store = cache_biom(folder/"to_batch.biom", fresh(folder, "b"))
    found = {}
    for batch in PlainBatches(SampleDataset(store), batch=3):
        names = store.sequences[batch.rows.numpy()]
        for i, row in enumerate(batch.index.tolist()):
            at = slice(batch.offsets[i], batch.offsets[i+1])
            found[row] = {names[a]: int(c) for a, c in zip(batch.asv[at], batch.counts[at])}
    for i, own in enumerate(wanted):
        assert found[i] == {k: int(np.float32(v)) for k, v in own.items()} # A batch holds reads as float32
    kept = store.counts().toarray() # A store holds whole numbers
    for i, own in enumerate(wanted):
        assert {k: int(v) for k, v in zip(store.sequences, kept[i], strict=True) if v} == own
    assert list(store.sample_ids) == list(table.sample_ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A study of 150 samples as files, and the store that it shall end with."
    folder = tmp_path_factory.mktemp("files")
    study = simulate(150, 300, seed=4, depth=2000)
    write_study(study, folder)
    return folder, build_store(make_study(read_table(folder/"table.biom"),
                                          read_metadata(folder/"metadata.tsv"), read_tree(folder/"tree.nwk")))


def build(files, folder, entries=1000, progress=None):
    "The store by slices of so many counts."
    files, folder = Path(files), Path(folder)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stream_page, "_SLICE", entries)
        return cache_biom(files/"table.biom", folder, read_metadata(files/"metadata.tsv"),
                          read_tree(files/"tree.nwk"), progress=progress)


def test_other_forms_are_read_at_once(files, tmp_path):
    import gzip
    import zipfile
    biom = (files[0]/"table.biom").read_bytes()
    (tmp_path/"t.biom.gz").write_bytes(gzip.compress(biom, 1))
    with zipfile.ZipFile(tmp_path/"t.qza", "w") as z:
        z.writestr("6e4d/metadata.yaml", "uuid: 6e4d\ntype: FeatureTable[Frequency]\n")
        z.writestr("6e4d/data/feature-table.biom", biom)
    for name in ("t.biom.gz", "t.qza"):
        about, tree = read_metadata(files[0]/"metadata.tsv"), read_tree(files[0]/"tree.nwk")
        assert cache_biom(tmp_path/name, tmp_path/"store", about, tree).digest == files[1].digest


def test_a_build_goes_on_where_it_was_stopped(files, tmp_path):
    calls = []
    build(files[0], tmp_path/"whole", progress=lambda *o: calls.append(o))
    assert [o for o, _ in calls] == sorted({o for o, _ in calls}) and calls[-1] == (150, 150)
    assert len(calls) > 9
    for stop in (1, 5, len(calls)):
        seen = []
        def until(*o, seen=seen, stop=stop):
            seen.append(o)
            if len(seen) == stop: raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): build(files[0], tmp_path/"store", progress=until)
        assert not (tmp_path/"store").exists() and (tmp_path/".store.building").is_dir()
        assert build(files[0], tmp_path/"store", progress=lambda *o,
                     seen=seen: seen.append(o)).digest == files[1].digest
        assert seen == calls # Each slice was read once
        assert sorted(o.name for o in tmp_path.iterdir()) == ["store", "whole"]
        shutil.rmtree(tmp_path/"store")
    before = (tmp_path/"whole"/"manifest.json").stat().st_ino
    again = []
    build(files[0], tmp_path/"whole", progress=lambda *o: again.append(o))
    assert not again and (tmp_path/"whole"/"manifest.json").stat().st_ino == before # Known by its inputs


def test_what_an_earlier_build_left_is_used_only_where_it_fits(files, tmp_path):
    "Other inputs, a file cut short, notes that were altered: begun anew. Bytes after the last note: cut off."
    def stopped():
        def stop(done, _):
            if done > 60: raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): build(files[0], tmp_path/"store", progress=stop)
        return tmp_path/".store.building"
    def first():
        seen = []
        assert build(files[0], tmp_path/"store", progress=lambda o,
                     _: seen.append(o)).digest == files[1].digest
        return seen[0]
    for name in ("asv", "reads", "lengths"):
        with open(stopped()/name, "ab") as f: f.write(b"torn by a kill")
        assert first() > 60
        shutil.rmtree(tmp_path/"store")
        o = stopped()/name
        o.write_bytes(o.read_bytes()[:-1])
        assert first() < 60
        shutil.rmtree(tmp_path/"store")
    for text in ("", "[]", "{}", '{"done": 3}'):
        (stopped()/"done.json").write_text(text)
        assert first() < 60
        shutil.rmtree(tmp_path/"store")
    stopped()
    other = cache_biom(files[0]/"table.biom", tmp_path/"store") # Without metadata and tree
    assert other.tree is None and other.metadata is None and [o.name for o in tmp_path.iterdir()] == ["store"]
    stopped()
    build_store(simulate(40, 30), tmp_path/"store")
    assert [o.name for o in tmp_path.iterdir()] == ["store"]


SERVER = """
import os, resource, sys, traceback
sys.path.insert(0, {tests!r})
import test_out_of_core as tests
print("ready", flush=True)
for line in sys.stdin:
    what, *args = line.split()
    if what == "wait":
        print(os.waitpid(int(args[0]), 0)[1], flush=True)
        continue
    pid = os.fork()
    if not pid:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            getattr(tests, what)(*args)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(pid, flush=True)
"""


class Server:
    "Imports once, then runs each call in a process of its own, which may be killed or crash."
    def __init__(self):
        env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(TESTS.parent), PYTHONWARNINGS="ignore")
        pipe = subprocess.PIPE
        self.child = subprocess.Popen([sys.executable, "-c", SERVER.format(tests=str(TESTS))], stdin=pipe,
                                      stdout=pipe, text=True, env=env)
        assert self.child.stdout.readline() == "ready\n"

    def start(self, *words):
        self.child.stdin.write(" ".join(map(str, words)) + "\n")
        self.child.stdin.flush()
        return int(self.child.stdout.readline())

    def wait(self, pid): return self.start("wait", pid) # 0, or what ended the process

    def close(self):
        self.child.stdin.close()
        self.child.wait(timeout=60)


@pytest.fixture(scope="module")
def server():
    out = Server()
    yield out
    out.close()


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_next_build_is_whole(files, server, tmp_path, kills):
    rng, killed, whole = np.random.default_rng(kills), 0, np.inf
    for _ in range(3): # On a busy machine a single time says little
        start = time.perf_counter()
        assert server.wait(server.start("build", files[0], tmp_path/"store")) == 0
        whole = min(whole, time.perf_counter() - start)
        shutil.rmtree(tmp_path/"store")
    for _ in range(kills):
        pid = server.start("build", files[0], tmp_path/"store")
        time.sleep(rng.uniform(0, whole))
        os.kill(pid, signal.SIGKILL) # Still there for the server to wait for, even where it has ended
        killed += server.wait(pid) == signal.SIGKILL
        # Whole or absent
        if (tmp_path/"store").exists():
            assert open_store(tmp_path/"store", check=True).digest == files[1].digest
        assert build(files[0], tmp_path/"store").digest == files[1].digest
        assert open_store(tmp_path/"store", check=True).digest == files[1].digest
        assert [o.name for o in tmp_path.iterdir()] == ["store"]
        shutil.rmtree(tmp_path/"store")
    assert killed >= kills/4


def test_two_builders_by_slices_end_with_one_whole_store(files, server, tmp_path):
    both = [server.start("build", files[0], tmp_path/"store") for _ in range(2)]
    assert [server.wait(o) for o in both] == [0, 0]
    assert open_store(tmp_path/"store", check=True).digest == files[1].digest
    assert [o.name for o in tmp_path.iterdir()] == ["store"]


def ask_cache(folder):
    "A costly result that says so when it is made."
    def make():
        open(f"{folder}/made-{os.getpid()}", "w").close()
        time.sleep(1)
        return np.arange(1000)
    assert (Cache(f"{folder}/cache").array("numbers", dict(n=1000), make) == np.arange(1000)).all()


def test_a_cached_result_is_made_by_one_process_and_survives_kills(server, tmp_path):
    pid = server.start("ask_cache", tmp_path)
    time.sleep(.5)
    os.kill(pid, signal.SIGKILL)
    server.wait(pid)
    for o in tmp_path.glob("made-*"): o.unlink()
    three = [server.start("ask_cache", tmp_path) for _ in range(3)]
    assert [server.wait(o) for o in three] == [0, 0, 0] and len(list(tmp_path.glob("made-*"))) == 1
    ask_cache(tmp_path)
    assert len(list(tmp_path.glob("made-*"))) == 1 and len(list((tmp_path/"cache").iterdir())) == 1


# Damage. The readers run in a process of their own, whose memory is bounded: a crash or a byte too many ends
# it, and the test sees that.


def damage_inputs(folder, kind, rounds):
    "Damage an input again and again, and read it. Writes how often it was refused, and the memory (MiB)."
    folder, rounds, refused = Path(folder), int(rounds), 0
    rng = np.random.default_rng(len(kind))
    name = dict(table="table.biom", metadata="metadata.tsv", tree="tree.nwk", store="store/asv.npy",
                manifest="store/manifest.json")[kind]
    whole = (folder/name).read_bytes()
    full = np.flatnonzero(np.frombuffer(whole, np.uint8))
    def read():
        if kind == "table": return cache_biom(folder/name, folder/"again")
        if kind in ("store", "manifest"): return open_store(folder/"store")
        return (read_metadata if kind == "metadata" else read_tree)(folder/name)
    for i in range(rounds):
        data = bytearray(whole)
        if i % 8 == 7: data = data[:int(rng.integers(len(data)))]
        else:
            # HDF5 is mostly zeros: most flips go where there is something
            for _ in range(int(rng.integers(1, 5))):
                data[rng.choice(full) if rng.random() < .8 else rng.integers(len(data))] = rng.integers(256)
        (folder/name).write_bytes(data)
        try: read()
        except AamError as e:
            refused += 1
            assert Path(name).name in str(e) or "store" in str(e), e
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
    (folder/"found.json").write_text(json.dumps([refused, most]))


@pytest.mark.parametrize("kind, rounds",
                         [("table", 120), ("metadata", 60), ("tree", 60), ("store", 60), ("manifest", 60)])
def test_damaged_inputs_are_refused_or_harmless_in_little_memory(server, tmp_path, kind, rounds):
    study = simulate(60, 200, seed=6, depth=500)
    write_study(study, tmp_path)
    build_store(study, tmp_path/"store")
    assert server.wait(server.start("damage_inputs", tmp_path, kind, rounds)) == 0
    refused, memory = json.loads((tmp_path/"found.json").read_text())
    assert refused > rounds/8 and memory < 1024


@pytest.mark.parametrize("name, claim, says", [
    ("matrix/data", dict(shape=10**12, dtype="f8", chunks=10**6), "claims 8,000,000,000,000 bytes"),
    ("matrix/indptr", dict(shape=10**10, dtype="i4", chunks=10**5), "claims 40,000,000,000 bytes"),
    ("ids", dict(shape=10**10, dtype="S20", chunks=10**5), "claims 200,000,000,000 bytes"),
    ("matrix/data", dict(data=np.ones(10**7), chunks=10**7, compression="gzip"),
     "has chunks of 80,000,000 bytes"),
])
def test_what_hdf5_claims_is_checked_before_it_is_read(files, tmp_path, name, claim, says):
    import h5py
    (tmp_path/"t.biom").write_bytes((files[0]/"table.biom").read_bytes())
    with h5py.File(tmp_path/"t.biom", "a") as f:
        del f[f"sample/{name}"]
        f.create_dataset(f"sample/{name}", **claim)
    with pytest.raises(AamError, match=f"t.biom is HDF5, but not a sound BIOM 2.1 table: .*{says}"):
        cache_biom(tmp_path/"t.biom", tmp_path/"store")
    assert [o.name for o in tmp_path.iterdir()] == ["t.biom"]


def test_slices_are_the_table(files):
    whole = read_table(files[0]/"table.biom")
    with open_table(files[0]/"table.biom") as t:
        assert list(t.sample_ids) == list(whole.sample_ids) and list(t.sequences) == list(whole.sequences)
        assert len(t) == 150
        for a, b in ((0, 150), (3, 4), (149, 150), (7, 7)):
            assert (t.counts(a, b) != whole.counts[a:b]).nnz == 0


def test_fractions_deep_in_a_table_are_named(files, tmp_path):
    import h5py
    (tmp_path/"t.biom").write_bytes((files[0]/"table.biom").read_bytes())
    with h5py.File(tmp_path/"t.biom", "a") as f: f["sample/matrix/data"][-1] = .5
    with pytest.raises(AamError, match="t.biom: 1 of .*sample 'S149'.*has 0.5"): build_from(tmp_path)
    assert [o.name for o in tmp_path.iterdir()] == ["t.biom"]


def build_from(folder):
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stream_page, "_SLICE", 500)
        return cache_biom(folder/"t.biom", folder/"store")


def test_names_and_their_sequences(files, tmp_path):
    table = read_table(files[0]/"table.biom")
    ids = [f"asv{i}" for i in range(len(table.sequences))]
    write_table(Table(counts=table.counts, sample_ids=table.sample_ids, sequences=strings(ids)),
                tmp_path/"t.biom")
    fasta = "".join(f">{o}\n{s}\n" for o, s in zip(ids, table.sequences))
    (tmp_path/"rep.fasta").write_text(fasta)
    with pytest.raises(AamError, match="Pass sequences="): cache_biom(tmp_path/"t.biom", tmp_path/"store")
    assert cache_biom(tmp_path/"t.biom", tmp_path/"store",
                      sequences=tmp_path/"rep.fasta").digest == build_store(make_study(table)).digest
    (tmp_path/"some.fasta").write_text(fasta[:fasta.index(">asv9\n")])
    with pytest.raises(AamError) as whole: read_table(tmp_path/"t.biom", tmp_path/"some.fasta")
    with pytest.raises(AamError, match="% of its reads") as sliced:
        cache_biom(tmp_path/"t.biom", tmp_path/"store", sequences=tmp_path/"some.fasta")
    assert str(whole.value) == str(sliced.value)


def test_a_store_says_what_it_was_made_with(files, tmp_path):
    store = build(files[0], tmp_path/"store")
    told = json.loads((tmp_path/"store"/"manifest.json").read_text())
    assert told["version"] == 2 and set(told["made_with"]) == {"aam_nb", "numpy"}
    assert told["digest"] == store.digest
    assert newick(store.tree) == newick(files[1].tree)
    assert (store.study().metadata == files[1].metadata).all(axis=None)


def test_without_locks_each_builder_has_files_of_its_own(files, tmp_path, monkeypatch):
    import fcntl
    def no_locks(*_): raise OSError("no locks here")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    seen = []
    def look(*_): seen.extend(o.name for o in tmp_path.iterdir())
    assert build(files[0], tmp_path/"store", progress=look).digest == files[1].digest
    assert f".store.{os.getpid()}" in seen and ".store.building" not in seen
    assert [o.name for o in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("name", ["tiny_ecam60", "ibd_crohns_2538"])
def test_real_studies_by_slices(data_dir, tmp_path, name):
    folder = data_dir/name
    about, tree = read_metadata(folder/"metadata.tsv"), read_tree(folder/"tree.nwk")
    whole = build_store(make_study(read_table(folder/"table.biom"), about, tree, "drop"))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stream_page, "_SLICE", 20_000)
        store = cache_biom(folder/"table.biom", tmp_path/"store", about, tree, missing="drop")
    assert store.digest == whole.digest and store.manifest["notes"] == whole.manifest["notes"]
    pd.testing.assert_frame_equal(store.metadata, about.loc[store.sample_ids], check_names=False)
