"""The stack beside its members on real studies, by group.

    python benchmarks/stack.py          all four questions of members.py; writes benchmarks/results/stack.md
    python benchmarks/stack.py cfs87    those whose name has this word, to look at

In each outer fold the members predict the training rows out of fold, weights follow from these predictions
alone, and all members are fitted again on all training rows. Beside the stack as it is: the plain mean of the
members, weights learned however few groups there are, and the stack with a guard that allows for no luck. R2
and mean absolute error, or AUC and accuracy. AAM_DATA names the folder of studies.
"""
import sys
from dataclasses import replace
from datetime import date
from unittest.mock import patch

import numpy as np
from members import question, QUESTIONS, ROOT

from aam_nb.core import draw_key
from aam_nb.data.split import kfold, strata
from aam_nb.evaluation.depth import target_values
from aam_nb.stack.features import Features, Fold
from aam_nb.stack.members import MEMBERS, possible_members
from aam_nb.stack.penalised import penalty_folds
from aam_nb.stack.pool import fit_pool, plain_mean, Pool
from aam_nb.stack.stack import out_of_fold
from aam_nb.training.metrics import class_metrics, regression_metrics


def asked(name, seed=42):
    "The outer folds of a question."
    s, target, groups = question(name)
    y, codec = target_values(s, target, "auto")
    y = y.astype(int) if codec.classes else y
    groups = None if groups is None else groups.astype(str).to_numpy(object)
    whole = Fold(features=Features(s), y=y, train=np.arange(0), test=np.arange(0), groups=groups, threads=1,
                 classes=len(codec.classes or ()), seed=seed)
    for a, b in kfold(s.ids, 5, groups, strata(y, codec.task), seed):
        yield replace(whole, train=s.positions(a), test=s.positions(b))


def told(fold):
    "What members say of the training rows, out of fold, and of the test rows."
    names = possible_members(fold.features.study)
    folds = penalty_folds(fold.y, fold.train, fold.task, fold.groups, 3, draw_key(fold.seed, "stack") % 2**32)
    made = {o: MEMBERS[o].fit(fold) for o in names}
    test = {o: m.predict(fold.features, fold.test, fold.train) for o, m in made.items()}
    return out_of_fold(fold, names, folds), test


def pools(fold, oof):
    "Ways to combine, by name."
    groups = None if fold.groups is None else fold.groups[fold.train]
    how = dict(predictions=oof, y=fold.y[fold.train], groups=groups, classes=fold.classes)
    found = {o: Pool(names=(o,), weights=(1.,)) for o in oof}
    found |= {"plain mean": plain_mean(oof), "stack": fit_pool(**how)}
    found["weights with few groups"] = fit_pool(**how, fewest=0)
    with patch("aam_nb.stack.pool.standard_error", lambda *_: 0.): found["literal guard"] = fit_pool(**how)
    return found


def lines_of(name):
    "The table of one question."
    out, why = {}, []
    for fold in asked(name):
        oof, test = told(fold)
        made = pools(fold, oof)
        why.append(made["stack"].why)
        for o, pool in made.items():
            p = out.setdefault(o, np.zeros((len(fold.y), fold.classes) if fold.classes else len(fold.y)))
            p[fold.test] = pool.combine(test)
    metrics = class_metrics if fold.classes else regression_metrics
    main = ("auc", "accuracy") if fold.classes else ("r2", "mae")
    rows = []
    for o, p in out.items():
        m = metrics(fold.y, p)
        rows.append(f"| {o} | {m[main[0]]:.3f} | {m[main[1]]:.3f} |")
    return [f"## {name}", "", f"| | {main[0]} | {main[1]} |", "|---|---|---|", *rows, "",
            *dict.fromkeys(f"- {o}" for o in why), ""]


def main():
    "Print all questions, or those that are named in part, and keep all."
    words = sys.argv[1:]
    lines = ["# The stack on real studies", "", f"`python benchmarks/stack.py`, {date.today()}.", ""]
    for name in QUESTIONS:
        if words and not any(o in name for o in words): continue
        found = lines_of(name)
        print("\n".join(found), flush=True)
        lines += found
        if not words: (ROOT/"benchmarks/results/stack.md").write_text("\n".join(lines))


if __name__ == "__main__": main()
