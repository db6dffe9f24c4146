"The side process: what it costs a run, that it loses nothing, and that it leaves when it should."
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tracking import PATIENCE, away, curve, hanging, logging, settled, wait_for, write_log

from aam_nb.core import AamError
from aam_nb.registry import registered, trackers
from aam_nb.runs.track import track_run
from aam_nb.training.cursor import Feed, held, open_cursor
from aam_nb.training.log import JsonLines, read_log
from aam_nb.training.side import side_environment
from aam_nb.training.track import RunLog, Tracker

quiet = dict(say=lambda text: None)


def said(folder):
    "What the side process had to say."
    path = folder/"tracking/log.txt"
    return path.read_text() if path.is_file() else ""


def test_curves_have_the_numbers_of_the_log_and_of_the_machine(tmp_path):
    with logging(tmp_path, "tensorboard") as log:
        bar = log.bar("target", 60)
        for step in (20, 40, 60):
            bar.update(20, 640)
            log.write("target", step, dict(loss=1/step, valid_auc=float("nan")))
        settled(log)
    assert curve(tmp_path, "target", "loss") == [(20, .05), (40, .025), (60, .01667)]
    load = read_log(tmp_path/"tracking/load.jsonl")
    assert [o["step"] for o in load] == [20, 40, 60] and all(o["samples_per_second"] > 0 for o in load)
    assert [o[0] for o in curve(tmp_path, "target", "load/memory_gb")] == [20, 40, 60]
    assert {"stage", "step", "loss", "valid_auc"} == set(read_log(tmp_path/"metrics.jsonl")[0])


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_run_that_goes_back_replaces_what_came_after(tmp_path, killed):
    with logging(tmp_path, "tensorboard") as log:
        for step in (20, 40, 60): log.write("target", step, dict(loss=1/step))
        if not killed: settled(log)
        else:
            wait_for(lambda: (tmp_path/"tensorboard/target").is_dir())
            log.sinks["side process"].process.kill()
    with logging(tmp_path, "tensorboard", resume=True) as log:
        log.rewind("target", 40)
        for step in (60, 80): log.write("target", step, dict(loss=2/step))
        settled(log)
    wanted = [(20, .05), (40, .025), (60, .03333), (80, .025)]
    assert curve(tmp_path, "target", "loss") == wanted
    assert [o["step"] for o in read_log(tmp_path/"tracking/load.jsonl")] == [20, 40, 60, 80]
    assert "0 of them are new" in track_run(tmp_path, "tensorboard", **quiet)
    assert curve(tmp_path, "target", "loss") == wanted


def test_a_rewind_is_seen_also_while_the_log_is_followed(tmp_path):
    log, feed = JsonLines(tmp_path/"metrics.jsonl"), Feed(tmp_path, begun=0.)
    with logging(tmp_path, "tensorboard") as run:
        for step in (20, 40, 60): log.write("target", step, dict(loss=1/step))
        assert [o.step for o in feed.points()] == [20, 40, 60]
        run.rewind("target", 40)
        log.write("target", 60, dict(loss=.5))
        assert feed.rewinds() == [("target", 40)]
        assert [(o.step, o.numbers["loss"]) for o in feed.points()][-2:] == [(40, .025), (60, .5)]
        assert feed.rewinds() == feed.points() == []


def test_a_run_of_an_earlier_version_is_replayed_without_doubles(tmp_path):
    write_log(tmp_path, ("pretrain_asv", "target"))
    assert track_run(tmp_path, "tensorboard", **quiet).endswith("6 points; 6 of them are new.")
    (tmp_path/"tracking/tensorboard.json").unlink()              # As if an earlier version had drawn them
    assert track_run(tmp_path, "tensorboard", **quiet).endswith("6 points; 6 of them are new.")
    for stage in ("pretrain_asv", "target"): assert len(curve(tmp_path, stage, "loss")) == 3


@pytest.fixture(params=[pytest.param(away, marks=pytest.mark.slow), hanging], ids=["away", "hangs"])
def trouble(request, monkeypatch):
    "The address of an MLflow server that is dead or hangs, in the environment, with a password."
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with request.param() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:hunter22@127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"


def test_a_tracker_that_is_no_help_costs_nothing_and_is_said_once(tmp_path, trouble, capsys):
    pytest.importorskip("mlflow")
    with logging(tmp_path, "mlflow", "tensorboard") as log:
        log.write("target", 0, dict(loss=1.))                    # Starts the process
        wait_for(lambda: "does not get" in said(tmp_path))
        begun = time.perf_counter()
        for step in range(1, 201): log.write("target", step, dict(loss=1/step))
        assert time.perf_counter() - begun < 200*.005            # Mostly the file and the load of the machine
        wait_for(lambda: (tmp_path/"tracking/tensorboard.json").is_file()
                 and open_cursor(tmp_path/"tracking/tensorboard.json").sent == {"target": 200})
        begun = time.perf_counter()
        log.close()
        assert time.perf_counter() - begun < 2                   # Waits for 1.5
        assert log.sinks == {}
    shown = capsys.readouterr().err
    assert shown.count("warning: mlflow does not get the numbers") == 1 and "Training goes on" in shown
    assert "still on their way" in shown and f"`track_run` for {tmp_path}" in shown
    assert "hunter22" not in shown + said(tmp_path) and trouble in said(tmp_path) + shown
    assert not any(b"hunter22" in o.read_bytes() for o in tmp_path.rglob("*") if o.is_file())
    assert len(read_log(tmp_path/"metrics.jsonl")) == 201 == len(curve(tmp_path, "target", "loss"))


@pytest.mark.slow
def test_a_command_says_why_a_tracker_does_not_answer(tmp_path, trouble):
    pytest.importorskip("mlflow")
    write_log(tmp_path)
    with pytest.raises(AamError, match="mlflow does not get the numbers") as e:
        track_run(tmp_path, "mlflow", **quiet)
    assert "hunter22" not in str(e.value) and "the next try goes on" in str(e.value)
    assert trouble.replace(":", "', port=") in str(e.value) or trouble in str(e.value)


@pytest.mark.slow
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    write_log(tmp_path)
    (tmp_path/"none/mlflow").mkdir(parents=True)
    (tmp_path/"none/mlflow/__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path/'none'}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(AamError, match=r"pip install 'aam_nb\[mlflow\]'"):
        track_run(tmp_path, "mlflow", **quiet)


TRAINING = """
import sys, time
from aam_nb.training.track import RunLog
log = RunLog(sys.argv[1])
log.write("target", 20, dict(loss=.5))
print(log.sinks["side process"].process.pid, flush=True)
time.sleep(600)
"""


def alive(pid):
    "Whether a process runs; one that ended and was not reaped does not."
    try: state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except FileNotFoundError: return False
    return state != "Z"


def test_a_signal_to_the_whole_job_does_not_end_the_process_before_its_training(tmp_path):
    with logging(tmp_path, "tensorboard") as log:
        log.write("target", 20, dict(loss=.5))
        wait_for(lambda: (tmp_path/"tensorboard/target").is_dir())
        log.sinks["side process"].process.send_signal(signal.SIGTERM)
        log.write("target", 40, dict(loss=.25))
        settled(log)
    assert curve(tmp_path, "target", "loss") == [(20, .5), (40, .25)]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_the_process_brings_all_and_leaves_when_its_training_is_killed(tmp_path):
    pipe = dict(stdout=subprocess.PIPE, text=True)
    training = subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path)], **pipe)
    try: side = int(training.stdout.readline())
    finally:
        os.kill(training.pid, signal.SIGKILL)
        training.wait(PATIENCE)
        training.stdout.close()
    wait_for(lambda: not alive(side))
    assert curve(tmp_path, "target", "loss") == [(20, .5)]


def test_the_process_leaves_when_the_run_folder_is_removed(tmp_path):
    folder = tmp_path/"run"
    folder.mkdir()
    with logging(folder, "tensorboard") as log:
        log.write("target", 20, dict(loss=.5))
        wait_for(lambda: (folder/"tensorboard/target").is_dir())
        folder.rename(tmp_path/"gone")                           # At once, while the process may be writing
        log.sinks["side process"].process.wait(PATIENCE)
        log.sinks.clear()


def test_a_run_that_never_writes_starts_no_process(tmp_path):
    log = RunLog(tmp_path)
    side = log.sinks["side process"]
    log.close()
    assert side.process is None and not (tmp_path/"tensorboard").exists()


def test_a_new_run_in_the_same_folder_begins_anew_at_its_trackers(tmp_path):
    for factor in (1, 2):
        with logging(tmp_path, "tensorboard") as log:
            for step in (20, 40): log.write("target", step, dict(loss=factor/step))
            settled(log)
        assert curve(tmp_path, "target", "loss") == [(20, .05*factor), (40, .025*factor)]


@pytest.mark.slow
def test_two_processes_do_not_bring_the_same_points(tmp_path):
    write_log(tmp_path)
    with held(tmp_path/"tracking/tensorboard.json") as mine:
        assert mine
        with pytest.raises(AamError, match="another process is bringing them"):
            track_run(tmp_path, "tensorboard", **quiet)
    assert "3 of them are new" in track_run(tmp_path, "tensorboard", **quiet)


def test_the_environment_of_the_process_is_that_of_a_process_alone():
    several = dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="node1", TORCHELASTIC_RUN_ID="a",
                   ACCELERATE_USE_CPU="true", GROUP_RANK="0", ROLE_RANK="1", WANDB_API_KEY="k")
    assert set(several) & set(side_environment(several)) == {"WANDB_API_KEY"}


def test_what_cannot_be_tracked_is_refused(tmp_path):
    with pytest.raises(AamError, match="holds no run: there is no metrics.jsonl"):
        track_run(tmp_path, "mlflow")
    write_log(tmp_path)
    with pytest.raises(AamError, match="no tracker 'tensorbord'.*Did you mean 'tensorboard'"):
        track_run(tmp_path, "tensorbord")
    with pytest.raises(AamError, match="only mlflow has"): track_run(tmp_path, "wandb", register="ph")
    with registered(trackers, Tracker(name="mine", open=lambda folder: None)), \
            pytest.raises(AamError, match="no tracker 'mine' that a run can be brought to"):
        track_run(tmp_path, "mine")


@pytest.mark.slow
def test_a_damaged_cursor_is_named_and_not_replaced(tmp_path):
    write_log(tmp_path)
    track_run(tmp_path, "tensorboard", **quiet)
    path = tmp_path/"tracking/tensorboard.json"
    path.write_text(json.dumps(dict(sent=1, other=2)))
    with pytest.raises(AamError, match="is not the cursor of a tracker"):
        track_run(tmp_path, "tensorboard", **quiet)
    assert "other" in path.read_text()
