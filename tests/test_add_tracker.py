"A tracker from outside the package: one record, used by its name, told the same numbers as the log."
import csv
import math
from pathlib import Path

import pytest

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.recipe import load_config
from aam_nb.registry import registered, trackers
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.train import train_run
from aam_nb.training.log import read_log
from aam_nb.training.track import Tracker

SHORT = ["pretrain_asv.steps=4", "pretrain_asv.every=2", "optim.steps=6", "optim.every=3", "optim.batch=8",
         "model.width=16", "model.layers=1", "model.sample_width=16", "run.threads=1"]


class Sheet:
    "A sink that writes a long table: stage, step, name, value."
    def __init__(self, folder:Path): self.path, self.rows, self.closed = folder/"numbers.csv", [], False

    def write(self, stage, step, numbers): self.rows += [(stage, step, k, v) for k, v in numbers.items()]

    def rewind(self, stage, step): self.rows = [o for o in self.rows if o[0] != stage or o[1] <= step]

    def close(self):
        with open(self.path, "w", newline="") as f: csv.writer(f).writerows(self.rows)
        self.closed = True


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "The folder of a small simulated study."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=8), folder)
    return folder


def configured(study, out, *words):
    "A short training on that study, with some overrides."
    names = dict(table="table.biom", metadata="metadata.tsv", tree="tree.nwk")
    files = [f"data.{k}={study}/{v}" for k, v in names.items()]
    wanted = ["data.target=age", "data.groups=subject", f"run.out={out}"]
    return load_config(None, (*files, *wanted, *SHORT, *words))


def following():
    "The sinks that will be opened, and a tracker that opens them."
    opened = []

    def open_sheet(folder):
        opened.append(Sheet(folder))
        return opened[-1]
    return opened, Tracker(name="sheet", open=open_sheet)


def numbers_of(path):
    "What a log says, as a long table."
    keys = ("stage", "step")
    return [(o["stage"], o["step"], k, v) for o in read_log(path) for k, v in o.items() if k not in keys]


def test_a_tracker_gets_the_numbers_of_the_log(study, tmp_path):
    opened, sheet = following()
    with registered(trackers, sheet):
        train_run(configured(study, tmp_path/"run", "run.trackers=sheet"), say=lambda text: None)
    found, = opened
    wanted = numbers_of(tmp_path/"run"/"metrics.jsonl")
    assert found.closed and found.rows == wanted
    stages = {"pretrain_asv", "target", "all samples pretrain_asv", "all samples refit"}
    assert {o[0] for o in wanted} == stages
    with open(tmp_path/"run"/"numbers.csv", newline="") as f: written = list(csv.reader(f))
    assert [(a, int(b), c) for a, b, c, _ in written] == [o[:3] for o in wanted]
    both = [(a[3], b[3]) for a, b in zip(written, wanted, strict=True) if b[3] is not None]
    assert all(math.isclose(float(a), b) for a, b in both)
    assert not (tmp_path/"run"/"tensorboard").exists()         # it was not named


def test_a_pretraining_closes_its_trackers_too(study, tmp_path):
    (opened, sheet), words = following(), ("run.trackers=sheet", "pretrain_sample.steps=0")
    with registered(trackers, sheet):
        pretrain_run(configured(study, tmp_path/"run", *words), say=lambda text: None)
    assert opened[0].closed and opened[0].rows == numbers_of(tmp_path/"run"/"metrics.jsonl")


def test_a_tracker_that_fails_does_not_change_what_is_learned(study, tmp_path, capsys):
    class Away(Sheet):
        def write(self, stage, step, numbers): raise ConnectionError("the server is away")
    runs, quiet = [], dict(say=lambda text: None)
    with registered(trackers, Tracker(name="away", open=Away)):
        for name in ("away", ""):
            folder = tmp_path/(name or "none")
            train_run(configured(study, folder, f"run.trackers={name}"), **quiet)
            runs.append([o for o in numbers_of(folder/"metrics.jsonl") if o[2] != "seconds"])
    said = capsys.readouterr().err
    assert runs[0] == runs[1] and said.count("away cannot be written (the server is away)") == 1


def test_a_tracker_that_nobody_registered_is_refused(study, tmp_path):
    with pytest.raises(AamError, match="run.trackers names 'sheet'; wanted one of tensorboard"):
        configured(study, tmp_path, "run.trackers=sheet")
