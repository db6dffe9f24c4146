"A run that goes on says what is left, counts all sittings, does nothing twice, and mends what was damaged."
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.folds import Course
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.sittings import Sittings, taken
from aam_nb.runs.train import train_run
from aam_nb.training.log import read_log

SMALL = {"model": dict(width=8, layers=1, sample_width=8, head_width=8, identity=8, heads=2),
         "pretrain_asv": dict(steps=4, batch=8, every=2), "optim": dict(steps=6, batch=8, every=3),
         "run": dict(folds=3, inner=2, threads=1, watch=0., trackers=())}


def quiet(text): pass


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "A tiny study on disk."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=36, asvs=20, groups=12, length=24, seed=3), folder)
    return folder


def config_of(folder, out, target="age", **run):
    data = study_files(folder) | (dict(target=target, groups="subject") if target else {})
    return config_from({"data": data, "run": dict(out=str(out), **run)}, base=config_from(SMALL))


def again(config): return replace(config, run=replace(config.run, resume=True))


def times(folder): return {o: o.stat().st_mtime_ns for o in folder.rglob("*") if o.is_file()}


COMMANDS = [(pretrain_run, "", "bundle"), (train_run, "age", "bundle"), (evaluate_run, "age", "report.html")]


@pytest.mark.parametrize("command,target,result", COMMANDS)
def test_a_finished_run_is_said_to_be_finished_and_stays_as_it_is(study, tmp_path, command, target, result):
    config, said = config_of(study, tmp_path/"run", target), []
    first = command(config, say=quiet)
    before = times(tmp_path/"run")
    assert command(again(config), say=said.append) == first == tmp_path/"run"/result
    assert times(tmp_path/"run") == before
    assert "is finished, so nothing was done" in said[0] and said[1].strip() == str(tmp_path/"run"/result)
    with pytest.raises(AamError, match="other choices"):
        command(again(replace(config, run=replace(config.run, seed=7))), say=quiet)


def test_a_damaged_fold_is_fitted_again_to_the_same_predictions(study, tmp_path, capsys):
    config = config_of(study, tmp_path/"run")
    evaluate_run(config, say=quiet)
    wanted = (tmp_path/"run/predictions.tsv").read_bytes()
    for name, data in (("as_it_comes_2.npz", b"PK damaged"), ("as_it_comes_3.npz", b"")):
        (tmp_path/"run/folds"/name).write_bytes(data)
    (tmp_path/"run/report.html").unlink() # A result that was removed is made again
    assert evaluate_run(again(config), say=quiet).is_file()
    assert (tmp_path/"run/predictions.tsv").read_bytes() == wanted
    assert "as_it_comes_2.npz is damaged, so this fold is fitted again" in capsys.readouterr().err


def stop_at(line):
    "A `say` that ends the run when it hears a line."
    def say(text):
        if re.search(line, text): raise KeyboardInterrupt
    return say


def test_what_is_left_is_announced_and_all_sittings_count(study, tmp_path):
    config, said = config_of(study, tmp_path/"run"), []
    with pytest.raises(KeyboardInterrupt): evaluate_run(config, say=stop_at("fold 2 of 3 done"))
    path = tmp_path/"run/sittings.json"
    path.write_text(json.dumps([3600.]))
    evaluate_run(again(config), say=said.append)
    plan = next(o for o in said if "outer folds" in o)
    assert "2 of 3 kept from before" in plan and "Left to train: 1 x 4 steps of pretrain_asv, 3 x 6" in plan
    assert re.search(r"The evaluation took 60 min in 2 sittings|took 1 h", said[-1])
    found = json.loads((tmp_path/"run/evaluation.json").read_text())["seconds"]
    kept = sum(float(np.load(o)["seconds"]) for o in (tmp_path/"run/folds").iterdir())
    assert found["stack"] == pytest.approx(kept)


def test_a_training_that_goes_on_announces_the_steps_that_are_left(study, tmp_path):
    config, said = config_of(study, tmp_path/"run"), []
    train_run(config, say=quiet)
    (tmp_path/"run/finished.json").unlink()
    train_run(again(config), say=said.append)
    assert any("Nothing is left to train." in o for o in said)


def test_the_time_left_covers_all_targets_and_depths():
    course = Course(fits=6, rounds=12) # Three folds, two targets, two depths
    left = []
    for fold in (1, 2, 3):
        course.fits -= 1
        course.seconds.append(10.)
        left.append(course.left(fold, dict(aam=10.*fold, forest=2.*fold)))
    assert left == [5*10 + 11*2, 4*10 + 10*2, 3*10 + 9*2]
    for _ in range(3): last = course.left(1, dict(aam=0., forest=2.))
    assert last == 3*10 + 6*2


def test_sittings_that_were_killed_count_as_far_as_they_were_kept(tmp_path):
    one = Sittings(tmp_path)
    one.begun -= 100
    one.write("target", 3, {})
    two = Sittings(tmp_path, resume=True)
    assert taken(two) == "2 min in 2 sittings"
    assert taken(Sittings(tmp_path)) == "0 s"
    (tmp_path/"sittings.json").write_text("{")
    assert taken(Sittings(tmp_path, resume=True)) == "0 s"


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    "A study whose target follows depth, so that it is evaluated at a common depth as well."
    folder, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    made = simulate(samples=36, asvs=20, groups=12, length=24, seed=3)
    counts = made.table.counts.copy()
    factor = np.repeat(rng.uniform(.2, 3., 36), np.diff(counts.indptr))
    counts.data = (counts.data*factor + 1).astype(np.int32)
    depth = pd.Series(np.asarray(counts.sum(1)).ravel(), index=made.metadata.index)
    write_study(replace(made, table=replace(made.table, counts=counts),
                        metadata=made.metadata.assign(age=depth/1000)), folder)
    return folder


@pytest.mark.parametrize("transductive", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_second_depth_pretrains_again_only_where_its_inputs_differ(uneven, tmp_path, transductive):
    config = config_of(uneven, tmp_path/"run", transductive=transductive)
    evaluate_run(config, say=quiet)
    stages = {o["stage"] for o in read_log(tmp_path/"run/metrics.jsonl")}
    pretrained = {o for o in stages if o.endswith("pretrain_asv")}
    assert any(o.startswith("depth_") for o in stages)
    if transductive: assert pretrained == {"pretrain_asv"}
    found = json.loads((tmp_path/"run/evaluation.json").read_text())["seconds"]
    assert found["stack"] > 0


@pytest.mark.slow
def test_weights_from_the_cache_predict_the_same(uneven, tmp_path):
    predictions = []
    for name in ("a", "b"):
        config = config_of(uneven, tmp_path/name, transductive=True, cache=str(tmp_path/"cache"))
        evaluate_run(config, say=quiet)
        predictions.append((tmp_path/name/"predictions.tsv").read_bytes())
    assert predictions[0] == predictions[1]
    stages = {o["stage"] for o in read_log(tmp_path/"b/metrics.jsonl")}
    assert not any(o.endswith("pretrain_asv") for o in stages)


def test_another_number_of_threads_is_said(study, tmp_path):
    config, said = config_of(study, tmp_path/"run", target=""), []
    pretrain_run(config, say=quiet)
    (tmp_path/"run/finished.json").unlink()
    pretrain_run(replace(config, run=replace(config.run, resume=True, threads=2)), say=said.append)
    pretrain_run(replace(config, run=replace(config.run, resume=True, threads=1)), say=quiet)
    assert any("made with 1 thread (cpu) and 2 threads (cpu)" in o for o in said)
    assert len(json.loads((tmp_path/"run/data.json").read_text())["machines"]) == 2


@pytest.mark.parametrize("target", ["age", "site", ("age", "site")])
def test_a_training_reports_its_test_samples_with_intervals(study, tmp_path, target):
    train_run(config_of(study, tmp_path/"run", target), say=quiet)
    names = [target] if isinstance(target, str) else target
    told = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t")
    for name in names:
        page = (tmp_path/"run"/("" if len(names) == 1 else name)/"report.html").read_text()
        assert f"Predicting {name}: the test samples of one split" in page and "95 % interval" in page
    scores = json.loads((tmp_path/"run/scores.json").read_text())
    scores = {names[0]: scores} if len(names) == 1 else scores
    if target == "age":
        test = told[told.part == "test"]
        mae = np.abs(test.true - test.prediction).mean()
        assert scores["age"]["stack"]["mae"] == pytest.approx(mae, rel=1e-6)
    assert all({"stack", "net", "trivial", "forest"} <= set(o) for o in scores.values())
