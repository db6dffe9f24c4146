"""What a tree along the reference is worth to a study without one: plain models along it, along the study's
own tree, and without any, on the same outer folds. Kept in benchmarks/results/trees.md.

    python benchmarks/trees.py cfs month     # tasks of benchmarks/net.py, studies under AAM_DATA

Intervals are of paired differences over groups, to the same model along the study's own tree, or where a
model needs a tree, also to the best of those that need none. Nets that learn from each tree are in
benchmarks/results/encoders.md (`study`, `placed_tree`, `no_tree`).
"""
import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from encoders import score, truth
from net import prepared, TASKS

from aam_nb.data.placed import placed_tree
from aam_nb.data.tip_set import find_tips, read_tips
from aam_nb.data.tree import shear
from aam_nb.evaluation.validate import PlainFolds, Plan
from aam_nb.training.metrics import paired_bootstrap

ALONG = ("branch", "extra_trees", "log_unifrac", "presence")
WITHOUT = ("forest", "clr", "words", "presence")


def along(study, sequences, tree):
    "A study along another tree."
    tree, tip = shear(tree, sequences)
    return replace(study, tree=tree, tip=tip)


def out_of_fold(ready, study, names):
    "Predictions of some models: by name, [n] or [n, classes]."
    plan = Plan(groups=ready.groups, folds=ready.parts.outer, seed=ready.bench.config.run.seed, threads=1)
    folds, found = PlainFolds(study, ready.values, plan, baselines=("all",)), {}
    for name in names:
        for k, (_, test) in folds.scored.folds.items():
            made = np.asarray(folds.ask(name, k)[0])
            found.setdefault(name, np.full((len(study.ids), *made.shape[1:]), np.nan))
            found[name][study.positions(folds.scored.study.ids[test])] = made
    return found


def difference(true, groups, kind, one, other):
    "A paired difference of two models, with its interval."
    found = paired_bootstrap(lambda *o: score(*o, kind), true, one, other, groups)
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def rows(task, words):
    "Lines of the table."
    with tempfile.TemporaryDirectory() as out: ready = prepared(task, 42, words, Path(out))
    own, sequences = ready.study, ready.study.table.sequences
    placed = along(own, sequences, placed_tree(sequences, read_tips(find_tips("reference"))))
    bare = out_of_fold(ready, replace(own, tree=None, tip=None), WITHOUT)
    ways = {"own": out_of_fold(ready, own, ALONG), "reference": out_of_fold(ready, placed, ALONG)}
    true, kind = truth(ready)
    known = np.isfinite(true)
    groups = np.arange(len(true)) if ready.groups is None else np.asarray(ready.groups)
    true, groups, cut = true[known], groups[known], lambda o: o[known]
    value = lambda o: score(true, cut(o), kind)
    best = max(bare, key=lambda o: value(bare[o]))
    for name, o in bare.items(): yield f"| {task} | none | {name} | {value(o):.3f} | | |"
    for tree, found in ways.items():
        for name, o in found.items():
            beside = [difference(true, groups, kind, cut(o), cut(p)) for p in (ways["own"][name], bare[best])]
            if tree == "own": beside[0] = ""
            yield f"| {task} | {tree} | {name} | {value(o):.3f} | {beside[0]} | {beside[1]} ({best}) |"


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("words", nargs="+", help=f"tasks ({', '.join(TASKS)}) and section.key=value")
    given = ask.parse_args().words
    print("| task | tree | model | score | minus own tree | minus the best without one |\n|" + "---|"*6)
    for task in (o for o in given if "=" not in o):
        for o in rows(task, [o for o in given if "=" in o]): print(o, flush=True)
