"Heads: quantiles in order, distances in range and unit, shares of hidden reads, kinds of target head."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from aam_nb.core import AamError
from aam_nb.model.heads import (
    CountHead, NucleotideHead, SampleDistanceHead, TargetHead, TreeDistanceHead, linked, ordered)
from aam_nb.training.losses import count_loss, distance_loss, target_loss
from aam_nb.types import Column

LEVELS = (.05, .5, .95)
AGE = Column(name="age", task="regression", outputs=3, loss="quantile", levels=LEVELS)
# the loss means nothing for classes
DIET = Column(name="diet", task="classification", outputs=3, loss="quantile", levels=())
PH = Column(name="ph", task="regression")


def draw(seed=0): return torch.Generator().manual_seed(seed)


# Quantiles

@settings(max_examples=40)
@given(x=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
       kind=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
def test_quantiles_never_cross(x, kind):
    q = ordered(torch.tensor(x).to(kind))
    assert q.dtype == kind and (q[:, 1:] >= q[:, :-1]).all()


def test_quantiles_by_numpy():
    x = torch.randn(50, 4, generator=draw(), dtype=torch.float64)*5
    y = x.numpy()
    want = np.concatenate([y[:, :1], y[:, :1] + np.cumsum(np.logaddexp(0, y[:, 1:]), 1)], 1)
    torch.testing.assert_close(ordered(x), torch.from_numpy(want))
    assert torch.autograd.gradcheck(ordered, (x.requires_grad_(),))
    torch.testing.assert_close(ordered(x[0]), ordered(x)[0])  # any shape in front


def test_any_rising_quantiles_can_be_said():
    q = torch.randn(20, 5, generator=draw(), dtype=torch.float64).sort(1).values
    raw = torch.cat([q[:, :1], q.diff(dim=1).expm1().log()], 1)
    torch.testing.assert_close(ordered(raw), q)


def test_only_quantiles_are_linked():
    raw = torch.randn(6, 7, generator=draw())
    got = linked(raw, (DIET, AGE, PH))
    assert torch.equal(got[:, :3], raw[:, :3]) and torch.equal(got[:, 6:], raw[:, 6:])
    assert torch.equal(got[:, 3:6], ordered(raw[:, 3:6])) and not torch.equal(got[:, 3:6], raw[:, 3:6])
    assert linked(raw[:, :4], (DIET, PH)) is not None
    assert torch.equal(linked(raw[:, :4], (DIET, PH)), raw[:, :4])


def test_linked_quantiles_are_learned():
    "Free numbers behind the link come to the quantiles of the data, which NumPy finds by sorting."
    y = torch.randn(400, 1, generator=draw(), dtype=torch.float64).exp()
    raw = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optim = torch.optim.Adam([raw], lr=.05)
    for _ in range(400):
        optim.zero_grad()
        target_loss(linked(raw, (AGE,)).expand(400, 3), y, (AGE,))["age"].mean.backward()
        optim.step()
    share = [(y <= q).double().mean().item() for q in linked(raw, (AGE,)).detach()[0]]
    assert share == pytest.approx(LEVELS, abs=.02)


# Target head

def test_kinds_of_target_head():
    x = torch.randn(5, 8, generator=draw())
    heads = {o: TargetHead(8, 4, 3, .3, o).eval() for o in ("linear", "mlp", "residual")}
    bent = lambda h: F.gelu(x @ h.hidden.weight.T + h.hidden.bias) @ h.out.weight.T
    straight = lambda h: x @ h.linear.weight.T + h.linear.bias
    want = dict(linear=straight(heads["linear"]), mlp=bent(heads["mlp"]) + heads["mlp"].out.bias,
                residual=straight(heads["residual"]) + bent(heads["residual"]))
    for k, h in heads.items(): torch.testing.assert_close(h(x), want[k])
    names = {k: sorted(h.state_dict()) for k, h in heads.items()}
    assert names["linear"] == ["linear.bias", "linear.weight"]
    assert not any(o.startswith("linear") for o in names["mlp"])
    assert names["residual"] == ["hidden.bias", "hidden.weight", "linear.bias", "linear.weight", "out.weight"]
    for h in heads.values():
        h.train().zero_grad()
        h(x).square().sum().backward()
        assert all(p.grad.norm() > 1e-3*p.detach().norm() for p in h.parameters())
        assert not torch.equal(h(x), h(x))


def test_the_default_head_starts_as_ever():
    "Bundles and seeds of earlier versions mean the same weights, drawn in the order linear, hidden, out."
    torch.manual_seed(3)
    head = TargetHead(8, 4, 2, .3)
    torch.manual_seed(3)
    want = [torch.nn.Linear(8, 2), torch.nn.Linear(8, 4), torch.nn.Linear(4, 2, bias=False)]
    for got, made in zip((head.linear, head.hidden, head.out), want, strict=True):
        assert torch.equal(got.weight, made.weight)


def test_target_heads_that_cannot_be():
    with pytest.raises(AamError, match="'deep'; wanted linear, mlp or residual"):
        TargetHead(8, 4, 1, 0., "deep")
    with pytest.raises(AamError, match="0 outputs"): TargetHead(8, 4, 0, 0.)


# Distances between samples

def pairs_of(n): return torch.triu(torch.ones(n, n), 1).bool()


@pytest.mark.parametrize("bounded", [True, False])
def test_the_unit_is_the_spread_of_the_known_pairs(bounded):
    x = torch.randn(14, 32, generator=draw())
    head = SampleDistanceHead(32, 16, bounded)
    observed = torch.cdist(x, x)/(10 if bounded else .1)
    observed[2, 5] = observed[5, 2] = torch.nan
    head.initialise(head.apart(x), observed)
    known = observed[pairs_of(14) & observed.isfinite()].double().numpy()
    assert float(head.unit) == pytest.approx(known.std(), rel=1e-5)
    assert float(distance_loss(torch.full((14, 14), known.mean()), observed,
                               head.unit).mean) == pytest.approx(1., rel=1e-4)
    assert 0 < float(distance_loss(head(x).detach(), observed, head.unit).mean) < 5
    other = SampleDistanceHead(32, 16, bounded)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.unit, head.unit) and torch.equal(other(x), head(x))


def test_units_where_all_pairs_are_as_far():
    x = torch.randn(6, 8, generator=draw())
    far = torch.full((6, 6), .99)
    head = SampleDistanceHead(8, 4, True)
    head.initialise(head.apart(x), far + 1e-5*torch.rand(6, 6, generator=draw()))
    assert float(head.unit) == pytest.approx(.0099, rel=1e-3)  # a hundredth of the mean, not the noise
    for observed in (torch.zeros(6, 6), torch.full((6, 6), torch.nan)):    # nothing to learn a unit from
        head = SampleDistanceHead(8, 4, False)
        head.initialise(head.apart(x), observed)
        assert float(head.unit) == 1. and head(x).isfinite().all()
    before = SampleDistanceHead(8, 4, False)
    scale = before.log_scale.clone()
    before.initialise(torch.zeros(6, 6), far)  # equal samples say nothing of the scale
    assert torch.equal(before.log_scale, scale)


@pytest.mark.parametrize("width", [64, 768])
def test_b3_the_link_is_not_saturated_at_any_width(width):
    "Vectors of length sqrt(width), as from a layer norm, start with predictions near the data."
    x = F.layer_norm(torch.randn(20, width, generator=draw()), (width,))
    observed = .2 + .6*torch.rand(20, 20, generator=draw())
    head = SampleDistanceHead(width, width, True)
    head.initialise(head.apart(x), observed)
    got = head(x)[pairs_of(20)]
    assert float(got.max().detach()) < .9
    assert float(got.median().detach()) == pytest.approx(float(observed.median()), abs=.05)
    slope, = torch.autograd.grad(got.sum(), head.log_scale)
    assert float(slope)/len(got) > .2


# Hidden reads

def test_count_head_by_numpy():
    head = CountHead(6, 9, 4)
    asv, summary = torch.randn(7, 6, generator=draw()), torch.randn(7, 9, generator=draw(1))
    a, s, p = asv.numpy(), summary.numpy(), {k: v.detach().numpy() for k, v in head.named_parameters()}
    want = ((a @ p["key.weight"].T)*(s @ p["query.weight"].T + p["query.bias"])).sum(1)/np.sqrt(4)
    np.testing.assert_allclose(head(asv, summary).detach().numpy(), want, rtol=1e-4, atol=1e-5)
    swap = torch.randperm(7, generator=draw())
    # order and mates change nothing
    torch.testing.assert_close(head(asv[swap], summary[swap]), head(asv, summary)[swap])
    torch.testing.assert_close(head(asv[:1], summary[:1]), head(asv, summary)[:1])
    assert head(asv[:0], summary[:0]).shape == (0,)


def counted(seed=0, samples=60, asvs=12, depth=500):
    "Reads of samples in which an ASV's abundance depends on the sample; every pair is hidden."
    g = draw(seed)
    asv, summary = torch.randn(asvs, 6, generator=g), torch.randn(samples, 5, generator=g)
    logits = asv[:, 0] + summary @ torch.randn(5, 6, generator=g)/3 @ asv.T
    reads = torch.multinomial(logits.softmax(1), depth, True, generator=g)
    reads = torch.stack([o.bincount(minlength=asvs) for o in reads]).float()
    sample = torch.arange(samples).repeat_interleave(asvs)
    return asv.repeat(samples, 1), summary[sample], reads.flatten(), sample, logits.flatten()


def test_count_head_learns_what_goes_with_a_sample():
    "Beyond how common each ASV is anywhere, and nearly as well as the shares that the reads were drawn from."
    asv, summary, reads, sample, true = counted()
    torch.manual_seed(0)
    head = CountHead(6, 5, 8)
    optim = torch.optim.Adam(head.parameters(), lr=.03)
    train = sample < 40
    for _ in range(250):
        optim.zero_grad()
        loss = count_loss(head(asv[train], summary[train]), reads[train], sample[train]).mean
        loss.backward()
        optim.step()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    test = ~train
    worth = lambda logits: float(count_loss(logits[test], reads[test], sample[test]).mean.detach())
    anywhere = reads.view(60, 12)[:40].sum(0).log().repeat(60)
    floor, found = worth(true), worth(head(asv, summary))
    assert floor < found < 2*floor + .02 < .3*worth(anywhere)
    assert worth(anywhere) < worth(torch.zeros_like(true))


def test_every_parameter_of_the_count_head_learns():
    asv, summary, reads, sample, _ = counted()
    head = CountHead(6, 5, 8)
    count_loss(head(asv, summary), reads, sample).mean.backward()
    assert all(p.grad.norm() > 1e-3*p.detach().norm() for p in head.parameters())


def test_tree_distance_head():
    z, head = torch.randn(6, 8), TreeDistanceHead()
    head.log_scale.data.fill_(.7)
    torch.testing.assert_close(head(z), torch.cdist(z, z)*np.exp(.7), rtol=1e-4, atol=1e-4)


def test_nucleotide_head_is_linear_in_the_state():
    head, x = NucleotideHead(8, 3), torch.randn(5, 8)
    torch.testing.assert_close(head(x)[2, 1], head.base.weight[4:8] @ x[2] + head.base.bias[4:8])


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("size", [1e-3, 1., 100.])
def test_sample_distance_head_starts_at_the_median(bounded, size):
    head, x = SampleDistanceHead(32, 16, bounded), torch.randn(12, 32)*size
    observed = torch.cdist(x, x)/x.std()/12 if bounded else torch.cdist(x, x)/x.std()
    observed[0, 1] = observed[1, 0] = torch.nan
    head.initialise(head.apart(x), observed)
    pairs = torch.triu(torch.ones(12, 12), 1).bool()
    got, want = head(x).detach()[pairs], observed[pairs & observed.isfinite()]
    assert float(got.median()) == pytest.approx(float(want.median()), rel=.05)
    assert (got > 0).all() and (not bounded or (got < 1).all())
    assert (head(x).diagonal() == 0).all()


def test_sample_distance_head_learns_from_equal_samples():
    head, x = SampleDistanceHead(8, 4, True), torch.randn(1, 8).expand(4, 8).clone().requires_grad_()
    (head(x) - 1).square().sum().backward()
    assert x.grad.isfinite().all() and head.project.weight.grad.isfinite().all()


def test_target_head():
    head, x = TargetHead(8, 4, 3, .3), torch.randn(5, 8)
    assert not torch.equal(head(x), head(x))
    head.eval()
    hidden = F.gelu(x @ head.hidden.weight.T + head.hidden.bias)
    torch.testing.assert_close(head(x), x @ head.linear.weight.T + head.linear.bias
                               + hidden @ head.out.weight.T)
