"""Encoders: every choice of pools, abundance and depth, mixed lengths, and the linear path against outside references."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_newick
from scipy import sparse
from scipy.stats import gmean
from sklearn.decomposition import PCA
from torch.nn import functional as F

import aam_nb.model.linear as linear
import aam_nb.model.sample_encoder as sample_encoder_page
from aam_nb.config import POOLS, Config
from aam_nb.core import AamError
from aam_nb.data.tokens import PAD
from aam_nb.data.tree import branch_abundance, parse_newick
from aam_nb.model.asv_encoder import AsvEncoder
from aam_nb.model.layers import CrossAttention, SideBySide, Standardise
from aam_nb.model.linear import Components, LogComponents, branch_shares
from aam_nb.model.sample_encoder import (
    AttentionEncoder,
    PoolEncoder,
    SumEncoder,
    WithDepth,
    abundances,
    groups_of_pairs,
    pairs_with_reads,
    sample_encoder,
    shares,
)
from aam_nb.sections import SIZES, ModelConfig
from aam_nb.types import Batch

SAMPLES = ("pool", "attention", "both")
HOWS = ("log", "clr", "presence")
KINDS = [(s, h, d) for s in SAMPLES for h in HOWS for d in (False, True)]
each_kind = pytest.mark.parametrize("sample,how,depth", KINDS)
D = 12


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def config(**given):
    return ModelConfig(**(dict(patch=6, width=16, layers=2, heads=2, feedforward=2, identity=8, sample_width=16, sample_layers=1,
                               head_width=8, components=4) | given))


def batch_of(samples, u):
    "A batch from [{ASV: reads}, ...] over `u` distinct ASVs."
    return Batch(tokens=torch.ones(u, 6, dtype=torch.uint8), rows=torch.arange(u), identity=torch.zeros(u, 0),
                 asv=torch.tensor([a for s in samples for a in s], dtype=torch.int64), counts=torch.tensor([float(c) for s in samples for c in s.values()]),
                 offsets=torch.tensor([0] + [len(s) for s in samples]).cumsum(0), index=torch.arange(len(samples)), target=torch.zeros(len(samples), 0))


def random_samples(n, u, seed=0, most=500):
    rng = np.random.default_rng(seed)
    return [{int(a): int(rng.integers(1, most)) for a in rng.choice(u, rng.integers(1, u), replace=False)} for _ in range(n)]


def awake(model):
    "Move everything that starts at zero or at one, so that no path hides behind its initial value."
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p)*.1)
    return model.eval()


def dense(batch):
    "Reads as samples x ASVs."
    out = np.zeros((batch.size, len(batch.rows)))
    np.add.at(out, (batch.sample.numpy(), batch.asv.numpy()), batch.counts.numpy())
    return out


# --- from bases to ASVs ---

@pytest.mark.parametrize("readout", ["flat", "attention"])
@pytest.mark.parametrize("patch", [1, 6, 7])
def test_mixed_lengths_to_500_equal_one_sequence_at_a_time(readout, patch):
    lengths = [500, 1, 7, 99, 150, 251, 253, 400, 499, 6]
    assert all(any(o % p for o in lengths) for p in (6, 7))
    tokens = torch.randint(1, 5, (len(lengths), 500), dtype=torch.uint8)
    for row, n in zip(tokens, lengths, strict=True): row[n:] = PAD
    model = awake(AsvEncoder(config(readout=readout, patch=patch, layers=1), 500))
    with torch.no_grad():
        got = model(tokens)
        alone = torch.cat([model(tokens[i:i+1, :n]) for i, n in enumerate(lengths)])
        wide = model(F.pad(tokens, (0, 11), value=PAD))
    torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, wide, rtol=1e-5, atol=1e-6)
    assert torch.cdist(got, got).add(torch.eye(len(got))*9).min() > 1e-3 # No two lengths read alike


@pytest.mark.parametrize("readout", ["flat", "attention"])
def test_the_last_base_of_an_uneven_length_is_read(readout):
    tokens = torch.randint(1, 5, (1, 13), dtype=torch.uint8).repeat(2, 1); tokens[1, -1] = 5 - tokens[1, -1]
    a, b = awake(AsvEncoder(config(readout=readout), 13))(tokens)
    assert not torch.allclose(a, b)


def test_a_readout_by_attention_does_not_grow_with_the_length():
    "Its parameters grow by the places alone; a flat readout's by width x width a place."
    def size(readout, bases): return sum(p.numel() for p in AsvEncoder(config(readout=readout), bases).parameters())
    assert size("attention", 480) - size("attention", 240) == 40*16
    assert size("flat", 480) - size("flat", 240) == 40*(16 + 16*16)


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_are_whole_configurations(name):
    c = Config(model=ModelConfig(**SIZES[name])).model
    with torch.device("meta"): model, sample = AsvEncoder(c, 150), sample_encoder(replace(c, sample="both"), c.width + c.identity)
    assert sum(p.numel() for p in model.parameters()) > 0 and sample.width == 4*c.sample_width


# --- how reads enter ---

def test_ratios_equal_scipys_geometric_mean():
    batch = batch_of(random_samples(5, 9), 9); got, unit = abundances(batch, "clr"); reads = dense(batch)
    assert unit == 1
    for row, have in zip(reads, got.numpy(), strict=True):
        here = row > 0
        np.testing.assert_allclose(have[here], row[here]/gmean(row[here]), rtol=1e-4)
        assert not have[~here].any()


def test_ratios_do_not_change_when_another_asv_blooms_alike():
    "Ten times the reads of everything is the same sample; shares, ratios and presence agree."
    one = batch_of(random_samples(4, 9), 9); ten = replace(one, counts=one.counts*10)
    for how in HOWS: torch.testing.assert_close(abundances(one, how)[0], abundances(ten, how)[0])
    assert torch.equal(abundances(one, "log")[0], shares(one)) and abundances(one, "log")[1] == 1e-4


@pytest.mark.parametrize("how", HOWS)
def test_levels_of_pairs(how):
    samples = [{0: 30, 2: 0, 1: 10}, {3: 5}]; batch = batch_of(samples, 4)
    at, sample, level = pairs_with_reads(batch, how)
    assert at.tolist() == [0, 1, 3] and sample.tolist() == [0, 0, 1]
    if how == "presence": assert level is None
    if how == "log": np.testing.assert_allclose(level, np.log10([.75, .25, 1])/2 + 1, rtol=1e-5)
    if how == "clr": np.testing.assert_allclose(level, np.log10([30/300**.5, 10/300**.5, 1]), atol=1e-6)


# --- pools ---

FOUR = POOLS[:4]
SUBSETS = [tuple(o for i, o in enumerate(FOUR) if k >> i & 1) for k in range(1, 16)]

@pytest.mark.parametrize("pools", SUBSETS, ids="-".join)
@pytest.mark.parametrize("how", HOWS)
def test_a_subset_of_pools_equals_those_columns_of_all_four(pools, how):
    c, batch, asv = config(abundance=how), batch_of(random_samples(5, 11), 11), torch.randn(11, D)
    whole = awake(PoolEncoder(c, D)); part = PoolEncoder(replace(c, pools=tuple(reversed(pools))), D)
    assert part.pools == pools and part.width == 16*len(pools)
    asks = dict(zip(whole.asking, whole.asks.weight.split(whole.sizes), strict=True)), dict(zip(whole.asking, whole.asks.bias.split(whole.sizes), strict=True))
    state = {k: v for k, v in whole.state_dict().items() if k.startswith(("asv.", "power"))}
    with torch.no_grad():
        for name, value in part.named_parameters():
            if name in state: value.copy_(state[name])
        if part.asks:
            part.asks.weight.copy_(torch.cat([asks[0][o] for o in part.asking])); part.asks.bias.copy_(torch.cat([asks[1][o] for o in part.asking]))
        want = torch.cat([o for name, o in zip(FOUR, whole.features(asv, batch).split(16, 1), strict=True) if name in pools], 1)
        torch.testing.assert_close(part.features(asv, batch), want)
    torch.testing.assert_close(part(asv, batch).unflatten(1, (len(pools), 16)).mean(2), torch.zeros(5, len(pools)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["log", "clr", "presence"])
def test_the_sum_pool_is_a_linear_picture_of_log_abundance(how):
    "Against the formula written out, alone and beside the others, whose columns it does not change."
    batch, asv = batch_of(random_samples(5, 11), 11), torch.randn(11, D); c = config(abundance=how, pools=POOLS); five = awake(PoolEncoder(c, D))
    R, _ = abundances(batch, how); level = dict(log=torch.log1p(R/1e-4), clr=torch.where(R > 0, R, 1.).log(), presence=R)[how]
    got = five.features(asv, batch); torch.testing.assert_close(got[:, 64:], level @ asv @ five.sums.weight.T, rtol=1e-4, atol=1e-4)
    four = PoolEncoder(replace(c, pools=FOUR), D)
    four.load_state_dict({k: v[:64] if v.shape[:1] == (80,) else v for k, v in five.state_dict().items() if k != "sums.weight"})
    torch.testing.assert_close(got[:, :64], four.features(asv, batch)); torch.testing.assert_close(five(asv, batch)[:, :64], four(asv, batch))
    alone = PoolEncoder(replace(c, pools=("sum",)), D)
    assert alone.width == 16 and (alone(asv, batch)*2 - alone(asv, replace(batch, counts=batch.counts*3))*2).abs().max() < 1e-4 # Depth is not read


def test_pools_read_ratios_as_their_formulas_say():
    batch, asv = batch_of(random_samples(4, 10), 10), torch.randn(10, D); pool = awake(PoolEncoder(config(abundance="clr"), D)); reads = dense(batch)
    with torch.no_grad():
        h = pool.asv(asv); clade, present, score = pool.asks(h).split(pool.sizes, 1); got = pool.features(asv, batch).split(16, 1)
        for i, row in enumerate(reads):
            here = torch.from_numpy(row > 0); r = torch.from_numpy(row[row > 0]/gmean(row[row > 0])).float(); w = torch.log1p(r)
            torch.testing.assert_close(got[0][i], torch.log10(1 + r @ clade[here].sigmoid()))
            torch.testing.assert_close(got[1][i], torch.log1p(present[here].sigmoid().sum(0)))
            torch.testing.assert_close(got[2][i], w @ h[here]/w.sum())
            for k in range(2):
                a = (pool.power[k]*r.log() + 3*torch.tanh(score[here, k]/3)).softmax(0)
                torch.testing.assert_close(got[3][i, 8*k:8*k + 8], a @ h[here, 8*k:8*k + 8])


def test_the_default_has_the_parameters_it_always_had():
    "Earlier bundles load, and earlier seeds give the same draws."
    torch.manual_seed(0); pool = sample_encoder(config(), D)
    assert type(pool) is PoolEncoder
    assert {k: tuple(v.shape) for k, v in pool.state_dict().items()} == {
        "power": (2,), "gain": (64,), "shift": (64,), "asv.0.weight": (16, D), "asv.0.bias": (16,), "asv.2.weight": (16,), "asv.2.bias": (16,),
        "asks.weight": (34, 16), "asks.bias": (34,), "standard.centre": (64,), "standard.spread": (64,)}
    torch.manual_seed(0); first, second = torch.nn.Linear(D, 16), torch.nn.Linear(16, 34)
    assert torch.equal(pool.asv[0].weight, first.weight) and torch.equal(pool.asks.weight, second.weight)


# --- what every sample encoder promises ---

def made(sample, how, depth, **more): return awake(sample_encoder(config(sample=sample, abundance=how, depth=depth, **more), D))


@each_kind
def test_order_and_absent_pairs_change_nothing(sample, how, depth):
    model, asv, rng = made(sample, how, depth), torch.randn(20, D), np.random.default_rng(1)
    samples = random_samples(6, 20); samples.append({3: 7})
    turned = [dict(rng.permutation([*s.items(), *((a, 0) for a in range(20) if a not in s and a % 3)]).tolist()) for s in samples]
    with torch.no_grad():
        want = model(asv, batch_of(samples, 20))
        torch.testing.assert_close(model(asv, batch_of(turned, 20)), want, rtol=1e-4, atol=1e-4)
        order = rng.permutation(20)  # ASVs under other numbers
        at = {int(o): i for i, o in enumerate(order)}
        other = [{at[a]: c for a, c in s.items()} for s in samples]
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
    model = made(sample, how, depth); model.train()
    asv = torch.randn(20, D, requires_grad=True); out = model(asv, batch_of(random_samples(6, 20), 20))
    (out*torch.randn_like(out)).sum().backward()
    dead = [k for k, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all()) or float(p.grad.abs().max()) == 0]
    assert not dead and float(asv.grad.abs().max()) > 0


@each_kind
def test_constants_are_fitted_on_features(sample, how, depth):
    model, asv, batch = made(sample, how, depth), torch.randn(20, D), batch_of(random_samples(40, 20), 20)
    with torch.no_grad():
        features = model.features(asv, batch); model.standard.fit(features)
        parts = model.standard.parts if isinstance(model.standard, SideBySide) else [model.standard]
        flat = [o for p in parts for o in (p.parts if isinstance(p, SideBySide) else [p])]
        assert all(isinstance(o, Standardise) for o in flat) and sum(o.width for o in flat) == features.shape[1]
        torch.testing.assert_close(torch.cat([o.centre for o in flat]), features.mean(0))
        if depth: # The last feature
            torch.testing.assert_close(model(asv, batch)[:, -1].std(correction=0), torch.tensor(1.), rtol=1e-4, atol=1e-4)
        again = made(sample, how, depth); again.load_state_dict(model.state_dict())
        assert torch.equal(again(asv, batch), model(asv, batch)) # All that was fitted is in the state


@each_kind
def test_a_sample_without_reads_gives_finite_numbers(sample, how, depth):
    model, asv = made(sample, how, depth), torch.randn(9, D, requires_grad=True)
    for samples in ([{0: 3, 4: 2}, {1: 0, 2: 0}], [{1: 0}]):
        out = model(asv, batch_of(samples, 9))
        assert bool(out.isfinite().all())
        if out.requires_grad: out.square().sum().backward() # Where no sample has reads, the set transformer gives bare zeros
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
    seen = []; monkeypatch.setattr(sample_encoder_page, "pairs_with_reads", lambda *a: seen.append(pairs_with_reads(*a)) or seen[-1])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        made("attention", "log", False)(torch.randn(1000, D).bfloat16(), batch_of([{a: 1 for a in range(1000)}], 1000))
    torch.testing.assert_close(seen[0][2], torch.full((1000,), -.5))


def test_the_sum_has_both_parts():
    model, asv, batch = made("both", "log", False), torch.randn(9, D), batch_of(random_samples(5, 9), 9)
    assert isinstance(model, SumEncoder) and isinstance(model.pool, PoolEncoder) and isinstance(model.attention, AttentionEncoder)
    with torch.no_grad():
        want = F.linear(model.pool(asv, batch), model.from_pool.weight, model.from_pool.bias) + model.attention(asv, batch) @ model.from_attention.weight.T
        torch.testing.assert_close(model(asv, batch), want)
    assert isinstance(made("both", "log", True), WithDepth)


def test_ragged_rows_with_very_unlike_lengths():
    samples = [{a: a % 7 + 1 for a in range(n)} for n in (1, 300, 2, 290, 40, 41)]; asv = torch.randn(300, D); model = made("attention", "log", False)
    assert len(groups_of_pairs(batch_of(samples, 300).offsets.diff())) > 2
    with torch.no_grad():
        alone = torch.cat([model(asv, batch_of([s], 300)) for s in samples])
        torch.testing.assert_close(model(asv, batch_of(samples, 300)), alone, rtol=1e-4, atol=1e-5)


# --- attention on another row ---

@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_equals_torchs(masked):
    ours = CrossAttention(width=10, d_key=6, inner=10, heads=2).double()
    theirs = torch.nn.MultiheadAttention(10, 2, kdim=6, vdim=6, batch_first=True).double()
    with torch.no_grad():
        k, v = ours.kv.weight.chunk(2); theirs.q_proj_weight.copy_(ours.q.weight); theirs.k_proj_weight.copy_(k); theirs.v_proj_weight.copy_(v)
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias])); theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, other = torch.randn(3, 4, 10, dtype=torch.float64), torch.randn(3, 7, 6, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 2, 5])[:, None] if masked else None
    want = theirs(x, other, other, key_padding_mask=None if mask is None else ~mask, need_weights=False)[0]
    torch.testing.assert_close(ours(x, other, mask), want)


# --- the linear path ---

def table(n, known, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(rng.gamma(.3, 20, (n, known))))


def batch_from(counts, **given):
    counts = sparse.csr_matrix(counts)
    samples = [dict(zip(r.indices.tolist(), r.data.tolist(), strict=True)) for r in counts]
    return replace(batch_of(samples, counts.shape[1]), place=torch.arange(counts.shape[1]), **given)


def study(n=25, tips=14, known=12, seed=0):
    "Counts, a random tree, and the tip of each ASV: one has none."
    rng = np.random.default_rng(seed)
    tree = parse_newick(random_newick(rng, tips)); tip = rng.permutation(tips)[:known].astype(np.int32); tip[3] = -1
    return table(n, known, seed), tree, tip


@pytest.mark.parametrize("k", [1, 3, 10])
def test_components_equal_scikit_learn(k):
    x = np.random.default_rng(0).normal(size=(30, 50))*np.linspace(1, 4, 50)*(np.random.default_rng(1).random((30, 50)) < .5)
    want = PCA(k, whiten=True, svd_solver="full").fit(x); part = Components(50, k).double().fit(sparse.csr_matrix(x))
    new = np.random.default_rng(2).normal(size=(5, 50))
    for rows in (x, new):
        got, ref = part(torch.from_numpy(rows)).numpy(), want.transform(rows)
        np.testing.assert_allclose(got*np.sign((got*ref).sum(0)), ref, atol=1e-6)


def test_components_beyond_the_rank_are_zero():
    x = np.random.default_rng(0).normal(size=(30, 2)) @ np.random.default_rng(1).normal(size=(2, 20))
    part = Components(20, 6).double().fit(sparse.csr_matrix(x))
    scores = part(torch.from_numpy(x))
    torch.testing.assert_close(scores.std(0), torch.tensor([1., 1, 0, 0, 0, 0], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert not part.loadings[:, 2:].any() and not part.centre[2:].any()
    assert not Components(20, 6).fit(sparse.csr_matrix(np.ones((5, 20)))).loadings.any() # Samples that are all alike
    once = np.random.default_rng(0).normal(size=(15, 20)); twice = np.concatenate([once, once + 1e-5*np.random.default_rng(1).normal(size=once.shape)])
    assert not Components(20, 20).fit(sparse.csr_matrix(twice)).loadings[:, 14:].any() # What differs between repeats is not blown up
    assert Components(3, 6).fit(sparse.csr_matrix(np.random.default_rng(0).random((2, 3)))).loadings.isfinite().all()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_branch_shares_equal_those_of_the_tree(seed):
    counts, tree, tip = study(n=6, seed=seed)
    R = counts.toarray()/np.maximum(counts.sum(1), 1)
    got = branch_shares(torch.from_numpy(R), *(torch.from_numpy(np.asarray(o, dtype=np.int64)) for o in (tip, tree.start, tree.stop)))
    np.testing.assert_allclose(got, branch_abundance(tree, tip, R), atol=1e-12)


def test_branch_shares_keep_small_numbers_in_single_precision():
    "A branch with 1e-6 of the reads behind 20,000 ASVs with the rest."
    n = 20_000; R = torch.full((1, n + 1), (1 - 1e-6)/n); R[0, -1] = 1e-6
    got = branch_shares(R, torch.arange(n + 1), torch.tensor([n]), torch.tensor([n + 1]))
    assert abs(float(got) - 1e-6) < 1e-9


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_the_linear_path_equals_pca_of_log_abundance(kind):
    counts, tree, tip = study(); path = LogComponents(config(linear=kind), 2, 12, len(tree.length)).fit(counts, tree, tip)
    R = counts.toarray()/counts.sum(1)
    made = dict(asvs=np.log1p(np.asarray(R)/1e-4), branches=np.log1p(branch_abundance(tree, tip, R)/1e-4)*np.sqrt(tree.length))
    want = np.concatenate([PCA(4, whiten=True, svd_solver="full").fit_transform(made[o]) for o in path.kinds], 1)
    got = path.scores(batch_from(counts)).numpy()
    np.testing.assert_allclose(got*np.sign((got*want).sum(0)), want, atol=2e-3)


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_the_linear_path_adds_nothing_at_first_and_learns(kind):
    counts, tree, tip = study(); path = LogComponents(config(linear=kind), 3, 12, len(tree.length)).fit(counts, tree, tip)
    out = path(batch_from(counts))
    assert out.shape == (25, 3) and not out.any()
    (out*torch.randn_like(out)).sum().backward()
    assert bool((path.linear.weight.grad != 0).all()) and [k for k, _ in path.named_parameters()] == ["linear.weight"]


def test_the_linear_path_learns_what_ridge_learns():
    "A signal in log abundance, with the default rate and steps: R2 on new samples near that of ridge on the same scores."
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    counts = table(300, 12); y = np.log1p(np.asarray(counts/counts.sum(1))/1e-4) @ np.random.default_rng(1).normal(size=12)
    y = torch.from_numpy((y - y[:200].mean())/y[:200].std()).float()[:, None]
    path = LogComponents(config(linear="asvs", components=8), 1, 12).fit(counts[:200])
    opt = torch.optim.AdamW(path.parameters(), 1e-3, weight_decay=.05); rate = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 400)
    train, test = batch_from(counts[:200]), batch_from(counts[200:])
    for _ in range(400):
        opt.zero_grad(); (path(train) - y[:200]).square().mean().backward(); opt.step(); rate.step()
    with torch.no_grad(): got = r2_score(y[200:], path(test))
    ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(path.scores(train), y[:200])
    assert got > ridge.score(path.scores(test), y[200:]) - .03 and got > .3


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_unknown_asvs_and_batch_mates_add_nothing_to_the_linear_path(kind):
    counts, tree, tip = study(); path = awake(LogComponents(config(linear=kind), 2, 12, len(tree.length)).fit(counts, tree, tip))
    whole = batch_from(counts[:6])
    extra = sparse.hstack([counts[:6, ::-1], sparse.csr_matrix(np.full((6, 2), 50))]).tocsr() # Other order, and two unknown ASVs
    place = torch.tensor([*range(11, -1, -1), -1, -1])
    with torch.no_grad():
        got = path.scores(replace(batch_from(extra), place=place))
        R = shares(batch_from(extra))[:, :12].flip(1).double().numpy() # Unknown ASVs count among the sample's reads, not among the features
        parts = dict(asvs=np.log1p(R/1e-4), branches=np.log1p(branch_abundance(tree, tip, R)/1e-4)*np.sqrt(tree.length))
        want = torch.cat([path.parts[o](torch.from_numpy(parts[o]).float()) for o in path.kinds], 1)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
        alone = torch.cat([path(batch_from(counts[i])) for i in range(6)])
        torch.testing.assert_close(path(whole), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["asvs", "branches", "both"])
def test_the_linear_path_is_all_in_its_state(kind):
    counts, tree, tip = study(); c = config(linear=kind); path = awake(LogComponents(c, 2, 12, len(tree.length)).fit(counts, tree, tip))
    again = LogComponents(c, 2, 12, len(tree.length)); again.load_state_dict(path.state_dict())
    with torch.no_grad(): assert torch.equal(again(batch_from(counts)), path(batch_from(counts)))


def test_so_many_samples_define_the_components(monkeypatch):
    counts, monkey = table(50, 12), 10; monkeypatch.setattr(linear, "MOST", monkey)
    few = LogComponents(config(linear="asvs"), 1, 12).fit(counts)
    monkeypatch.undo(); rows = np.linspace(0, 49, monkey).round().astype(int)
    torch.testing.assert_close(few.parts["asvs"].loadings, LogComponents(config(linear="asvs"), 1, 12).fit(counts[rows]).parts["asvs"].loadings)
    assert linear.MOST == 2048


def test_what_the_linear_path_refuses():
    counts, tree, tip = study(); c = config(linear="both"); path = LogComponents(c, 1, 12, len(tree.length))
    with pytest.raises(AamError, match="needs a tree"): LogComponents(c, 1, 12)
    with pytest.raises(AamError, match="at least 2 samples with 12 ASVs; found 25 with 11"): path.fit(counts[:, :11], tree, tip[:11])
    with pytest.raises(AamError, match="12 ASVs; found 1 with 12"): path.fit(counts[:1], tree, tip)
    with pytest.raises(AamError, match=f"tree of {len(tree.length)} branches; found 0"): path.fit(counts)
    with pytest.raises(AamError, match="`place`"): path.fit(counts, tree, tip)(replace(batch_from(counts), place=None))
