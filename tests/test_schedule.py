"Every schedule, point by point, against PyTorch's own."
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from toy_batches import QUICK, Toy, cpu, fresh, same
from torch import nn
from torch.optim import lr_scheduler as theirs

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.disk import read_json, write_sealed
from aam_nb.sections import LossConfig, OptimConfig
from aam_nb.training.loop import Stage, fit
from aam_nb.training.objectives import SampleObjective
from aam_nb.training.optim import make_optimizer, set_rate
from aam_nb.training.schedule import fallen, momentum, rate

NAMES = ("cosine", "restarts", "plateau", "onecycle", "constant")


def followed(make, steps, lr=.3):
    "The rates that a scheduler of PyTorch sets, and the momentum beside them."
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["betas"][0]))
        optimizer.step()
        scheduler.step()
    return np.array(found)


def ours(config):
    "The same by this project."
    return np.array([(config.lr*rate(o, config), momentum(o, config)) for o in range(config.steps)])


def warmed(after, warm):
    "A scheduler of PyTorch behind its linear warm-up."
    def make(optimizer):
        if not warm: return after(optimizer)
        flat = theirs.ConstantLR(optimizer, 1., 0)
        first = theirs.LinearLR(optimizer, 1/warm, 1., warm - 1) if warm > 1 else flat
        return theirs.SequentialLR(optimizer, [first, after(optimizer)], [warm])
    return make


@pytest.mark.parametrize("warm", [0, 1, 2, 15])
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name,more,after", [
    ("cosine", {}, lambda o: theirs.CosineAnnealingLR(o, 70)),
    ("constant", {}, lambda o: theirs.ConstantLR(o, 1., 0)),
    ("restarts", dict(cycles=3, growth=2), lambda o: theirs.CosineAnnealingWarmRestarts(o, 10, 2)),
    ("restarts", dict(cycles=7, growth=1), lambda o: theirs.CosineAnnealingWarmRestarts(o, 10, 1)),
    ("restarts", dict(cycles=2, growth=6), lambda o: theirs.CosineAnnealingWarmRestarts(o, 10, 6))])
def test_warm_up_and_fall_are_pytorchs(name, more, after, warm):
    config = OptimConfig(schedule=name, steps=70 + warm, warmup=warm/(70 + warm), lr=.3, **more)
    np.testing.assert_allclose(ours(config), followed(warmed(after, warm), config.steps), atol=1e-12)


@pytest.mark.parametrize("steps,share", [(100, .3), (97, .3), (1000, .05), (10, .25), (40, .999), (13, 0.)])
def test_one_cycle_is_pytorchs_with_its_momentum(steps, share):
    config = OptimConfig(schedule="onecycle", steps=steps, warmup=share, lr=.3)
    def make(o): return theirs.OneCycleLR(o, .3, total_steps=steps, pct_start=share)
    np.testing.assert_allclose(ours(config), followed(make, steps), atol=1e-12)
    assert rate(steps - 1, config) == pytest.approx(4e-6)


def test_one_cycle_of_few_steps_does_not_divide_by_zero():
    for steps in (1, 2, 3, 4):
        for warmup in (0., .25, 1/3, .5, 1.):
            config = OptimConfig(schedule="onecycle", steps=steps, warmup=warmup)
            assert all(0 < o <= 1 for o, _ in ours(config)/[config.lr, 1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_is_pytorchs(seed, mode):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=60).cumsum()*(-.3 if mode == "min" else .3) + rng.normal(size=60), 1)
    scores[rng.integers(60, size=3)] = math.nan
    config = OptimConfig(schedule="plateau", drop=.3, drop_after=int(rng.integers(5)))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.)
    scheduler = theirs.ReduceLROnPlateau(optimizer, mode, .3, config.drop_after, threshold=0., eps=0.)
    for n in range(1, 61):
        scheduler.step(scores[n - 1])
        assert fallen(scores[:n], config, mode) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert fallen(scores, config, mode) < 1


@pytest.mark.parametrize("fused", [True, False])
def test_training_by_one_cycle_ends_where_pytorchs_does(fused):
    config = OptimConfig(schedule="onecycle", steps=20, warmup=.3, lr=.05, encoder_lr=.1, fused=fused)
    torch.manual_seed(0)
    mine, other = (nn.ModuleDict(dict(encoder=nn.Linear(4, 3), head=nn.Linear(3, 1))) for _ in range(2))
    other.load_state_dict(mine.state_dict())
    a = make_optimizer(mine.named_parameters(), config)
    b = make_optimizer(other.named_parameters(), config)
    cycle = theirs.OneCycleLR(b, [.05*g["share"] for g in b.param_groups], total_steps=20, pct_start=.3)
    for step, x in enumerate(torch.randn(20, 8, 4)):
        set_rate(a, step, config)
        for model, optimizer in ((mine, a), (other, b)):
            optimizer.zero_grad()
            model["head"](model["encoder"](x)).square().mean().backward()
            optimizer.step()
        if step < 19: cycle.step()
    for p, q in zip(mine.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-7)


def test_the_fused_form_is_taken_where_it_is_asked_for():
    for fused in (True, False):
        optimizer = make_optimizer([("w", nn.Parameter(torch.ones(2)))], OptimConfig(fused=fused))
        assert optimizer.defaults["fused"] is (True if fused else None)


def test_every_schedule_has_its_rates_and_ends_at_zero():
    choices = next(f.metadata["choices"] for f in fields(OptimConfig) if f.name == "schedule")
    assert set(choices) == set(NAMES)
    for name in NAMES:
        config = OptimConfig(schedule=name, steps=50, warmup=.2)
        rates = [rate(o, config) for o in range(60)]
        assert rates[50:] == [0.]*10 and max(rates) == pytest.approx(1.) and all(o > 0 for o in rates[:50])


def test_restarts_of_few_steps_have_a_rate():
    for steps in range(1, 12):
        config = OptimConfig(schedule="restarts", steps=steps, warmup=0., cycles=5, growth=3)
        assert all(0 < rate(o, config) <= 1 for o in range(steps))


@pytest.mark.parametrize("key,value", [("cycles", 4), ("growth", 3), ("drop", .1), ("drop_after", 1)])
def test_settings_of_another_schedule_are_refused(key, value):
    with pytest.raises(AamError, match=f"optim.{key} is {value}, but optim.schedule is 'onecycle'"):
        config_from({"optim": {key: value, "schedule": "onecycle"}})
    own = "plateau" if key.startswith("drop") else "restarts"
    assert getattr(config_from({"optim": {key: value, "schedule": own}}).optim, key) == value


class Asked(Toy):
    "A source that knows which batch was asked for last, and may be interrupted before one."
    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop

    def __getitem__(self, step):
        if step == self.stop: raise KeyboardInterrupt
        self.last = step
        return super().__getitem__(step)


def trained(optim, source, stage):
    "Train a toy on scores that soon get no better."
    objective, scores = SampleObjective(fresh(), LossConfig()), {9: .5, 19: .4}
    def validate(): return dict(loss=scores.get(source.last, .4))
    return fit(objective, source, optim, cpu(), validate, stage), objective.model.state_dict()


OFTEN = [("plateau", 15), ("plateau", 35), ("onecycle", 15)]
SELDOM = [(name, at) for name in NAMES for at in (15, 35) if (name, at) not in OFTEN]


@pytest.mark.parametrize("name,at", OFTEN + [pytest.param(*o, marks=pytest.mark.slow) for o in SELDOM])
def test_an_interrupted_schedule_goes_on_to_the_same_weights(tmp_path, name, at):
    more = dict(drop_after=0) if name == "plateau" else {}
    optim, stage = replace(QUICK, schedule=name, **more), Stage(folder=tmp_path, save_seconds=0.)
    whole, wanted = trained(optim, Asked(), Stage())
    with pytest.raises(KeyboardInterrupt): trained(optim, Asked(at), stage)
    parts, found = trained(optim, Asked(), replace(stage, resume=True))
    rates = [[o["lr"] for o in run.history] for run in (whole, parts)]
    assert same(found, wanted) and rates[0] == rates[1]
    if name == "plateau": assert rates[0] == [QUICK.lr, QUICK.lr, QUICK.lr, QUICK.lr/2]


def test_a_checkpoint_from_before_there_were_schedules_goes_on(tmp_path):
    stage = Stage(folder=tmp_path, save_seconds=0.)
    with pytest.raises(KeyboardInterrupt): trained(QUICK, Asked(15), stage)
    path = tmp_path/"last/state.json"
    state = {k: v for k, v in read_json(path).items() if k != "seal"}
    for k in ("schedule", "cycles", "growth", "drop", "drop_after", "fused"):
        state["state"]["settings"].pop(k)
    write_sealed(path, state)
    with pytest.raises(AamError, match="schedule=cosine, here constant"):
        trained(replace(QUICK, schedule="constant"), Asked(), replace(stage, resume=True))
    found = trained(QUICK, Asked(), replace(stage, resume=True))[1]
    assert same(found, trained(QUICK, Asked(), Stage())[1])
