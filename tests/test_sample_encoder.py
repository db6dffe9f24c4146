"Every sample encoder with every way in which reads enter: what changes nothing, and what must."
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoder_cases import D, awake, batch_of, config, each_kind, random_samples
from torch.nn import functional as F

import aam_nb.model.sample_encoder as sample_encoder_page

from aam_nb.model.layers import SideBySide, Standardise
from aam_nb.model.sample_encoder import (
    AttentionEncoder, PoolEncoder, SumEncoder, WithDepth, groups_of_pairs, pairs_with_reads, sample_encoder)


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def made(sample, how, depth, **more):
    return awake(sample_encoder(config(sample=sample, abundance=how, depth=depth, **more), D))


@each_kind
def test_order_and_absent_pairs_change_nothing(sample, how, depth):
    model, asv, rng = made(sample, how, depth), torch.randn(20, D), np.random.default_rng(1)
    samples = random_samples(6, 20)
    samples.append({3: 7})
    def turn(sample):
        absent = [(a, 0) for a in range(20) if a not in sample and a % 3]
        return dict(rng.permutation([*sample.items(), *absent]).tolist())
    turned = [turn(o) for o in samples]
    with torch.no_grad():
        want = model(asv, batch_of(samples, 20))
        torch.testing.assert_close(model(asv, batch_of(turned, 20)), want, rtol=1e-4, atol=1e-4)
        order = rng.permutation(20)  # ASVs under other numbers
        at = {int(o): i for i, o in enumerate(order)}
        def renamed(sample): return {at[a]: c for a, c in sample.items()}
        other = [renamed(s) for s in samples]
        torch.testing.assert_close(model(asv[order], batch_of(other, 20)), want, rtol=1e-4, atol=1e-4)


@each_kind
def test_batch_mates_change_nothing(sample, how, depth):
    model, asv, samples = made(sample, how, depth), torch.randn(20, D), random_samples(7, 20)
    with torch.no_grad():
        together = model(asv, batch_of(samples, 20))
        alone = torch.cat([model(asv, batch_of([s], 20)) for s in samples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@each_kind
def test_depth_enters_only_where_it_is_asked_for(sample, how, depth):
    model, asv, batch = made(sample, how, depth), torch.randn(9, D), batch_of(random_samples(5, 9), 9)
    ten = replace(batch, counts=batch.counts*10)
    with torch.no_grad(): a, b = model(asv, batch), model(asv, ten)
    w = model.width - depth
    torch.testing.assert_close(a[:, :w], b[:, :w], rtol=1e-4, atol=1e-4)
    assert model.width == a.shape[1] == (16 if sample == "attention" else 64) + depth
    if depth: torch.testing.assert_close(b[:, w] - a[:, w], torch.ones(5), rtol=1e-4, atol=1e-4)


@each_kind
def test_reads_enter_unless_presence_is_asked_for(sample, how, depth):
    model, asv, one = made(sample, how, False), torch.randn(9, D), batch_of(random_samples(5, 9, seed=3), 9)
    other = replace(one, counts=torch.randint(1, 300, one.counts.shape).float())
    with torch.no_grad(): same = torch.allclose(model(asv, one), model(asv, other), atol=1e-4)
    assert same == (how == "presence")


@each_kind
def test_gradients_reach_every_parameter(sample, how, depth):
    model = made(sample, how, depth)
    model.train()
    asv = torch.randn(20, D, requires_grad=True)
    out = model(asv, batch_of(random_samples(6, 20), 20))
    (out*torch.randn_like(out)).sum().backward()
    dead = [k for k, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())
            or float(p.grad.abs().max()) == 0]
    assert not dead and float(asv.grad.abs().max()) > 0


@each_kind
def test_constants_are_fitted_on_features(sample, how, depth):
    model, asv, batch = made(sample, how, depth), torch.randn(20, D), batch_of(random_samples(40, 20), 20)
    with torch.no_grad():
        features = model.features(asv, batch)
        model.standard.fit(features)
        parts = model.standard.parts if isinstance(model.standard, SideBySide) else [model.standard]
        flat = [o for p in parts for o in (p.parts if isinstance(p, SideBySide) else [p])]
        assert all(isinstance(o, Standardise) for o in flat)
        assert sum(o.width for o in flat) == features.shape[1]
        torch.testing.assert_close(torch.cat([o.centre for o in flat]), features.mean(0))
        if depth: # The last feature
            torch.testing.assert_close(model(asv, batch)[:, -1].std(correction=0), torch.tensor(1.),
                                       rtol=1e-4, atol=1e-4)
        again = made(sample, how, depth)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(asv, batch), model(asv, batch)) # All that was fitted is in the state


@each_kind
def test_a_sample_without_reads_gives_finite_numbers(sample, how, depth):
    model, asv = made(sample, how, depth), torch.randn(9, D, requires_grad=True)
    for samples in ([{0: 3, 4: 2}, {1: 0, 2: 0}], [{1: 0}]):
        out = model(asv, batch_of(samples, 9))
        assert bool(out.isfinite().all())
        # Where no sample has reads, the set transformer gives bare zeros
        if out.requires_grad: out.square().sum().backward()
    assert bool(asv.grad.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@each_kind
def test_half_precision_keeps_the_reads(sample, how, depth):
    "A sum of reads in half precision would stop at 256."
    model, asv = made(sample, how, depth), torch.randn(40, D)
    batch = batch_of([{a: 1 for a in range(40)} | {0: 60_000}, {a: 300 for a in range(40)}], 40)
    with torch.no_grad():
        want = model(asv, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16): got = model(asv.bfloat16(), batch).float()
    assert float((got - want).abs().max()) < .15*float(want.abs().max())


def test_the_set_transformer_sums_reads_exactly_in_half_precision(monkeypatch):
    seen = []
    monkeypatch.setattr(sample_encoder_page, "pairs_with_reads",
                        lambda *a: seen.append(pairs_with_reads(*a)) or seen[-1])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        made("attention", "log", False)(torch.randn(1000, D).bfloat16(),
                                        batch_of([{a: 1 for a in range(1000)}], 1000))
    torch.testing.assert_close(seen[0][2], torch.full((1000,), -.5))


def test_the_sum_has_both_parts():
    model, asv, batch = made("both", "log", False), torch.randn(9, D), batch_of(random_samples(5, 9), 9)
    assert isinstance(model, SumEncoder)
    assert isinstance(model.pool, PoolEncoder)
    assert isinstance(model.attention, AttentionEncoder)
    with torch.no_grad():
        want = F.linear(model.pool(asv, batch), model.from_pool.weight,
                        model.from_pool.bias) + model.attention(asv, batch) @ model.from_attention.weight.T
        torch.testing.assert_close(model(asv, batch), want)
    assert isinstance(made("both", "log", True), WithDepth)


def test_ragged_rows_with_very_unlike_lengths():
    def sample(n): return {a: a % 7 + 1 for a in range(n)}
    samples = [sample(n) for n in (1, 300, 2, 290, 40, 41)]
    asv = torch.randn(300, D)
    model = made("attention", "log", False)
    assert len(groups_of_pairs(batch_of(samples, 300).offsets.diff())) > 2
    with torch.no_grad():
        alone = torch.cat([model(asv, batch_of([s], 300)) for s in samples])
        torch.testing.assert_close(model(asv, batch_of(samples, 300)), alone, rtol=1e-4, atol=1e-5)
