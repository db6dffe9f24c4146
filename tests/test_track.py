"The log of a run: its file, its trackers, its bar, and what happens when one of them fails."
import io
import json
import sys
import time

import pytest
from tracking import settled

from aam_nb.core import AamError
from aam_nb.progress import Progress
from aam_nb.registry import registered, trackers
from aam_nb.training.log import read_log
from aam_nb.training.track import RunLog, Tracker

NAN = float("nan")


class Memory:
    "A sink that keeps what it is given; `fails` names a method that does not work."
    def __init__(self, fails=""): self.rows, self.closed, self.fails, self.asked = [], False, fails, 0

    def write(self, stage, step, numbers):
        self.asked += 1
        if self.fails == "write": raise OSError(28, "No space left on device")
        self.rows.append(dict(stage=stage, step=step, **numbers))

    def rewind(self, stage, step):
        if self.fails == "rewind": raise RuntimeError("the server is away")
        self.rows = [o for o in self.rows if o["stage"] != stage or o["step"] <= step]

    def close(self):
        assert self.fails != "write", "it was left out"
        self.closed = True


def following(sink): return registered(trackers, Tracker(name="memory", open=lambda folder: sink))


def test_every_sink_gets_the_same_numbers_and_forgets_the_same_steps(tmp_path):
    memory = Memory()
    with following(memory): log = RunLog(tmp_path, show=False, trackers=("memory",))
    for stage in ("a", "b"):
        for step in (1, 2, 3): log.write(stage, step, dict(loss=1/step, valid_auc=NAN))
    log.rewind("a", 2)
    log.write("a", 3, dict(loss=7.))
    log.close()
    assert memory.closed and memory.rows == read_log(tmp_path/"metrics.jsonl")
    assert [o["loss"] for o in memory.rows if o["stage"] == "a"] == [1., .5, 7.]
    assert memory.rows[0]["valid_auc"] is None


def test_the_file_has_json_that_others_read(tmp_path, capsys):
    log = RunLog(tmp_path, show=False)
    log.write("target", 1, dict(loss=.5, valid_auc=NAN, valid_rmse=float("inf")))
    log.close()
    for line in (tmp_path/"metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda o: pytest.fail(o))
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_losses_and_pace_to_those_who_look(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    bar = Progress("target", 40, show=True)
    time.sleep(.11)
    bar.update(40, 480, dict(loss=.25))
    bar.close()
    for o in ("target: 100%", "loss 0.25", "samples/s"): assert o in sys.stderr.getvalue()
    assert Progress("target", 40).bar is None                       # a file or a pipe gets none


def test_tensorboard_is_used_when_installed_and_not_missed_otherwise(tmp_path, monkeypatch, capsys):
    with_board = pytest.importorskip("torch.utils.tensorboard") and tmp_path/"a"
    for folder, absent in ((with_board, False), (tmp_path/"b", True)):
        with monkeypatch.context() as m:
            if absent: m.setitem(sys.modules, "tensorboard", None)
            log = RunLog(folder)
            log.write("target", 1, dict(loss=1.))
            log.close() if absent else settled(log)
        assert (folder/"tensorboard").exists() != absent and len(read_log(folder/"metrics.jsonl")) == 1
    assert capsys.readouterr() == ("", "")


def test_a_stage_that_goes_on_draws_no_point_twice(tmp_path):
    pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for steps, last in (((1, 2, 3), None), ((3, 4), 2)):
        if last: time.sleep(1.1)                               # files of curves are named by the second
        log = RunLog(tmp_path, resume=last is not None)
        if last: log.rewind("target", last)
        for step in steps: log.write("target", step, dict(loss=1/step))
        settled(log)
    curve = EventAccumulator(str(tmp_path/"tensorboard"/"target")).Reload().Scalars("loss")
    assert [o.step for o in curve] == [1, 2, 3, 4] == [o["step"] for o in read_log(tmp_path/"metrics.jsonl")]


@pytest.mark.parametrize("fails", ["write", "rewind"])
def test_a_tracker_that_fails_is_said_once_and_does_not_stop_training(tmp_path, capsys, fails):
    memory = Memory(fails)
    with following(memory): log = RunLog(tmp_path, trackers=("memory",))
    if fails == "rewind": log.rewind("target", 0)
    for step in (1, 2, 3): log.write("target", step, dict(loss=1.))
    log.close()
    said = capsys.readouterr().err
    assert said.count("memory cannot be written") == 1 and ("No space left" in said or "is away" in said)
    assert len(read_log(tmp_path/"metrics.jsonl")) == 3
    assert memory.asked == (fails == "write") and not memory.rows


def test_a_tracker_that_does_not_open_is_said_and_left_out(tmp_path, capsys):
    def broken(folder): raise ConnectionError("no server")
    absent = Tracker(name="absent", open=lambda folder: None)
    with registered(trackers, Tracker(name="broken", open=broken), absent):
        log = RunLog(tmp_path, trackers=("broken", "absent"))
    log.write("target", 1, dict(loss=1.))
    assert capsys.readouterr().err.count("broken cannot be written (no server)") == 1
    assert list(log.sinks) == [str(log.path)] and len(read_log(log.path)) == 1


def test_a_tracker_that_nobody_registered_is_refused(tmp_path):
    with pytest.raises(AamError, match="no tracker 'tensorbord'; wanted one of tensorboard"):
        RunLog(tmp_path, trackers=("tensorbord",))


def test_a_log_that_cannot_be_written_is_said_once_and_tried_again(tmp_path, capsys):
    log = RunLog(tmp_path)
    log.path.unlink()
    log.path.mkdir()
    for i in range(3): log.write("target", i, dict(loss=1.))
    assert capsys.readouterr().err.count("cannot be written") == 1
    log.path.rmdir()
    log.write("target", 3, dict(loss=1.))
    assert [o["step"] for o in read_log(log.path)] == [3]
