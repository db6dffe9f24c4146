"The cache of costly results: made once, mapped, made again when damaged, cleared by age."
import os

import numpy as np
import pytest
from small_stores import made

import aam_nb.batches.cache as cache_page
from aam_nb.batches.build import build_store
from aam_nb.batches.cache import Cache, cached_branch_reads, cached_tree, cached_unifrac
from aam_nb.core import AamError
from aam_nb.data.distances import unifrac_blocks
from aam_nb.data.tree import branch_abundance, newick


def test_a_result_is_made_once_and_mapped(tmp_path):
    cache, calls = Cache(tmp_path/"cache"), []
    def make():
        calls.append(1)
        return np.arange(6.).reshape(2, 3)
    first = cache.array("numbers", dict(a=1, b=("x", None)), make)
    again = Cache(tmp_path/"cache").array("numbers", dict(b=["x", None], a=1), make)
    assert len(calls) == 1 and (first == again).all() and isinstance(again.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"): again[0] = 1
    assert cache.array("numbers", dict(a=2), lambda: np.zeros((0, 4))).shape == (0, 4)
    (entry, other) = sorted(cache.entries(), key=lambda o: o.key["a"])
    assert entry.key == dict(a=1, b=["x", None]) and cache.size == entry.size + other.size > 48
    assert "2 entries" in repr(cache)
    with pytest.raises(AamError, match="lower-case letters"): cache.array("../up", {}, make)

def test_blocks_are_joined_and_a_failure_keeps_nothing(tmp_path):
    cache = Cache(tmp_path/"cache")
    def blocks(fail=False):
        for i in range(3): yield dict(a=np.full((i, 2), i, np.int16), b=np.array([i]))
        if fail: raise KeyError("no more")
    with pytest.raises(KeyError): cache.arrays("blocks", {}, lambda: blocks(fail=True))
    assert not cache.entries() and not list((tmp_path/"cache").iterdir())
    out = cache.arrays("blocks", {}, blocks)
    assert out["a"].tolist() == [[1, 1], [2, 2], [2, 2]] and out["a"].dtype == np.int16
    assert out["b"].tolist() == [0, 1, 2]

def test_a_damaged_entry_is_made_again(tmp_path):
    cache = Cache(tmp_path/"cache")
    make = lambda: np.arange(100)
    cache.array("numbers", {}, make)
    folder = cache.entries()[0].folder
    for name in ("array.npy", "manifest.json"):
        whole = (folder/name).read_bytes()
        for bad in (b"", whole[:-9], whole[:90] + b"\7" + whole[91:], b"[1]"):
            (folder/name).write_bytes(bad)
            assert (cache.array("numbers", {}, make) == np.arange(100)).all() and len(cache.entries()) == 1

def test_clearing_takes_entries_only(tmp_path):
    cache = Cache(tmp_path/"cache")
    assert cache.clear() == 0 and cache.size == 0
    old, new = (cache.array("numbers", dict(a=o), lambda: np.arange(9)) for o in (1, 2))
    (tmp_path/"cache"/"notes-of-mine").mkdir()
    (tmp_path/"cache"/"x-0123456789abcdef").write_text("mine")
    os.utime(next(o for o in cache.entries() if o.key["a"] == 1).folder/"manifest.json", (0, 0))
    # One made now, one long ago
    for name, age in ((".numbers-0123456789abcdef.7.part", 0), (".numbers-0123456789abcdef.8.part", 1)):
        (tmp_path/"cache"/name).mkdir()
        os.utime(tmp_path/"cache"/name, (age*10**9,)*2 if age else None)
    # Still mapped
    assert cache.clear(older_than_days=1) > 0 and [o.key["a"] for o in cache.entries()] == [2]
    assert old.sum() == 36
    cache.array("numbers", dict(a=2), None)
    cache.clear()
    left = sorted(o.name for o in (tmp_path/"cache").iterdir())
    assert left == [".numbers-0123456789abcdef.7.part", "notes-of-mine", "x-0123456789abcdef"]
    assert new.sum() == 36

def test_what_the_data_pages_keep(tmp_path, monkeypatch):
    study = made()
    cache, store = Cache(tmp_path/"cache"), build_store(study)
    wanted = branch_abundance(study.tree, study.tip, study.table.counts)
    assert (cached_branch_reads(cache, store).toarray() == wanted).all()
    for metric in ("unweighted", "generalized"):
        assert np.allclose(cached_unifrac(cache, store, metric),
                           unifrac_blocks(study.table.counts, study.tree, study.tip, metric))
    (tmp_path/"t.nwk").write_text(newick(study.tree))
    tree = cached_tree(cache, tmp_path/"t.nwk")
    # All are kept by now
    for name in ("unifrac_blocks", "branch_abundance", "read_tree"): monkeypatch.delattr(cache_page, name)
    again = cached_tree(cache, tmp_path/"t.nwk")
    cached_unifrac(cache, store)
    cached_branch_reads(cache, store)
    assert list(again.tips) == list(tree.tips) and (again.length == tree.length).all()
    assert (again.start == tree.start).all()
    with pytest.raises(AamError, match="has no tree"): cached_unifrac(cache, build_store(made(tree=False)))
    with pytest.raises(AamError, match="absent.nwk cannot be opened"):
        cached_tree(cache, tmp_path/"absent.nwk")
