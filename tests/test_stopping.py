"Asked to stop, a stage leaves in time whatever it is doing, and goes on as if nobody had asked."
import os
import signal
import time
from dataclasses import replace

import pytest
from toy_batches import QUICK, Toy, cpu, fresh, same

from aam_nb.sections import LossConfig
from aam_nb.training import stopping
from aam_nb.training.checkpoint import read_checkpoint
from aam_nb.training.loop import fit
from aam_nb.training.measure import measure_samples
from aam_nb.training.objectives import SampleObjective
from aam_nb.training.stage import Stage
from aam_nb.training.stopping import CutShort, stop_requests

OPTIM = replace(QUICK, schedule="plateau", drop_after=0)


def hang(number):
    "Ask this process to stop, and then take a minute."
    os.kill(os.getpid(), number)
    for _ in range(6000): time.sleep(.01)


class Slow(Toy):
    "A source that asks to stop, and then takes a minute to make a batch."
    def __init__(self, at=None, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number = at, number

    def __getitem__(self, step):
        if step == self.at: hang(self.number)
        return super().__getitem__(step)


class SlowObjective(SampleObjective):
    "An objective that asks to stop in the middle of a step, and then takes a minute."
    at = None
    def losses(self, outputs, batch, *more):
        self.made = getattr(self, "made", 0) + 1
        if self.made == self.at: hang(signal.SIGTERM)
        return super().losses(outputs, batch, *more)


def life(stage, where=None, number=signal.SIGTERM):
    "Train a toy; asked to stop in a batch, in a step, or in the second of its validations."
    learner, looks, held = SlowObjective(fresh(), LossConfig(), mixup=.4), [], Toy(seed=9)[0]
    if where == "step": learner.at = 26
    def validate():
        looks.append(len(looks))
        if where == "validation" and len(looks) == 2: hang(number)
        return measure_samples(learner, [held])
    source = Slow(25 if where == "batch" else None, number)
    found = fit(learner, source, OPTIM, cpu(), validate, stage)
    return [{k: v for k, v in o.items() if k != "seconds"} for o in found.history], learner.model.state_dict()


@pytest.mark.parametrize("where,step", [("validation", 20), ("step", 23),
                                        pytest.param("batch", 25, marks=pytest.mark.slow)])
def test_work_that_takes_too_long_is_cut_and_done_again(tmp_path, monkeypatch, where, step):
    """Cut in the middle of anything, the checkpoint is that of the last whole step; a validation that was cut
    comes first in the resumed run, and the rate follows its score."""
    monkeypatch.setattr(stopping, "PATIENCE", .3)
    wanted, begun = life(Stage()), time.monotonic()
    with pytest.raises(SystemExit) as left: life(Stage(folder=tmp_path), where)
    assert left.value.code == 143 and time.monotonic() - begun < 10
    state = read_checkpoint(tmp_path/"last")[0]["state"]
    assert state["step"] == step and len(state["history"]) == (1 if where == "validation" else 2)
    found = life(Stage(folder=tmp_path, resume=True))
    assert found[0] == wanted[0] and same(found[1], wanted[1])


@pytest.mark.parametrize("number,code", [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_each_signal_has_its_exit_status(tmp_path, monkeypatch, number, code):
    monkeypatch.setattr(stopping, "PATIENCE", .1)
    with pytest.raises(SystemExit) as left: life(Stage(folder=tmp_path), "batch", number)
    assert left.value.code == code


def test_a_request_at_the_last_step_is_not_forgotten(tmp_path):
    "The stage ends, its checkpoint says so, and the run stops there instead of beginning the next stage."
    class Last(Toy):
        def __getitem__(self, step):
            if step == 39: os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(step)
    with pytest.raises(SystemExit):
        fit(SampleObjective(fresh(), LossConfig()), Last(), QUICK, cpu(), stage=Stage(folder=tmp_path))
    assert read_checkpoint(tmp_path/"last")[0]["state"]["done"]


def test_what_must_not_be_cut_is_not():
    with stop_requests(patience=.05) as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + .5
        while time.monotonic() < end: time.sleep(.01)
        with pytest.raises(CutShort), asked.cuttable(): time.sleep(60)
    time.sleep(.2)                                             # and no alarm is left behind
    assert signal.getitimer(signal.ITIMER_REAL) == (0., 0.)


def test_a_process_beside_the_run_leaves_the_signal_to_it():
    with stop_requests() as asked:
        asked.process += 1                                      # as in a process that was forked from it
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(.05)
        assert not asked
        asked.process -= 1


def test_checkpoints_come_by_steps_and_by_time(tmp_path):
    def steps(**how):
        learner, found = SampleObjective(fresh(), LossConfig()), []
        class Watched(Toy):
            def __getitem__(self, step):
                if (folder/"last").is_dir(): found.append(read_checkpoint(folder/"last")[0]["state"]["step"])
                return super().__getitem__(step)
        folder = tmp_path/str(how)
        fit(learner, Watched(), QUICK, cpu(), stage=Stage(folder=folder, **how))
        return sorted(set(found))
    assert steps(save_steps=9, save_seconds=1e9) == [9, 18, 27, 36]
    assert steps(save_seconds=1e9) == []
    assert len(steps(save_seconds=0.)) >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_comes_twice_is_one_request(number):
    "A cluster and the launcher both send it, some milliseconds apart."
    with stop_requests() as asked:
        for _ in range(3): os.kill(os.getpid(), number)
        time.sleep(.05)
        assert asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT) # a person at the keyboard still ends it
            time.sleep(1)
