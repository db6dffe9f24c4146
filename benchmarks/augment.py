"""What augmentation costs beside a training step, and which of its steps help.

    python benchmarks/augment.py cost    # half a minute; processor time, so a busy machine disturbs it little
    python benchmarks/augment.py study   # ecam_infant and hmp_v35_bodysite; the results page says how long

Cost: recipe small on frozen embeddings, ecam_infant, everything in one run. A training step is a batch made,
its gradients, and the optimizer; augmentation at the defaults is the views of its samples, the hidden names
and the draws of mixup. Every other step is timed on the same samples, and those of the bases on the ASVs of a
pretraining batch, beside a step of that stage.

Study: a fifth of the groups is set aside and not looked at; the rest makes three inner folds by group. The
ASV encoder is pretrained once on the samples of the three folds and frozen; each arm then fits the target on
two folds and is scored on the third at its last step, with two seeds. An arm differs from the defaults in one
choice. `again` is the defaults with other seeds: what chance alone does. Steps on bases act in pretraining,
so each of these arms has an encoder of its own. Both stages are shorter than in the recipe small (200 and 240
steps).
"""
import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dedup import ecam

from aam_nb.recipe import load_config
from aam_nb.sections import AugmentConfig, DataConfig, RunConfig
from aam_nb.core import keyed_rng
from aam_nb.batches.augment import augment_tokens
from aam_nb.batches.hide import mask_patches
from aam_nb.batches.draws import AsvDraws
from aam_nb.batches.mix import mix_samples
from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.batches.view import View
from aam_nb.data.split import kfold, strata
from aam_nb.batches.build import build_store
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import embed_chunks
from aam_nb.training.bench import Bench
from aam_nb.training.encoder_stage import asv_stage
from aam_nb.training.target_stage import codecs, target_stage
from aam_nb.runs.choice import keep, with_target
from aam_nb.runs.samples import load_study
from aam_nb.training.loop import fit
from aam_nb.training.objectives import AsvObjective, SampleObjective, mixup_pairs
from aam_nb.training.parallel import make_accelerator
from aam_nb.types import Column

DATA = Path(os.environ.get("AAM_DATA", Path(__file__).resolve().parent.parent.parent/"shared"/"data"))
OFF = AugmentConfig(rarefy=0., asv_dropout=0., identity_dropout=0., mixup=0.)


# Cost

def took(f, over, repeats=10):
    "Processor milliseconds of `f(number, item)` for each item of a list, the least of some repeats."
    least = np.inf
    for _ in range(repeats):
        begun = time.process_time()
        for j, o in enumerate(over): f(j, o)
        least = min(least, time.process_time() - begun)
    return least/len(over)*1e3


def mixes(config, store): return lambda j, samples: mix_samples(samples, config, 0, j, store.studies[0])
def bases(config): return lambda j, asvs: augment_tokens(*asvs, config, 0, j)
def masks(span): return lambda j, asvs: mask_patches(asvs[0], 6, .15, AsvDraws(asvs[1], j), span)
def names(j, keys): return AsvDraws(keys, 0, j, "identity").random((len(keys), 1)) < .1


def target_cost(cfg, store, age, accelerator, steps=100):
    "Print what the steps on samples cost."
    optim, dataset = replace(cfg.optim, steps=steps), SampleDataset(store, None, age.astype(np.float32))
    model = AamModel(cfg.model, store.tokens.shape[1],
                     columns=(Column(name="age", task="regression"),)).freeze_encoder()
    table = embed_chunks(model, torch.from_numpy(np.array(store.tokens)), 256)
    objective = SampleObjective(model, cfg.loss, embeddings=table, mixup=cfg.augment.mixup)
    source = SampleBatches(dataset, View(augment=cfg.augment, identity=cfg.model.identity),
                           batch=optim.batch, steps=steps)
    fit(objective, source, replace(optim, steps=10), accelerator) # what only the first step pays
    step = took(lambda *_: fit(objective, source, optim, accelerator), [0], 5)/steps
    places = [source.places(j) for j in range(steps)]
    def views(augment): # The samples of a batch are fetched and varied, as in training
        batches = SampleBatches(dataset, View(augment=augment), batch=optim.batch, steps=steps)
        return took(lambda _, o: batches.views(o), places)
    plain = views(None)
    parts = dict(views=views(cfg.augment) - plain,
                 names=took(names, [store.keys[o.rows.numpy()] for o in source]),
                 mixup=took(lambda j, _: mixup_pairs(j, optim.batch, cfg.augment.mixup), places))
    print(f"target stage, batch {optim.batch}: {step:.2f} ms a step; of these augmentation at the defaults "
          f"{sum(parts.values()):.2f} ms "
          f"({', '.join(f'{k} {v:.2f}' for k, v in parts.items())}): {sum(parts.values())/step:.1%}",
          flush=True)
    batches, nothing = SampleBatches(dataset, batch=optim.batch, steps=10), views(OFF)
    for change in (dict(rarefy=.7), dict(asv_dropout=.1), dict(jitter="multinomial"),
                   dict(jitter="dirichlet"), dict(shuffle=True)):
        print(f"  {change}: {views(replace(OFF, **change)) - nothing:.2f} ms")
    for mix in ("reads", "aitchison", "cutmix", "phylomix"):
        print(f"  mix {mix}: "
              f"{took(mixes(AugmentConfig(mix=mix), store), [batches.views(o) for o in places[:10]], 3):.2f} "
              "ms", flush=True)


def asv_cost(cfg, store, accelerator, steps=8):
    "Print what the steps on bases cost."
    optim, model = replace(cfg.pretrain_asv, steps=steps), AamModel(cfg.model, store.tokens.shape[1])
    source = AsvBatches(store, None, View(patch=cfg.model.patch, mask=cfg.loss.mask), batch=optim.batch,
                        steps=steps)
    fit(AsvObjective(model, cfg.loss), source, replace(optim, steps=1), accelerator)
    step = took(lambda *_: fit(AsvObjective(model, cfg.loss), source, optim, accelerator), [0], 1)/steps
    asvs = [(o.tokens.numpy(), store.keys[o.rows.numpy()]) for o in source]
    print(f"ASV stage, batch {optim.batch}: {step:.1f} ms a step")
    arms = [(o, bases(replace(OFF, **o))) for o in (dict(substitution=.01), dict(indel=.01), dict(window=6),
                                                    dict(reverse=.5))]
    for what, f in [*arms, ("masks, span 1", masks(1)), ("masks, span 3", masks(3))]:
        print(f"  {what}: {(ms := took(f, asvs)):.2f} ms, {ms/step:.1%}")


def cost():
    cfg, accelerator = load_config("small"), make_accelerator(RunConfig(device="cpu"))
    store, age = ecam(DATA)
    print(store)
    target_cost(cfg, store, age, accelerator)
    asv_cost(cfg, store, accelerator)


# Study

STUDIES = dict(ecam_infant=dict(target="month_of_life", groups="host_subject_id", where="is_infant == 1"),
               hmp_v35_bodysite=dict(target="HMPbodysubsite", groups="hostsubjectid"))
ARMS = {"again": {}, "all off": dict(rarefy=0., asv_dropout=0., identity_dropout=0., mixup=0.),
        "rarefy=0": dict(rarefy=0.),
        "asv_dropout=0": dict(asv_dropout=0.), "identity_dropout=0": dict(identity_dropout=0.),
        "mixup=0": dict(mixup=0.),
        "jitter=dirichlet": dict(jitter="dirichlet"),
        **{f"mix={o}": dict(mix=o) for o in ("reads", "aitchison", "cutmix", "phylomix")}}
BASES = {"substitution=.01, indel=.002": (dict(substitution=.01, indel=.002), 1),
         "reverse=.5": (dict(reverse=.5), 1), "span=3": ({}, 3)}
STEPS = dict(asvs=200, target=240)


def most(study, groups, n=1250):
    "Whole groups, drawn until there are `n` samples: what the machine has time for."
    values = study.metadata[groups].astype(str).to_numpy()
    kept = np.zeros(len(values), dtype=bool)
    for o in keyed_rng("study", "groups").permutation(np.unique(values)):
        if kept.sum() < n: kept |= values == o
    return keep(study, kept)


class Part:
    "The inner folds of one study, and fits on them."
    def __init__(self, name):
        how = STUDIES[name]
        folder = DATA/name
        data = DataConfig(table=str(folder/"table.biom"), metadata=str(folder/"metadata.tsv"),
                          tree=str(folder/"tree.nwk"), **how)
        study = most(with_target(load_study(data), data), data.groups)
        self.data, self.metadata, self.store = data, study.metadata, build_store(study)
        self.values = study.metadata[data.target]
        self.task = "regression" if self.values.dtype.kind in "fi" else "classification"
        groups, stratum = study.metadata[data.groups].astype(str).to_numpy(), strata(self.values, self.task)
        self.train = np.sort(study.positions(kfold(study.ids, 5, groups, stratum, seed=42)[0][0]))
        inner = kfold(study.ids[self.train], 3, groups[self.train], stratum[self.train], seed=43)
        self.folds = [(study.positions(a), study.positions(b)) for a, b in inner]
        self.accelerator = make_accelerator(RunConfig(device="cpu"))
        print(f"{name}: {self.store}; {len(self.train)} samples of {len(np.unique(groups[self.train]))} "
              "groups in three inner folds", flush=True)

    def bench(self, seed, augment=None):
        steps = f"pretrain_asv.steps={STEPS['asvs']}", f"optim.steps={STEPS['target']}"
        config = load_config("small", (f"run.seed={seed}", *steps))
        config = replace(config, data=self.data, augment=replace(config.augment, **augment or {}))
        return Bench(config=config, store=self.store, metadata=self.metadata, accelerator=self.accelerator)

    def encoder(self, augment=None, span=1):
        "An ASV encoder of the three folds' samples, and the vectors that it gives."
        bench = self.bench(42)
        optim = bench.config.pretrain_asv
        model, objective, _ = asv_stage(bench, self.train)
        rows, cfg = asvs_in(self.store, self.train), bench.config
        view = View(seed=42, patch=cfg.model.patch, mask=cfg.loss.mask, span=span,
                    augment=replace(cfg.augment, **augment or {}))
        source = AsvBatches(self.store, rows, view, batch=optim.batch, steps=optim.steps)
        bench.fit(objective, source, optim, "pretrain_asv")
        model.encoder.fit_constants(torch.from_numpy(self.store.tokens[rows]))
        return model, embed_chunks(model, torch.from_numpy(np.array(self.store.tokens)), 256)

    def score(self, start, table, augment=None, seeds=(1, 2)):
        "One score for each seed and fold: mean absolute error, or error rate."
        out = []
        for seed in seeds:
            bench = self.bench(seed, augment)
            for i, (train, test) in enumerate(self.folds):
                targets, _ = codecs(bench, train)
                made, objective, source = target_stage(bench, start, targets, None, train, key=("fold", i),
                                                       embeddings=table)
                bench.fit(objective, source, bench.config.optim, "target")
                said, true = made.predict(test)[self.data.target], self.values.iloc[test]
                if self.task == "regression": out.append(np.abs(said - true.to_numpy(float)).mean())
                else: out.append((said.argmax(1) != targets.encode(self.metadata)[test, 0]).mean())
        return np.array(out)


def line(name, scores, base=None):
    """An arm as a row of the table: mean, mean difference, its standard error over pairs of seed and fold,
    and how many pairs are better."""
    if base is None: return f"| {name} | {scores.mean():.3f} | | | |"
    d = scores - base
    se = d.std(ddof=1)/np.sqrt(len(d))
    return f"| {name} | {scores.mean():.3f} | {d.mean():+.3f} | {se:.3f} | {(d < 0).sum()} of {len(d)} |"


def study(names, only):
    for name in names:
        begun, part = time.process_time(), Part(name)
        print("| arm | error | difference | its standard error | better in |\n|---|---|---|---|---|",
              flush=True)
        start = part.encoder()
        base = part.score(*start)
        print(line("defaults", base), flush=True)
        for arm in [o for o in (*ARMS, *BASES) if o in only or not only]:
            if arm in ARMS: scores = part.score(*start, ARMS[arm], seeds=(3, 4) if arm == "again" else (1, 2))
            else: scores = part.score(*part.encoder(*BASES[arm]))
            print(line(arm, scores, base), flush=True)
        print(f"{(time.process_time() - begun)/60:.1f} minutes of one core", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "study"))
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help="which of them")
    parser.add_argument("--only", nargs="*", default=(), choices=(*ARMS, *BASES),
                        help="arms, where not all of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cost() if args.what == "cost" else study(args.studies, args.only)


if __name__ == "__main__": main()
