"Whole runs in two processes, against the same runs in one."
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aam_nb.config import config_from
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.inference.bundle import load_bundle
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.predict import embed_run, predict_run
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.train import train_run
from aam_nb.training.log import read_log
from aam_nb.training.ranks import several

SHORT = {"model": dict(width=16, sample_width=16, layers=1), "optim": dict(steps=6, every=3),
         "pretrain_asv": dict(steps=4, batch=40, every=2)}
RUN = dict(folds=3, inner=2, refit=1, threads=1, trackers=(), device="cpu", seed=3)


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    "A forest of 500 trees would take most of the time."
    from aam_nb.evaluation import baselines
    given, forest = baselines.forest.__defaults__, baselines.forest
    forest.__defaults__ = (5,)
    yield
    forest.__defaults__ = given


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = simulate(samples=45, asvs=40, groups=15, length=60, seed=1)
    write_study(study, folder)
    return study_files(folder)


def fresh():
    "Forget what Accelerate knew of the process that was forked."
    from accelerate.state import AcceleratorState
    AcceleratorState._reset_state(reset_partial_state=True)


def made(command, config, world=1):
    "What a run returned, and what it said: in this process, or in several."
    def work(ranks=None):
        if ranks: fresh()
        said = []
        return [str(command(config, said.append)), said]
    return work() if world == 1 else several(work, world, seconds=200)


def config_of(files, out, run=None, data=None, **more):
    data = dict(target="age", groups="subject", **files) | (data or {})
    return config_from(SHORT | {"data": data, "run": RUN | dict(out=str(out)) | (run or {})} | more)


def listing(out): return sorted(o.relative_to(out).as_posix() for o in Path(out).rglob("*")
                                if "cache" not in o.parts)


def pair(command, files, tmp_path, run=None, **how):
    "The folders of a run in one process and of the same in two."
    one = made(command, config_of(files, tmp_path/"one", **how))
    two = made(command, config_of(files, tmp_path/"two", run, **how), 2)
    assert len({o for o, _ in two}) == 1 and not two[1][1] # All return the same; the main one speaks
    said = two[0][1]
    assert said[0] == one[1][0] and len(said) == len(set(said))
    return tmp_path/"one", tmp_path/"two"


def check_close(one, two, name="predictions.tsv", atol=1e-5):
    a, b = (pd.read_csv(o/name, sep="\t") for o in (one, two))
    assert list(a.columns) == list(b.columns) and len(a) == len(b)
    for column in a:
        if a[column].dtype.kind == "f": np.testing.assert_allclose(a[column], b[column], rtol=1e-5, atol=atol)
        else: assert a[column].equals(b[column]), column


def check_models(one, two):
    "Weights may differ by a step of the optimizer where a gradient is nothing but rounding."
    a, b = (load_bundle(o/"bundle") for o in (one, two))
    assert np.array_equal(a.known, b.known) and np.array_equal(a.samples, b.samples)
    a, b = (o.model.state_dict() for o in (a, b))
    for name in a: np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=5e-3, err_msg=name)


def test_training_in_two_processes_equals_training_in_one(files, tmp_path):
    one, two = pair(train_run, files, tmp_path)
    check_close(one, two)
    assert listing(one) == listing(two)
    logs = [[(o["stage"], o["step"]) for o in read_log(out/"metrics.jsonl")] for out in (one, two)]
    assert logs[0] == logs[1] and len(logs[0]) == len(set(logs[0]))
    check_models(one, two)
    machines = [json.loads((out/"data.json").read_text())["machines"] for out in (one, two)]
    assert machines == [[dict(device="cpu", threads=1)], [dict(device="cpu", threads=1, processes=2)]]


def test_pretraining_in_two_processes_equals_pretraining_in_one(files, tmp_path):
    how = dict(data=dict(target="", groups=""), pretrain_sample=dict(steps=4, batch=16, every=2))
    one, two = pair(pretrain_run, files, tmp_path, **how)
    assert listing(one) == listing(two)
    check_models(one, two)
    losses = [[o["loss"] for o in read_log(out/"metrics.jsonl")] for out in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("targets", [pytest.param("age", marks=pytest.mark.slow), "age,site"])
def test_folds_dealt_to_two_processes_give_the_same_to_the_bit(files, tmp_path, targets):
    how = dict(data=dict(target=targets))
    one, two = pair(evaluate_run, files, tmp_path, dict(spread="folds"), **how)
    assert listing(one) == listing(two)
    for name in ("predictions.tsv", "scores.tsv", "folds.tsv"):
        for path in one.rglob(name): assert path.read_bytes() == (two/path.relative_to(one)).read_bytes()
    logs = [sorted((o["stage"], o["step"], o["loss"]) for o in read_log(out/"metrics.jsonl"))
            for out in (one, two)]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_an_evaluation_whose_processes_share_batches_equals_that_of_one(files, tmp_path):
    one, two = pair(evaluate_run, files, tmp_path)
    assert listing(one) == listing(two)
    check_close(one, two, atol=1e-4) # Predictions are in months
    check_close(one, two, "scores.tsv", atol=1e-4)


@pytest.mark.slow
def test_folds_that_are_kept_are_not_fitted_again(files, tmp_path):
    one, two = pair(evaluate_run, files, tmp_path, dict(spread="folds"))
    kept = {o.name: o.stat().st_mtime_ns for o in (two/"folds").iterdir()}
    (two/"folds/as_it_comes_2.npz").unlink()
    (two/"finished.json").unlink()
    made(evaluate_run, config_of(files, two, dict(spread="folds", resume=True)), 2)
    now = {o.name: o.stat().st_mtime_ns for o in (two/"folds").iterdir()}
    assert [o for o in kept if kept[o] != now[o]] == ["as_it_comes_2.npz"]
    assert (one/"predictions.tsv").read_bytes() == (two/"predictions.tsv").read_bytes()
    again = made(evaluate_run, config_of(files, two, dict(spread="folds", resume=True)), 2)
    assert "is finished, so nothing was done" in again[0][1][0] and not again[1][1]


def test_a_run_without_folds_says_what_becomes_of_the_setting(files, tmp_path):
    said = made(train_run, config_of(files, tmp_path/"run", dict(spread="folds")))[1]
    assert "note: run.spread = 'folds' deals the folds of an evaluation" in said[0]


def test_files_of_predictions_and_vectors_are_those_of_one_process(files, tmp_path):
    made(train_run, config_of(files, tmp_path/"run"))
    bundle, table = tmp_path/"run/bundle", files["table"]
    def work(ranks=None):
        who = "one" if ranks is None else "two"
        said, how = [], dict(say=lambda text: said.append(text), ranks=ranks)
        predict_run(bundle, table, tmp_path/f"{who}.tsv", **how)
        for level in ("sample", "asv"):
            embed_run(bundle, table, tmp_path/f"{who}_{level}.tsv", level=level, **how)
        return len(said)
    assert work() == 3 and several(work) == [3, 0]
    for name in (".tsv", "_sample.tsv", "_asv.tsv"):
        assert (tmp_path/f"one{name}").read_bytes() == (tmp_path/f"two{name}").read_bytes()


def test_settings_that_are_wrong_are_refused_by_all_before_anything_is_made(files, tmp_path):
    wrong = config_of(files, tmp_path/"run", data=dict(groups="subjct"))
    def work(ranks):
        fresh()
        try: train_run(wrong)
        except Exception as e: return [type(e).__name__, "Did you mean 'subject'" in str(e)]
    assert several(work) == [["AamError", True], ["Elsewhere", True]] and not (tmp_path/"run").exists()
