"""Covariates: what is missing, unknown or nested, and five ways to join them with the summary."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoder_cases import awake
from model_cases import ragged

from aam_nb.core import AamError
from aam_nb.model.fusion import (
    FUSIONS, ChainToken, CovariateTokens, Fusion, NumberTokens, OutputScale, rows_with_tokens)
from aam_nb.model.sample_encoder import pairs_with_reads
from aam_nb.sections import ModelConfig
from aam_nb.types import Batch, Covariates

SHAPE = Covariates(chains=(("diet",), ("country", "state", "city")), sizes=(3, 2, 4, 5),
                   numbers=("age", "weight"))
W, D, U = 10, 7, 15 # Width of the summary, of an ASV's vector, and distinct ASVs
each_fusion = pytest.mark.parametrize("fusion", FUSIONS)
each_how = pytest.mark.parametrize("how", ["log", "clr", "presence"])


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def config(**given):
    return ModelConfig(**(dict(sample_width=12, heads=2, feedforward=2, covariate_width=6, latents=5,
                               latent_layers=1) | given))


def codes(b, shape=SHAPE, seed=0):
    "Random covariates, some missing, some unknown."
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, n + 2, b) for n in shape.sizes]
    category = np.stack(drawn, 1) if drawn else np.zeros((b, 0), dtype=np.int64)
    number = rng.normal(size=(b, len(shape.numbers))).astype(np.float32)
    number[rng.random(number.shape) < .2] = np.nan
    return torch.from_numpy(category), torch.from_numpy(number)


def random_samples(b, seed=0):
    rng = np.random.default_rng(seed)
    def sample():
        held = rng.choice(U, rng.integers(1, U), replace=False)
        return {int(a): int(rng.integers(1, 300)) for a in held}
    return [sample() for _ in range(b)]


def batch_of(samples, category, number):
    asv, counts, offsets = ragged(samples)
    return Batch(tokens=torch.ones(U, 6, dtype=torch.uint8), rows=torch.arange(U), identity=torch.zeros(U, 0),
                 asv=asv, counts=counts, offsets=offsets, index=torch.arange(len(samples)),
                 target=torch.zeros(len(samples), 0), category=category, number=number)


def some(b=6, seed=0):
    return torch.randn(b, W), batch_of(random_samples(b, seed), *codes(b, seed=seed)), torch.randn(U, D)


def made(fusion, shape=SHAPE, **given): return awake(Fusion(config(fusion=fusion, **given), shape, W, D))
def close(a, b): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- tokens ---

def test_one_token_a_chain_or_number():
    tokens = awake(CovariateTokens(SHAPE, 6))
    category, number = codes(8)
    assert tokens(category, number).shape == (8, 4, 6) and tokens.count == 4
    with torch.no_grad():
        close(tokens(category, number)[:, 0], tokens.chains[0](category[:, :1]))
        close(tokens(category, number)[:, 1], tokens.chains[1](category[:, 1:]))
        close(tokens(category, number)[:, 2:], tokens.numbers(number))


def test_missing_is_not_unknown():
    "Nor either of them a known category, at any level of a chain."
    chain = awake(ChainToken((3, 4), 6))
    whole = chain(torch.tensor([[o, 1] for o in range(5)]))
    part = chain(torch.tensor([[2, o] for o in range(6)]))
    for x in (whole, part): assert torch.cdist(x, x).add(torch.eye(len(x))).min() > .05


def test_missing_and_unknown_differ_before_any_training():
    x = CovariateTokens(SHAPE, 6).chains[0](torch.tensor([[0], [1], [2]]))
    assert torch.cdist(x, x).add(torch.eye(3)).min() > .05


def test_an_unseen_part_is_its_whole():
    "Whatever was trained: city -> state -> country."
    chain = awake(ChainToken((2, 4, 5), 6))
    with torch.no_grad():
        state = chain.whole.weight[2] + chain.parts[0].weight[3 - 1]
        close(chain(torch.tensor([[2, 3, 1]]))[0], state) # The city was never seen: its state
        close(chain(torch.tensor([[2, 1, 1]]))[0], chain.whole.weight[2]) # Nor the state: its country
        close(chain(torch.tensor([[1, 1, 1]]))[0], chain.whole.weight[1]) # Nor the country: the unknown one
        close(chain(torch.tensor([[2, 3, 4]]))[0], state + chain.parts[1].weight[4 - 1])


def test_parts_begin_as_their_whole():
    chain = ChainToken((2, 4), 6)
    with torch.no_grad():
        close(chain(torch.tensor([[3, o] for o in range(6)])), chain.whole.weight[3].expand(6, -1))


def test_every_row_of_a_chain_learns_but_the_part_of_an_unknown():
    chain = ChainToken((2, 3), 4)
    code = torch.tensor([[w, p] for w in range(4) for p in range(5)])
    chain(code).square().sum().backward()
    # missing and known
    assert bool((chain.whole.weight.grad != 0).any(1).all()) and len(chain.parts[0].weight) == 3 + 1
    assert bool((chain.parts[0].weight.grad != 0).any(1).all())
    chain.zero_grad()
    chain(torch.tensor([[2, 1]])).square().sum().backward()
    assert not chain.parts[0].weight.grad.any()


def test_numbers_move_along_a_line_and_missing_ones_stand_apart():
    tokens = awake(NumberTokens(2, 5))
    number = torch.tensor([[0., 1], [1, torch.nan], [2, torch.nan]], requires_grad=True)
    x = tokens(number)
    close(x[2, 0] - x[1, 0], x[1, 0] - x[0, 0])
    close(x[1, 1], tokens.missing[1])
    close(x[2, 1], tokens.missing[1])
    assert (x[0, 0] - tokens.missing[0]).abs().max() > .05 # The mean of training is not missing
    x.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) and float(p.grad.abs().max()) > 0
               for p in [number, *tokens.parameters()])


ONE, NUMBER = Covariates(chains=(("a",),), sizes=(3,)), Covariates(numbers=("x",))
PLACE = Covariates(chains=(("a", "b"),), sizes=(3, 4))


@pytest.mark.parametrize("shape", [ONE, NUMBER, PLACE], ids=["category", "number", "chain"])
@each_fusion
def test_categories_alone_and_numbers_alone(fusion, shape):
    category, number = codes(6, shape)
    model = made(fusion, shape)
    summary, batch, asv = some()
    with torch.no_grad():
        full = model(summary, replace(batch, category=category, number=number), asv)
        bare = model(summary, replace(batch, category=category if shape.sizes else None,
                                      number=number if shape.numbers else None), asv)
    assert torch.equal(full, bare)


def test_other_columns_are_refused():
    category, number = codes(3)
    tokens = CovariateTokens(SHAPE, 4)
    four = r"categories: the batch has 3, and this model wants 4 \('diet', 'country', 'state' and 1 more\)"
    with pytest.raises(AamError, match=four):
        tokens(category[:, :3], number)
    with pytest.raises(AamError,
                       match=r"numbers: the batch has 0, and this model wants 2 \('age', 'weight'\)"):
        tokens(category, None)
    with pytest.raises(AamError, match="numbers: the batch has 2, and this model wants 0 .none"):
        CovariateTokens(ONE, 4)(category[:, :1], number)
    with pytest.raises(AamError, match="no covariates to join"): Fusion(config(), Covariates(), W, D)


# --- joining ---

@each_fusion
def test_each_covariate_enters(fusion):
    model = made(fusion)
    summary, batch, asv = some()
    category, number = torch.full((6, 4), 3), torch.zeros(6, 2)
    with torch.no_grad():
        def at(c, v): return model(summary, replace(batch, category=c, number=v), asv)
        before = at(category, number)
        for i in range(4):
            for code in (0, 1, 2): # Missing, unknown, another one
                other = category.clone()
                other[:, i] = code
                assert float((at(other, number) - before).abs().amax(1).min()) > 1e-4, (i, code)
        for i in range(2):
            for value in (1., float("nan")):
                other = number.clone()
                other[:, i] = value
                assert float((at(category, other) - before).abs().amax(1).min()) > 1e-4, (i, value)


@each_fusion
def test_the_summary_enters(fusion):
    model = made(fusion)
    summary, batch, asv = some()
    with torch.no_grad():
        moved = model(summary + torch.randn_like(summary), batch, asv) - model(summary, batch, asv)
    assert float(moved.abs().amax(1).min()) > .1


@each_fusion
@each_how
def test_gradients_reach_every_parameter(fusion, how):
    # As it is made: nothing may be dead at the first step
    model = Fusion(config(fusion=fusion, abundance=how), SHAPE, W, D).train()
    summary, batch, asv = some(40)
    summary.requires_grad_(), asv.requires_grad_()
    out = model(summary, batch, asv)
    (out*torch.randn_like(out)).sum().backward()
    dead = [k for k, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())
            or float(p.grad.abs().max()) == 0]
    assert not dead
    assert float(summary.grad.abs().max()) > 0
    assert (asv.grad is not None) == (fusion == "perceiver")


@each_fusion
@each_how
def test_order_and_absent_pairs_change_nothing(fusion, how):
    model = made(fusion, abundance=how)
    summary, batch, asv = some()
    rng = np.random.default_rng(1)
    def turn(sample):
        absent = [(a, 0) for a in range(U) if a not in sample and a % 3]
        return dict(rng.permutation([*sample.items(), *absent]).tolist())
    turned = [turn(o) for o in random_samples(6)]
    with torch.no_grad():
        close(model(summary, batch_of(turned, batch.category, batch.number), asv), model(summary, batch, asv))


@each_fusion
@each_how
def test_batch_mates_change_nothing(fusion, how):
    "Nor does padding: alone, no row is padded."
    model = made(fusion, abundance=how)
    summary, batch, asv = some(8)
    samples = random_samples(8)
    with torch.no_grad():
        alone = [model(summary[i:i+1], batch_of(samples[i:i+1], batch.category[i:i+1], batch.number[i:i+1]),
                       asv) for i in range(8)]
        close(model(summary, batch, asv), torch.cat(alone))


def test_B8_the_perceiver_does_not_see_padding():
    "Rows of 3 to 14 pairs in one group are padded, and give what each gives alone; the group is masked."
    model = made("perceiver").join
    def rising(n): return {a: a + 1 for a in range(n)}
    samples = [rising(n) for n in (14, 13, 12)]
    category, number = codes(3)
    summary, asv, c = torch.randn(3, W), torch.randn(U, D), torch.randn(3, 4, 6)
    batch = batch_of(samples, category, number)
    at, sample, _ = pairs_with_reads(batch)
    groups = rows_with_tokens(asv[at], sample, torch.randn(3, 4, D))[1]
    assert len(groups) == 1 and groups[0][2] is not None
    with torch.no_grad():
        alone = [model(summary[i:i+1], c[i:i+1], batch_of(samples[i:i+1], category[i:i+1], number[i:i+1]),
                       asv) for i in range(3)]
        close(model(summary, c, batch, asv), torch.cat(alone))


def test_the_perceiver_reads_asvs_and_their_abundance():
    model = made("perceiver")
    summary, batch, asv = some()
    with torch.no_grad():
        before = model(summary, batch, asv)
        for other in (model(summary, batch, asv + torch.randn_like(asv)),
                      model(summary, replace(batch, counts=torch.rand(len(batch.counts))*300 + 1), asv)):
            moved = (other - before).abs().amax(1)
            # The share of a lone ASV is 1 in any case
            assert float(moved[batch.offsets.diff() > 1].min()) > 1e-4


def test_the_perceiver_does_not_read_depth():
    model = made("perceiver")
    summary, batch, asv = some()
    with torch.no_grad():
        close(model(summary, replace(batch, counts=batch.counts*10), asv), model(summary, batch, asv))


def test_rows_of_the_perceiver():
    "Pairs of the sample in order, then its tokens; a sample without pairs has its tokens."
    sample = torch.tensor([0, 0, 2])
    pairs = torch.tensor([[10.], [11.], [12.]])
    c = torch.tensor([[[1.], [2.]], [[3.], [4.]], [[5.], [6.]]])
    rows, groups = rows_with_tokens(pairs, sample, c)
    found = {}
    for samples, at, mask in groups:
        mask = torch.ones_like(at, dtype=torch.bool) if mask is None else mask
        found |= {int(i): rows[a][m].flatten().tolist() for i, a, m in zip(samples, at, mask, strict=True)}
    assert found == {0: [10, 11, 1, 2], 1: [3, 4], 2: [12, 5, 6]}


@each_fusion
def test_a_sample_without_reads_still_has_its_covariates(fusion):
    model = made(fusion)
    category, number = codes(2)
    summary, asv = torch.randn(2, W), torch.randn(U, D)
    batch = batch_of([{0: 0, 1: 0}, {2: 0}], category, number)
    other = replace(batch, category=(category + 1).clamp_max(3))
    a, b = model(summary, batch, asv), model(summary, other, asv)
    a.square().sum().backward()
    assert bool(a.isfinite().all()) and bool(((a - b).detach().abs().amax(1) > 1e-4).all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_B7_cross_attention_weighs_its_tokens():
    "With a single covariate, too: queries and keys learn, and how much is heard depends on the summary."
    for shape in (Covariates(chains=(("diet",),), sizes=(3,)), SHAPE):
        model = Fusion(config(fusion="cross"), shape, W, D)
        summary, batch, asv = some(20)
        category, number = codes(20, shape)
        out = model(summary, replace(batch, category=category, number=number), asv)
        (out*torch.randn_like(out)).sum().backward()
        ask = model.join.ask
        keys = ask.kv.weight.grad[:12]
        assert float(ask.q.weight.grad.abs().max()) > 1e-4 and float(keys.abs().max()) > 1e-4
        same = category[:1].expand(20, -1), number[:1].expand(20, -1)
        with torch.no_grad():
            heard = model(summary, replace(batch, category=same[0], number=same[1]), asv) - summary
        assert float((heard - heard[:1]).abs().max()) > 1e-3 # Not the same vector for all samples


def test_formulas():
    "concat, add and gated, written out."
    summary, batch, asv = some()
    def parts(name):
        model = made(name)
        c = model.tokens(batch.category, batch.number).flatten(1)
        return model.join, c, torch.cat([summary, c], 1), model(summary, batch, asv)
    with torch.no_grad():
        j, c, hc, got = parts("concat")
        close(got, hc @ j.join.weight.T + j.join.bias)
        j, c, hc, got = parts("add")
        close(got, summary + c @ j.value.weight.T + j.value.bias)
        j, c, hc, got = parts("gated")
        gate, value = torch.sigmoid(hc @ j.gate.weight.T + j.gate.bias), c @ j.value.weight.T + j.value.bias
        close(got, summary + gate*torch.tanh(value))


def test_concat_begins_with_the_summary_as_it_is():
    model = Fusion(config(fusion="concat"), SHAPE, W, D)
    summary, batch, asv = some()
    with torch.no_grad():
        close(model(summary, batch, asv) - model(torch.zeros_like(summary), batch, asv), summary)


@each_fusion
def test_half_precision_stays_near(fusion):
    model = made(fusion)
    summary, batch, asv = some()
    with torch.no_grad():
        want = model(summary, batch, asv)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(summary.bfloat16(), batch, asv.bfloat16()).float()
    assert float((got - want).abs().max()) < .1*float(want.abs().max())


@each_fusion
def test_all_is_in_the_state(fusion):
    model = made(fusion)
    again = Fusion(config(fusion=fusion), SHAPE, W, D).eval()
    again.load_state_dict(model.state_dict())
    summary, batch, asv = some()
    with torch.no_grad(): assert torch.equal(again(summary, batch, asv), model(summary, batch, asv))


@each_fusion
@pytest.mark.parametrize("width", [11, 65])
def test_any_width_of_the_summary(fusion, width):
    "Depth adds one column, so widths need be no multiple of the heads."
    model = Fusion(config(fusion=fusion, sample_width=9, heads=4), SHAPE, width, D)
    _, batch, asv = some()
    assert model(torch.randn(6, width), batch, asv).shape == (6, width)


@each_fusion
def test_a_signal_in_the_covariates_is_learned(fusion):
    "y = whether diet is 2; every batch is a new one, and reads say nothing."
    model = Fusion(config(fusion=fusion), SHAPE, W, D)
    head = torch.nn.Linear(W, 1)
    opt = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)
    def errors(seed):
        summary, batch, asv = some(48, seed)
        y = (batch.category[:, :1] == 2).float()
        return (head(model(summary, batch, asv)) - y).square().mean()/y.var(correction=0)
    for seed in range(100):
        opt.zero_grad()
        errors(seed).backward()
        opt.step()
    with torch.no_grad(): assert float(errors(1000)) < .5 # 1 is the mean


# --- scale and shift ---

def test_scale_and_shift_begin_as_nothing():
    scale, shift = OutputScale(SHAPE, ("diet", "city"), 3).factors(codes(5)[0])
    assert torch.equal(scale, torch.ones(5, 3)) and torch.equal(shift, torch.zeros(5, 3))


def test_factors_multiply_and_shifts_add():
    by = awake(OutputScale(SHAPE, ("city", "diet"), 2))
    category = codes(9)[0]
    city, diet = by.tables[0].weight[category[:, 3]], by.tables[1].weight[category[:, 0]]
    scale, shift = by.factors(category)
    close(scale, city[:, :2].exp()*diet[:, :2].exp())
    close(shift, city[:, 2:] + diet[:, 2:])
    assert bool((scale > 0).all()) and [len(o.weight) for o in by.tables] == [7, 5]


def test_B28_missing_and_unknown_have_factors_that_learn():
    by = OutputScale(SHAPE, ("diet",), 2)
    scale, shift = by.factors(torch.tensor([[0, 2, 2, 2], [1, 2, 2, 2]]))
    ((torch.randn(2, 2)*scale + shift)*torch.randn(2, 2)).sum().backward()
    assert bool((by.tables[0].weight.grad[:2] != 0).all()) and not by.tables[0].weight.grad[2:].any()


def test_columns_that_cannot_scale_are_refused():
    wanted = r"'age', which holds numbers; wanted columns with categories \('diet', 'country', 'state' and 1 "
    with pytest.raises(AamError, match=wanted):
        OutputScale(SHAPE, ("age",), 1)
    with pytest.raises(AamError, match="'dite'.*Did you mean 'diet'"): OutputScale(SHAPE, ("dite",), 1)
