"How reads enter, and each pool against its formula."
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoder_cases import D, HOWS, awake, batch_of, config, dense, random_samples
from scipy.stats import gmean

from aam_nb.config import POOLS
from aam_nb.model.sample_encoder import (
    PoolEncoder, abundances, pairs_with_reads, sample_encoder, shares)


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def test_ratios_equal_scipys_geometric_mean():
    batch = batch_of(random_samples(5, 9), 9)
    got, unit = abundances(batch, "clr")
    reads = dense(batch)
    assert unit == 1
    for row, have in zip(reads, got.numpy(), strict=True):
        here = row > 0
        np.testing.assert_allclose(have[here], row[here]/gmean(row[here]), rtol=1e-4)
        assert not have[~here].any()


def test_ratios_do_not_change_when_another_asv_blooms_alike():
    "Ten times the reads of everything is the same sample; shares, ratios and presence agree."
    one = batch_of(random_samples(4, 9), 9)
    ten = replace(one, counts=one.counts*10)
    for how in HOWS: torch.testing.assert_close(abundances(one, how)[0], abundances(ten, how)[0])
    assert torch.equal(abundances(one, "log")[0], shares(one)) and abundances(one, "log")[1] == 1e-4


@pytest.mark.parametrize("how", HOWS)
def test_levels_of_pairs(how):
    samples = [{0: 30, 2: 0, 1: 10}, {3: 5}]
    batch = batch_of(samples, 4)
    at, sample, level = pairs_with_reads(batch, how)
    assert at.tolist() == [0, 1, 3] and sample.tolist() == [0, 0, 1]
    if how == "presence": assert level is None
    if how == "log": np.testing.assert_allclose(level, np.log10([.75, .25, 1])/2 + 1, rtol=1e-5)
    if how == "clr": np.testing.assert_allclose(level, np.log10([30/300**.5, 10/300**.5, 1]), atol=1e-6)


FOUR = POOLS[:4]
SUBSETS = [o for n in range(1, 5) for o in itertools.combinations(FOUR, n)]

@pytest.mark.parametrize("pools", SUBSETS, ids="-".join)
@pytest.mark.parametrize("how", HOWS)
def test_a_subset_of_pools_equals_those_columns_of_all_four(pools, how):
    c, batch, asv = config(abundance=how), batch_of(random_samples(5, 11), 11), torch.randn(11, D)
    whole = awake(PoolEncoder(c, D))
    part = PoolEncoder(replace(c, pools=tuple(reversed(pools))), D)
    assert part.pools == pools and part.width == 16*len(pools)
    parts = [o.split(whole.sizes) for o in (whole.asks.weight, whole.asks.bias)]
    asks = [dict(zip(whole.asking, o, strict=True)) for o in parts]
    state = {k: v for k, v in whole.state_dict().items() if k.startswith(("asv.", "power"))}
    with torch.no_grad():
        for name, value in part.named_parameters():
            if name in state: value.copy_(state[name])
        if part.asks:
            part.asks.weight.copy_(torch.cat([asks[0][o] for o in part.asking]))
            part.asks.bias.copy_(torch.cat([asks[1][o] for o in part.asking]))
        want = torch.cat([o for name, o in zip(FOUR, whole.features(asv, batch).split(16, 1), strict=True)
                          if name in pools], 1)
        torch.testing.assert_close(part.features(asv, batch), want)
    torch.testing.assert_close(part(asv, batch).unflatten(1, (len(pools), 16)).mean(2),
                               torch.zeros(5, len(pools)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["log", "clr", "presence"])
def test_the_sum_pool_is_a_linear_picture_of_log_abundance(how):
    "Against the formula written out, alone and beside the others, whose columns it does not change."
    batch, asv = batch_of(random_samples(5, 11), 11), torch.randn(11, D)
    c = config(abundance=how, pools=POOLS)
    five = awake(PoolEncoder(c, D))
    R, _ = abundances(batch, how)
    level = dict(log=torch.log1p(R/1e-4), clr=torch.where(R > 0, R, 1.).log(), presence=R)[how]
    got = five.features(asv, batch)
    torch.testing.assert_close(got[:, 64:], level @ asv @ five.sums.weight.T, rtol=1e-4, atol=1e-4)
    four = PoolEncoder(replace(c, pools=FOUR), D)
    four.load_state_dict({k: v[:64] if v.shape[:1] == (80,) else v for k,
                          v in five.state_dict().items() if k != "sums.weight"})
    torch.testing.assert_close(got[:, :64], four.features(asv, batch))
    torch.testing.assert_close(five(asv, batch)[:, :64], four(asv, batch))
    alone = PoolEncoder(replace(c, pools=("sum",)), D)
    # Depth is not read
    assert alone.width == 16
    assert (alone(asv, batch)*2 - alone(asv, replace(batch, counts=batch.counts*3))*2).abs().max() < 1e-4


def test_pools_read_ratios_as_their_formulas_say():
    batch, asv = batch_of(random_samples(4, 10), 10), torch.randn(10, D)
    pool = awake(PoolEncoder(config(abundance="clr"), D))
    reads = dense(batch)
    with torch.no_grad():
        h = pool.asv(asv)
        clade, present, score = pool.asks(h).split(pool.sizes, 1)
        got = pool.features(asv, batch).split(16, 1)
        for i, row in enumerate(reads):
            here = torch.from_numpy(row > 0)
            r = torch.from_numpy(row[row > 0]/gmean(row[row > 0])).float()
            w = torch.log1p(r)
            torch.testing.assert_close(got[0][i], torch.log10(1 + r @ clade[here].sigmoid()))
            torch.testing.assert_close(got[1][i], torch.log1p(present[here].sigmoid().sum(0)))
            torch.testing.assert_close(got[2][i], w @ h[here]/w.sum())
            for k in range(2):
                a = (pool.power[k]*r.log() + 3*torch.tanh(score[here, k]/3)).softmax(0)
                torch.testing.assert_close(got[3][i, 8*k:8*k + 8], a @ h[here, 8*k:8*k + 8])


def test_the_default_has_the_parameters_it_always_had():
    "Earlier bundles load, and earlier seeds give the same draws."
    torch.manual_seed(0)
    pool = sample_encoder(config(), D)
    assert type(pool) is PoolEncoder
    assert {k: tuple(v.shape) for k, v in pool.state_dict().items()} == {"power": (2,), "gain": (64,),
                                                                         "shift": (64,),
                                                                         "asv.0.weight": (16, D),
                                                                         "asv.0.bias": (16,),
                                                                         "asv.2.weight": (16,),
                                                                         "asv.2.bias": (16,),
                                                                         "asks.weight": (34, 16),
                                                                         "asks.bias": (34,),
                                                                         "standard.centre": (64,),
                                                                         "standard.spread": (64,)}
    torch.manual_seed(0)
    first, second = torch.nn.Linear(D, 16), torch.nn.Linear(16, 34)
    assert torch.equal(pool.asv[0].weight, first.weight) and torch.equal(pool.asks.weight, second.weight)
