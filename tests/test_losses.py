"Losses of distances, bases and reads against scikit-learn's and SciPy's; gradients; all terms together."
from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_cases import NAN, column, distances, hidden_reads, labels, masked_batch, mixing, rand
from scipy import special, stats
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error
from torch.nn import functional as F

from aam_nb.core import AamError
from aam_nb.data.tokens import MASK, OTHER
from aam_nb.model.aam import AamModel
from aam_nb.sections import REGRESSIONS, LossConfig, ModelConfig
from aam_nb.training.losses import (
    asv_losses,
    bases_loss,
    bases_scores,
    count_loss,
    distance_loss,
    hidden_bases,
    known_pairs,
    root_path,
    sample_losses,
    target_loss,
    tree_loss,
    weighted,
)
from aam_nb.types import AsvBatch, Batch, LossTerms, Outputs


def test_tree_loss_by_numpy():
    path, pred = distances(9)**2, distances(9, seed=1)
    path[3] = path[:, 3] = NAN
    i = ~np.eye(9, dtype=bool) & ~np.isnan(path.numpy())
    root = np.sqrt(path.numpy()[i])
    loss = float(tree_loss(pred, path).mean)
    assert loss == pytest.approx(mean_squared_error(root/root.mean(), pred.numpy()[i]), rel=1e-5)
    assert float(tree_loss(pred, 7*path).mean) == pytest.approx(loss, rel=1e-5)


def test_distance_loss_by_sklearn():
    true, pred = distances(8), distances(8, seed=1)
    true[2, 5] = NAN
    i = ~np.eye(8, dtype=bool) & ~np.isnan(true.numpy())
    want = mean_squared_error(true.numpy()[i], pred.numpy()[i])
    assert float(distance_loss(pred, true).mean) == pytest.approx(want, rel=1e-5)
    assert float(distance_loss(pred, true, torch.tensor(3.)).mean) == pytest.approx(want/9, rel=1e-5)
    moved = pred + torch.eye(8)
    found = distance_loss(moved, true).mean                    # the diagonal never counts
    assert torch.equal(found, distance_loss(pred, true).mean)


# ---- terms, and rows that are a part of the global batch

def test_a_term_is_a_mean_times_its_factor():
    term = weighted(torch.tensor([2., 4, 9]), torch.tensor([1., 3, 0]))
    assert (float(term.sum), float(term.weight), float(term.mean)) == (14., 4., 3.5)
    assert float(replace(term, factor=10., shared=4).value) == 8.75
    assert float(weighted(torch.tensor([3.]), torch.tensor([2.])).mean) == 3.
    both = LossTerms(terms=dict(a=term, b=replace(term, factor=2.)))
    assert both.numbers() == dict(loss=10.5, a=3.5, b=7.) and float(both.total) == 10.5
    assert {k: float(v) for k, v in both.sums.items()} == dict(a=14., b=14.)
    assert {k: float(v) for k, v in both.weights.items()} == dict(a=4., b=4.)


@pytest.mark.parametrize("factor", [1., 1e6])
def test_where_nothing_is_known_the_gradient_is_zero_whatever_the_factor(factor):
    x = rand(3).requires_grad_()
    replace(weighted(x**2, torch.zeros(3)), factor=factor).value.backward()
    assert bool((x.grad == 0).all())


def test_only_a_row_and_its_own_column_are_left_out():
    true = distances(7)
    true[1, 4] = true[4, 1] = NAN
    whole = known_pairs(true)
    assert torch.equal(~whole, torch.eye(7, dtype=torch.bool) | true.isnan())
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        assert torch.equal(known_pairs(true[part], part.start), whole[part])


CUTS = [(0, 9), (0, 1, 9), (0, 4, 9), (0, 2, 5, 9)]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", ["distance", "tree"])
def test_rows_against_all_columns_add_up_to_the_whole(name, cuts):
    "Sums, weights and gradients, each part with the weight of the whole; also with a 0 off the diagonal."
    true, pred = (distances(9, seed=i, dtype=torch.float64) for i in (0, 1))
    true, pred = true**2, pred.requires_grad_()
    true[3, 5] = true[5, 3] = NAN
    true[0, 8] = true[8, 0] = 0.                               # the same sample twice, with the same reads
    unit = torch.tensor(2.) if name == "distance" else root_path(true).mean
    def loss(p, t, at):
        return distance_loss(p, t, unit, at) if name == "distance" else tree_loss(p, t, at, unit)
    whole = loss(pred, true, 0)
    assert name == "distance" or torch.equal(whole.mean, tree_loss(pred, true).mean)
    parts = [loss(pred[a:b], true[a:b], a) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert torch.allclose(sum(o.sum for o in parts), whole.sum)
    assert sum(o.weight for o in parts) == whole.weight == 70
    values = [o.part_of(whole.weight).value for o in parts]
    assert torch.allclose(sum(values), whole.value)
    gradients = [torch.autograd.grad(o, pred, retain_graph=True)[0] for o in (sum(values), whole.value)]
    assert torch.allclose(*gradients)


def test_the_unit_of_the_tree_is_that_of_all_rows():
    path = distances(9)**2
    path[2] = path[:, 2] = NAN
    whole, parts = root_path(path), [root_path(path[a:b], a) for a, b in ((0, 2), (2, 7), (7, 9))]
    assert torch.allclose(sum(o.sum for o in parts), whole.sum)
    assert sum(o.weight for o in parts) == whole.weight == 56
    i = ~np.eye(9, dtype=bool) & ~np.isnan(path.numpy())
    assert float(whole.mean) == pytest.approx(np.sqrt(path.numpy()[i]).mean(), rel=1e-6)


# ---- hidden reads

@pytest.mark.parametrize("seed", range(4))
def test_count_loss_by_scipy(seed):
    logits, reads, sample = hidden_reads(seed)
    own = [sample == o for o in sample.unique()]
    each = [stats.entropy(reads[i].numpy(), special.softmax(logits[i].numpy())) for i in own]
    assert (reads == 0).any() or seed
    found = count_loss(logits, reads, sample)
    assert float(found.mean) == pytest.approx(np.mean(each), rel=1e-9) and int(found.weight) == len(each)


def test_count_loss_is_the_multinomial_likelihood_that_is_lost():
    logits, reads, sample = hidden_reads(1)
    likely, each = lambda x, p: stats.multinomial.logpmf(x, x.sum(), p)/x.sum(), []
    for i in (sample == o for o in sample.unique()):
        x = reads[i].numpy().astype(int)
        each.append(likely(x, x/x.sum()) - likely(x, special.softmax(logits[i].numpy())))
    assert float(count_loss(logits, reads, sample).mean) == pytest.approx(np.mean(each), rel=1e-8)


def test_b2_depth_neither_swamps_nor_drowns_the_count_loss():
    "Reads in the thousands and shares of 1 are one loss; other samples' reads or a constant change nothing."
    logits, reads, sample = hidden_reads(2)
    loss = count_loss(logits, reads, sample).mean
    for other in ((logits, 1000*reads), (logits + sample, reads), (logits, reads*(1 + sample))):
        assert torch.allclose(loss, count_loss(*other, sample).mean, rtol=1e-9)
    assert float(count_loss((reads + 1e-30).log(), reads, sample).mean) == pytest.approx(0., abs=1e-9)
    even = count_loss(torch.zeros_like(logits), reads, sample).mean
    assert 0 < float(even) < np.log(9)


def test_count_loss_at_the_edges():
    one = torch.zeros(1, dtype=torch.int64)
    alone = count_loss(torch.tensor([5.]), torch.tensor([7.]), one)
    assert float(alone.mean) == 0.                             # one hidden ASV has all hidden reads
    none = torch.zeros(0, requires_grad=True)
    loss = count_loss(none, torch.zeros(0), one[:0]).mean
    loss.backward()
    assert float(loss.detach()) == 0. and none.grad.shape == (0,)
    steep = torch.tensor([0., 1e4, -1e4], requires_grad=True)
    loss = count_loss(steep, torch.tensor([1., 1, 0]), one.expand(3)).mean
    loss.backward()
    assert float(loss.detach()) == pytest.approx(.5e4 - np.log(2)) and steep.grad.isfinite().all()


def test_a_sample_without_hidden_reads_is_left_out_and_bf16_is_taken_in_float32():
    logits, reads, of = torch.tensor([0., 1, 2, 3]), torch.tensor([0., 0, 3, 4]), torch.tensor([0, 0, 1, 1])
    assert torch.equal(count_loss(logits, reads, of).mean, count_loss(logits[2:], reads[2:], of[2:]).mean)
    logits, reads, sample = hidden_reads(3, dtype=torch.float32)
    rounded = logits.bfloat16()
    want = count_loss(rounded.float(), reads, sample).mean
    assert torch.equal(count_loss(rounded, reads, sample).mean, want)


# ---- hidden bases

def by_hand(tokens, places, logits, weight=None):
    "The mean cross-entropy, base by base."
    total = losses = 0.
    for m, (i, j) in enumerate(places.nonzero().tolist()):
        w = 1. if weight is None else float(weight[i])
        for k in range(3):
            b = int(tokens[i, 3*j + k])
            if not 1 <= b <= 4: continue
            losses += w*-float(logits[m, k].log_softmax(0)[b - 1])
            total += w
    return losses/total


def test_bases_loss_by_hand():
    tokens, masked, places, logits = masked_batch()
    places[1, 1] = True
    masked[1, 3:6] = MASK
    logits = torch.randn(int(places.sum()), 3, 4)
    assert (tokens[places.repeat_interleave(3, 1)] == OTHER).any()
    want = by_hand(tokens, places, logits)
    assert bases_loss(logits, places, tokens, 3).mean == pytest.approx(want, rel=1e-5)
    weight = torch.tensor([1., 2, 0, 5, 3])
    found = bases_loss(logits, places, tokens, 3, weight)
    assert found.mean == pytest.approx(by_hand(tokens, places, logits, weight), rel=1e-5)
    assert found.weight == hidden_bases(tokens, masked, weight)


def test_bases_loss_of_parts_adds_up_to_the_whole():
    tokens, masked, places, logits = masked_batch()
    weight = torch.tensor([1., 2, 1, 5, 3])
    total, cut = hidden_bases(tokens, masked, weight), [slice(0, 2), slice(2, 5)]
    rows = places.sum(1).split([2, 3])
    parts = logits.split([int(o.sum()) for o in rows])
    losses = [bases_loss(x, places[s], tokens[s], 3, weight[s]) for s, x in zip(cut, parts, strict=True)]
    whole = bases_loss(logits, places, tokens, 3, weight)
    assert sum(o.part_of(total).mean for o in losses) == pytest.approx(float(whole.mean), rel=1e-5)
    assert sum(o.weight for o in losses) == whole.weight == total


def test_b1_only_hidden_bases_are_scored():
    "Copying what is visible earns nothing: the loss does not see it, in training or validation."
    tokens, masked, places, logits = masked_batch()
    visible = tokens.clone()
    visible[~places.repeat_interleave(3, 1)] = 1
    a, b = (bases_loss(logits, places, o, 3).mean for o in (tokens, visible))
    assert torch.equal(a, b)
    assert int(hidden_bases(tokens, masked)) == int(((masked == MASK) & (tokens >= 1) & (tokens <= 4)).sum())


def test_lengths_that_no_patch_divides():
    tokens, places = torch.tensor([[1, 2, 3, 4, 1]], dtype=torch.uint8), torch.tensor([[False, True]])
    logits = rand(1, 3, 4)
    want = float(F.cross_entropy(logits[0, :2], torch.tensor([3, 0])))
    assert bases_loss(logits, places, tokens, 3).mean == pytest.approx(want, rel=1e-5)


def test_bases_scores_by_sklearn_and_by_parts():
    tokens, masked, places, logits = masked_batch(40)
    tokens[:, 1] = OTHER                                       # is hidden in some rows, and never asked for
    hit = places.repeat_interleave(3, 1)
    flat = tokens[hit].long()
    known = (flat >= 1) & (flat <= 4)
    logits += 2*F.one_hot((flat - 1).clamp(0, 3), 4).view_as(logits)    # right more often than not
    nats, right, asked = bases_scores(logits, places, tokens, 3)
    pred, true = logits.view(-1, 4)[known].double(), flat[known] - 1
    assert int(asked) == int(known.sum()) == int(hidden_bases(tokens, masked)) < hit.sum()
    assert float(nats/asked) == pytest.approx(log_loss(true, pred.softmax(1), labels=range(4)), rel=1e-5)
    assert .5 < float(right/asked) < 1
    assert float(right/asked) == pytest.approx(accuracy_score(true, pred.argmax(1)))
    parts = logits.split([int(o) for o in (places[:2].sum(), places[2:].sum())])
    cuts = zip((slice(0, 2), slice(2, 40)), parts, strict=True)
    halves = [bases_scores(x, places[s], tokens[s], 3) for s, x in cuts]
    sums = [float(sum(o)) for o in zip(*halves, strict=True)]
    assert sums == pytest.approx([float(nats), float(right), float(asked)], rel=1e-6)
    assert [float(o) for o in bases_scores(logits[:0], torch.zeros_like(places), tokens, 3)] == [0, 0, 0]


# ---- all of them

@pytest.mark.parametrize("name", ["tree", "distance", "bases", "counts"])
def test_gradients_by_finite_differences(name):
    double = dict(dtype=torch.float64)
    true = distances(5, **double)
    true[1, 2] = NAN
    tokens, _, places, logits = masked_batch()
    guess, reads, sample = hidden_reads(4)
    unit = torch.tensor(2., **double)
    f, x = dict(
        tree=(lambda x: tree_loss(x, true).mean, distances(5, 1, **double)),
        bases=(lambda x: bases_loss(x, places, tokens, 3).mean, logits.double()),
        distance=(lambda x: distance_loss(x, true, unit).mean, distances(5, 1, **double)),
        counts=(lambda x: count_loss(x, reads, sample).mean, guess))[name]
    assert torch.autograd.gradcheck(f, (x.requires_grad_(),))


@pytest.mark.parametrize("name", [*REGRESSIONS, "classes", "mixup", "all"])
def test_gradients_of_targets_by_finite_differences(name):
    kinds = dict(mixup=("mse", "classes"), all=(*REGRESSIONS, "classes")).get(name, (name,))
    columns, mix = tuple(column(o, o) for o in kinds), mixing(7) if name == "mixup" else None
    out, y, w = labels(7, columns, seed=6)
    f = lambda x: tuple(o.mean for o in target_loss(x, y, columns, w, mix, .1).values())
    assert torch.autograd.gradcheck(f, (out.requires_grad_(),))


def test_nothing_known_is_zero_with_zero_gradient():
    lost, three = torch.full((3, 1), NAN), torch.full((3, 3), NAN)
    quantile, classes, mse = (column("quantile"),), (column("classes"),), (column(),)
    no_patch, bases = torch.zeros(2, 2).bool(), torch.ones(2, 6).byte()
    for f, x in ((lambda x: tree_loss(x, three), rand(3, 3)),
                 (lambda x: distance_loss(x, torch.zeros(1, 1)), rand(1, 1)),
                 (lambda x: target_loss(x, lost, quantile)["y"], rand(3, 3)),
                 (lambda x: target_loss(x, lost, classes)["y"], rand(3, 4)),
                 (lambda x: target_loss(x, torch.ones(3, 1), mse, torch.zeros(3, 1))["y"], rand(3, 1)),
                 (lambda x: count_loss(x, torch.zeros(3), torch.arange(3)), rand(3)),
                 (lambda x: bases_loss(x, no_patch, bases, 3), rand(0, 3, 4))):
        loss = f(x.requires_grad_()).mean
        loss.backward()
        assert float(loss.detach()) == 0. and bool((x.grad == 0).all())
    assert float(tree_loss(rand(3, 3)*0, torch.zeros(3, 3)).mean) == 0.        # all ASVs at one tip


def test_b23_losses_of_bf16_outputs_are_taken_in_float32():
    out, target, c = rand(8, 4).bfloat16(), torch.zeros(8, 1), (column("classes"),)
    loss = target_loss(out, target, c)["y"].mean
    assert loss.dtype == torch.float32 and torch.equal(loss, target_loss(out.float(), target, c)["y"].mean)
    assert distance_loss(distances(3).bfloat16(), distances(3)).mean.dtype == torch.float32


def test_terms_carry_their_weights_and_absent_teachers_are_left_out():
    torch.manual_seed(0)
    model = AamModel(ModelConfig(patch=3, width=16, identity=0, sample_width=16, head_width=8), bases=12)
    tokens, masked, _, _ = masked_batch()
    asvs = AsvBatch(tokens=tokens, masked=masked, rows=torch.arange(5), distance=distances(5))
    configs = LossConfig(tree=1., bases=1.), LossConfig(tree=10., bases=.3)
    one, heavy = (asv_losses(model, asvs, o).values() for o in configs)
    assert float(heavy["tree"].detach()/one["tree"].detach()) == pytest.approx(10.)
    assert float(heavy["bases"].detach()/one["bases"].detach()) == pytest.approx(.3)
    bare = AsvBatch(tokens=tokens, masked=masked, rows=torch.arange(5))
    assert set(asv_losses(model, bare, LossConfig()).terms) == {"bases"}
    assert set(asv_losses(model, asvs, LossConfig(bases=0.)).terms) == {"tree"}


# ---- samples

TWO = (column("mse", "age"), column("classes", "diet"))
METRICS = ("unweighted", "aitchison")


def outputs_for(target=None, metrics=2, counts=True):
    "Outputs for three samples, two of them with hidden reads."
    far = torch.stack([distances(3, o) for o in range(metrics)]) if metrics else None
    unit = torch.tensor([.2, 30.])[:metrics] if metrics else None
    return Outputs(summary=rand(3, 4), target=target, distance=far, unit=unit,
                   counts=rand(3, seed=7) if counts else None)


def truth(target, metrics=2, **more):
    "What is true of them."
    more = dict(hidden=torch.tensor([True, True, False, True, False])) | more
    far = torch.stack([distances(3, o + 5) for o in range(metrics)]) if metrics else None
    return Batch(tokens=torch.ones(2, 6, dtype=torch.uint8), rows=torch.arange(2), identity=torch.zeros(2, 0),
                 asv=torch.tensor([0, 1, 0, 1, 0]), counts=torch.tensor([3., 1, 9, 2, 9]),
                 offsets=torch.tensor([0, 2, 4, 5]), index=torch.arange(3), target=target,
                 distance=far, **more)


def test_terms_of_samples_share_their_weights():
    y, w = torch.tensor([[.3, 2], [NAN, 0], [1, NAN]]), torch.tensor([[1., 2], [1, 1], [3, 1]])
    out, config = rand(3, 5), LossConfig(target=3., distance=2., counts=.5)
    outputs, batch = outputs_for(out), truth(y, weight=w)
    got = sample_losses(outputs, batch, config, TWO, METRICS, .1).values()
    single = target_loss(out, y, TWO, w, smoothing=.1)
    assert list(got) == ["target:age", "target:diet", "distance:unweighted", "distance:aitchison", "counts"]
    for k in ("age", "diet"): assert torch.allclose(got[f"target:{k}"], 1.5*single[k].mean)
    for j, name in enumerate(METRICS):
        want = distance_loss(outputs.distance[j], batch.distance[j], outputs.unit[j]).mean
        assert torch.allclose(got[f"distance:{name}"], want)
    want = count_loss(outputs.counts, torch.tensor([3., 1, 2]), torch.tensor([0, 0, 1])).mean
    assert torch.allclose(got["counts"], .5*want) and float(want) > 0
    mixed = sample_losses(outputs, batch, LossConfig(), TWO, mix=mixing(3)).values()
    assert torch.equal(mixed["target:age"], .5*target_loss(out, y, TWO, w, mixing(3))["age"].mean)
    assert float(mixed["target:age"]) != float(.5*single["age"].mean)


@pytest.mark.parametrize("metrics", [1, 2])
def test_one_column_or_metric_keeps_the_short_name(metrics):
    y, out = rand(3, 1, seed=4), rand(3, 1)
    outputs, batch = outputs_for(out, metrics), truth(y, metrics)
    both = sample_losses(outputs, batch, LossConfig(distance=2.), TWO[:1], METRICS[:metrics])
    each = zip(outputs.distance, batch.distance, outputs.unit, strict=True)
    far = sum(distance_loss(*o).mean for o in each)*2/metrics
    assert both.numbers()["loss"] == pytest.approx(float(F.mse_loss(out, y) + far), rel=1e-6)
    distances = ["distance"] if metrics == 1 else [f"distance:{o}" for o in METRICS]
    assert set(both.terms) == {"target", *distances}


def test_rows_of_a_batch_of_samples_add_up_to_the_whole():
    "The batch says with `start` where its rows stand; with mixup the labels of all are at hand."
    y, out, mix, config = rand(3, 2, seed=4), rand(3, 5), mixing(3), LossConfig(distance=2.)
    y[:, 1] = torch.tensor([2., NAN, 0])
    outputs, batch = outputs_for(out, counts=False), truth(y, hidden=None)
    whole, values = sample_losses(outputs, batch, config, TWO, METRICS, mix=mix), []
    for rows in (slice(0, 1), slice(1, 3)):
        own = replace(outputs, target=out[rows], distance=outputs.distance[:, rows])
        part = replace(batch, target=y[rows], distance=batch.distance[:, rows], start=rows.start, total=3)
        own_mix = tuple(o[rows] for o in mix)
        terms = sample_losses(own, part, config, TWO, METRICS, mix=own_mix, partners=(y, None)).terms
        values.append({k: float(v.part_of(whole.weights[k]).value) for k, v in terms.items()})
    want = {k: float(v) for k, v in whole.values().items()}
    assert {k: values[0][k] + values[1][k] for k in want} == pytest.approx(want, rel=1e-6)


def test_units_make_metrics_alike():
    "Distances and units a hundred times as large are the same loss: none drowns the others."
    y = rand(3, 1)
    outputs, batch = outputs_for(y, 2), truth(y, 2)
    far, pred = (torch.stack([o.distance[0], 100*o.distance[0]]) for o in (batch, outputs))

    def worth(unit):
        outputs = Outputs(summary=y, distance=pred, unit=unit)
        other, config = replace(batch, distance=far), LossConfig(distance=1.)
        return sample_losses(outputs, other, config, (), METRICS).values()
    got = worth(torch.tensor([.2, 20.]))
    assert torch.allclose(got["distance:unweighted"], got["distance:aitchison"])
    got = worth(None)
    assert torch.allclose(1e4*got["distance:unweighted"], got["distance:aitchison"], rtol=1e-4)


def test_sample_losses_need_a_teacher():
    y, out = rand(3, 1, seed=4), rand(3, 1)
    outputs, batch = outputs_for(out), truth(y)

    def terms(loss, columns=TWO[:1], metrics=METRICS, outputs=outputs, batch=batch):
        return set(sample_losses(outputs, batch, loss, columns, metrics).terms)
    assert terms(LossConfig()) == {"target"}
    assert terms(LossConfig(counts=1.), columns=(), metrics=()) == {"counts"}
    assert terms(LossConfig(distance=1.), columns=()) == {"distance:unweighted", "distance:aitchison"}
    assert terms(LossConfig(target=0., counts=1., distance=1.), batch=truth(y, 0)) == {"counts"}
    assert terms(LossConfig(counts=1.), batch=truth(y, hidden=None)) == {"target"}
    bare = dict(columns=(), outputs=outputs_for(out, 0, counts=False))
    for loss, more in ((LossConfig(), dict(columns=())), (LossConfig(target=0.), {}),
                       (LossConfig(distance=1.), dict(columns=(), metrics=())),
                       (LossConfig(distance=1., counts=1.), bare)):
        with pytest.raises(AamError, match="nothing to learn"): terms(loss, **more)
