"Losses against PyTorch's and scikit-learn's, with missing values and weights; gradients against finite differences."
import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error
from torch.nn import functional as F

from aam_nb.config import LossConfig, ModelConfig
from aam_nb.core import AamError
from aam_nb.data.tokens import MASK, OTHER, PAD
from aam_nb.model.aam import AamModel
from aam_nb.training.losses import (asv_losses, bases_loss, distance_loss, hidden_bases, known_mean, sample_losses, target_loss,
                                    tree_loss)
from aam_nb.types import AsvBatch, Batch, Outputs

NAN = float("nan")


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
    assert float(distance_loss(pred, true)) == pytest.approx(mean_squared_error(true.numpy()[i], pred.numpy()[i]), rel=1e-5)
    moved = pred + torch.eye(8)
    assert torch.equal(distance_loss(moved, true), distance_loss(pred, true))  # the diagonal never counts


@pytest.mark.parametrize("kind,reference", [("mse", F.mse_loss), ("huber", F.smooth_l1_loss)])
def test_regression_ignores_missing(kind, reference):
    out, target = rand(20, 2), 2*rand(20, 2, seed=1)
    target[::3, 0] = NAN
    known = ~target.isnan()
    got = target_loss(out, target, "regression", LossConfig(regression=kind))
    assert got == pytest.approx(float(reference(out[known], target[known])), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0., .05, .5])
def test_classes_ignore_missing(smoothing):
    out, target = rand(30, 4), torch.randint(0, 4, (30, 1), generator=torch.Generator().manual_seed(0)).float()
    target[::4] = NAN
    known = ~target[:, 0].isnan(); classes = target[known, 0].long()
    got = target_loss(out, target, "classification", LossConfig(smoothing=smoothing))
    assert got == pytest.approx(float(F.cross_entropy(out[known], classes, label_smoothing=smoothing)), rel=1e-5)
    if not smoothing:
        assert got == pytest.approx(log_loss(classes, out[known].double().softmax(1), labels=range(4)), rel=1e-5)


def test_mixup_of_numbers_has_the_gradient_of_mixed_targets():
    out, target = rand(16, 1).requires_grad_(), rand(16, 1, seed=1)
    partner, share = torch.randperm(16, generator=torch.Generator().manual_seed(2)), torch.rand(16, generator=torch.Generator().manual_seed(3))
    got, = torch.autograd.grad(target_loss(out, target, "regression", LossConfig(), (partner, share)), out)
    mixed = share[:, None]*target + (1 - share[:, None])*target[partner]
    want, = torch.autograd.grad(F.mse_loss(out, mixed), out)
    assert torch.allclose(got, want, atol=1e-6)


def test_mixup_of_classes_is_cross_entropy_with_mixed_probabilities():
    out, target = rand(16, 3), torch.randint(0, 3, (16, 1), generator=torch.Generator().manual_seed(0)).float()
    partner, share = torch.arange(16).roll(1), torch.rand(16, generator=torch.Generator().manual_seed(3))
    one = F.one_hot(target[:, 0].long(), 3).float()
    mixed = share[:, None]*one + (1 - share[:, None])*one[partner]
    got = target_loss(out, target, "classification", LossConfig(smoothing=.1), (partner, share))
    assert got == pytest.approx(float(F.cross_entropy(out, mixed, label_smoothing=.1)), rel=1e-5)


def test_mixup_with_share_one_is_no_mixup_and_a_missing_partner_does_not_count():
    out, target = rand(6, 1), rand(6, 1, seed=1)
    target[2] = NAN
    partner, c = torch.arange(6).roll(1), LossConfig()
    assert target_loss(out, target, "regression", c, (partner, torch.ones(6))) == pytest.approx(float(target_loss(out, target, "regression", c)))
    g, = torch.autograd.grad(target_loss(o := out.clone().requires_grad_(), target, "regression", c, (partner, torch.full((6,), .5))), o)
    assert g.isfinite().all()
    only = torch.full_like(target, NAN)
    assert float(target_loss(out, only, "regression", c, (partner, torch.full((6,), .5)))) == 0.


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


@pytest.mark.parametrize("name", ["tree", "distance", "bases", "mse", "huber", "classes", "mixup"])
def test_gradients_by_finite_differences(name):
    double = dict(dtype=torch.float64)
    seen = distances(5, **double); seen[1, 2] = NAN
    target = rand(6, 2, seed=3, **double); target[0, 0] = NAN
    classes = torch.tensor([[0.], [2], [1], [NAN], [2], [0]])
    tokens, _, places, logits = masked_batch()
    mix = torch.arange(6).roll(2), torch.tensor([.1, .9, .5, 1, 0, .3], **double)
    run = dict(tree=(lambda x: tree_loss(x, seen), distances(5, 1, **double)), distance=(lambda x: distance_loss(x, seen), distances(5, 1, **double)),
               bases=(lambda x: bases_loss(x, places, tokens, 3), logits.double()),
               mse=(lambda x: target_loss(x, target, "regression", LossConfig()), rand(6, 2, **double)),
               huber=(lambda x: target_loss(x, target, "regression", LossConfig(regression="huber")), 2*rand(6, 2, **double)),
               classes=(lambda x: target_loss(x, classes, "classification", LossConfig()), rand(6, 3, **double)),
               mixup=(lambda x: target_loss(x, classes, "classification", LossConfig(), mix), rand(6, 3, **double)))
    f, x = run[name]
    assert torch.autograd.gradcheck(f, (x.requires_grad_(),))


def test_nothing_known_is_zero_with_zero_gradient():
    for f, x in ((lambda x: tree_loss(x, torch.full((3, 3), NAN)), rand(3, 3)), (lambda x: distance_loss(x, torch.zeros(1, 1)), rand(1, 1)),
                 (lambda x: target_loss(x, torch.full((3, 1), NAN), "regression", LossConfig()), rand(3, 1)),
                 (lambda x: target_loss(x, torch.full((3, 1), NAN), "classification", LossConfig()), rand(3, 2)),
                 (lambda x: bases_loss(x, torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 6, dtype=torch.uint8), 3), rand(0, 3, 4))):
        x.requires_grad_(); loss = f(x); loss.backward()
        assert float(loss.detach()) == 0. and bool((x.grad == 0).all())
    assert float(tree_loss(rand(3, 3)*0, torch.zeros(3, 3))) == 0.             # all ASVs at one tip
    assert float(known_mean(torch.tensor([3.]), torch.tensor([2.]))) == 3.


def test_b23_losses_of_bf16_outputs_are_taken_in_float32():
    out, target = rand(8, 3).bfloat16(), torch.zeros(8, 1)
    loss = target_loss(out, target, "classification", LossConfig())
    assert loss.dtype == torch.float32 and torch.equal(loss, target_loss(out.float(), target, "classification", LossConfig()))
    assert distance_loss(distances(3).bfloat16(), distances(3)).dtype == torch.float32


def small():
    torch.manual_seed(0)
    return AamModel(ModelConfig(patch=3, width=16, identity=0, sample_width=16, head_width=8), bases=12, task="regression", metric="unweighted")


def test_terms_carry_their_weights_and_absent_teachers_are_left_out():
    tokens, masked, _, _ = masked_batch(); model = small()
    asvs = AsvBatch(tokens=tokens, masked=masked, rows=torch.arange(5), distance=distances(5))
    one = asv_losses(model, asvs, LossConfig(tree=1., bases=1.)).terms
    heavy = asv_losses(model, asvs, LossConfig(tree=10., bases=.3)).terms
    assert float(heavy["tree"].detach()/one["tree"].detach()) == pytest.approx(10.)
    assert float(heavy["bases"].detach()/one["bases"].detach()) == pytest.approx(.3)
    bare = AsvBatch(tokens=tokens, masked=masked, rows=torch.arange(5))
    assert set(asv_losses(model, bare, LossConfig()).terms) == {"bases"}
    assert set(asv_losses(model, asvs, LossConfig(bases=0.)).terms) == {"tree"}


def test_sample_losses_need_a_teacher():
    outputs = Outputs(summary=rand(3, 4), target=rand(3, 1), distance=distances(3))
    tokens = torch.ones(2, 6, dtype=torch.uint8)
    batch = Batch(tokens=tokens, rows=torch.arange(2), identity=torch.zeros(2, 0), asv=torch.tensor([0, 1, 0]), counts=torch.ones(3),
                  offsets=torch.arange(4), index=torch.arange(3), target=rand(3, 1, seed=4), distance=distances(3, 1))
    both = sample_losses(outputs, batch, LossConfig(distance=2.), "regression")
    assert both.numbers()["loss"] == pytest.approx(float(F.mse_loss(outputs.target, batch.target) + 2*distance_loss(outputs.distance, batch.distance)))
    assert set(sample_losses(outputs, batch, LossConfig(), "regression").terms) == {"target"}
    assert set(sample_losses(outputs, batch, LossConfig(distance=1.), None).terms) == {"distance"}
    with pytest.raises(AamError, match="nothing to learn"): sample_losses(outputs, batch, LossConfig(), None)
