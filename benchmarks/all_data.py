"""What it brings to fit models on all training samples after the inner folds: means of three or eight inner
models, of models fitted anew, and of both kinds, then single models; seconds of CPU beside them.

    python benchmarks/all_data.py ecam            # month of life of infants: 50, 100, 200 and all samples
    python benchmarks/all_data.py cfs87           # patient or control, independent samples
    python benchmarks/all_data.py hmp             # 18 body sites: 500 and all samples, some 2,200
    python benchmarks/all_data.py simulated       # age of made-up subjects: 5,000 samples
    python benchmarks/all_data.py ecam --samples 100 --seed 7 optim.steps=200

Nothing here sees a fold that is reported: the first outer fold's training part stands for the study, and one
half of its subjects is predicted by models that learn from whole subjects of the other half, in both
directions (cfs87: three folds). The encoder learns once from the tree, which no target is in. Every row
scores the same samples. AAM_DATA names the folder of studies (default ../shared/data).
"""
import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.metrics import log_loss, r2_score

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.core import keyed_rng
from aam_nb.data.simulate import simulate
from aam_nb.data.split import kfold, labels, strata
from aam_nb.recipe import load_config
from aam_nb.runs.choice import with_target
from aam_nb.runs.samples import load_study
from aam_nb.training.bench import Bench
from aam_nb.training.encoder_stage import pretrain_asvs
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.target_stage import codecs, enough_steps, fit_all, fit_target, middle_fit

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
TASKS = dict(ecam=("ecam_infant", "month_of_life", "host_subject_id", "is_infant == 1", (50, 100, 200, 0)),
             cfs87=("cfs87", "Subject", "", "", (0,)),
             hmp=("hmp_v35_bodysite", "HMPbodysubsite", "hostsubjectid", "", (500, 0)),
             simulated=("", "age", "subject", "", (5000,)))
MADE = dict(samples=12_600, asvs=400, groups=2_520, seed=5) # The simulated study


def inner_study(name, overrides):
    "The training part of the first outer fold: configuration, study, and group of each sample."
    folder, target, groups, where, _ = TASKS[name]
    d = DATA/folder
    files = dict(table=str(d/"table.biom"), metadata=str(d/"metadata.tsv"), tree=str(d/"tree.nwk"))
    data = (files if folder else {}) | dict(target=target, where=where, missing="drop")
    config = config_from(dict(data=data), base=load_config("small", overrides))
    study = with_target(load_study(config.data), config.data) if folder else simulate(**MADE)
    column = labels(study.metadata[groups]) if groups else None
    train = kfold(study.ids, 5, column, spread(config, study), config.run.seed)[0][0]
    rows = study.positions(train)
    study = replace(study, table=study.table.samples(rows), metadata=study.metadata.iloc[rows])
    return config, study, None if column is None else column[rows]


def spread(config, study):
    "The stratum of each sample."
    name = config.targets[0]
    values = study.metadata[name]
    if values.dtype.kind in "if": return strata(values.to_numpy(), "regression")
    return strata(np.unique(values, return_inverse=True)[1], "classification")


def some(study, groups, ids, n, *key):
    "Whole groups of some samples, drawn until there are `n`; all where `n` is 0."
    if not n: return ids
    group = groups[study.positions(ids)]
    order = keyed_rng(*key).permutation(np.unique(group))
    sizes = np.cumsum([(group == o).sum() for o in order])
    return ids[np.isin(group, order[:np.searchsorted(sizes, n) + 1])]


def lengths(fits, samples, most):
    "Steps of a fit on all samples: the median of the best, as many a sample as that, the whole schedule."
    like = middle_fit(fits)
    return {"median": like.best_step, "per sample": enough_steps(like, samples, most), "whole": most}


def timed(fit, test, *args):
    "What `fit` gives, its predictions, and the seconds of CPU that both took."
    begun = time.process_time()
    made = fit(*args)
    return made.fit, (made.predict(test), time.process_time() - begun)


def models(bench, start, train, test, inner, key):
    "Outputs for test samples, of each kind of model, and the best steps of the inner ones."
    learned, found, fits = codecs(bench, train), {}, []
    for n, folds in inner.items():
        for k, (fit, valid) in enumerate(folds):
            one, found[n, k] = timed(fit_target, test, bench, start, *learned, fit, valid, (*key, n, k))
            fits += [one]*(n == 3)
    for kind, steps in lengths(fits, len(train), bench.config.optim.steps).items():
        like = replace(fits[0], best_step=steps, samples=0)
        for k in range(3):
            found[kind, k] = timed(fit_all, test, bench, start, *learned, train, like, (*key, "all", k))[1]
    return found, [o.best_step for o in fits]


def some_of(kind, n=3): return [(kind, k) for k in range(n)]


KINDS = ("median", "per sample", "whole")
ROWS = {"3 inner": some_of(3), "8 inner": some_of(8, 8)} | {f"3 of {o}": some_of(o) for o in KINDS}
ROWS |= {f"3 inner, 1 of {o}": some_of(3) + some_of(o, 1) for o in KINDS}
ALONE = {"one of 3 inner": some_of(3), "one of 8 inner": some_of(8, 8)}
ALONE |= {f"one of {o}": some_of(o) for o in KINDS}


def score(truth, said):
    "R2 and mean absolute error, or accuracy and log loss."
    if said.ndim == 1: return r2_score(truth, said), np.abs(truth - said).mean()
    return (said.argmax(1) == truth).mean(), log_loss(truth, said)


def show(row, truth, ensembles, seconds):
    "A line: mean scores of some ensembles, each with a prediction of all samples."
    first, second = np.mean([score(truth, o) for o in ensembles], axis=0)
    names = ("R2", "MAE") if ensembles[0].ndim == 1 else ("accuracy", "log loss")
    print(f"  {row:25}{names[0]} {first:.3f}  {names[1]} {second:.3f}  {seconds:.0f} s a fold", flush=True)


def measured(bench, study, groups, start, n, kinds=(3,)):
    "One table: all folds of one number of samples."
    config, name = bench.config, bench.config.targets[0]
    folds = kfold(study.ids, 3 if groups is None else 2, groups, spread(config, study), config.run.seed)
    truth, said, sizes, steps, rows = [], [], [], [], study.positions
    for f, (pool, test) in enumerate(folds):
        train = some(study, groups, pool, n, config.run.seed, "some", f)
        at = rows(train)
        own = None if groups is None else groups[at]
        stratum, inner = spread(config, study)[at], {}
        for k in kinds:
            most = len(train) if own is None else len(set(own))
            parts = kfold(train, min(k, most), own, stratum, config.run.seed)
            inner[k] = [tuple(map(rows, o)) for o in parts]
        found, best = models(bench, start, at, rows(test), inner, (n, f))
        said.append(found)
        codec, values = codecs(bench, at)[0], study.metadata[name].to_numpy()
        truth.append((codec.encode(bench.metadata)[:, 0] if codec.codecs[0].classes else values)[rows(test)])
        sizes.append(len(train))
        steps.append(best)
    print(f"{name}: {sizes} samples train, {sum(map(len, truth))} are predicted; best steps {steps}")
    truth = np.concatenate(truth)
    def made(parts): return [o for o in parts if all(o in x for x in said)] # 8 folds want 8 groups
    def of(parts): return np.concatenate([np.mean([o[p][0][name] for p in parts], axis=0) for o in said])
    def seconds(parts): return sum(o[p][1] for o in said for p in parts)/len(said)
    for row, parts in ROWS.items():
        if made(parts): show(row, truth, [of(made(parts))], seconds(made(parts)))
    for row, parts in ALONE.items():
        parts = made(parts)
        if parts: show(row, truth, [of([p]) for p in parts], seconds(parts)/len(parts))


def main():
    "Print the tables of a task."
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--samples", type=int, action="append", help="may be repeated; 0 for all")
    parser.add_argument("--eight", action="store_true", help="eight inner folds as well as three")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_intermixed_args()
    config, study, groups = inner_study(args.task, [f"run.seed={args.seed}", *args.overrides])
    bench = Bench(config=config, store=build_store(study), accelerator=make_accelerator(config.run),
                  metadata=study.metadata)
    begun = time.process_time()
    start = pretrain_asvs(bench, np.argsort(study.ids))
    print(f"{len(study.ids)} samples; encoder: {time.process_time() - begun:.0f} s of CPU", flush=True)
    kinds = (3, 8) if args.eight else (3,)
    for n in args.samples or TASKS[args.task][-1]: measured(bench, study, groups, start, n, kinds)


if __name__ == "__main__": main()
