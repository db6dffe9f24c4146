"""Every baseline on real studies, by group, beside an earlier study of the same data.

    python benchmarks/members.py          all four questions; writes benchmarks/results/members.md
    python benchmarks/members.py cfs87    those whose name has this word, to look at

Four questions without a model: months of life and delivery of the infants of ecam_infant (42 subjects),
patients of cfs87, ages of global_gut (each sample by itself). Folds, features and penalties are those of
`aam evaluate` with run.baselines=all and three kernels by name, seed 42. Scores are R2 (numbers) or AUC
(classes) with 95 % intervals over groups, beside them the difference from the random forest and the seconds
of a fold on one thread. AAM_DATA names the folder of studies (default ../shared/data).
"""
import os
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from aam_nb.data.metadata import read_metadata
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import read_tree
from aam_nb.evaluation.scores import show
from aam_nb.evaluation.validate import evaluate
from aam_nb.runs.tasks import read_tasks

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
TASKS = {o.name: o.data for o in read_tasks(ROOT/"benchmarks/tasks.toml", DATA)}
QUESTIONS = {"ecam_infant, month_of_life": "ecam_age", "ecam_infant, delivery": "ecam_delivery",
             "cfs87, Subject": "cfs_subject", "global_gut, age_years": "global_age"}
# What an earlier study, with tuned forests and other folds within the training part, found (R2 or AUC)
EARLIER = {"ecam_infant, month_of_life": dict(forest=.688, extra_trees=.702, clr=.681, branch=.673, rbf=.672,
                                              log_unifrac=.679, boosting=.666),
           "ecam_infant, delivery": dict(forest=.732, extra_trees=.733, clr=.708, branch=.716, rbf=.718,
                                         log_unifrac=.724, boosting=.742),
           "cfs87, Subject": dict(forest=.741, extra_trees=.707, clr=.754, branch=.717, rbf=.753,
                                  log_unifrac=.762, boosting=.736),
           "global_gut, age_years": dict(forest=.480, extra_trees=.487, clr=.578, branch=.533, rbf=.586,
                                         log_unifrac=.551, boosting=.510)}
MORE = ("all", "kernel_aitchison", "kernel_generalized", "kernel_braycurtis")


def question(name):
    "The samples that have the target, and the groups."
    task = TASKS[QUESTIONS[name]]
    (target,), groups = task["target"], task.get("groups", "")
    s = make_study(read_table(task["table"]), read_metadata(task["metadata"]), read_tree(task["tree"]),
                   where=task.get("where", ""))
    known = s.metadata[target].notna().to_numpy()
    s = replace(s, table=s.table.samples(known), metadata=s.metadata[known])
    return s, s.metadata[target], s.metadata[groups] if groups else None


def ended(score):
    "A score with its interval."
    value, low, high = score
    return f"{show(value)} [{show(low)}, {show(high)}]"


def table(name):
    "The lines of one question."
    s, target, groups = question(name)
    e = evaluate(s, target, groups=groups, baselines=MORE, threads=1)
    main, other = ("r2", "mae") if e.task == "regression" else ("auc", "accuracy")
    lines = [f"## {name} ({e.samples} samples, {e.fold_text})", "",
             f"| | {main} | minus forest | earlier study | {other} | s a fold |", "|---|---|---|---|---|---|"]
    for o in e.methods:
        gap = ended(e.differences[o][main]) if main in e.differences.get(o, {}) else ""
        was = f"{EARLIER[name][o]:.3f}" if o in EARLIER[name] else ""
        seconds = f"{e.seconds[o]/5:.1f}" if o in e.seconds else ""
        cells = e.title(o), ended(e.scores[o][main]), gap, was, show(e.scores[o][other][0]), seconds
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def main():
    "Print all questions, or those that are named in part, and keep all."
    asked = sys.argv[1:]
    head = ["# Baselines on real studies", "", f"`python benchmarks/members.py`, {date.today()}; one thread, "
            "beside other work, so seconds are too long rather than too short.", ""]
    lines = []
    for name in QUESTIONS:
        if asked and not any(o in name for o in asked): continue
        lines += table(name)
        print("\n".join(lines[-25:]), flush=True)
        if not asked: (ROOT/"benchmarks/results/members.md").write_text("\n".join(head + lines))


if __name__ == "__main__": main()
