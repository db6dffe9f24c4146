"The loop: exact gradients in little memory, exact resume after kills, and what it promises when something goes wrong."
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from aam_nb.core import AamError, draw_key, keyed_rng
from aam_nb.data.tokens import MASK
from aam_nb.model.aam import AamModel, calibrate, embed_chunks
from aam_nb.sections import LossConfig, ModelConfig, OptimConfig, RunConfig
from aam_nb.training.checkpoint import read_checkpoint
from aam_nb.training.loop import Loop, fit, stop_requests
from aam_nb.training.losses import asv_losses, sample_losses
from aam_nb.training.measure import measure_asvs, measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective, mixup_pairs
from aam_nb.training.parallel import check_alone, make_accelerator, pick_device
from aam_nb.training.track import Bar, RunLog, read_log
from aam_nb.types import AsvBatch, Batch, Column

ASVS = torch.from_numpy(keyed_rng("loop tests").integers(1, 5, (14, 12)).astype("uint8"))
NAN = float("nan")


class Toy:
    "Batches by step; the target is the log ratio of the first seven ASVs to the others."
    def __init__(self, steps=40, size=12, seed=0, classes=False, slow=0.):
        self.steps, self.size, self.seed, self.classes, self.slow = steps, size, seed, classes, slow

    def __len__(self): return self.steps

    def __getitem__(self, step):
        time.sleep(self.slow)
        rng = keyed_rng(self.seed, step)
        reads = rng.integers(1, 200, (self.size, 14))*(rng.random((self.size, 14)) < .6)
        reads[:, 0] += 1; reads[:, 13] += 1
        y = np.log(reads[:, :7].sum(1)/reads[:, 7:].sum(1))
        sample, asv = reads.nonzero(); place = (reads > 0)/(reads > 0).sum(1, keepdims=True)
        masked = ASVS.clone(); masked[np.arange(14), 3*rng.integers(0, 4, 14)] = MASK
        masked = torch.where((masked.view(14, 4, 3) == MASK).any(2, keepdim=True), MASK, masked.view(14, 4, 3)).view(14, 12)
        return Batch(tokens=ASVS, rows=torch.arange(14), identity=torch.zeros(14, 0), asv=torch.from_numpy(asv),
                     counts=torch.from_numpy(reads[sample, asv]).float(), offsets=torch.from_numpy(np.r_[0, (reads > 0).sum(1).cumsum()]),
                     index=torch.arange(self.size), target=torch.from_numpy((y > 0) if self.classes else y).float()[:, None],
                     distance=torch.from_numpy(np.abs(place[:, None] - place).sum(2)/2).float()[None], masked=masked, key=draw_key(self.seed, step))


def pairs(key=1):
    masked = ASVS.clone(); masked[:, 6:9] = MASK
    x = ASVS.float(); d = torch.cdist(x, x)**2
    d[3] = d[:, 3] = NAN
    return AsvBatch(tokens=ASVS, masked=masked, rows=torch.arange(14), distance=d, key=key)


NUMBER, CLASS = (Column(name="y", task="regression"),), (Column(name="y", task="classification", outputs=2),)
TASKS = {"regression": NUMBER, "classification": CLASS, None: ()}


def fresh(seed=0, columns=NUMBER, metrics=("unweighted",), counts=False, **sizes):
    sizes = dict(patch=3, width=16, identity=0, sample_width=16, head_width=8, head_dropout=.2) | sizes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AamModel(ModelConfig(**sizes), bases=12, columns=columns, metrics=metrics, counts=counts)


def cpu(): return make_accelerator(RunConfig(device="cpu"))


def grads(model): return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def close(a, b, eps=1e-5):
    assert a.keys() == b.keys()
    for k in a: assert torch.allclose(a[k], b[k], atol=eps, rtol=1e-3), (k, (a[k] - b[k]).abs().max())


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


QUICK = OptimConfig(steps=40, lr=5e-3, every=10, ema=.9, batch=12, chunk=5, freeze=False)


# ---- gradients

@pytest.mark.parametrize("chunk", [1, 5, 7, 13, 14])
def test_b22_gradients_in_chunks_equal_one_pass(chunk):
    "Also where the last chunk is short: nothing is divided by the number of chunks."
    plain, model = fresh(), fresh()
    asv_losses(plain, pairs(), LossConfig()).total.backward()
    AsvObjective(model, LossConfig(), chunk).train_step(pairs())
    close(grads(model), grads(plain))


@pytest.mark.parametrize("task", ["regression", "classification", None])
def test_b22_sample_gradients_in_chunks_equal_one_pass(task):
    batch, loss = Toy(classes=task == "classification")[0], LossConfig(distance=1., bases=0.)
    plain, model = fresh(columns=TASKS[task], head_dropout=0.), fresh(columns=TASKS[task], head_dropout=0.)
    terms = sample_losses(plain(batch), batch, loss, TASKS[task], ("unweighted",)); terms.total.backward()
    got = SampleObjective(model, loss, chunk=5).train_step(batch)
    close(grads(model), grads(plain))
    assert {k: float(v) for k, v in got.items()} == pytest.approx({k: float(v.detach()) for k, v in terms.values().items()}, rel=1e-5)


def test_hidden_bases_beside_samples_count_each_asv_as_often_as_it_occurs():
    batch = Toy()[0]; loss = LossConfig(target=0., distance=1., bases=1.)
    a, b = fresh(columns=(), head_dropout=0.), fresh(columns=(), head_dropout=0.)
    terms = SampleObjective(a, loss, chunk=5).train_step(batch)
    often = batch.asv.bincount(minlength=14)
    logits, places = b.masked_bases(batch.masked.repeat_interleave(often, 0))
    from aam_nb.training.losses import bases_loss
    whole = bases_loss(logits, places, batch.tokens.repeat_interleave(often, 0), 3).mean; whole.backward()
    assert float(terms["bases"]) == pytest.approx(float(whole.detach()), rel=1e-5)
    close({"w": grads(a)["heads.bases.base.weight"]}, {"w": grads(b)["heads.bases.base.weight"]})


def test_b21_the_second_pass_draws_the_same_dropout():
    loss = LossConfig(distance=1.)
    for make, batch in ((lambda m: AsvObjective(m, loss, 5), pairs()), (lambda m: SampleObjective(m, loss, mixup=.4, chunk=5), Toy()[0])):
        runs = []
        for seed in (1, 2):
            torch.manual_seed(seed); model = fresh(dropout=.3).train(); make(model).train_step(batch); runs.append(grads(model))
        assert same(*runs)                                                     # draws follow from the key, not from a global seed
        model = fresh(dropout=.3).train(); make(model).train_step(replace(batch, key=batch.key + 1))
        assert not same(runs[0], grads(model))


def test_b9_a_frozen_encoder_is_still_and_its_table_gives_the_same():
    batch, loss = Toy()[0], LossConfig(distance=1.)
    a, b = fresh(dropout=.5).freeze_encoder().train(), fresh(dropout=.5).freeze_encoder().train()
    table = embed_chunks(a, ASVS, 5)
    one = SampleObjective(a, loss, embeddings=table).train_step(batch)
    two = SampleObjective(b, loss).train_step(batch)
    assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in two.items()}, rel=1e-5)
    close(grads(a), grads(b))
    assert not [n for n in grads(a) if n.startswith("encoder.")]


def test_mixup_partners_are_a_permutation_and_follow_the_key():
    partner, share = mixup_pairs(5, 40, .4)
    assert sorted(partner.tolist()) == list(range(40)) and bool(((share >= 0) & (share <= 1)).all())
    assert torch.equal(partner, mixup_pairs(5, 40, .4)[0]) and not torch.equal(partner, mixup_pairs(6, 40, .4)[0])


# ---- the loop

def test_it_learns():
    objective = objective_of("frozen"); objective.loss = LossConfig()
    calibrate(objective.model, [Toy()[i] for i in range(4)], objective.embeddings)
    held = [Toy(size=32, seed=9)[i] for i in range(3)]
    found = fit(objective, Toy(80, size=32), replace(QUICK, steps=80, lr=1e-2), cpu(), lambda: measure_samples(objective, held))
    assert found.best_score < .3*float(torch.cat([b.target for b in held]).var())


def test_b29_the_best_weights_are_kept_not_the_last():
    objective, seen = SampleObjective(fresh(), LossConfig(), chunk=64), []
    held = [Toy(seed=9)[i] for i in range(3)]

    def validate():
        seen.append((measure_samples(objective, held)["loss"], {n: p.detach().clone() for n, p in objective.model.named_parameters()}))
        return dict(score=[.9, .3, .5, .7][len(seen) - 1])
    found = fit(objective, Toy(), QUICK, cpu(), validate, monitor="score")
    assert (found.best_step, found.best_score, found.steps) == (20, .3, 40)
    assert same(dict(objective.model.named_parameters()), seen[1][1]) and not objective.model.training
    assert [o["step"] for o in found.history] == [10, 20, 30, 40] and found.history[1]["valid_score"] == .3
    top = fit(SampleObjective(fresh(), LossConfig()), Toy(), QUICK, cpu(), lambda: dict(auc=.5), monitor="auc", mode="max")
    assert top.best_step == 10                                                 # equal is not better


def test_without_validation_the_averaged_weights_are_kept():
    objective = SampleObjective(fresh(), LossConfig()); loop = Loop(objective, QUICK, cpu())
    loop.run(Toy(), None)
    assert loop.finish(False).best_score is None and same(loop.ema.average, dict(objective.model.named_parameters()))


def test_validation_sees_the_averaged_weights_in_evaluation_mode_and_training_goes_on_with_its_own():
    seen = []
    def run(validate):
        objective = SampleObjective(fresh(dropout=.1), LossConfig()); loop = Loop(objective, QUICK, cpu())
        if validate: loop.run(Toy(), lambda: seen.append((objective.model.training, objective.model.heads["target"].linear.weight.clone(),
                                                          loop.ema.average["heads.target.linear.weight"].clone())) or dict(loss=1.))
        else: loop.run(Toy(), None)
        return dict(objective.model.named_parameters())
    assert same(run(True), run(False))                                         # looking changes nothing
    assert len(seen) == 4 and all(not mode and torch.equal(a, b) for mode, a, b in seen)


def test_patience_stops_early():
    scores = iter([.5, .4, .45, .42, .41, .1])
    found = fit(SampleObjective(fresh(), LossConfig()), Toy(60), replace(QUICK, steps=60, patience=2), cpu(),
                lambda: dict(loss=next(scores)))
    assert (found.steps, found.best_step, found.best_score) == (40, 20, .4)


def test_b22_every_step_is_clipped_also_the_last():
    objective = SampleObjective(fresh(), LossConfig(), chunk=5); loop = Loop(objective, replace(QUICK, clip=.05, steps=12), cpu())
    norms = []
    for i in range(12):
        loop.step(Toy()[i])
        norms.append(torch.stack([g.norm() for g in grads(objective.model).values()]).norm())
    loop.flush()
    assert max(norms) <= .05*1.001 and min(loop.sums["norm"]) > .05            # the norms before clipping were larger


def test_b5_the_first_step_moves_by_the_first_rate():
    objective = SampleObjective(fresh(), LossConfig()); config = replace(QUICK, warmup=.5, weight_decay=0., ema=0.)
    before = {n: p.detach().clone() for n, p in objective.model.named_parameters()}
    loop = Loop(objective, config, cpu()); loop.step(Toy()[0])
    moved = max(float((p.detach() - before[n]).abs().max()) for n, p in objective.model.named_parameters() if not n.startswith("encoder."))
    assert moved == pytest.approx(5e-3/20, rel=.02)                            # Adam's first step has the size of the rate


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(3); want = torch.rand(2)
    torch.manual_seed(3)
    fit(SampleObjective(fresh(), LossConfig(), mixup=.4), Toy(), replace(QUICK, steps=10), cpu())
    assert torch.equal(torch.rand(2), want)


def test_a_loss_that_is_not_finite_names_the_step_and_spoils_no_checkpoint(tmp_path):
    class Ruined(Toy):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return replace(batch, target=batch.target*float("inf")) if step == 23 else batch
    with pytest.raises(AamError, match=r"'target' came apart at step 24 of 40 \(loss inf.*lr=0.0005"):
        fit(SampleObjective(fresh(), LossConfig()), Ruined(), QUICK, cpu(), folder=tmp_path, save_seconds=0.)
    written, tensors = read_checkpoint(tmp_path/"last")
    assert written["state"]["step"] <= 23 and all(bool(v.isfinite().all()) for v in tensors["model"].values())


def test_what_cannot_work_is_said():
    o = SampleObjective(fresh(), LossConfig())
    with pytest.raises(AamError, match="5 batches for 40 steps"): fit(o, Toy(5), QUICK, cpu())
    with pytest.raises(AamError, match="gave rmse; the stage watches 'loss'"): fit(o, Toy(), QUICK, cpu(), lambda: dict(rmse=1.))
    with pytest.raises(AamError, match="never a number"): fit(o, Toy(), QUICK, cpu(), lambda: dict(loss=NAN))
    with pytest.raises(AamError, match="nothing to learn"):
        fit(AsvObjective(fresh(), LossConfig(bases=0.)), [replace(pairs(), distance=None)]*40, QUICK, cpu())
    before = dict(o.model.state_dict())
    found = fit(o, Toy(), replace(QUICK, steps=0), cpu())
    assert found.steps == 0 and same(before, o.model.state_dict())


def test_another_loader_may_make_the_batches():
    def ahead(source, start):
        for i in range(start, len(source)): yield source[i]; used.append(i)
    used, models = [], [fresh(), fresh()]
    for m, how in zip(models, (None, ahead), strict=True): fit(SampleObjective(m, LossConfig()), Toy(), QUICK, cpu(), loader=how)
    assert same(models[0].state_dict(), models[1].state_dict()) and used == list(range(39))


# ---- measures

def test_b1_validation_of_asvs_is_the_training_objective():
    model = fresh().eval(); loss = LossConfig()
    got = measure_asvs(AsvObjective(model, loss, chunk=5), [pairs()])
    want = asv_losses(model.requires_grad_(False), pairs(), loss).numbers()
    assert {k: got[k] for k in want} == pytest.approx(want) and -1 <= got["tree_spearman"] <= 1
    assert set(got) == {*want, *(f"tree_{o}" for o in ("spearman", "stress", "mantel")), "bases_perplexity", "bases_accuracy"}


@pytest.mark.parametrize("mixed", [False, True])
def test_b1_validation_of_samples_is_the_training_objective(mixed):
    "Every term of a training step, hidden bases too, has the same value in validation; labels are smoothed in both."
    columns = (*NUMBER, Column(name="kind", task="classification", outputs=3)) if mixed else NUMBER
    batch = Toy()[0]; loss = LossConfig(distance=.7, bases=.4)
    if mixed: batch = replace(batch, target=torch.cat([batch.target, torch.arange(12.)[:, None] % 3], 1))
    model = fresh(columns=columns, head_dropout=0.)
    objective = SampleObjective(model, loss, smoothing=.2, chunk=5); want = objective.train_step(batch)
    got = measure_samples(objective, [batch])
    assert set(want) == ({"target:y", "target:kind", "distance", "bases"} if mixed else {"target", "distance", "bases"})
    assert {k: got[k] for k in want} == pytest.approx({k: float(v) for k, v in want.items()}, rel=1e-5)
    assert got["loss"] == pytest.approx(sum(float(v) for v in want.values()), rel=1e-5)


def test_hidden_bases_are_not_judged_where_they_are_not_learned():
    batch = Toy()[0]; model = fresh()
    for objective in (SampleObjective(model, LossConfig(bases=0.)), SampleObjective(model, LossConfig(), embeddings=embed_chunks(model, ASVS)),
                      SampleObjective(fresh().freeze_encoder(), LossConfig())):
        assert "bases" not in objective.train_step(batch) and not [k for k in measure_samples(objective, [batch]) if k.startswith("bases")]


def test_perplexity_and_accuracy_of_hidden_bases_by_hand():
    from scipy.special import log_softmax
    model = fresh().eval(); other = replace(pairs(), masked=torch.where(torch.arange(12) < 6, MASK, ASVS))
    got = measure_asvs(AsvObjective(model, LossConfig(), chunk=5), [pairs(), other])
    nats, right = [], []
    for batch in (pairs(), other):                                             # base by base; an ASV of the second counts as any other
        with torch.no_grad(): logits = log_softmax(model.masked_bases(batch.masked)[0].numpy(), axis=-1).reshape(-1, 4)
        asked = batch.tokens[batch.masked == MASK].long().numpy() - 1
        nats += [-o[i] for o, i in zip(logits, asked, strict=True)]; right += [o.argmax() == i for o, i in zip(logits, asked, strict=True)]
    assert len(nats) == 14*9
    assert got["bases_perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5) and got["bases_accuracy"] == pytest.approx(np.mean(right))
    assert got["bases"] == pytest.approx(.3*np.mean(nats), rel=1e-5)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_measures_of_samples_by_hand(task):
    from scipy import stats
    from sklearn import metrics as sk
    model = fresh(columns=TASKS[task]); loss = LossConfig(distance=2., bases=0.)
    sizes = (12, 5, 9); known = [n*(n - 1)//2 for n in sizes]
    batches = [Toy(size=n, classes=task == "classification")[i] for i, n in enumerate(sizes)]
    got = measure_samples(SampleObjective(model, loss), batches)
    assert model.training                                                      # as it was
    model.eval()
    with torch.no_grad(): outs = [model(b) for b in batches]
    rows = [sample_losses(o, b, loss, TASKS[task], ("unweighted",)).numbers() for o, b in zip(outs, batches, strict=True)]
    for k, weights in (("target", sizes), ("distance", known)): assert got[k] == pytest.approx(np.average([r[k] for r in rows], weights=weights))
    assert got["loss"] == pytest.approx(got["target"] + got["distance"])
    y, p = torch.cat([b.target for b in batches])[:, 0].numpy(), torch.cat([o.target for o in outs])
    if task == "regression": assert got["r2"] == pytest.approx(sk.r2_score(y, p[:, 0]), abs=1e-5)
    else: assert got["auc"] == pytest.approx(sk.roc_auc_score(y, p.softmax(1)[:, 1]), abs=1e-6)
    flat = [tuple(d[0].numpy()[np.triu_indices(b.size, 1)] for d in (b.distance, o.distance)) for b, o in zip(batches, outs, strict=True)]
    for k, of in (("mantel", stats.pearsonr), ("spearman", stats.spearmanr)):
        assert got[f"distance_{k}"] == pytest.approx(np.average([of(*o)[0] for o in flat], weights=known), abs=1e-4)
    assert got["distance_stress"] == pytest.approx(np.average([np.sqrt(((a - b)**2).sum()/(a**2).sum()) for a, b in flat], weights=known), abs=1e-4)


def part_of(batch, start, stop):
    "Some neighbouring samples of a batch, as a batch."
    pairs = slice(int(batch.offsets[start]), int(batch.offsets[stop])); rows = slice(start, stop)
    take = {k: v if v is None else v[rows] for k, v in (("target", batch.target), ("weight", batch.weight), ("index", batch.index))}
    return replace(batch, asv=batch.asv[pairs], counts=batch.counts[pairs], offsets=batch.offsets[start:stop + 1] - batch.offsets[start],
                   distance=batch.distance[:, rows, rows], **take)


def test_the_loss_of_targets_does_not_depend_on_how_samples_are_dealt_into_batches():
    columns = (Column(name="a", task="regression", loss="huber"), Column(name="b", task="classification", outputs=3),
               Column(name="c", task="regression", outputs=3, loss="quantile", levels=(.1, .5, .9)))
    batch = Toy(size=24)[3]; rng = np.random.default_rng(0); target = torch.cat([batch.target, torch.arange(24.)[:, None] % 3, batch.target], 1)
    target[torch.from_numpy(rng.random((24, 3)) < .4)] = NAN; target[:5, 1] = NAN
    batch = replace(batch, target=target, weight=torch.from_numpy(rng.gamma(1., size=(24, 3))).float())
    objective = SampleObjective(fresh(columns=columns), LossConfig(bases=0.))
    whole = measure_samples(objective, [batch]); parts = measure_samples(objective, [part_of(batch, *o) for o in ((0, 5), (5, 18), (18, 24))])
    assert set(whole) == set(parts) and {"target:a", "target:b", "target:c", "a:r2", "b:auc", "c:mae"} <= set(whole)
    same = [k for k in whole if not k.startswith(("distance", "loss"))]
    assert {k: parts[k] for k in same} == pytest.approx({k: whole[k] for k in same}, rel=1e-4)
    assert whole["loss"] == pytest.approx(sum(whole[f"target:{o}"] for o in "abc"))


def test_the_metrics_of_quantiles_are_those_of_the_median():
    from sklearn.metrics import mean_absolute_error
    column = Column(name="y", task="regression", outputs=3, loss="quantile", levels=(.2, .5, .6))
    model = fresh(columns=(column,)).eval(); batch = Toy(size=20)[0]
    with torch.no_grad(): said = model(batch).target
    got = measure_samples(SampleObjective(model, LossConfig()), [batch])
    assert got["mae"] == pytest.approx(mean_absolute_error(batch.target[:, 0], said[:, 1]), rel=1e-5)


def test_batches_without_known_pairs_or_targets_do_not_count():
    objective = SampleObjective(fresh(), LossConfig(distance=1.)); held = [Toy(seed=9)[i] for i in range(2)]
    want = measure_samples(objective, held)
    nothing = replace(held[0], distance=torch.full((1, 12, 12), NAN), target=torch.full((12, 1), NAN), masked=None)
    assert measure_samples(objective, [nothing, *held]) == pytest.approx(want, rel=1e-6)
    alone = measure_samples(objective, [nothing])
    assert list(alone) == ["loss"] and np.isnan(alone["loss"])                 # and nothing is made up where nothing is known
    lost = replace(pairs(), distance=torch.full((14, 14), NAN))
    asvs = AsvObjective(fresh(), LossConfig(bases=0.)); want = measure_asvs(asvs, [pairs()])
    assert measure_asvs(asvs, [lost, pairs()]) == pytest.approx(want, rel=1e-6) and "tree" in want


def test_several_distances_have_figures_of_their_own():
    names = ("unweighted", "aitchison"); batch = replace(Toy()[0], masked=None); two = torch.cat([batch.distance, 5*batch.distance.sqrt()])
    known = torch.ones(12, 12, dtype=torch.bool); known[8:] = known[:, 8:] = False
    two[1] = torch.where(known, two[1], NAN)                                   # as between two studies
    objective = SampleObjective(fresh(columns=(), metrics=names), LossConfig(distance=1.)); batch = replace(batch, distance=two)
    got, first = measure_samples(objective, [batch]), measure_samples(objective, [part_of(batch, 0, 8)])
    assert set(got) == {"loss", *(f"distance:{o}" for o in names), *(f"{o}_{k}" for o in names for k in ("spearman", "stress", "mantel"))}
    for k in ("aitchison_spearman", "aitchison_stress", "distance:aitchison"): assert first[k] == pytest.approx(got[k], rel=1e-4), k
    assert first["unweighted_spearman"] != pytest.approx(got["unweighted_spearman"], rel=1e-4)


def test_hidden_abundances_are_learned_and_judged():
    batch = Toy()[0]; hidden = torch.zeros(len(batch.asv), dtype=torch.bool)
    for start, stop in zip(batch.offsets[:8], batch.offsets[1:9], strict=True): hidden[start:min(start + 3, stop - 1)] = True
    batch = replace(batch, hidden=hidden); loss = LossConfig(counts=.5, target=0., bases=0.)
    model = fresh(counts=True, head_dropout=0.); objective = SampleObjective(model, loss); want = objective.train_step(batch)
    assert set(want) == {"counts"} and any(float(g.abs().sum()) > 0 for g in grads(model).values())
    got = measure_samples(objective, [batch, replace(batch, hidden=torch.zeros_like(hidden))])
    assert got["counts"] == got["loss"] == pytest.approx(float(want["counts"]), rel=1e-5)


# ---- stopping and going on

LIFE = replace(QUICK, steps=24, every=6, chunk=8)


def objective_of(kind):
    "Three ways to train, with everything that draws at random switched on."
    if kind == "asvs": return AsvObjective(fresh(dropout=.2), LossConfig())
    if kind == "samples": return SampleObjective(fresh(dropout=.2), LossConfig(distance=.5), mixup=.4)
    model = fresh()
    model.encoder.calibrate(ASVS); model.freeze_encoder()
    return SampleObjective(model, LossConfig(distance=.5), embeddings=embed_chunks(model, ASVS, 5), mixup=.4)


class Asvs(Toy):
    def __getitem__(self, step): time.sleep(self.slow); return pairs(draw_key("asvs", step))


def life(kind, folder, resume, slow=0., save_seconds=0.):
    "One life of a run: train, or go on, to the end."
    objective = objective_of(kind); source = (Asvs if kind == "asvs" else Toy)(slow=slow)
    held = [Toy(seed=9)[0]]; log = None if folder is None else RunLog(folder, resume=resume, show=False)
    validate = None if kind == "asvs" else lambda: measure_samples(objective, held)
    found = fit(objective, source, LIFE, cpu(), validate, folder=folder, log=log, resume=resume, save_seconds=save_seconds)
    return found, objective.model


LIVES = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[2])
    import test_loop
    test_loop.life("frozen", None, False)                                      # everything is imported before the clock runs
    start = time.perf_counter(); test_loop.life("frozen", None, False, slow=.005); whole = time.perf_counter() - start
    rng = random.Random(1)
    for kind in ("asvs", "samples", "frozen"):
        folder, kills, first = Path(sys.argv[1])/kind, 0, True
        while True:
            pid = os.fork()
            if not pid:
                try: test_loop.life(kind, folder, resume=not first, slow=.005)
                except BaseException as e: print(kind, repr(e), file=sys.stderr, flush=True); os._exit(1)
                os._exit(0)
            if kills < 4:
                time.sleep(rng.uniform(.1, .6)*whole)
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            first = False
            if os.WIFSIGNALED(status): kills += 1
            elif os.WEXITSTATUS(status): sys.exit(1)
            else: break
        print(kind, kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_with_the_weights_of_an_undisturbed_one(tmp_path):
    env = dict(os.environ, OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LIVES), str(tmp_path), os.path.dirname(__file__)], env=env,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed = dict(o.split() for o in done.stdout.split("\n") if o)
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    try:
        for kind in ("asvs", "samples", "frozen"):
            assert int(killed[kind]) >= 1, done.stdout
            found, model = life(kind, tmp_path/f"{kind}_whole", False)
            whole, a = read_checkpoint(tmp_path/f"{kind}_whole/last"); parts, b = read_checkpoint(tmp_path/kind/"last")
            for k in a: assert same(a[k], b[k]), (kind, k)                     # weights, average, moments, best: bit for bit
            trim = lambda s: [{k: v for k, v in o.items() if k != "seconds"} for o in s["state"]["history"]]
            assert trim(whole) == trim(parts) and whole["state"]["best_score"] == parts["state"]["best_score"] == found.best_score
            assert same({k: model.state_dict()[k] for k in a["best"]}, a["best"])
            assert [o["step"] for o in read_log(tmp_path/kind/"metrics.jsonl")] == [6, 12, 18, 24]
            again, resumed = life(kind, tmp_path/kind, True)                   # a finished run gives its result at once
            assert again.best_score == found.best_score and same(resumed.state_dict(), model.state_dict())
    finally: torch.set_num_threads(threads)


def test_saving_often_or_never_changes_nothing(tmp_path):
    runs = [life("frozen", tmp_path/str(i), False, save_seconds=s)[1].state_dict() for i, s in enumerate((0., 1e9))]
    assert same(*runs) and same(runs[0], life("frozen", None, False)[1].state_dict())


@pytest.mark.parametrize("number,error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_request_to_stop_finishes_the_step_and_keeps_it(tmp_path, number, error):
    class Asked(Toy):
        def __getitem__(self, step):
            if step == 17 and not asked: asked.append(os.kill(os.getpid(), number))
            return super().__getitem__(step)
    asked, before = [], (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    with pytest.raises(error): fit(SampleObjective(fresh(), LossConfig()), Asked(), QUICK, cpu(), folder=tmp_path)
    assert read_checkpoint(tmp_path/"last")[0]["state"]["step"] == 18
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    models = [fresh(), fresh()]
    fit(SampleObjective(models[0], LossConfig()), Asked(), QUICK, cpu(), folder=tmp_path, resume=True)
    fit(SampleObjective(models[1], LossConfig()), Toy(), QUICK, cpu())
    assert same(models[0].state_dict(), models[1].state_dict())


def test_a_second_request_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stop_requests():
        os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): time.sleep(.001)
    with pytest.raises(KeyboardInterrupt), stop_requests(active=False):        # without a checkpoint, at once
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): time.sleep(.001)


def test_other_settings_and_other_batches_are_refused(tmp_path):
    class Stop(Toy):
        def __getitem__(self, step):
            if step == 15: raise KeyboardInterrupt
            return super().__getitem__(step)
    make = lambda **k: SampleObjective(fresh(**k), LossConfig())
    with pytest.raises(KeyboardInterrupt): fit(make(), Stop(), QUICK, cpu(), folder=tmp_path, save_seconds=0.)
    with pytest.raises(AamError, match="lr=0.005, here 0.01"): fit(make(), Toy(), replace(QUICK, lr=.01), cpu(), folder=tmp_path, resume=True)
    with pytest.raises(AamError, match="other batches"): fit(make(), Toy(seed=1), QUICK, cpu(), folder=tmp_path, resume=True)
    with pytest.raises(AamError, match="another model"): fit(make(head_width=16), Toy(), QUICK, cpu(), folder=tmp_path, resume=True)
    (tmp_path/"last/model.safetensors").write_bytes(b"")
    with pytest.raises(AamError, match="damaged"): fit(make(), Toy(), QUICK, cpu(), folder=tmp_path, resume=True)


# ---- log, bar, devices

def test_log_and_bar(tmp_path, monkeypatch, capsys):
    log = RunLog(tmp_path, show=False)
    fit(SampleObjective(fresh(), LossConfig()), Toy(), QUICK, cpu(), lambda: dict(loss=1., auc=NAN), log=log, name="target")
    log.close()
    records = read_log(tmp_path/"metrics.jsonl")
    assert [o["step"] for o in records] == [10, 20, 30, 40] and records[0]["valid_auc"] is None
    assert {"stage", "seconds", "lr", "norm", "loss", "target", "valid_loss"} <= set(records[0])
    for line in (tmp_path/"metrics.jsonl").read_text().splitlines(): json.loads(line, parse_constant=lambda o: pytest.fail(o))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", io.StringIO()); monkeypatch.delenv("TQDM_DISABLE", raising=False)
    bar = Bar("target", 40, show=True); time.sleep(.11); bar.update(40, 480, dict(loss=.25)); bar.close()
    assert "target: 100%" in sys.stderr.getvalue() and "loss 0.25" in sys.stderr.getvalue() and "samples/s" in sys.stderr.getvalue()
    assert Bar("target", 40).bar is None                                       # a file or a pipe gets none


def test_tensorboard_is_used_when_installed_and_not_missed_otherwise(tmp_path, monkeypatch, capsys):
    with_board = pytest.importorskip("torch.utils.tensorboard") and tmp_path/"a"
    for folder, absent in ((with_board, False), (tmp_path/"b", True)):
        with monkeypatch.context() as m:
            if absent: m.setitem(sys.modules, "torch.utils.tensorboard", None)
            log = RunLog(folder); log.write("target", 1, dict(loss=1.)); log.close()
        assert (folder/"tensorboard").exists() != absent and len(read_log(folder/"metrics.jsonl")) == 1
    assert capsys.readouterr() == ("", "")


def test_a_board_that_fails_does_not_stop_training(tmp_path):
    class Broken:
        def add_scalar(self, *a): raise OSError("disk full")
        def close(self): raise AssertionError("was dropped")
    log = RunLog(tmp_path); log.boards["target"] = Broken()
    log.write("target", 1, dict(loss=1.)); log.close()
    assert len(read_log(tmp_path/"metrics.jsonl")) == 1


def test_a_log_that_cannot_be_written_is_said_once(tmp_path, capsys):
    log = RunLog(tmp_path); log.path.unlink(); log.path.mkdir()
    for i in range(3): log.write("target", i, dict(loss=1.))
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_long_stages_say_how_long(tmp_path, capsys, monkeypatch):
    log = RunLog(show=True); monkeypatch.setenv("TQDM_DISABLE", "1")
    loop = Loop(SampleObjective(fresh(), LossConfig()), replace(QUICK, steps=100_000), cpu(), log=log)
    loop.state.step, loop.warm = 12, time.perf_counter() - 1.
    loop.tell(0, 0, 0.)
    said = capsys.readouterr().err
    assert "target: 99,988 of 100,000 steps to go, about 2 h 4" in said and "validation not counted" in said
    loop.tell(0, 1, .5)
    assert "about 2 h" in (said := capsys.readouterr().err) and "not counted" not in said
    loop.optim = replace(QUICK, steps=40); loop.tell(0, 0, 0.)
    assert capsys.readouterr().err == ""                                       # seconds are not worth a sentence


def test_devices(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AamError, match="2 processes were launched"): make_accelerator(RunConfig())
    monkeypatch.setenv("WORLD_SIZE", "1"); check_alone()
    if not torch.cuda.is_available():
        with pytest.raises(AamError, match="no cuda device"): pick_device("cuda")
    threads = torch.get_num_threads()
    make_accelerator(RunConfig(device="cpu", threads=1))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_bf16_runs_near_float32_and_weights_stay_float32():
    ends = []
    for precision in ("fp32", "bf16"):
        objective = SampleObjective(fresh(head_dropout=0.), LossConfig(distance=.5), chunk=5); held = [Toy(seed=9)[0]]
        found = fit(objective, Toy(), QUICK, make_accelerator(RunConfig(device="cpu", precision=precision)), lambda: measure_samples(objective, held))  # noqa: B023
        assert {p.dtype for p in objective.model.parameters()} == {torch.float32}
        ends.append(found.best_score)
    cpu()
    assert ends[1] == pytest.approx(ends[0], rel=.15)


def test_asv_training_brings_distances_near_the_tree():
    objective = AsvObjective(fresh(), LossConfig())
    before = measure_asvs(objective, [pairs()])
    fit(objective, [pairs(i) for i in range(60)], replace(QUICK, steps=60, ema=0.), cpu())
    after = measure_asvs(objective, [pairs()])
    assert after["tree_spearman"] > max(.8, before["tree_spearman"]) and after["bases"] < before["bases"]
