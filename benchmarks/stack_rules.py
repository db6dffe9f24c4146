"""When a stack should give way to its best member: rules compared on inner folds alone.

    python benchmarks/stack_rules.py    writes benchmarks/results/stack_rules.md

No test part of an outer fold is looked at. Within each of five outer training parts (seed 11) the members
predict six inner folds by group; weights and guards are made on four of these and judged on the other two,
three times. Mean squared error (numbers) or log loss (classes). A rule learns weights from some number of
groups on, else takes the plain mean; its guard takes the best member alone where that is better by some
number of standard errors over groups. AAM_DATA names the folder of studies.
"""
from datetime import date
from unittest.mock import patch

import numpy as np
from members import QUESTIONS, ROOT
from stack import asked

from aam_nb.stack.members import possible_members
from aam_nb.stack.penalised import penalty_folds
from aam_nb.stack.pool import fit_pool, losses_of, standard_error
from aam_nb.stack.stack import out_of_fold

SEED = 11
NEVER = 10**9
RULES = {"plain mean": (NEVER, np.inf), "plain mean, literal guard": (NEVER, 0),
         "weights from 100 groups": (100, np.inf), "weights from 100 groups, literal guard": (100, 0),
         "weights from 100 groups, guard of 1 standard error": (100, .5),
         "weights from 100 groups, guard by Student's t (shipped)": (100, 1.),
         "weights always": (0, np.inf), "weights always, literal guard": (0, 0)}


def told(name):
    "For each outer training part: its rows, its inner folds, and what members say of them out of fold."
    for fold in asked(name, SEED):
        folds = penalty_folds(fold.y, fold.train, fold.task, fold.groups, 6, SEED)
        yield fold, folds, out_of_fold(fold, possible_members(fold.features.study), folds)


def judged(fold, folds, oof):
    "The loss of each rule on two of the six inner folds at a time, and how often its guard acted."
    at = {o: i for i, o in enumerate(fold.train)}
    groups = None if fold.groups is None else fold.groups[fold.train]
    for k in range(0, len(folds), 2):
        b = np.array([at[o] for _, part in folds[k:k+2] for o in part])
        a = np.setdiff1d(np.arange(len(fold.train)), b)
        taught, y = {k: p[a] for k, p in oof.items()}, fold.y[fold.train]
        for rule, (fewest, times) in RULES.items():
            def doubt(x, g, times=times):
                "The standard error that a rule asks for."
                return times*standard_error(x, g) if times < np.inf else np.inf
            with patch("aam_nb.stack.pool.standard_error", doubt):
                own = None if groups is None else groups[a]
                pool = fit_pool(taught, y[a], own, fold.classes, SEED, fewest)
            each = losses_of(pool.combine({k: p[b] for k, p in oof.items()}), y[b])
            yield rule, each.sum(), len(b), "alone: out of fold" in pool.why
        for o, p in oof.items(): yield o, losses_of(p[b], y[b]).sum(), len(b), False


def lines_of(name):
    "The table of one question."
    sums = {}
    for part in told(name):
        for rule, loss, n, alone in judged(*part):
            sums.setdefault(rule, []).append((loss, n, alone))
    lines = [f"## {name}", "", "| | loss | single member |", "|---|---|---|"]
    for rule, found in sums.items():
        loss, n, alone = np.array(found).sum(0)
        lines.append(f"| {rule} | {loss/n:.4f} | {f'{alone:.0f} of {len(found)}' if rule in RULES else ''} |")
    return [*lines, ""]


def main():
    "Judge the rules on all questions."
    head = f"`python benchmarks/stack_rules.py`, {date.today()}."
    lines = ["# Rules of the stack, on inner folds", "", head, ""]
    for name in QUESTIONS:
        found = lines_of(name)
        print("\n".join(found), flush=True)
        lines += found
    (ROOT/"benchmarks/results/stack_rules.md").write_text("\n".join(lines))


if __name__ == "__main__": main()
