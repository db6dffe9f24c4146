"A stage goes on with another number of processes: the same samples in the same order, the same weights."
import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from equal_cases import CPU, matters, objective_of, samples_of, source_of, view_of, weights_of
from test_scaler import scaled

from aam_nb.batches.sample_batches import PlainBatches
from aam_nb.sections import OptimConfig
from aam_nb.training import stopping
from aam_nb.training.checkpoint import read_checkpoint
from aam_nb.training.loop import fit
from aam_nb.training.measure import measure_samples
from aam_nb.training.ranks import ALONE, several
from aam_nb.training.stage import Stage

STEPS = 14


def life(ranks, case="all at once", folder=None, stop=None, resume=False, ask=None):
    "Train, or go on; perhaps until a step is asked for. Gives the weights, or the exit status."
    objective, source = objective_of(case), source_of(case, STEPS, ranks)
    optim = OptimConfig(steps=STEPS, lr=5e-3, every=4, ema=.9, chunk=5, freeze=False)
    def loader(source, start):
        for i in range(start, STEPS):
            if i == stop: raise KeyboardInterrupt
            if ask and i == ask[0] and ranks.rank in ask[1]: ask[2]()
            yield source[i]
    stage = Stage(folder=folder, resume=resume, save_seconds=0.)
    try: fit(objective, source, optim, CPU, None, stage, loader, ranks)
    except KeyboardInterrupt: return 130
    except SystemExit as e: return e.code
    return weights_of(objective.model).tolist()


def run(world, **how):
    "A life of some processes; what the main one returned."
    if world == 1: return life(ALONE, **how)
    return several(partial(life, **how), world)[0]


@pytest.mark.parametrize("case,worlds", [("asvs", (1, 2)),
                                         pytest.param("all at once", (2, 1), marks=pytest.mark.slow),
                                         pytest.param("all at once", (1, 3), marks=pytest.mark.slow),
                                         pytest.param("asvs", (3, 2), marks=pytest.mark.slow),
                                         pytest.param("two targets, frozen", (2, 4), marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on_with_the_same_order(tmp_path, case, worlds):
    wanted = np.array(run(1, case=case))
    before, after = worlds
    assert run(before, case=case, folder=str(tmp_path), stop=9) == 130
    assert read_checkpoint(tmp_path/"last")[0]["state"]["step"] < 9 + 1
    found, which = np.array(run(after, case=case, folder=str(tmp_path), resume=True)), matters(case)
    assert abs(found - wanted)[which].max() < 1e-10*abs(wanted).max()


def test_two_processes_go_on_bit_for_bit(tmp_path):
    wanted = run(2)
    assert run(2, folder=str(tmp_path), stop=9) == 130
    assert run(2, folder=str(tmp_path), resume=True) == wanted


def ask(): os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_process_that_is_asked_to_stop_takes_the_other_along(tmp_path, rank):
    "Both leave after the same step, whoever was asked, with one checkpoint and the same status."
    assert several(partial(life, folder=str(tmp_path), ask=(6, [rank], ask)), 2) == [143, 143]
    assert read_checkpoint(tmp_path/"last")[0]["state"]["step"] == 7
    assert run(2, folder=str(tmp_path), resume=True) == run(2)


def slow():
    "Ask to stop, and take longer than there is time."
    ask()
    for _ in range(6000): time.sleep(.01)


def test_processes_that_take_too_long_are_cut_short_together(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", .3)
    begun = time.monotonic()
    assert several(partial(life, folder=str(tmp_path), ask=(6, [0, 1], slow)), 2) == [143, 143]
    assert time.monotonic() - begun < 10
    assert read_checkpoint(tmp_path/"last")[0]["state"]["step"] == 6
    assert run(2, folder=str(tmp_path), resume=True) == run(2)


def rates(ranks, folder=None, resume=False, stop=None):
    "The learning rates of a stage that follows its validation, seen from one process."
    objective, source = objective_of("regression, frozen"), source_of("regression, frozen", STEPS, ranks)
    plain = PlainBatches(samples_of("regression, frozen"), view_of("regression, frozen"), batch=3)
    optim = OptimConfig(steps=STEPS, lr=.5, warmup=0., every=1, ema=0., schedule="plateau", drop_after=0)
    def loader(source, start):
        for i in range(start, STEPS):
            if i == stop: raise KeyboardInterrupt
            yield source[i]
    def validate(): return measure_samples(objective, plain)
    stage = Stage(folder=folder, resume=resume, save_seconds=0.)
    try: found = fit(objective, source, optim, CPU, validate, stage, loader, ranks)
    except KeyboardInterrupt: return []
    return [o["lr"] for o in found.history]


def test_a_plateau_is_decided_once_for_all_processes(tmp_path):
    wanted = rates(ALONE)
    assert len(set(wanted)) > 2                                # the rate falls several times
    assert several(rates, 2) == [wanted, wanted]
    assert several(partial(rates, folder=str(tmp_path), stop=8), 2) == [[], []]
    assert rates(ALONE, folder=str(tmp_path), resume=True) == wanted


def in_fp16(ranks, scale):
    "A stage whose gradients are scaled; the weights and the scale at its end."
    objective, source = objective_of("asvs", torch.float32), source_of("asvs", STEPS, ranks)
    optim = OptimConfig(steps=STEPS, lr=5e-3, every=4, ema=.9, chunk=5, freeze=False)
    accelerator = scaled(scale)
    fit(objective, source, optim, accelerator, None, Stage(), None, ranks)
    return [weights_of(objective.model).tolist(), accelerator.scaler.get_scale()]


def test_gradients_are_scaled_and_left_out_alike_in_all_processes():
    "Whether they overflow is asked after they were averaged, so that all processes see the same ones."
    wanted, which = np.array(in_fp16(ALONE, 2.**10)[0]), matters("asvs")
    found = np.array(several(partial(in_fp16, scale=2.**10), 2)[1][0])
    assert abs(found - wanted)[which].max() < 1e-4
    one, other = several(partial(in_fp16, scale=2.**126), 2)
    assert one == other and one[1] < 2.**126
