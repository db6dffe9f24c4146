"Evaluations made up from noise, without fitting anything."
from dataclasses import replace
from functools import cache

import numpy as np

from aam_nb.data.simulate import simulate
from aam_nb.evaluation.depth import DepthAlarm
from aam_nb.evaluation.evaluation import Evaluation, interval_scores, score_all
from aam_nb.types import strings


@cache
def small(): return simulate(samples=60, asvs=40, groups=20, seed=0)


def noisy_numbers(rng, n, names):
    "True numbers, and predictions that get worse from name to name."
    y = rng.uniform(0, 24, n)
    return y, {o: y + rng.normal(0, 1 + i, n) for i, o in enumerate(names)}


def noisy_classes(rng, n, names, k):
    "True classes, and probabilities that get worse from name to name."
    y, p = rng.integers(k, size=n), {}
    for i, o in enumerate(names):
        raw = np.exp(2*np.eye(k)[y] + rng.normal(0, 1 + i/2, (n, k)))
        p[o] = raw/raw.sum(1, keepdims=True)
    return y, p


def made(study, task="regression", classes=3, fires=False, groups=24, tree=True, seed=0, **fields):
    "An evaluation of a model `aam` and all baselines."
    rng, n = np.random.default_rng(seed), len(study.ids)
    names = ["aam", "trivial", "depth", "clr", "forest", "covariates"] + ["branch"]*tree
    y, p = noisy_numbers(rng, n, names) if task == "regression" else noisy_classes(rng, n, names, classes)
    members = tuple(o for o in ("aam", "forest", "clr", "branch") if o in p)
    p["average"] = np.mean([p[o] for o in members], axis=0)
    group = strings([f"P{i % groups:03d}" for i in range(n)]) if groups else None
    fold = 1 + np.arange(n) % 5
    scores, gaps = score_all(task, y, p, fold, group)
    value = .93 if fires else .52
    alarm = DepthAlarm(fires=fires, measure="AUC", value=value, chance=.5, depth=900, lost=7, samples=n)
    labels = () if task == "regression" else tuple(f"class {k}" for k in range(classes))
    rest = dict(target="state", model="aam", seconds=dict.fromkeys(names, 3.), notes=("a note",),
                warnings=(alarm.text,) if fires else ())
    return Evaluation(task=task, classes=labels, ids=study.ids, truth=y, groups=group, fold=fold, alarm=alarm,
                      predictions=p, scores=scores, differences=gaps, members=members, **rest | fields)


def with_intervals(study, wide=2., level=.9, **how):
    "The same with intervals of one width round the model's predictions."
    e = made(study, **how)
    ends = e.predictions["aam"][:, None] + [-wide, wide]
    added = e.scores["aam"] | interval_scores(e.truth, ends, np.arange(len(ends)))
    return replace(e, interval=ends, level=level, scores=e.scores | {"aam": added})
