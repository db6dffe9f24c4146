"Whole runs that trackers follow: trained, evaluated, in several processes, and stopped."
import json

import pytest
from launches import launched
from tracking import curve, mlflow_points, mlflow_runs, wait_for, wandb_points

from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.recipe import load_config
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.folder import check_out, open_run
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.track import track_run
from aam_nb.training.cursor import open_cursor
from aam_nb.training.log import read_log

SHORT = ["pretrain_asv.steps=4", "pretrain_asv.every=2", "optim.steps=6", "optim.every=3", "optim.batch=8",
         "model.width=16", "model.layers=1", "model.sample_width=16", "run.threads=1", "run.folds=2",
         "run.inner=2"]
quiet = dict(say=lambda text: None)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "The folder of a small simulated study."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=8), folder)
    return folder


def words(study, out, *more):
    "A short run on that study, as a command line gives it."
    files = [f"data.{k}={v}" for k, v in study_files(study).items()]
    return (*files, "data.target=age", "data.groups=subject", f"run.out={out}", *SHORT, *more)


def brought(folder, name):
    "Wait until the side process of a run has brought all of its log to a tracker."
    path = folder/f"tracking/{name}.json"
    last = {o["stage"]: o["step"] for o in read_log(folder/"metrics.jsonl")}
    wait_for(lambda: path.is_file() and open_cursor(path).sent == last)


def test_a_run_has_curves_of_its_losses_and_of_the_machine(study, tmp_path):
    folder = tmp_path/"run"
    pretrain_run(load_config(None, words(study, folder, "pretrain_sample.steps=0")), **quiet)
    brought(folder, "tensorboard")
    losses = [(o["step"], pytest.approx(o["loss"], abs=1e-4)) for o in read_log(folder/"metrics.jsonl")]
    assert [o[0] for o in losses] == [2, 4] and curve(folder, "pretrain_asv", "loss") == losses
    for name in ("samples_per_second", "memory_gb"):
        assert all(v > 0 for _, v in curve(folder, "pretrain_asv", f"load/{name}"))
    busy = curve(folder, "pretrain_asv", "load/cpu_percent")
    assert [o[0] for o in busy] == [2, 4] # Its value may be 0: between two looks the process may have waited


def test_a_run_may_go_on_with_other_trackers(study, tmp_path):
    with_out = words(study, tmp_path/"run", "run.trackers=")
    open_run(load_config(None, with_out), {})
    more = ("run.resume=true", "run.trackers=mlflow,wandb", "run.experiment=gut", "run.mlflow=http://lab:5000")
    assert check_out(load_config(None, (*with_out[:-1], *more))) == tmp_path/"run"


@pytest.mark.slow
def test_the_folds_of_an_evaluation_are_nested(study, tmp_path):
    pytest.importorskip("mlflow")
    folder = tmp_path/"run"
    evaluate_run(load_config(None, words(study, folder, "run.trackers=mlflow")), **quiet)
    brought(folder, "mlflow")
    assert "0 of them are new" in track_run(folder, "mlflow", **quiet)
    client, runs = mlflow_runs(f"sqlite:///{folder}/tracking/mlflow.db")
    parts = ["", " fold 1", " fold 1.1", " fold 1.2", " fold 2", " fold 2.1", " fold 2.2"]
    assert sorted(runs) == sorted(f"run{o}" for o in parts)
    above = runs["run fold 2.1"].data.tags["mlflow.parentRunId"]
    assert above == runs["run fold 2"].info.run_id
    assert runs["run"].info.status == "FINISHED" and "score/aam/mae" in runs["run"].data.metrics
    assert "report.html" in [o.path for o in client.list_artifacts(runs["run"].info.run_id)]
    found = [o for o in mlflow_points(f"sqlite:///{folder}/tracking/mlflow.db") if o[1].endswith("/loss")]
    wanted = [(f"run {o['stage'].rpartition(' ')[0]}", o["step"], o["loss"])
              for o in read_log(folder/"metrics.jsonl")]
    assert sorted((a, s, v) for a, _, s, v in found) == sorted(wanted)


RANK = """
import sys
from aam_nb.batches.build import build_store
from aam_nb.data.simulate import simulate
from aam_nb.recipe import load_config
from aam_nb.runs.prepare import run_bench
from aam_nb.training.parallel import make_accelerator
from pathlib import Path
out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
config = load_config(None, ("run.device=cpu", "run.threads=1", "run.trackers=tensorboard,wandb"))
store = build_store(simulate(samples=6, asvs=20, groups=3, length=40, seed=8))
log = run_bench(config, store, make_accelerator(config.run), out, None).log
for step in (20, 40): log.write("target", step, dict(loss=1/step))
log.close()
"""


@pytest.mark.slow
def test_of_several_processes_only_the_main_one_has_trackers(tmp_path):
    pytest.importorskip("wandb")
    folder, script = tmp_path/"run", tmp_path/"rank.py"
    script.write_text(RANK)
    done = launched([script, folder], WANDB_MODE="offline")
    assert done.status == 0, done.err[-2000:]
    brought(folder, "tensorboard")
    brought(folder, "wandb")
    wait_for(lambda: "open" not in json.loads((folder/"tracking/wandb.json").read_text())["runs"])
    for log in ("metrics.jsonl", "tracking/load.jsonl"):
        assert [o["step"] for o in read_log(folder/log)] == [20, 40]
    assert len(list(folder.glob("tracking/wandb/offline-run-*"))) == 1
    assert [k for k, _ in wandb_points(folder)] == [0, 1]
    assert len(list(folder.glob("tensorboard/target/events*"))) == 1
    assert len(list(folder.glob("tracking/*.json"))) == 2
