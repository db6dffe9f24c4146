"What all processes of a run do, what the main one does alone, and folders that all must see."
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from aam_nb.core import AamError
from aam_nb.runs import processes
from aam_nb.runs.processes import (
    by_main, cache_of, check_same, check_seen, check_shared, main_first, SharedCache, speaker)
from aam_nb.training.ranks import ALONE, several


def test_the_main_process_writes_alone_and_its_error_is_one_of_all(tmp_path):
    def work(ranks):
        by_main(ranks, lambda: (tmp_path/f"{ranks.rank}").touch())
        def fail(): raise AamError("no room")
        try: by_main(ranks, fail)
        except AamError as e: return [type(e).__name__, str(e)]
    assert several(work) == [["AamError", "no room"], ["Elsewhere", "Process 0 of 2 stopped: no room"]]
    assert os.listdir(tmp_path) == ["0"]


def test_the_main_process_makes_what_the_others_find(tmp_path):
    def make(ranks):
        if not ranks.main: assert (tmp_path/"made").exists()
        (tmp_path/"made").touch()
        return ranks.rank
    assert several(lambda ranks: main_first(ranks, lambda: make(ranks)), 3) == [0, 1, 2]
    assert main_first(ALONE, lambda: 7) == 7


@pytest.mark.parametrize("file, text", [("config.toml", "a"), ("finished.json", "[]"), (None, "")])
def test_another_run_folder_on_another_disk_is_refused(tmp_path, file, text):
    def work(ranks):
        out = tmp_path/f"{ranks.rank}"/"run"
        if not ranks.main:
            out.mkdir(parents=True)
            if file: (out/file).write_text(text)
        try: check_same(ranks, out)
        except AamError as e: return str(e)
    assert all("process 1 of 2, counted from 0, does not see" in o for o in several(work))


def test_a_disk_that_is_not_shared_is_found_before_anything_is_made(tmp_path, monkeypatch):
    def work(ranks):
        if not ranks.main: monkeypatch.setattr(processes, "_appears", lambda path, seconds: False)
        try: check_shared(ranks, tmp_path/"new"/"run")
        except AamError as e: return "machines share" in str(e)
    assert several(work) == [True, True] and not list(tmp_path.iterdir())


def test_a_file_may_appear_late(tmp_path, monkeypatch):
    shown = iter([False, False, True])
    monkeypatch.setattr(Path, "exists", lambda path: next(shown))
    assert processes._appears(tmp_path/"new", 10)
    monkeypatch.undo()
    assert not processes._appears(tmp_path/"new", 0)
    check_seen(ALONE, tmp_path/"new")


def test_a_kept_result_is_made_by_all_once_and_written_by_the_main_process(tmp_path):
    def work(ranks):
        cache, made = cache_of(tmp_path, ranks), []
        def make(): return made.append(ranks.rank) or np.arange(3.) + float(ranks.sum(torch.ones(())))
        first = cache.array("vectors", dict(a=1), make).tolist()
        second = cache.array("vectors", dict(a=1), make).tolist()
        other = cache.array("vectors", dict(a=2), make).tolist()
        return [made, first, second == first == other]
    assert several(work) == [[[o, o], [2., 3., 4.], True] for o in range(2)]
    assert all("processes" in o.key and o.key["processes"] == 2 for o in cache_of(tmp_path, ALONE).entries())


def test_a_cache_that_is_not_shared_is_refused(tmp_path):
    def work(ranks):
        cache = SharedCache(tmp_path/f"{ranks.rank}", ranks)
        try: cache.array("vectors", {}, lambda: np.ones(2))
        except AamError as e: return "is not the same for all processes" in str(e)
    assert several(work) == [True, True]


def test_one_process_has_the_cache_of_ever(tmp_path):
    assert type(cache_of(tmp_path, ALONE)).__name__ == "Cache"


def test_only_the_main_process_speaks():
    def work(ranks):
        said = []
        speaker(ranks, said.append)("here")
        return said
    assert several(work) == [["here"], []]
