"Small trainings on one process or on several, in double precision, and how far their weights are apart."
from dataclasses import replace

import numpy as np
import torch
from small_batches import STORE, VARIED
from toy_batches import cpu

from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.collate import known_places
from aam_nb.batches.pieces import in_pieces
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import embed_chunks
from aam_nb.sections import LossConfig, ModelConfig, OptimConfig
from aam_nb.training.loop import fit, Stage
from aam_nb.training.measure import measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.ranks import ALONE
from aam_nb.training.shared import learn_from
from aam_nb.types import Column, Covariates

NUMBER = Column(name="age", task="regression")
CLASS = Column(name="site", task="classification", outputs=3)
KNOWN = np.random.default_rng(1).random((11, 2)) < .35 # Most labels are missing
CODES = np.random.default_rng(2).integers(0, 4, (11, 1))
NUMBERS = np.random.default_rng(3).normal(size=(11, 1))
CPU, PLAIN = cpu(), Stage()


def labels(columns, some=False):
    "A target for each column, of all samples or of few of them."
    rng = np.random.default_rng(5)
    made = [rng.integers(0, 3, 11) if o.task == "classification" else rng.normal(size=11) for o in columns]
    target = np.stack(made, 1).astype(np.float64)
    return np.where(KNOWN[:, :len(columns)], target, np.nan) if some else target


# What each training learns, and how: model sizes, loss, view, objective and data
CASES = {
    "asvs": dict(),
    "unweighted": dict(metrics=("unweighted",)),
    "weighted": dict(metrics=("weighted",)),
    "braycurtis": dict(metrics=("braycurtis",)),
    "two distances": dict(metrics=("unweighted", "aitchison"), frozen=True),
    "counts": dict(counts=True, hide=.4),
    "counts and distances": dict(counts=True, hide=.4, metrics=("unweighted",), frozen=True),
    "regression": dict(columns=(NUMBER,), mixup=.4),
    "regression, frozen": dict(columns=(NUMBER,), mixup=.4, frozen=True),
    "classes": dict(columns=(CLASS,), mixup=.4, smoothing=.1),
    "two targets": dict(columns=(NUMBER, CLASS), mixup=.4, some=True),
    "two targets, frozen": dict(columns=(NUMBER, CLASS), some=True, frozen=True, weighted=True),
    "all at once": dict(columns=(NUMBER, CLASS), mixup=.4, some=True, metrics=("unweighted",), counts=True,
                        hide=.4, sample="attention"),
    "mixed reads": dict(columns=(NUMBER,), mix="reads", mixup=.4, frozen=True),
    "covariates": dict(columns=(NUMBER, CLASS), mixup=.4, frozen=True, covariates=True)}


def objective_of(case, kind=torch.float64):
    "A model with weights that are always the same, and how it learns."
    o = CASES[case]
    sizes = dict(patch=3, width=16, identity=16, layers=1, heads=2)
    sizes |= dict(sample_width=16, sample_layers=1, head_width=8)
    more = dict(fusion="gated", scale_by=("diet",)) if o.get("covariates") else {}
    read = Covariates(chains=(("diet",),), sizes=(2,), numbers=("bmi",)) if more else None
    config = ModelConfig(**sizes, **more, sample=o.get("sample", "pool"), linear="asvs" if more else "none",
                         components=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AamModel(config, bases=14, columns=o.get("columns", ()), metrics=o.get("metrics", ()),
                         covariates=read, counts=o.get("counts", False), known=40 if more else 0).to(kind)
    if case == "asvs": return AsvObjective(model, LossConfig(), chunk=5)
    loss = LossConfig(distance=1. if o.get("metrics") else 0., counts=1. if o.get("counts") else 0.)
    tokens, embeddings = torch.tensor(np.array(STORE.tokens)), None
    if o.get("frozen"): embeddings = embed_chunks(model.freeze_encoder(), tokens)
    return SampleObjective(model, loss, embeddings=embeddings, mixup=o.get("mixup", 0.),
                           smoothing=o.get("smoothing", 0.), chunk=7)


def samples_of(case):
    "The samples of a case with their targets, weights and covariates."
    o = CASES[case]
    target = labels(o["columns"], o.get("some")) if o.get("columns") else None
    weight = np.random.default_rng(6).random((11, 2)) if o.get("weighted") else None
    return SampleDataset(STORE, target=target, weight=weight,
                         covariates=(CODES, NUMBERS) if o.get("covariates") else None)


def view_of(case):
    o = CASES[case]
    augment = replace(VARIED, mix=o.get("mix", "pooled"), mixup=.4)
    return View(seed=7, augment=augment, identity=16, metrics=o.get("metrics", ()), patch=3,
                known=known_places(STORE.keys, np.sort(np.asarray(STORE.keys[:]))),
                mask=0. if o.get("frozen") else .2, hide=o.get("hide", 0.),
                chains=(("diet",),) if o.get("covariates") else ())


def source_of(case, steps, ranks, **more):
    "The batches of a case, as this process holds them."
    how = dict(steps=steps, rank=ranks.rank, world=ranks.world)
    if case == "asvs":
        return AsvBatches(STORE, view=View(seed=2, patch=3, mask=.15, augment=VARIED), batch=23, **how)
    return SampleBatches(samples_of(case), view_of(case), **dict(batch=7) | more, **how)


def weights_of(model): return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def matters(case):
    """Which weights can change the loss. A shift that all distances ignore, or the bias of the keys of
    attention, has a gradient of zero; what rounding leaves of it is noise, and AdamW enlarges it."""
    objective, found = objective_of(case), gradient(case)
    flat = [found.get(n, [0.]*p.numel()) for n, p in objective.model.named_parameters()]
    size = np.abs(np.concatenate(flat))
    return size > 1e-12*size.max()


def trained(case, ranks=ALONE, steps=20, kind=torch.float64, at_once=0, validated=False, lr=5e-3, on=CPU,
            stage=PLAIN, **more):
    "The losses of each step and the weights at the end; `on` is an accelerator."
    objective, source = objective_of(case, kind), source_of(case, steps, ranks, **more)
    optim = OptimConfig(steps=steps, lr=lr, every=1, ema=.9, chunk=5, freeze=False, at_once=at_once)
    plain = PlainBatches(samples_of(case), view_of(case), batch=3) if validated else None
    validate = (lambda: measure_samples(objective, plain)) if validated else None
    found = fit(objective, source, optim, on, validate, stage, ranks=ranks)
    records = [{k: v for k, v in o.items() if k != "seconds"} for o in found.history]
    return records, weights_of(objective.model).tolist(), found.best_step


def apart(found, wanted, which=slice(None)):
    "The largest difference of losses and of some weights, relative to the largest wanted one."
    (a, x, _), (b, y, _) = found, wanted
    assert [list(o) for o in a] == [list(o) for o in b]
    losses = np.array([[*o.values()] for o in a]), np.array([[*o.values()] for o in b])
    known = np.isfinite(losses[1])
    assert (np.isfinite(losses[0]) == known).all()
    far = [abs(losses[0] - losses[1])[known].max()/abs(losses[1][known]).max()]
    x, y = np.array(x)[which], np.array(y)[which]
    return max(*far, abs(x - y).max()/abs(y).max())


def gradient(case, ranks=ALONE, at_once=0, learn=None, **more):
    "The gradient of the third batch."
    objective, batch = objective_of(case), source_of(case, 3, ranks, **more)[2]
    objective.prepare(CPU, OptimConfig(chunk=5), ranks)
    objective.model.train()
    held = in_pieces(batch, at_once) if at_once else batch
    (learn or learn_from)(objective, held, ranks)
    found = {n: p.grad for n, p in objective.model.named_parameters() if p.grad is not None}
    return {n: g.flatten().tolist() for n, g in found.items()}


def gradients_apart(found, wanted):
    assert found.keys() == wanted.keys()
    scale = max(np.abs(v).max() for v in wanted.values())
    return max(np.abs(np.subtract(found[k], v)).max() for k, v in wanted.items())/scale
