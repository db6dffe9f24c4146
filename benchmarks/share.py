"""How strongly the share of the ridge regression is drawn towards the one that is set, on inner folds alone.

    python benchmarks/share.py run month delivery age cfs run.start=reference --seeds 42
    python benchmarks/share.py table month delivery age cfs --seeds 42 > benchmarks/results/share.md

Each inner fold of the first two outer folds is predicted by nets that learned from the rest of its outer
training part, divided once more: no reported fold is looked at. Arrays are kept as by `net.py`.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import net
import numpy as np
from scipy.special import log_softmax, softmax

GIVEN = (0., .25, .5, .75, 1.) # The same share for everyone
DRAWS = (0, 3, 5, 10, 20, 40)  # Groups whose say the given share has


def inner_parts(ready, outer=2):
    "The inner folds of some outer ones as folds of their own, each divided again."
    from aam_nb.data.codec import TargetCodec
    from aam_nb.data.split import nested
    from aam_nb.runs.parts import Folds
    folds = [o for k in range(outer) for o in ready.parts.inner[k]]
    run, task = ready.bench.config.run, TargetCodec.fit(ready.values).task
    inner = nested(folds, ready.study.ids, run.inner, ready.groups, ready.values, task, run.seed + 2)
    return replace(ready, parts=Folds(outer=folds, inner=inner))


def path_of(out, task, seed): return out/f"share-{task}-{seed}.npz"


def run(tasks, settings, seeds, out):
    "Fit the nets of some tasks."
    out.mkdir(parents=True, exist_ok=True)
    for task, seed in ((t, s) for s in seeds for t in tasks):
        def make(task=task, seed=seed):
            return net.nets(inner_parts(net.prepared(task, seed, (*settings, "run.refit=0"), out)))
        net.kept(path_of(out, task, seed), make)


def parts_of(task, seed, out):
    "What was kept of each fold, with its truth, groups, and which rows train and which are predicted."
    from aam_nb.data.targets import Targets
    saved, ready = net.kept(path_of(out, task, seed), dict), net.prepared(task, seed, (), out)
    ready = inner_parts(ready)
    groups = np.arange(len(ready.study.ids)) if ready.groups is None else ready.groups
    for k, rows in enumerate(ready.parts.outer, 1):
        train, test = (ready.study.positions(o) for o in rows)
        codec = Targets.fit(ready.bench.metadata, ready.bench.config, train=train)
        found = {o: saved[f"{o} {k}"] for o in ("net test", "ridge test", "net oof", "ridge oof", "by")}
        yield found, codec.encode(ready.bench.metadata)[:, 0], groups, train, test


def learned(found, y, groups, draw):
    "The share that each inner model learns from its own validation samples."
    from aam_nb.runs import ridge_share
    for k in range(found["by"].max() + 1):
        at = (found["by"] == k) & ~np.isnan(y)
        best = ridge_share.best_share(found["net oof"][at], found["ridge oof"][at], y[at])
        yield ridge_share.learned_share(best, len(set(groups[at])), .5, draw)


def predicted(found, shares):
    "The mean of a fold's models, each with its share: numbers, or logarithms of probabilities."
    share = np.array(shares)[:, None, None]
    out = found["net test"] + share*(found["ridge test"] - found["net test"])
    return out.mean(0) if out.shape[2] == 1 else np.log(softmax(out.astype(float), axis=2).mean(0))


def score(task, seed, out, rule):
    "R2 or log loss over all folds, and the mean share, of a rule: found, y, groups of a fold to shares."
    lost, spread, every = [], [], []
    for found, y, groups, train, test in parts_of(task, seed, out):
        shares = list(rule(found, y[train], groups[train]))
        said, known = predicted(found, shares), ~np.isnan(y[test])
        every, true, at = every + shares, y[test][known], np.flatnonzero(known)
        if said.shape[1] == 1:
            lost += list((said[at, 0] - true)**2)
            spread += list((true - np.nanmean(y[train]))**2)
        else: lost += list(-log_softmax(said, axis=1)[at, true.astype(int)])
    value = 1 - np.sum(lost)/np.sum(spread) if spread else np.mean(lost)
    return f"{value:.4f} ({np.mean(every):.2f})"


def table(tasks, seeds, out):
    "All rules on all tasks, as Markdown."
    named = [(t, s) for t in tasks for s in seeds if path_of(out, t, s).exists()]
    lines = ["| share | " + " | ".join(f"{t} {s}" for t, s in named) + " |", "|---"*(len(named) + 1) + "|"]
    rules = {f"{o:g} for all": lambda found, y, groups, o=o: [o]*len(found["net test"]) for o in GIVEN}
    rules |= {f"learned, drawn by {o} groups": lambda found, y, groups, o=o: learned(found, y, groups, o)
              for o in DRAWS}
    for name, rule in rules.items():
        lines.append(f"| {name} | " + " | ".join(score(t, s, out, rule) for t, s in named) + " |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("run", "table"))
    p.add_argument("words", nargs="+", help="tasks of net.py, and section.key=value")
    p.add_argument("--seeds", default="42")
    p.add_argument("--out", type=Path, default=net.ROOT/"runs/net")
    args = p.parse_args()
    tasks, seeds = [o for o in args.words if o in net.TASKS], [int(o) for o in args.seeds.split(",")]
    if args.what == "table": return print(table(tasks, seeds, args.out))
    run(tasks, [o for o in args.words if "=" in o], seeds, args.out)


if __name__ == "__main__": main()
