"Losses against PyTorch's, scikit-learn's and SciPy's, with missing values and weights; gradients against finite differences."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_pinball_loss, mean_squared_error
from torch.nn import functional as F

from aam_nb.core import AamError
from aam_nb.data.tokens import MASK, OTHER, PAD
from aam_nb.model.aam import AamModel
from aam_nb.sections import REGRESSIONS, LossConfig, ModelConfig
from aam_nb.training.losses import (
    asv_losses,
    bases_loss,
    bases_scores,
    count_loss,
    distance_loss,
    hidden_bases,
    known_mean,
    sample_losses,
    target_loss,
    tree_loss,
)
from aam_nb.types import AsvBatch, Batch, Column, Outputs

NAN = float("nan")
LEVELS = (.1, .5, .95)


def rand(*shape, seed=0, dtype=torch.float32): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distances(n, seed=0, dtype=torch.float32):
    x = rand(n, 5, seed=seed, dtype=dtype)
    return torch.cdist(x, x)


def test_tree_loss_by_numpy():
    path, pred = distances(9)**2, distances(9, seed=1)
    path[3] = path[:, 3] = NAN
    i = ~np.eye(9, dtype=bool) & ~np.isnan(path.numpy())
    root = np.sqrt(path.numpy()[i])
    assert float(tree_loss(pred, path)) == pytest.approx(mean_squared_error(root/root.mean(), pred.numpy()[i]), rel=1e-5)
    assert float(tree_loss(pred, 7*path)) == pytest.approx(float(tree_loss(pred, path)), rel=1e-5)


def test_distance_loss_by_sklearn():
    true, pred = distances(8), distances(8, seed=1)
    true[2, 5] = NAN
    i = ~np.eye(8, dtype=bool) & ~np.isnan(true.numpy())
    want = mean_squared_error(true.numpy()[i], pred.numpy()[i])
    assert float(distance_loss(pred, true)) == pytest.approx(want, rel=1e-5)
    assert float(distance_loss(pred, true, torch.tensor(3.))) == pytest.approx(want/9, rel=1e-5)
    moved = pred + torch.eye(8)
    assert torch.equal(distance_loss(moved, true), distance_loss(pred, true))  # the diagonal never counts


# Targets

def column(loss="mse", name="y"):
    "A column with this loss; any other word makes it one of four classes."
    if loss not in REGRESSIONS: return Column(name=name, task="classification", outputs=4)
    levels = LEVELS if loss == "quantile" else ()
    return Column(name=name, task="regression", outputs=len(levels) or 1, loss=loss, levels=levels, under=1.7, over=.6)


def labels(n, columns, seed=0, missing=.3):
    "Outputs [n, K], targets [n, t] of which some are missing, weights [n, t] of which some are 0."
    g = torch.Generator().manual_seed(seed)
    y = torch.stack([torch.randint(0, 4, (n,), generator=g).double() if o.task == "classification" else 2*rand(n, seed=seed + i, dtype=torch.float64)
                     for i, o in enumerate(columns)], 1)
    y[torch.rand(y.shape, generator=g) < missing] = NAN
    w = 3*torch.rand(y.shape, generator=g, dtype=torch.float64); w[torch.rand(w.shape, generator=g) < .1] = 0.
    return rand(n, sum(o.outputs for o in columns), seed=seed + 9, dtype=torch.float64), y, w


def reference(column, out, y, w):
    "The loss of one column by scikit-learn and SciPy, on the labels that there are."
    i = ~np.isnan(y); out, y, w = out[i], y[i], w[i]
    if column.task == "classification": return log_loss(y, special.softmax(out, 1), sample_weight=w, labels=range(4))
    if column.loss == "mse": return mean_squared_error(y, out[:, 0], sample_weight=w)
    if column.loss == "mae": return mean_absolute_error(y, out[:, 0], sample_weight=w)
    if column.loss == "huber": return np.average(special.huber(1., y - out[:, 0]), weights=w)
    if column.loss == "quantile": return np.mean([mean_pinball_loss(y, out[:, j], alpha=a, sample_weight=w) for j, a in enumerate(LEVELS)])
    cost = column.under + column.over
    return cost*mean_pinball_loss(y, out[:, 0], alpha=column.under/cost, sample_weight=w)


@pytest.mark.parametrize("kind", [*REGRESSIONS, "classes"])
@pytest.mark.parametrize("weighted", [False, True])
def test_target_loss_by_sklearn(kind, weighted):
    columns = (column(kind),); out, y, w = labels(60, columns)
    got = target_loss(out, y, columns, w if weighted else None)
    want = reference(columns[0], out.numpy(), y[:, 0].numpy(), w[:, 0].numpy() if weighted else np.ones(60))
    assert list(got) == ["y"] and float(got["y"]) == pytest.approx(want, rel=1e-9)


def test_each_column_has_its_own_loss_weights_and_holes():
    columns = tuple(column(o, o) for o in (*REGRESSIONS, "classes")); out, y, w = labels(80, columns, seed=3)
    got = target_loss(out, y, columns, w, smoothing=0.); at = 0
    assert list(got) == [*REGRESSIONS, "classes"]
    for i, o in enumerate(columns):
        part = slice(at, at := at + o.outputs)
        assert float(got[o.name]) == pytest.approx(reference(o, out[:, part].numpy(), y[:, i].numpy(), w[:, i].numpy()), rel=1e-9)


@pytest.mark.parametrize("smoothing", [0., .05, .5])
def test_smoothed_classes_by_torch(smoothing):
    columns = (column("classes"),); out, y, w = labels(50, columns)
    known = ~y[:, 0].isnan(); classes = y[known, 0].long()
    got = target_loss(out, y, columns, smoothing=smoothing)["y"]
    assert float(got) == pytest.approx(float(F.cross_entropy(out[known], classes, label_smoothing=smoothing)), rel=1e-9)
    each = F.cross_entropy(out[known], classes, label_smoothing=smoothing, reduction="none")
    assert float(target_loss(out, y, columns, w, smoothing=smoothing)["y"]) == pytest.approx(np.average(each, weights=w[known, 0]), rel=1e-9)


def test_class_weights_by_torch():
    "A weight for each class, brought to its samples, is what `cross_entropy` does with `weight`."
    columns = (column("classes"),); out, y, _ = labels(50, columns)
    known = ~y[:, 0].isnan(); heavy = torch.tensor([.2, 3, 1, .7], dtype=torch.float64)
    got = target_loss(out, y, columns, heavy[y.nan_to_num(0.).long()])["y"]
    assert float(got) == pytest.approx(float(F.cross_entropy(out[known], y[known, 0].long(), weight=heavy)), rel=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from([*REGRESSIONS, "classes"]))
def test_weight_two_is_the_sample_twice_and_weight_zero_is_no_label(seed, kind):
    columns = (column(kind),); out, y, _ = labels(12, columns, seed)
    times = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(seed))
    heavy = target_loss(out, y, columns, times[:, None].double())["y"]
    again = target_loss(out.repeat_interleave(times, 0), y.repeat_interleave(times, 0), columns)["y"]
    assert torch.allclose(heavy, again, rtol=1e-12)
    bare = torch.where(times[:, None] == 0, NAN, y)
    assert torch.equal(target_loss(out, bare, columns, times[:, None].double())["y"], heavy)
    assert torch.allclose(target_loss(out, y, columns, 7.*times[:, None].double())["y"], heavy, rtol=1e-12)


@pytest.mark.parametrize("kind,level", [("quantile", LEVELS), ("asymmetric", (1.7/2.3,)), ("mae", (.5,))])
def test_the_best_constants_are_quantiles(kind, level):
    one = column(kind); y = rand(501, 1, seed=5, dtype=torch.float64)
    best = torch.quantile(y[:, 0], torch.tensor(level, dtype=torch.float64))
    cost = lambda x: float(target_loss(x.expand(501, -1), y, (one,))["y"])
    for j in range(len(level)):
        for step in (-.05, .05): assert cost(best) < cost(best + step*F.one_hot(torch.tensor(j), len(level)))


def test_a12_targets_are_never_stretched_over_outputs():
    two, out, y = (column("mse", "a"), column("mse", "b")), rand(5, 2), rand(5, 2)
    with pytest.raises(AamError, match=r"2 outputs and 1 targets; the columns 'a', 'b' take 2 and 2"): target_loss(out, y[:, :1], two)
    with pytest.raises(AamError, match="1 outputs and 2 targets"): target_loss(out[:, :1], y, two)
    with pytest.raises(AamError, match="'msa'; wanted one of mse, mae, huber, quantile, asymmetric. Did you mean 'mse'"):
        target_loss(out[:, :1], y[:, :1], (Column(name="a", task="regression", loss="msa"),))


# Mixup

def mixing(n, seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=g), torch.rand(n, generator=g)


def test_mixup_of_numbers_has_the_gradient_of_mixed_targets():
    out, target = rand(16, 1).requires_grad_(), rand(16, 1, seed=1); partner, share = mixing(16)
    got, = torch.autograd.grad(target_loss(out, target, (column(),), mix=(partner, share))["y"], out)
    mixed = share[:, None]*target + (1 - share[:, None])*target[partner]
    want, = torch.autograd.grad(F.mse_loss(out, mixed), out)
    assert torch.allclose(got, want, atol=1e-6)


def test_mixup_of_classes_is_cross_entropy_with_mixed_probabilities():
    out, target = rand(16, 4), torch.randint(0, 4, (16, 1), generator=torch.Generator().manual_seed(0)).float(); partner, share = mixing(16)
    one = F.one_hot(target[:, 0].long(), 4).float()
    mixed = share[:, None]*one + (1 - share[:, None])*one[partner]
    got = target_loss(out, target, (column("classes"),), mix=(partner, share), smoothing=.1)["y"]
    assert got == pytest.approx(float(F.cross_entropy(out, mixed, label_smoothing=.1)), rel=1e-5)


def test_mixed_labels_count_by_share_and_by_their_own_weight():
    columns = tuple(column(o, o) for o in ("huber", "quantile", "classes")); out, y, w = labels(20, columns, seed=1); partner, share = mixing(20)
    got = target_loss(out, y, columns, w, (partner, share), smoothing=.1); at = 0
    for i, o in enumerate(columns):
        part = slice(at, at := at + o.outputs); total = weight = 0.
        for j in range(20):
            for k, part_of_it in ((j, float(share[j])), (int(partner[j]), 1 - float(share[j]))):
                if y[k, i].isnan(): continue
                each = target_loss(out[j:j + 1, part], y[k:k + 1, i:i + 1], (o,), smoothing=.1)[o.name]
                total += part_of_it*float(w[k, i])*float(each); weight += part_of_it*float(w[k, i])
        assert float(got[o.name]) == pytest.approx(total/weight, rel=1e-6)


def test_mixup_with_share_one_is_no_mixup_and_a_missing_partner_does_not_count():
    out, target = rand(6, 1), rand(6, 1, seed=1)
    target[2] = NAN
    partner, c, half = torch.arange(6).roll(1), (column(),), torch.full((6,), .5)
    assert float(target_loss(out, target, c, mix=(partner, torch.ones(6)))["y"]) == pytest.approx(float(target_loss(out, target, c)["y"]))
    g, = torch.autograd.grad(target_loss(o := out.clone().requires_grad_(), target, c, mix=(partner, half))["y"], o)
    assert g.isfinite().all()
    assert float(target_loss(out, torch.full_like(target, NAN), c, mix=(partner, half))["y"]) == 0.


# Hidden reads

def hidden(seed=0, samples=6, most=9, dtype=torch.float64):
    "Logits, reads and sample of the hidden pairs of some samples, in a shuffled order."
    rng = np.random.default_rng(seed); sizes = rng.integers(1, most, samples)
    sample = np.repeat(rng.permutation(3*samples)[:samples], sizes); order = rng.permutation(len(sample))
    reads = rng.negative_binomial(.4, .01, len(sample)); reads[np.unique(sample, return_index=True)[1]] += 1
    return (torch.from_numpy(3*rng.standard_normal(len(sample))).to(dtype), torch.from_numpy(reads[order]).to(dtype), torch.from_numpy(sample[order]))


@pytest.mark.parametrize("seed", range(4))
def test_count_loss_by_scipy(seed):
    logits, reads, sample = hidden(seed)
    each = [stats.entropy(reads[i].numpy(), special.softmax(logits[i].numpy())) for i in (sample == o for o in sample.unique())]
    assert (reads == 0).any() or seed
    assert float(count_loss(logits, reads, sample)) == pytest.approx(np.mean(each), rel=1e-9)


def test_count_loss_is_the_multinomial_likelihood_that_is_lost():
    logits, reads, sample = hidden(1); each = []
    likely = lambda x, p: stats.multinomial.logpmf(x, x.sum(), p)/x.sum()
    for i in (sample == o for o in sample.unique()):
        x = reads[i].numpy().astype(int); each.append(likely(x, x/x.sum()) - likely(x, special.softmax(logits[i].numpy())))
    assert float(count_loss(logits, reads, sample)) == pytest.approx(np.mean(each), rel=1e-8)


def test_b2_depth_neither_swamps_nor_drowns_the_count_loss():
    "Reads in the thousands and shares of 1 are one loss; nor do the other samples' reads or a constant in the logits change it."
    logits, reads, sample = hidden(2); loss = count_loss(logits, reads, sample)
    for other in (count_loss(logits, 1000*reads, sample), count_loss(logits + sample, reads, sample), count_loss(logits, reads*(1 + sample), sample)):
        assert torch.allclose(loss, other, rtol=1e-9)
    assert float(count_loss((reads + 1e-30).log(), reads, sample)) == pytest.approx(0., abs=1e-9)
    even = count_loss(torch.zeros_like(logits), reads, sample)
    assert 0 < float(even) < np.log(9)


def test_count_loss_at_the_edges():
    one = torch.zeros(1, dtype=torch.int64)
    assert float(count_loss(torch.tensor([5.]), torch.tensor([7.]), one)) == 0.                    # one hidden ASV has all hidden reads
    none = torch.zeros(0, requires_grad=True); loss = count_loss(none, torch.zeros(0), one[:0]); loss.backward()
    assert float(loss.detach()) == 0. and none.grad.shape == (0,)
    steep = torch.tensor([0., 1e4, -1e4], requires_grad=True)
    loss = count_loss(steep, torch.tensor([1., 1, 0]), one.expand(3)); loss.backward()
    assert float(loss.detach()) == pytest.approx(.5e4 - np.log(2)) and steep.grad.isfinite().all()
    logits, reads = torch.tensor([0., 1, 2, 3]), torch.tensor([0., 0, 3, 4]); of = torch.tensor([0, 0, 1, 1])
    assert torch.equal(count_loss(logits, reads, of), count_loss(logits[2:], reads[2:], of[2:]))   # a sample without hidden reads is left out
    logits, reads, sample = hidden(3, dtype=torch.float32)
    assert torch.equal(count_loss(logits.bfloat16(), reads, sample), count_loss(logits.bfloat16().float(), reads, sample))


# Hidden bases

def masked_batch(u=5, p=4, patch=3):
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 5, (u, p*patch), generator=g).to(torch.uint8)
    tokens[1, 4] = OTHER; tokens[2, 9:] = PAD
    places = torch.rand(u, p, generator=g) < .5; places[2, 3] = False
    masked = tokens.masked_fill(places.repeat_interleave(patch, 1), MASK)
    return tokens, masked, places, torch.randn(int(places.sum()), patch, 4, generator=g)


def by_hand(tokens, places, logits, weight=None):
    total = losses = 0.
    m = 0
    for i in range(len(tokens)):
        for j in range(places.shape[1]):
            if not places[i, j]: continue
            for k in range(3):
                b = int(tokens[i, 3*j + k])
                if 1 <= b <= 4:
                    w = 1. if weight is None else float(weight[i])
                    losses += w*-float(logits[m, k].log_softmax(0)[b - 1]); total += w
            m += 1
    return losses/total


def test_bases_loss_by_hand():
    tokens, masked, places, logits = masked_batch()
    places[1, 1] = True; masked[1, 3:6] = MASK; logits = torch.randn(int(places.sum()), 3, 4)
    assert (tokens[places.repeat_interleave(3, 1)] == OTHER).any()
    assert bases_loss(logits, places, tokens, 3) == pytest.approx(by_hand(tokens, places, logits), rel=1e-5)
    weight = torch.tensor([1., 2, 0, 5, 3])
    assert bases_loss(logits, places, tokens, 3, weight) == pytest.approx(by_hand(tokens, places, logits, weight), rel=1e-5)


def test_bases_loss_of_parts_adds_up_to_the_whole():
    tokens, masked, places, logits = masked_batch()
    weight = torch.tensor([1., 2, 1, 5, 3]); total = hidden_bases(tokens, masked, weight)
    cut = [slice(0, 2), slice(2, 5)]; rows = places.sum(1).split([2, 3])
    parts = logits.split([int(o.sum()) for o in rows])
    got = sum(bases_loss(x, places[s], tokens[s], 3, weight[s], total) for s, x in zip(cut, parts, strict=True))
    assert got == pytest.approx(float(bases_loss(logits, places, tokens, 3, weight)), rel=1e-5)


def test_b1_only_hidden_bases_are_scored():
    "Copying what is visible earns nothing: the loss does not see it, in training or validation."
    tokens, masked, places, logits = masked_batch()
    visible = tokens.clone(); visible[~places.repeat_interleave(3, 1)] = 1
    assert torch.equal(bases_loss(logits, places, tokens, 3), bases_loss(logits, places, visible, 3))
    assert int(hidden_bases(tokens, masked)) == int(((masked == MASK) & (tokens >= 1) & (tokens <= 4)).sum())


def test_lengths_that_no_patch_divides():
    tokens = torch.tensor([[1, 2, 3, 4, 1]], dtype=torch.uint8); places = torch.tensor([[False, True]])
    logits = rand(1, 3, 4)
    assert bases_loss(logits, places, tokens, 3) == pytest.approx(float(F.cross_entropy(logits[0, :2], torch.tensor([3, 0]))), rel=1e-5)


def test_bases_scores_by_sklearn_and_by_parts():
    tokens, masked, places, logits = masked_batch(40)
    tokens[:, 1] = OTHER                                       # is hidden in some rows, and never asked for
    hit = places.repeat_interleave(3, 1); flat = tokens[hit].long(); known = (flat >= 1) & (flat <= 4)
    logits += 2*F.one_hot((flat - 1).clamp(0, 3), 4).view_as(logits)    # right more often than not
    nats, right, asked = bases_scores(logits, places, tokens, 3)
    said, true = logits.view(-1, 4)[known].double(), flat[known] - 1
    assert int(asked) == int(known.sum()) == int(hidden_bases(tokens, masked)) < hit.sum()
    assert float(nats/asked) == pytest.approx(log_loss(true, said.softmax(1), labels=range(4)), rel=1e-5)
    assert .5 < float(right/asked) < 1 and float(right/asked) == pytest.approx(accuracy_score(true, said.argmax(1)))
    parts = logits.split([int(o) for o in (places[:2].sum(), places[2:].sum())])
    halves = [bases_scores(x, places[s], tokens[s], 3) for s, x in zip((slice(0, 2), slice(2, 40)), parts, strict=True)]
    assert [float(sum(o)) for o in zip(*halves, strict=True)] == pytest.approx([float(nats), float(right), float(asked)], rel=1e-6)
    assert [float(o) for o in bases_scores(logits[:0], torch.zeros_like(places), tokens, 3)] == [0, 0, 0]


# All of them

@pytest.mark.parametrize("name", ["tree", "distance", "bases", "counts", *REGRESSIONS, "classes", "mixup", "all"])
def test_gradients_by_finite_differences(name):
    double = dict(dtype=torch.float64)
    seen = distances(5, **double); seen[1, 2] = NAN
    tokens, _, places, logits = masked_batch(); guess, reads, sample = hidden(4)
    run = dict(tree=(lambda x: tree_loss(x, seen), distances(5, 1, **double)), bases=(lambda x: bases_loss(x, places, tokens, 3), logits.double()),
               distance=(lambda x: distance_loss(x, seen, torch.tensor(2., **double)), distances(5, 1, **double)),
               counts=(lambda x: count_loss(x, reads, sample), guess))
    kinds = dict(mixup=("mse", "classes"), all=(*REGRESSIONS, "classes")).get(name, (name,))
    columns = tuple(column(o, o) for o in kinds); out, y, w = labels(7, columns, seed=6)
    mix = mixing(7) if name == "mixup" else None
    f, x = run[name] if name in run else (lambda x: tuple(target_loss(x, y, columns, w, mix, .1).values()), out)
    assert torch.autograd.gradcheck(f, (x.requires_grad_(),))


def test_nothing_known_is_zero_with_zero_gradient():
    lost = torch.full((3, 1), NAN)
    for f, x in ((lambda x: tree_loss(x, torch.full((3, 3), NAN)), rand(3, 3)), (lambda x: distance_loss(x, torch.zeros(1, 1)), rand(1, 1)),
                 (lambda x: target_loss(x, lost, (column("quantile"),))["y"], rand(3, 3)),
                 (lambda x: target_loss(x, lost, (column("classes"),))["y"], rand(3, 4)),
                 (lambda x: target_loss(x, torch.ones(3, 1), (column(),), torch.zeros(3, 1))["y"], rand(3, 1)),
                 (lambda x: count_loss(x, torch.zeros(3), torch.arange(3)), rand(3)),
                 (lambda x: bases_loss(x, torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 6, dtype=torch.uint8), 3), rand(0, 3, 4))):
        x.requires_grad_(); loss = f(x); loss.backward()
        assert float(loss.detach()) == 0. and bool((x.grad == 0).all())
    assert float(tree_loss(rand(3, 3)*0, torch.zeros(3, 3))) == 0.             # all ASVs at one tip
    assert float(known_mean(torch.tensor([3.]), torch.tensor([2.]))) == 3.


def test_missing_labels_get_no_gradient():
    columns = tuple(column(o, o) for o in (*REGRESSIONS, "classes")); out, y, _ = labels(30, columns, seed=8)
    g, = torch.autograd.grad(sum(target_loss(out.requires_grad_(), y, columns).values()), out)
    lost = torch.cat([y[:, i:i + 1].isnan().expand(-1, o.outputs) for i, o in enumerate(columns)], 1)
    assert bool((g[lost] == 0).all()) and bool((g[~lost].abs() > 0).any()) and lost.any()


def test_b23_losses_of_bf16_outputs_are_taken_in_float32():
    out, target, c = rand(8, 4).bfloat16(), torch.zeros(8, 1), (column("classes"),)
    loss = target_loss(out, target, c)["y"]
    assert loss.dtype == torch.float32 and torch.equal(loss, target_loss(out.float(), target, c)["y"])
    assert distance_loss(distances(3).bfloat16(), distances(3)).dtype == torch.float32


def test_terms_carry_their_weights_and_absent_teachers_are_left_out():
    torch.manual_seed(0)
    model = AamModel(ModelConfig(patch=3, width=16, identity=0, sample_width=16, head_width=8), bases=12)
    tokens, masked, _, _ = masked_batch()
    asvs = AsvBatch(tokens=tokens, masked=masked, rows=torch.arange(5), distance=distances(5))
    one = asv_losses(model, asvs, LossConfig(tree=1., bases=1.)).terms
    heavy = asv_losses(model, asvs, LossConfig(tree=10., bases=.3)).terms
    assert float(heavy["tree"].detach()/one["tree"].detach()) == pytest.approx(10.)
    assert float(heavy["bases"].detach()/one["bases"].detach()) == pytest.approx(.3)
    bare = AsvBatch(tokens=tokens, masked=masked, rows=torch.arange(5))
    assert set(asv_losses(model, bare, LossConfig()).terms) == {"bases"}
    assert set(asv_losses(model, asvs, LossConfig(bases=0.)).terms) == {"tree"}


# Samples

TWO = (column("mse", "age"), column("classes", "diet"))
METRICS = ("unweighted", "aitchison")


def heard(target=None, metrics=2, counts=True):
    "Outputs for three samples of which two have hidden reads."
    return Outputs(summary=rand(3, 4), target=target, distance=torch.stack([distances(3, o) for o in range(metrics)]) if metrics else None,
                   unit=torch.tensor([.2, 30.])[:metrics] if metrics else None, counts=rand(3, seed=7) if counts else None)


def told(target, metrics=2, **more):
    "What is true of them."
    more = dict(hidden=torch.tensor([True, True, False, True, False])) | more
    return Batch(tokens=torch.ones(2, 6, dtype=torch.uint8), rows=torch.arange(2), identity=torch.zeros(2, 0), asv=torch.tensor([0, 1, 0, 1, 0]),
                 counts=torch.tensor([3., 1, 9, 2, 9]), offsets=torch.tensor([0, 2, 4, 5]), index=torch.arange(3), target=target,
                 distance=torch.stack([distances(3, o + 5) for o in range(metrics)]) if metrics else None, **more)


def test_terms_of_samples_share_their_weights():
    y, out, w = torch.tensor([[.3, 2], [NAN, 0], [1, NAN]]), rand(3, 5), torch.tensor([[1., 2], [1, 1], [3, 1]])
    outputs, batch = heard(out), told(y, weight=w)
    got = sample_losses(outputs, batch, LossConfig(target=3., distance=2., counts=.5), TWO, METRICS, .1).terms
    single = target_loss(out, y, TWO, w, smoothing=.1)
    assert list(got) == ["target:age", "target:diet", "distance:unweighted", "distance:aitchison", "counts"]
    assert torch.allclose(got["target:age"], 1.5*single["age"]) and torch.allclose(got["target:diet"], 1.5*single["diet"])
    for j, name in enumerate(METRICS):
        assert torch.allclose(got[f"distance:{name}"], distance_loss(outputs.distance[j], batch.distance[j], outputs.unit[j]))
    want = count_loss(outputs.counts, torch.tensor([3., 1, 2]), torch.tensor([0, 0, 1]))
    assert torch.allclose(got["counts"], .5*want) and float(want) > 0
    mixed = sample_losses(outputs, batch, LossConfig(), TWO, mix=mixing(3)).terms
    assert torch.equal(mixed["target:age"], .5*target_loss(out, y, TWO, w, mixing(3))["age"]) and float(mixed["target:age"]) != float(.5*single["age"])


@pytest.mark.parametrize("metrics", [1, 2])
def test_one_column_or_metric_keeps_the_short_name(metrics):
    y, out = rand(3, 1, seed=4), rand(3, 1); outputs, batch = heard(out, metrics), told(y, metrics)
    both = sample_losses(outputs, batch, LossConfig(distance=2.), TWO[:1], METRICS[:metrics])
    far = sum(distance_loss(*o) for o in zip(outputs.distance, batch.distance, outputs.unit, strict=True))*2/metrics
    assert both.numbers()["loss"] == pytest.approx(float(F.mse_loss(out, y) + far), rel=1e-6)
    assert set(both.terms) == {"target", *(["distance"] if metrics == 1 else [f"distance:{o}" for o in METRICS])}


def test_units_make_metrics_alike():
    "Distances a hundred times as large, with a unit a hundred times as large, are the same loss: none drowns the others."
    y = rand(3, 1); outputs, batch = heard(y, 2), told(y, 2)
    far = torch.stack([batch.distance[0], 100*batch.distance[0]]); said = torch.stack([outputs.distance[0], 100*outputs.distance[0]])
    outputs = Outputs(summary=y, distance=said, unit=torch.tensor([.2, 20.]))
    got = sample_losses(outputs, Batch(**{**vars(batch), "distance": far}), LossConfig(distance=1.), (), METRICS).terms
    assert torch.allclose(got["distance:unweighted"], got["distance:aitchison"])
    bare = Outputs(summary=y, distance=said)
    got = sample_losses(bare, Batch(**{**vars(batch), "distance": far}), LossConfig(distance=1.), (), METRICS).terms
    assert torch.allclose(1e4*got["distance:unweighted"], got["distance:aitchison"], rtol=1e-4)


def test_sample_losses_need_a_teacher():
    y, out = rand(3, 1, seed=4), rand(3, 1); outputs, batch = heard(out), told(y)
    terms = lambda loss, columns=TWO[:1], metrics=METRICS, outputs=outputs, batch=batch: set(sample_losses(outputs, batch, loss, columns, metrics).terms)
    assert terms(LossConfig()) == {"target"}
    assert terms(LossConfig(counts=1.), columns=(), metrics=()) == {"counts"}
    assert terms(LossConfig(distance=1.), columns=()) == {"distance:unweighted", "distance:aitchison"}
    assert terms(LossConfig(target=0., counts=1., distance=1.), batch=told(y, 0)) == {"counts"}
    assert terms(LossConfig(counts=1.), batch=told(y, hidden=None)) == {"target"}
    for loss, more in ((LossConfig(), dict(columns=())), (LossConfig(target=0.), {}), (LossConfig(distance=1.), dict(columns=(), metrics=())),
                       (LossConfig(distance=1., counts=1.), dict(columns=(), outputs=heard(out, 0, counts=False)))):
        with pytest.raises(AamError, match="nothing to learn"): terms(loss, **more)
