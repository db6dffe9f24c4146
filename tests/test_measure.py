"Validation measures what training minimises, whatever the batches; its figures are those of others too."
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax
from sklearn import metrics as sk
from toy_batches import ASVS, NAN, NUMBER, TASKS, Toy, fresh, grads, pairs

from aam_nb.data.tokens import MASK
from aam_nb.model.passes import embed_chunks
from aam_nb.sections import LossConfig
from aam_nb.training.losses import asv_losses, root_path, sample_losses, tree_loss
from aam_nb.training.measure import _distances, measure_asvs, measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.types import Column


def test_b1_validation_of_asvs_is_the_training_objective():
    model, loss = fresh().eval(), LossConfig()
    got = measure_asvs(AsvObjective(model, loss, chunk=5), [pairs()])
    want = asv_losses(model.requires_grad_(False), pairs(), loss).numbers()
    assert {k: got[k] for k in want} == pytest.approx(want) and -1 <= got["tree_spearman"] <= 1
    figures = [f"tree_{o}" for o in ("spearman", "stress", "mantel")]
    assert set(got) == {*want, *figures, "bases_perplexity", "bases_accuracy"}


@pytest.mark.parametrize("mixed", [False, True])
def test_b1_validation_of_samples_is_the_training_objective(mixed):
    "Every term of a training step has the same value in validation; labels are smoothed in both."
    columns = (*NUMBER, Column(name="kind", task="classification", outputs=3)) if mixed else NUMBER
    batch, loss = Toy()[0], LossConfig(distance=.7, bases=.4)
    if mixed: batch = replace(batch, target=torch.cat([batch.target, torch.arange(12.)[:, None] % 3], 1))
    objective = SampleObjective(fresh(columns=columns, head_dropout=0.), loss, smoothing=.2, chunk=5)
    want = objective.train_step(batch)
    got = measure_samples(objective, [batch])
    targets = ("target:y", "target:kind") if mixed else ("target",)
    assert set(want) == {*targets, "distance", "bases"}
    assert {k: got[k] for k in want} == pytest.approx({k: float(v) for k, v in want.items()}, rel=1e-5)
    assert got["loss"] == pytest.approx(sum(float(v) for v in want.values()), rel=1e-5)


def test_hidden_bases_are_not_judged_where_they_are_not_learned():
    batch, model = Toy()[0], fresh()
    without = SampleObjective(model, LossConfig(bases=0.))
    from_embeddings = SampleObjective(model, LossConfig(), embeddings=embed_chunks(model, ASVS))
    for objective in (without, from_embeddings, SampleObjective(fresh().freeze_encoder(), LossConfig())):
        assert "bases" not in objective.train_step(batch)
        assert not [k for k in measure_samples(objective, [batch]) if k.startswith("bases")]


def test_perplexity_and_accuracy_of_hidden_bases_by_hand():
    model, nats, right = fresh().eval(), [], []
    other = replace(pairs(), masked=torch.where(torch.arange(12) < 6, MASK, ASVS))
    got = measure_asvs(AsvObjective(model, LossConfig(), chunk=5), [pairs(), other])
    for batch in (pairs(), other):                             # base by base; all ASVs count alike
        with torch.no_grad(): logits = model.masked_bases(batch.masked)[0].numpy()
        logits = log_softmax(logits, axis=-1).reshape(-1, 4)
        asked = batch.tokens[batch.masked == MASK].long().numpy() - 1
        nats += [-o[i] for o, i in zip(logits, asked, strict=True)]
        right += [o.argmax() == i for o, i in zip(logits, asked, strict=True)]
    assert len(nats) == 14*9
    assert got["bases_perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert got["bases_accuracy"] == pytest.approx(np.mean(right))
    assert got["bases"] == pytest.approx(.3*np.mean(nats), rel=1e-5)


def stress(a, b): return np.sqrt(((a - b)**2).sum()/(a**2).sum())


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_measures_of_samples_by_hand(task):
    model, loss, sizes = fresh(columns=TASKS[task]), LossConfig(distance=2., bases=0.), (12, 5, 9)
    known = [n*(n - 1)//2 for n in sizes]
    batches = [Toy(size=n, classes=task == "classification")[i] for i, n in enumerate(sizes)]
    got = measure_samples(SampleObjective(model, loss), batches)
    assert model.training                                      # as it was
    model.eval()
    with torch.no_grad(): outs = [model(b) for b in batches]
    both = list(zip(outs, batches, strict=True))
    rows = [sample_losses(o, b, loss, TASKS[task], ("unweighted",)).numbers() for o, b in both]
    for k, weights in (("target", sizes), ("distance", known)):
        assert got[k] == pytest.approx(np.average([r[k] for r in rows], weights=weights))
    assert got["loss"] == pytest.approx(got["target"] + got["distance"])
    y, p = torch.cat([b.target for b in batches])[:, 0].numpy(), torch.cat([o.target for o in outs])
    if task == "regression": assert got["r2"] == pytest.approx(sk.r2_score(y, p[:, 0]), abs=1e-5)
    else: assert got["auc"] == pytest.approx(sk.roc_auc_score(y, p.softmax(1)[:, 1]), abs=1e-6)
    upper = lambda d: d[0].numpy()[np.triu_indices(d.shape[1], 1)]
    flat = [(upper(b.distance), upper(o.distance)) for o, b in both]
    pearson, spearman = lambda *o: stats.pearsonr(*o)[0], lambda *o: stats.spearmanr(*o)[0]
    for k, of in dict(mantel=pearson, spearman=spearman, stress=stress).items():
        want = np.average([of(*o) for o in flat], weights=known)
        assert got[f"distance_{k}"] == pytest.approx(want, abs=1e-4)


def part_of(batch, start, stop):
    "Some neighbouring samples of a batch, as a batch."
    pairs, rows = slice(int(batch.offsets[start]), int(batch.offsets[stop])), slice(start, stop)
    take = {k: getattr(batch, k) for k in ("target", "weight", "index")}
    take = {k: v if v is None else v[rows] for k, v in take.items()}
    distance = batch.distance[:, rows, rows]
    return replace(batch, asv=batch.asv[pairs], counts=batch.counts[pairs], distance=distance,
                   offsets=batch.offsets[start:stop + 1] - batch.offsets[start], **take)


def test_the_loss_of_targets_does_not_depend_on_how_samples_are_dealt_into_batches():
    columns = (Column(name="a", task="regression", loss="huber"),
               Column(name="b", task="classification", outputs=3),
               Column(name="c", task="regression", outputs=3, loss="quantile", levels=(.1, .5, .9)))
    batch, rng = Toy(size=24)[3], np.random.default_rng(0)
    target = torch.cat([batch.target, torch.arange(24.)[:, None] % 3, batch.target], 1)
    target[torch.from_numpy(rng.random((24, 3)) < .4)] = NAN
    target[:5, 1] = NAN
    batch = replace(batch, target=target, weight=torch.from_numpy(rng.gamma(1., size=(24, 3))).float())
    objective = SampleObjective(fresh(columns=columns), LossConfig(bases=0.))
    whole = measure_samples(objective, [batch])
    parts = measure_samples(objective, [part_of(batch, *o) for o in ((0, 5), (5, 18), (18, 24))])
    assert set(whole) == set(parts)
    assert {"target:a", "target:b", "target:c", "a:r2", "b:auc", "c:mae"} <= set(whole)
    same = [k for k in whole if not k.startswith(("distance", "loss"))]
    assert {k: parts[k] for k in same} == pytest.approx({k: whole[k] for k in same}, rel=1e-4)
    assert whole["loss"] == pytest.approx(sum(whole[f"target:{o}"] for o in "abc"))


def test_the_metrics_of_quantiles_are_those_of_the_median():
    column = Column(name="y", task="regression", outputs=3, loss="quantile", levels=(.2, .5, .6))
    model, batch = fresh(columns=(column,)).eval(), Toy(size=20)[0]
    with torch.no_grad(): pred = model(batch).target
    got = measure_samples(SampleObjective(model, LossConfig()), [batch])
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(batch.target[:, 0], pred[:, 1]), rel=1e-5)


def test_batches_without_known_pairs_or_targets_do_not_count():
    objective, held = SampleObjective(fresh(), LossConfig(distance=1.)), [Toy(seed=9)[i] for i in range(2)]
    want = measure_samples(objective, held)
    unknown = dict(distance=torch.full((1, 12, 12), NAN), target=torch.full((12, 1), NAN))
    nothing = replace(held[0], masked=None, **unknown)
    assert measure_samples(objective, [nothing, *held]) == pytest.approx(want, rel=1e-6)
    alone = measure_samples(objective, [nothing])
    assert list(alone) == ["loss"] and np.isnan(alone["loss"]) # and nothing is made up where nothing is known
    lost = replace(pairs(), distance=torch.full((14, 14), NAN))
    asvs = AsvObjective(fresh(), LossConfig(bases=0.))
    want = measure_asvs(asvs, [pairs()])
    assert measure_asvs(asvs, [lost, pairs()]) == pytest.approx(want, rel=1e-6) and "tree" in want


def test_several_distances_have_figures_of_their_own():
    names, batch = ("unweighted", "aitchison"), replace(Toy()[0], masked=None)
    two = torch.cat([batch.distance, 5*batch.distance.sqrt()])
    two[1, 8:] = two[1, :, 8:] = NAN                           # as between two studies
    batch = replace(batch, distance=two)
    objective = SampleObjective(fresh(columns=(), metrics=names), LossConfig(distance=1.))
    got, first = measure_samples(objective, [batch]), measure_samples(objective, [part_of(batch, 0, 8)])
    figures = [f"{o}_{k}" for o in names for k in ("spearman", "stress", "mantel")]
    assert set(got) == {"loss", *(f"distance:{o}" for o in names), *figures}
    for k in ("aitchison_spearman", "aitchison_stress", "distance:aitchison"):
        assert first[k] == pytest.approx(got[k], rel=1e-4), k
    assert first["unweighted_spearman"] != pytest.approx(got["unweighted_spearman"], rel=1e-4)


def test_hidden_abundances_are_learned_and_judged():
    batch = Toy()[0]
    hidden = torch.zeros(len(batch.asv), dtype=torch.bool)
    for start, stop in zip(batch.offsets[:8], batch.offsets[1:9], strict=True):
        hidden[start:min(start + 3, stop - 1)] = True
    batch, loss = replace(batch, hidden=hidden), LossConfig(counts=.5, target=0., bases=0.)
    model = fresh(counts=True, head_dropout=0.)
    objective = SampleObjective(model, loss)
    want = objective.train_step(batch)
    assert set(want) == {"counts"} and any(float(g.abs().sum()) > 0 for g in grads(model).values())
    got = measure_samples(objective, [batch, replace(batch, hidden=torch.zeros_like(hidden))])
    assert got["counts"] == got["loss"] == pytest.approx(float(want["counts"]), rel=1e-5)


def test_rows_of_asvs_against_all_columns_are_the_pairs_right_of_their_own():
    "Losses and weights of the parts add up to those of the whole; figures count each pair once."
    objective, whole = AsvObjective(fresh().eval(), LossConfig(bases=0.)), pairs()
    full = asv_losses(objective.model, whole, objective.loss).terms["tree"]
    far = objective.model.tree_distance(objective.model.encode(ASVS)).detach()
    unit, sums, counted = root_path(whole.distance).mean, 0., 0
    for a, b in ((0, 4), (4, 5), (5, 14)):
        sums = sums + tree_loss(far[a:b], whole.distance[a:b], a, unit).sum
        found = _distances("tree", whole.distance[a:b].sqrt(), far[a:b], a)
        counted += found["tree_stress"][1] if found else 0
    assert torch.allclose(sums, full.sum) and counted == 13*12//2 == int(full.weight)//2
