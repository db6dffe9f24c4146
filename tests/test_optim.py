"Learning rate, weight decay and the average: against PyTorch's own, and the older AAM's defects by name."
import math

import pytest
import torch
from torch import nn

from aam_nb.core import AamError
from aam_nb.model.asv_encoder import AsvEncoder
from aam_nb.sections import ModelConfig, OptimConfig
from aam_nb.training.optim import Ema, make_optimizer, parameter_groups, rate, set_rate


def test_b5_the_first_update_is_small_and_not_zero():
    for warmup in (.01, .05, .3, 1.):
        c = OptimConfig(steps=200, warmup=warmup)
        assert rate(0, c) == pytest.approx(1/round(warmup*200)) and rate(0, c) > 0


def test_b5_the_rate_never_rises_again():
    c = OptimConfig(steps=100, warmup=.1)
    after = [rate(s, c) for s in range(10, 500)]
    assert all(a >= b for a, b in zip(after, after[1:], strict=False)) and after[90:] == [0.]*400


def test_b5_warm_up_as_long_as_the_run_does_not_divide_by_zero():
    for steps in (1, 2, 3, 10):
        for warmup in (0., .05, .5, .99, 1.):
            rates = [rate(s, OptimConfig(steps=steps, warmup=warmup)) for s in range(steps + 3)]
            assert all(0 <= o <= 1 for o in rates) and rates[0] > 0
            assert max(rates) == 1. and rates[steps:] == [0.]*3


def test_b5_warm_up_is_a_share_so_short_runs_leave_it():
    assert [rate(round(.05*n), OptimConfig(steps=n, warmup=.05)) for n in (40, 400, 40_000)] == [1.]*3


def test_rate_equals_pytorch_schedulers():
    c = OptimConfig(steps=60, warmup=.25, lr=.3)
    p = nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=.3)
    up = torch.optim.lr_scheduler.LinearLR(opt, 1/15, 1., 14)
    for s in range(15):
        assert .3*rate(s, c) == pytest.approx(opt.param_groups[0]["lr"])
        opt.step()
        up.step()
    opt = torch.optim.SGD([p], lr=.3)
    down = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 45)
    for s in range(15, 61):
        assert .3*rate(s, c) == pytest.approx(opt.param_groups[0]["lr"], abs=1e-12)
        opt.step()
        down.step()


def test_b6_the_rate_depends_on_the_step_alone():
    model, c = nn.Linear(2, 2), OptimConfig(steps=50, lr=.1)
    opt = make_optimizer(model.named_parameters(), c)
    once = [set_rate(opt, s, c) for s in range(50)]
    assert [set_rate(opt, s//2, c) for s in range(100)][::2] == once


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict(dict(stem=nn.Linear(4, 6), norm=nn.LayerNorm(6)))
        self.encoder.position = nn.Parameter(torch.zeros(3, 6))
        self.head, self.scale = nn.Linear(6, 1), nn.Parameter(torch.ones(2))
        self.log_temperature = nn.Parameter(torch.zeros(()))


def test_b19_decay_only_pulls_at_matrices():
    model, c = Model(), OptimConfig(weight_decay=.2, encoder_lr=.1)
    groups = parameter_groups(model.named_parameters(), c)
    decayed = {n for g in groups for n, _ in g["params"] if g["weight_decay"]}
    assert decayed == {"encoder.stem.weight", "head.weight"}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_b19_a_scale_without_gradient_stays_where_it_is():
    model, c = Model(), OptimConfig(weight_decay=1., lr=.1, steps=10, warmup=0.)
    opt = make_optimizer(model.named_parameters(), c)
    for p in model.parameters(): p.grad = torch.zeros_like(p)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for s in range(10):
        set_rate(opt, s, c)
        opt.step()
    for n, p in model.named_parameters():
        moved = not torch.equal(p, before[n])
        assert moved == (n in ("encoder.stem.weight", "head.weight")), n


def test_the_encoder_learns_at_its_own_rate_and_frozen_parts_do_not():
    model, c = Model(), OptimConfig(lr=1., encoder_lr=.25, steps=4, warmup=0.)
    opt = make_optimizer(model.named_parameters(), c)
    set_rate(opt, 0, c)
    lr = {n: g["lr"] for g in opt.param_groups for n in g["param_names"]}
    assert {v for n, v in lr.items() if n.startswith("encoder.")} == {.25} and lr["head.weight"] == 1.
    model.encoder.requires_grad_(False)
    names = [n for g in make_optimizer(model.named_parameters(), c).param_groups for n in g["param_names"]]
    assert names and not [n for n in names if n.startswith("encoder.")]
    model.requires_grad_(False)
    with pytest.raises(AamError, match="all are frozen"): make_optimizer(model.named_parameters(), c)


def test_the_average_is_the_weighted_mean_of_visited_weights():
    p = nn.Parameter(torch.tensor([1000., -1000.]))
    ema = Ema([("p", p)], decay=.8)
    visited = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    for o in visited:
        with torch.no_grad(): p.copy_(o)
        ema.update()
    weight = .8**torch.arange(29, -1, -1.)
    assert torch.allclose(ema.average["p"], (weight[:, None]*visited).sum(0)/weight.sum(), atol=1e-6)


def test_the_average_equals_pytorchs_after_its_start():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    model = nn.Linear(3, 2)
    ema = Ema(model.named_parameters(), decay=.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(.9))
    for i in range(300):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        ema.update()
        theirs.update_parameters(model)
    for n, p in theirs.module.named_parameters(): assert torch.allclose(ema.average[n], p, atol=1e-4)


def test_weights_come_back_bit_for_bit_also_after_an_error():
    model = nn.Linear(3, 2)
    ema = Ema(model.named_parameters(), decay=.9)
    ema.update()
    with torch.no_grad(): model.weight.mul_(math.pi)
    own = model.weight.detach().clone()
    with ema.applied(): assert not torch.equal(model.weight, own)
    assert torch.equal(model.weight, own)
    with pytest.raises(RuntimeError), ema.applied(): raise RuntimeError
    assert torch.equal(model.weight, own)


def test_adamw_equals_pytorchs_plain_one():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    c = OptimConfig(lr=.01, weight_decay=.1, steps=20, warmup=.2)
    a = make_optimizer(ours.named_parameters(), c)
    groups = [dict(params=[theirs.weight], weight_decay=.1), dict(params=[theirs.bias], weight_decay=0.)]
    b = torch.optim.AdamW(groups, lr=.01, foreach=False, fused=False)
    x = torch.randn(20, 5, 4)
    for s in range(20):
        set_rate(a, s, c)
        for g in b.param_groups: g["lr"] = .01*rate(s, c)
        for m, o in ((ours, a), (theirs, b)):
            o.zero_grad()
            m(x[s]).square().mean().backward()
            o.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def encoder_of(**sizes):
    "An ASV encoder of three layers, under the name that it has in a model."
    config = ModelConfig(width=16, heads=2, layers=3, **sizes)
    return nn.ModuleDict(dict(encoder=AsvEncoder(config, 30)))


@pytest.mark.parametrize("readout", ["flat", "attention"])
def test_each_layer_of_the_encoder_has_its_rate(readout):
    "Every parameter of a real encoder, from the stem (lowest) to the readout; its group gives the rate."
    encoder = encoder_of(readout=readout)
    c = OptimConfig(lr=1., encoder_lr=.1, layer_decay=.5, steps=4, warmup=0.)
    opt = make_optimizer(encoder.named_parameters(), c)
    set_rate(opt, 0, c)
    got = {n: g["lr"] for g in opt.param_groups for n in g["param_names"]}
    depth = dict(stem=4, position=4, body=None, readout=0)
    assert set(got) == {n for n, _ in encoder.named_parameters()}
    assert {n.split(".")[1] for n in got} == set(depth)
    for name, lr in got.items():
        part = name.split(".")
        above = 3 - int(part[3]) if part[1:3] == ["body", "blocks"] else depth[part[1]] or 0
        assert lr == pytest.approx(.1*.5**above), name


def test_layers_keep_their_rates_when_the_first_are_frozen():
    encoder = encoder_of()
    rates = []
    for frozen in (False, True):
        if frozen:
            for part in (encoder.encoder.stem, encoder.encoder.body.blocks[0]): part.requires_grad_(False)
            encoder.encoder.position.requires_grad_(False)
        groups = parameter_groups(encoder.named_parameters(), OptimConfig(layer_decay=.7))
        rates.append({n: g["share"] for g in groups for n, _ in g["params"]})
    assert rates[1] == {n: v for n, v in rates[0].items() if n in rates[1]}
    assert {n.split(".")[3] for n in rates[1] if "blocks" in n} == {"1", "2"}
    assert not [n for n in rates[1] if "stem" in n or "position" in n]


def test_the_rate_of_layers_is_no_matter_of_the_sample_level():
    c, p = OptimConfig(encoder_lr=.1, layer_decay=.5), nn.Parameter(torch.ones(2, 2))
    outside = ["sample.body.blocks.0.up.weight", "sample.stem.weight", "heads.target.linear.weight",
               "fusion.position"]
    groups = parameter_groups([(o, p) for o in [*outside, "encoder.body.blocks.1.up.weight"]], c)
    share = {n: g["share"] for g in groups for n, _ in g["params"]}
    assert {share.pop("encoder.body.blocks.1.up.weight")} == {.1*.5} and set(share.values()) == {1.}
    alone = parameter_groups([("encoder.stem.weight", p), ("encoder.readout.whole.weight", p)], c, slow="")
    assert sorted(g["share"] for g in alone) == [.5, 1.]       # a stage of its own has the full rate


def test_without_layer_decay_nothing_changes():
    "The same groups as ever: at most four, by decay and by the encoder's rate."
    encoder = encoder_of()
    encoder["head"] = nn.Linear(16, 1)
    groups = parameter_groups(encoder.named_parameters(), OptimConfig(encoder_lr=.1))
    found = {(g["share"], g["weight_decay"]) for g in groups}
    assert found == {(a, b) for a in (.1, 1.) for b in (0., .05)}
