"Ranges of learning rates: the rates and the smoothing, the search itself, and that it changes nothing."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.runs.lr import lr_run
from aam_nb.sections import RunConfig
from aam_nb.training.bench import Bench
from aam_nb.training.encoder_stage import asv_stage
from aam_nb.training.loop import Loop, Stage
from aam_nb.training.lr import RangeTest, plot_rates, range_test, rate_text, rising_rates, smoothed, suggested
from aam_nb.training.parallel import make_accelerator

SMALL = config_from({"model": {"width": 16, "layers": 1, "heads": 2, "sample_width": 16, "head_width": 16},
                     "pretrain_asv": {"steps": 8, "batch": 40}, "optim": {"steps": 9, "batch": 8}})


@pytest.fixture(scope="module")
def bench():
    store = build_store(simulate(samples=40, asvs=80, groups=8, seed=0))
    return Bench(config=SMALL, store=store, accelerator=make_accelerator(RunConfig(device="cpu")))


def fastai(losses, beta):
    "Sylvain Gugger's description: avg = beta*avg + (1 - beta)*loss, and avg/(1 - beta**batch)."
    avg, out = 0, []
    for number, loss in enumerate(losses, 1):
        avg = beta*avg + (1 - beta)*loss
        out.append(avg/(1 - beta**number))
    return out


def test_the_smoothing_is_that_of_fastai_and_of_pandas():
    import pandas as pd
    losses = np.random.default_rng(0).random(40)
    assert np.allclose(smoothed(losses, .98), fastai(losses, .98))
    assert np.allclose(smoothed(losses), pd.Series(losses).ewm(alpha=.1, adjust=True).mean())


def test_rates_rise_by_a_factor():
    rates = rising_rates(1e-5, .1, 41)
    assert np.allclose(rates[1:]/rates[:-1], 10**.1) and np.allclose(rates[[0, -1]], [1e-5, .1])


def by_hand(bench, rates):
    "The losses of plain AdamW steps at these rates."
    model, objective, source = asv_stage(bench, np.arange(40))
    optim = bench.config.pretrain_asv
    loop = Loop(objective, replace(optim, ema=0.), bench.accelerator, Stage())
    model.train()
    losses = []
    for i, lr in enumerate(rates):
        for g in loop.optimizer.param_groups: g["lr"] = lr*g["share"]
        loop.optimizer.zero_grad()
        terms = objective.train_step(source[i % len(source)], torch.Tensor.backward)
        torch.nn.utils.clip_grad_norm_(list(loop.trained.values()), optim.clip)
        loop.optimizer.step()
        losses.append(float(sum(terms.values())))
    return losses


def test_each_step_has_its_rate_also_beyond_the_steps_of_the_stage(bench):
    rates = rising_rates(1e-4, 1e-2, 20) # The stage has 8 steps
    model, objective, source = asv_stage(bench, np.arange(40))
    found = range_test(objective, source, bench.config.pretrain_asv, bench.accelerator, rates)
    assert np.allclose(found.losses, by_hand(bench, rates), rtol=1e-5) and found.losses[-1] < found.losses[0]


def test_nothing_is_changed(bench):
    model, objective, source = asv_stage(bench, np.arange(40))
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    draw = torch.random.get_rng_state()
    optim, rates = bench.config.pretrain_asv, rising_rates(steps=90)
    found = range_test(objective, source, optim, bench.accelerator, rates)
    assert all(v.equal(before[k]) for k, v in model.state_dict().items()) and not model.training
    assert torch.random.get_rng_state().equal(draw)
    assert len(found.losses) < 90 and found.smooth.min() < .8*found.smooth[0] # It falls, and falls apart
    again = range_test(objective, source, optim, bench.accelerator, rates)
    assert (again.losses == found.losses).all()


def test_a_failing_step_leaves_the_weights_alone(bench):
    model, objective, source = asv_stage(bench, np.arange(40))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    class Broken:
        def __len__(self): return 8
        def __getitem__(self, i):
            if i == 3: raise OSError("gone")
            return source[i]
    with pytest.raises(OSError, match="gone"):
        range_test(objective, Broken(), SMALL.pretrain_asv, bench.accelerator, rising_rates(1e-3, 1., 9))
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_losses_that_are_no_number_from_the_start_are_an_error(bench):
    model, objective, source = asv_stage(bench, np.arange(40))
    with torch.no_grad(): next(model.parameters()).fill_(float("nan"))
    with pytest.raises(AamError, match="no number at a learning rate of 1e-06 already"):
        range_test(objective, source, bench.config.pretrain_asv, bench.accelerator)


def test_what_is_suggested():
    losses = np.r_[np.full(30, 2.), np.linspace(2, 1, 40), np.linspace(1, 9, 30)]
    test = RangeTest(rates=rising_rates(), losses=losses, now=1e-3)
    lowest = test.rates[test.smooth.argmin()]
    assert suggested(test) == pytest.approx(lowest/10) and 1e-4 < suggested(test) < 1e-2
    assert rate_text("optim", test) == f"optim.lr={lowest/10:.2g} is suggested; 0.001 is set."
    rising = replace(test, losses=np.linspace(1, 2, 100))
    assert suggested(rising) is None and "none is suggested" in rate_text("optim", rising)
    assert len(plot_rates({"a": test, "b": rising}).axes) == 2


@pytest.mark.parametrize("target", ["age", ""])
def test_the_command_writes_a_picture_and_no_model(tmp_path, target, capsys):
    write_study(simulate(samples=40, asvs=60, groups=10, length=40, seed=0), tmp_path/"study")
    data = dict(study_files(tmp_path/"study"), target=target, groups="subject")
    more = {"pretrain_sample": {"steps": 6, "batch": 8}, "run": {"out": str(tmp_path/"lr"), "threads": 1}}
    said = []
    path = lr_run(config_from({"data": data} | more, base=SMALL), said.append)
    stages = ["pretrain_asv", "pretrain_sample"] + ["optim"]*bool(target)
    found = json.loads((tmp_path/"lr/lr.json").read_text())
    assert list(found) == stages and path.read_bytes()[:4] == b"\x89PNG"
    assert all(len(o["rates"]) == len(o["losses"]) > 10 for o in found.values())
    assert sum("is set" in o for o in said) == len(stages)
    assert not (tmp_path/"lr/bundle").exists() and not (tmp_path/"lr/checkpoints").exists()
