"Losses of targets against PyTorch's, scikit-learn's and SciPy's, with missing labels, weights and mixup."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import LEVELS, NAN, column, labels, mixing, rand, seeded
from scipy import special
from sklearn.metrics import log_loss, mean_absolute_error, mean_pinball_loss, mean_squared_error
from torch.nn import functional as F

from aam_nb.core import AamError
from aam_nb.sections import REGRESSIONS
from aam_nb.training.losses import target_loss
from aam_nb.types import Column


def means(*args, **more):
    "The mean loss of each column."
    return {k: v.mean for k, v in target_loss(*args, **more).items()}


def reference(column, out, y, w):
    "The loss of one column by scikit-learn and SciPy, on the labels that there are."
    i = ~np.isnan(y)
    out, y, w = out[i], y[i], w[i]
    if column.task == "classification":
        return log_loss(y, special.softmax(out, 1), sample_weight=w, labels=range(4))
    if column.loss == "mse": return mean_squared_error(y, out[:, 0], sample_weight=w)
    if column.loss == "mae": return mean_absolute_error(y, out[:, 0], sample_weight=w)
    if column.loss == "huber": return np.average(special.huber(1., y - out[:, 0]), weights=w)
    pinball = lambda j, alpha: mean_pinball_loss(y, out[:, j], alpha=alpha, sample_weight=w)
    if column.loss == "quantile": return np.mean([pinball(j, a) for j, a in enumerate(LEVELS)])
    cost = column.under + column.over
    return cost*pinball(0, column.under/cost)


@pytest.mark.parametrize("kind", [*REGRESSIONS, "classes"])
@pytest.mark.parametrize("weighted", [False, True])
def test_target_loss_by_sklearn(kind, weighted):
    columns = (column(kind),)
    out, y, w = labels(60, columns)
    got = means(out, y, columns, w if weighted else None)
    want = reference(columns[0], out.numpy(), y[:, 0].numpy(), w[:, 0].numpy() if weighted else np.ones(60))
    assert list(got) == ["y"] and float(got["y"]) == pytest.approx(want, rel=1e-9)


def test_each_column_has_its_own_loss_weights_and_holes():
    columns = tuple(column(o, o) for o in (*REGRESSIONS, "classes"))
    out, y, w = labels(80, columns, seed=3)
    got, at = means(out, y, columns, w, smoothing=0.), 0
    assert list(got) == [*REGRESSIONS, "classes"]
    for i, o in enumerate(columns):
        part = slice(at, at := at + o.outputs)
        want = reference(o, out[:, part].numpy(), y[:, i].numpy(), w[:, i].numpy())
        assert float(got[o.name]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("smoothing", [0., .05, .5])
def test_smoothed_classes_by_torch(smoothing):
    columns = (column("classes"),)
    out, y, w = labels(50, columns)
    known = ~y[:, 0].isnan()
    classes = y[known, 0].long()
    got = means(out, y, columns, smoothing=smoothing)["y"]
    want = F.cross_entropy(out[known], classes, label_smoothing=smoothing)
    assert float(got) == pytest.approx(float(want), rel=1e-9)
    each = F.cross_entropy(out[known], classes, label_smoothing=smoothing, reduction="none")
    heavy = means(out, y, columns, w, smoothing=smoothing)["y"]
    assert float(heavy) == pytest.approx(np.average(each, weights=w[known, 0]), rel=1e-9)


def test_class_weights_by_torch():
    "A weight for each class, brought to its samples, is what `cross_entropy` does with `weight`."
    columns = (column("classes"),)
    out, y, _ = labels(50, columns)
    known, heavy = ~y[:, 0].isnan(), torch.tensor([.2, 3, 1, .7], dtype=torch.float64)
    got = means(out, y, columns, heavy[y.nan_to_num(0.).long()])["y"]
    want = F.cross_entropy(out[known], y[known, 0].long(), weight=heavy)
    assert float(got) == pytest.approx(float(want), rel=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from([*REGRESSIONS, "classes"]))
def test_weight_two_is_the_sample_twice_and_weight_zero_is_no_label(seed, kind):
    columns = (column(kind),)
    out, y, _ = labels(12, columns, seed)
    times = torch.randint(0, 3, (12,), generator=seeded(seed))
    heavy = means(out, y, columns, times[:, None].double())["y"]
    again = means(out.repeat_interleave(times, 0), y.repeat_interleave(times, 0), columns)["y"]
    assert torch.allclose(heavy, again, rtol=1e-12)
    bare = torch.where(times[:, None] == 0, NAN, y)
    assert torch.equal(means(out, bare, columns, times[:, None].double())["y"], heavy)
    assert torch.allclose(means(out, y, columns, 7.*times[:, None].double())["y"], heavy, rtol=1e-12)


@pytest.mark.parametrize("kind,quantiles", [("quantile", LEVELS), ("asymmetric", (1.7/2.3,)), ("mae", (.5,))])
def test_the_best_constants_are_quantiles(kind, quantiles):
    one, y = column(kind), rand(501, 1, seed=5, dtype=torch.float64)
    best = torch.quantile(y[:, 0], torch.tensor(quantiles, dtype=torch.float64))
    cost = lambda x: float(means(x.expand(501, -1), y, (one,))["y"])
    for j in range(len(quantiles)):
        one_hot = F.one_hot(torch.tensor(j), len(quantiles))
        for step in (-.05, .05): assert cost(best) < cost(best + step*one_hot)


def test_a12_targets_are_never_stretched_over_outputs():
    two, out, y = (column("mse", "a"), column("mse", "b")), rand(5, 2), rand(5, 2)
    said = "outputs have width 2 and the targets width 1; the columns 'a', 'b' need widths 2 and 2"
    with pytest.raises(AamError, match=said):
        target_loss(out, y[:, :1], two)
    with pytest.raises(AamError, match="outputs have width 1 and the targets width 2"):
        target_loss(out[:, :1], y, two)
    said = "'msa'; wanted one of mse, mae, huber, quantile, asymmetric. Did you mean 'mse'"
    with pytest.raises(AamError, match=said):
        target_loss(out[:, :1], y[:, :1], (Column(name="a", task="regression", loss="msa"),))


# ---- mixup

def test_mixup_of_numbers_has_the_gradient_of_mixed_targets():
    out, target, (partner, share) = rand(16, 1).requires_grad_(), rand(16, 1, seed=1), mixing(16)
    got, = torch.autograd.grad(means(out, target, (column(),), mix=(partner, share))["y"], out)
    mixed = share[:, None]*target + (1 - share[:, None])*target[partner]
    want, = torch.autograd.grad(F.mse_loss(out, mixed), out)
    assert torch.allclose(got, want, atol=1e-6)


def test_mixup_of_classes_is_cross_entropy_with_mixed_probabilities():
    out, target = rand(16, 4), torch.randint(0, 4, (16, 1), generator=seeded(0)).float()
    partner, share = mixing(16)
    one = F.one_hot(target[:, 0].long(), 4).float()
    mixed = share[:, None]*one + (1 - share[:, None])*one[partner]
    got = means(out, target, (column("classes"),), mix=(partner, share), smoothing=.1)["y"]
    assert got == pytest.approx(float(F.cross_entropy(out, mixed, label_smoothing=.1)), rel=1e-5)


def test_mixed_labels_count_by_share_and_by_their_own_weight():
    columns = tuple(column(o, o) for o in ("huber", "quantile", "classes"))
    out, y, w = labels(20, columns, seed=1)
    partner, share = mixing(20)
    got, at = means(out, y, columns, w, (partner, share), smoothing=.1), 0
    for i, o in enumerate(columns):
        part, total, weight = slice(at, at := at + o.outputs), 0., 0.
        both = [(j, j, float(share[j])) for j in range(20)]
        both += [(j, int(partner[j]), 1 - float(share[j])) for j in range(20)]
        for j, k, heavy in both:                               # an output, whose label, and by how much
            if y[k, i].isnan(): continue
            each = means(out[j:j + 1, part], y[k:k + 1, i:i + 1], (o,), smoothing=.1)[o.name]
            total += heavy*float(w[k, i])*float(each)
            weight += heavy*float(w[k, i])
        assert float(got[o.name]) == pytest.approx(total/weight, rel=1e-6)


def test_mixup_with_share_one_is_no_mixup_and_a_missing_partner_does_not_count():
    out, target = rand(6, 1), rand(6, 1, seed=1)
    target[2] = NAN
    partner, c, half = torch.arange(6).roll(1), (column(),), torch.full((6,), .5)
    alone = means(out, target, c)["y"]
    assert float(means(out, target, c, mix=(partner, torch.ones(6)))["y"]) == pytest.approx(float(alone))
    leaf = out.clone().requires_grad_()
    g, = torch.autograd.grad(means(leaf, target, c, mix=(partner, half))["y"], leaf)
    assert g.isfinite().all()
    assert float(means(out, torch.full_like(target, NAN), c, mix=(partner, half))["y"]) == 0.


@pytest.mark.parametrize("mixed", [False, True])
def test_parts_of_a_batch_add_up_to_the_whole_wherever_partners_are(mixed):
    "A part knows its own outputs and the labels of all; sums, weights and gradients add up."
    columns = tuple(column(o, o) for o in (*REGRESSIONS, "classes"))
    out, y, w = labels(23, columns, seed=4)
    mix = mixing(23) if mixed else None
    out.requires_grad_()
    whole = target_loss(out, y, columns, w, mix, .1)
    sums = dict.fromkeys(whole, 0.)
    weights, values = dict(sums), dict(sums)
    for part in (slice(0, 5), slice(5, 6), slice(6, 23)):
        own = None if mix is None else tuple(o[part] for o in mix)
        for k, v in target_loss(out[part], y[part], columns, w[part], own, .1, partners=(y, w)).items():
            sums[k], weights[k] = sums[k] + v.sum, weights[k] + v.weight
            values[k] = values[k] + v.part_of(whole[k].weight).value
    for k, v in whole.items():
        assert torch.allclose(sums[k], v.sum, rtol=1e-12) and torch.allclose(weights[k], v.weight, rtol=1e-12)
        assert torch.allclose(values[k], v.value, rtol=1e-12)
    totals = sum(values.values()), sum(v.value for v in whole.values())
    gradients = [torch.autograd.grad(o, out)[0] for o in totals]
    assert torch.allclose(*gradients, atol=1e-12)


def test_missing_labels_get_no_gradient():
    columns = tuple(column(o, o) for o in (*REGRESSIONS, "classes"))
    out, y, _ = labels(30, columns, seed=8)
    g, = torch.autograd.grad(sum(means(out.requires_grad_(), y, columns).values()), out)
    lost = torch.cat([y[:, i:i + 1].isnan().expand(-1, o.outputs) for i, o in enumerate(columns)], 1)
    assert bool((g[lost] == 0).all()) and bool((g[~lost].abs() > 0).any()) and lost.any()
