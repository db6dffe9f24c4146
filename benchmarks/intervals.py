"""Intervals of one width beside those that adapt: how many true values they hold, and how wide they are.

    python benchmarks/intervals.py --studies 60 --out benchmarks/results/intervals.md
    python benchmarks/intervals.py --studies 60 runs/ecam_7 runs/gut_7     # and kept evaluations

Simulated studies first. A design draws groups of unequal sizes whose samples err alike; a model predicts
their numbers with errors of a known kind. Intervals are calibrated on one study and judged on 200 new groups,
each group weighing the same. `one width` is the margin alone, as bundles of earlier versions have it.

Then folders of `aam evaluate` of a number: the outputs that it kept are calibrated again on each outer
training part, and judged on the test part. Nothing is trained. The study's files must be where they were.
The arrays that `benchmarks/net.py run` keeps (runs/net/net-now-age-42.npz) will do as well.
"""
import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from aam_nb.data.codec import TargetCodec
from aam_nb.data.natural import natural_bounds
from aam_nb.data.reach import ONE_WIDTH
from aam_nb.data.targets import Targets
from aam_nb.evaluation.calibrate import calibrated, conformal_margin, outside
from aam_nb.evaluation.widths import interval_cost

GROUPS = 8, 15, 30, 60
REPEATS = 4, 20
HEAD = ["studies", "groups", "intervals", "level", "coverage", "low third", "middle", "high third", "width",
        "cost", "outside bounds"]


@dataclass(frozen=True)
class Drawn:
    "Samples of one study, in the target's unit."
    group: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def latent(rng, groups, repeats, within):
    "The group of each sample, what it is, and what the model takes it for; groups lean together in both."
    size = 1 + rng.negative_binomial(1.2, 1.2/(1.2 + repeats - 1), groups)
    group = np.repeat(np.arange(groups), size)
    def drawn(own):
        shared = rng.normal(size=groups)[group]
        return np.sqrt(1 - own)*shared + np.sqrt(own)*rng.normal(size=len(group))
    return group, drawn(within), drawn(.7)


def even(rng, groups, repeats):
    "Errors of one spread."
    group, true, error = latent(rng, groups, repeats, .5)
    return Drawn(group, 10 + 3*true, 10 + 2.1*true + 1.2*error)


def trait(rng, groups, repeats):
    "A trait of the group: all of its samples have one true value."
    group, true, error = latent(rng, groups, repeats, 0.)
    return Drawn(group, 10 + 3*true, 10 + 2.1*true + 1.2*error)


def age(rng, groups, repeats):
    "Errors that grow with the value, such as those of an age."
    group, true, error = latent(rng, groups, repeats, .5)
    return Drawn(group, np.exp(1.5 + .8*true), np.exp(1.5 + .6*true + .36*error))


def score(rng, groups, repeats):
    "A score of whole numbers from 0 to 10, seven of ten of which are 0."
    group, true, error = latent(rng, groups, repeats, .5)
    low = 2.5*(1.65*true + 1.1*error - 1)
    whole = np.clip(np.round(5.5*true - 2.5), 0, 10) + 0. # no -0
    return Drawn(group, whole, np.clip(.5 + .8*np.logaddexp(0, low), 0, 10))


DESIGNS = {"even errors": even, "trait of the group": trait, "errors that grow": age, "score 0-10": score}


def with_one_width(codec, outputs, truth, groups, level):
    "The codec as it was calibrated before."
    margin, reached = conformal_margin(outside(outputs, truth), groups, level)
    return replace(codec, margin=margin, level=reached, natural=(None, None), reach=ONE_WIDTH)


def adapted(codec, outputs, truth, groups, level): return calibrated(codec, outputs, truth, groups, level)[0]


WAYS = {"one width": with_one_width, "adapted": adapted}


def judged(point, truth, low, high, weights, level, bounds):
    "Coverage of all and by thirds of the predictions, mean width and cost, share beyond bounds."
    held = (low <= truth) & (truth <= high)
    parts = [np.arange(len(point)), *np.array_split(np.argsort(point, kind="stable"), 3)]
    cover = [np.average(held[o], weights=weights[o]) for o in parts]
    floor, top = (off if o is None else o for o, off in zip(bounds, (-np.inf, np.inf)))
    beyond = (low < floor) | (high > top)
    cost = interval_cost(low, high, truth, level)
    return [level, *cover, *(np.average(o, weights=weights) for o in (high - low, cost, beyond))]


def one_study(draw, groups, repeats, i):
    "What each way reaches in one simulated study."
    study, rng = None, np.random.default_rng([i, groups])
    while study is None or np.ptp(study.truth) == 0: study = draw(rng, groups, repeats)
    new = draw(np.random.default_rng([i, 10**6]), 200, repeats)
    names = [f"S{o}" for o in range(len(study.truth))]
    column = pd.Series(study.truth, index=names, name="y")
    codec = replace(TargetCodec.fit(column, "regression"), natural=natural_bounds(study.truth, study.group))
    def encoded(y): return ((y - codec.mean)/codec.sd)[:, None]
    found, weights = {}, 1/np.bincount(new.group)[new.group]
    known = {age: (0., None), score: (0., 10.)}.get(draw, (None, None))
    for name, way in WAYS.items():
        made = way(codec, encoded(study.predicted), encoded(study.truth)[:, 0], study.group, .9)
        low, high = made.interval(encoded(new.predicted)).T
        found[name] = judged(new.predicted, new.truth, low, high, weights, made.level, known)
    return found


def row(studies, groups, way, values):
    "A line of the table."
    level, *cover, width, cost, beyond = values
    shares = [f"{o:.3f}" for o in (level, *cover)]
    cells = [studies, str(groups), way, *shares, f"{width:.3g}", f"{cost:.3g}", f"{beyond:.0%}"]
    return f"| {' | '.join(cells)} |"


def simulated(studies):
    "Lines of all designs."
    for name, draw in DESIGNS.items():
        for repeats in REPEATS:
            for groups in GROUPS:
                found = [one_study(draw, groups, repeats, i) for i in range(studies)]
                for way in WAYS:
                    mean = np.mean([o[way] for o in found], axis=0)
                    yield row(f"{name}, {repeats} samples each", groups, way, mean)


def kept(folder):
    "Lines of an evaluation that was kept."
    from aam_nb.recipe import load_config
    from aam_nb.runs.folds import fold_file, kept_fold
    from aam_nb.runs.parts import choose_folds
    from aam_nb.runs.prepare import prepare
    config = load_config(folder/"config.toml")
    with tempfile.TemporaryDirectory() as tmp:
        again = replace(config, run=replace(config.run, out=f"{tmp}/run", resume=False, trackers=()))
        ready = prepare(again, choose_folds, lambda text: None, rarefied=False)
        found = [kept_fold(fold_file(folder, config, k)) for k in range(1, len(ready.parts.outer) + 1)]
        yield from folds_judged(f"{folder.name}: {config.targets[0]}", ready, config, found)


def net(path):
    "Lines of the arrays that `benchmarks/net.py run` keeps (net-VARIANT-TASK-SEED.npz), after its last step."
    from net import prepared, stepwise
    _, variant, task, seed = path.stem.split("-")
    with np.load(path) as saved: found = dict(saved)
    with tempfile.TemporaryDirectory() as tmp:
        ready = prepared(task, int(seed), (), Path(tmp))
        step, folds = list(stepwise(ready, {}, found).items())[-1]
        name = f"{task} {seed}, net {variant}, {step}"
        yield from folds_judged(name, ready, ready.bench.config, folds)
        yield as_evaluated(name, ready, folds)


def as_evaluated(name, ready, found):
    "The line of intervals as `aam evaluate` makes them, wider where reads are unseen."
    from aam_nb.runs.evaluate import fold_predictions, fold_unseen
    at, target, parts = ready.study.positions, ready.bench.config.targets[0], ready.parts
    values, each = ready.study.metadata[target].to_numpy(float), []
    for ids, inner, outputs in zip(parts.outer, parts.inner, found, strict=True):
        train, test = map(at, ids)
        unseen = fold_unseen(ready.bench.samples, train, test, [tuple(map(at, o)) for o in inner])
        made = fold_predictions(ready.bench, ready.groups, train, test, outputs, target, unseen)
        each.append((made["test"], values[test], made["low"], made["high"], [float(made["level"])]*len(test)))
    *ends, level = (np.concatenate(o) for o in zip(*each, strict=True))
    known, bounds = np.isfinite(ends[1]), natural_bounds(values[np.isfinite(values)])
    groups = len(set(ready.groups)) if ready.groups is not None else len(values)
    ends = [o[known] for o in ends]
    return row(name, groups, "as evaluated", judged(*ends, np.ones(known.sum()), level.mean(), bounds))


def folds_judged(name, ready, config, found):
    "Lines of the outputs of all outer folds."
    folds = [[ready.study.positions(o) for o in pair] for pair in ready.parts.outer]
    values = ready.study.metadata[config.targets[0]].to_numpy(float)
    truth = np.concatenate([values[test] for _, test in folds])
    known, bounds = np.isfinite(truth), natural_bounds(values[np.isfinite(values)])
    groups = len(set(ready.groups)) if ready.groups is not None else len(values)
    for way, make in WAYS.items():
        parts = [fold_intervals(ready, config, o, *rows, make) for o, rows in zip(found, folds, strict=True)]
        point, low, high, level = (np.concatenate(o) for o in zip(*parts, strict=True))
        ends = (o[known] for o in (point, truth, low, high))
        yield row(name, groups, way, judged(*ends, np.ones(known.sum()), level.mean(), bounds))


def fold_intervals(ready, config, found, train, test, way):
    "Predictions and intervals of one test part."
    targets = Targets.fit(ready.study.metadata, config, train=train)
    codec, truth = targets.codecs[0], targets.encode(ready.study.metadata)[train, 0].astype(float)
    own = np.isfinite(truth)
    groups = None if ready.groups is None else ready.groups[train][own]
    made = way(codec, found["oof"][own], truth[own], groups, config.target.level)
    models = [*found["test"], *found.get("refit", ())]
    point = np.mean([made.decode(o) for o in models], axis=0)
    low, high = np.mean([made.interval(o) for o in models], axis=0).T
    return point, low, high, np.full(len(test), made.level)


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("runs", type=Path, nargs="*", help="folders of aam evaluate, or .npz files of net.py")
    ask.add_argument("--studies", type=int, default=60, help="simulated studies of each design; 0 for none")
    ask.add_argument("--out", type=Path, default=None, help="write the table here as Markdown")
    asked, lines = ask.parse_args(), [f"| {' | '.join(HEAD)} |", "|---"*len(HEAD) + "|"]
    for path in asked.runs: lines += told(net(path) if path.suffix == ".npz" else kept(path))
    if asked.studies: lines += told(simulated(asked.studies))
    if asked.out: asked.out.write_text("\n".join(lines) + "\n")


def told(lines):
    "The same lines, printed as they come."
    out = []
    for line in lines:
        print(line, flush=True)
        out.append(line)
    return out


if __name__ == "__main__": main()
