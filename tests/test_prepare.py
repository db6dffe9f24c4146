"What a run checks is what it uses: the samples are divided once, and the parts are kept."
import numpy as np
import pytest

import aam_nb.runs.parts as page
from aam_nb.config import config_from
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.parts import Folds, choose_folds, choose_split
from aam_nb.runs.prepare import prepare
from aam_nb.runs.train import train_run
from aam_nb.types import Split

SMALL = dict(model=dict(width=16, layers=1, sample_width=16), pretrain_asv=dict(steps=2, every=1, batch=20),
             optim=dict(steps=2, every=1, batch=8))


def quiet(text): pass


@pytest.fixture
def config(tmp_path):
    "A small study, and a configuration that predicts its age by subject."
    write_study(simulate(samples=48, asvs=40, groups=12, length=40, seed=2), tmp_path/"study")
    data = dict(**study_files(tmp_path/"study"), target="age", groups="subject")
    run = dict(out=str(tmp_path/"run"), folds=2, inner=2, threads=1)
    return config_from({"data": data, "run": run, **SMALL})


def counted(monkeypatch, name):
    "A list that grows by one with each call of a function of the page on parts."
    calls, real = [], getattr(page, name)

    def count(*args, **more):
        calls.append(name)
        return real(*args, **more)
    monkeypatch.setattr(page, name, count)
    return calls


@pytest.mark.parametrize("run, name", [(train_run, "split_for"), (evaluate_run, "folds_for")])
def test_a_run_divides_its_samples_once(config, monkeypatch, run, name):
    calls = counted(monkeypatch, name)
    run(config, say=quiet)
    assert calls == [name]


def test_a_training_keeps_its_split(config):
    ready = prepare(config, choose_split, quiet)
    wanted = choose_split(ready.study, config, ready.values, ready.groups)
    assert isinstance(ready.parts, Split)
    for part in ("train", "valid", "test"):
        assert getattr(ready.parts, part).tolist() == getattr(wanted, part).tolist()


def test_an_evaluation_keeps_outer_and_inner_folds(config):
    ready = prepare(config, choose_folds, quiet, rarefied=False)
    assert isinstance(ready.parts, Folds) and len(ready.parts.outer) == len(ready.parts.inner) == 2
    assert sorted(ready.parts.reported) == sorted(ready.study.ids)
    subject = dict(zip(ready.study.ids, ready.groups, strict=True))
    for (train, test), inner in zip(ready.parts.outer, ready.parts.inner, strict=True):
        assert not {subject[o] for o in train} & {subject[o] for o in test}
        held = np.concatenate([valid for _, valid in inner])
        assert sorted(held) == sorted(train)
