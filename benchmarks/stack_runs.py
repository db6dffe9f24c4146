"""The model that ships, by the commands: `aam evaluate` and `aam train` with the stack, on real studies.

    python benchmarks/stack_runs.py         all questions of members.py; writes results/stack_runs.md
    python benchmarks/stack_runs.py cfs87   those whose name has this word, to look at
    python benchmarks/stack_runs.py cfs87 run.start=reference    with further choices

Recipe `small`, seed 11, all baselines, one thread. Scores are over five outer folds by group; differences
are paired by groups, with 95 % intervals. Seconds are those of the models of all folds together. The bundle
is that of `aam train`. AAM_DATA names the folder of studies.
"""
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from members import ended, QUESTIONS, ROOT, TASKS

import aam_nb.runs.evaluate as commands
from aam_nb.evaluation.verdict import difference
from aam_nb.recipe import load_config
from aam_nb.runs.train import train_run

SEED = 11


def config(name, out, more):
    "The configuration of a question."
    task = TASKS[QUESTIONS[name]]
    words = [f"data.{k}={v[0] if k == 'target' else v}" for k, v in task.items() if not isinstance(v, bool)]
    words += ["data.independent=true"]*("groups" not in task)
    words += [f"run.out={out}", f"run.seed={SEED}", "run.threads=1", "run.baselines=all", "run.trackers="]
    return load_config("small", (*words, *more))


def evaluated(cfg):
    "The evaluation at original depth, and the seconds of nets and members."
    found = []
    with_results = commands.write_evaluation
    commands.write_evaluation = lambda e, folder: (found.append(e), with_results(e, folder))[1]
    try: commands.evaluate_run(cfg, say=lambda text: None)
    finally: commands.write_evaluation = with_results
    kept = [np.load(o) for o in sorted((Path(cfg.run.out)/"folds").glob("as_it_comes_*.npz"))]
    took = lambda name: sum(float(o[name]) for o in kept if name in o)
    return found[0], took("seconds"), took("member_seconds")


def rows_of(e):
    "A table: two scores of each method, and how far the stack is from it in the main one."
    one, two = ("mae", "r2") if e.task == "regression" else ("auc", "accuracy")
    yield f"| | {one} | {two} | {one} of the stack minus it |"
    yield "|---|---|---|---|"
    for o in e.methods:
        gap = "" if o == "stack" else ended(difference(e, "stack", o))
        yield f"| {e.title(o)} | {ended(e.scores[o][one])} | {ended(e.scores[o][two])} | {gap} |"


def lines_of(name, more):
    "The section of a question."
    with tempfile.TemporaryDirectory() as folder:
        e, whole, members = evaluated(config(name, f"{folder}/evaluate", more))
        cfg, begun = config(name, f"{folder}/train", more), time.perf_counter()
        bundle = train_run(cfg, say=lambda text: None)
        took = time.perf_counter() - begun
        size = {o.name: o.stat().st_size/1e6 for o in bundle.iterdir()}
    notes = [f"- {o}" for o in e.notes if "put together" in o]
    return [f"## {name} ({e.samples} samples, {e.fold_text})", "", *rows_of(e), "", *notes,
            f"- Models of all folds: {whole:.0f} s, of which members beside the net took {members:.0f} s.",
            f"- `aam train`: {took:.0f} s; its bundle {sum(size.values()):.1f} MB, of which the stack "
            f"{size.get('stack.safetensors', 0):.1f} MB.", ""]


def main():
    "Print all questions, or those that are named in part, and keep all."
    words = [o for o in sys.argv[1:] if "=" not in o]
    more = tuple(o for o in sys.argv[1:] if "=" in o)
    lines = ["# The stack, by the commands", "", f"`python benchmarks/stack_runs.py`, {date.today()}.", ""]
    for name in QUESTIONS:
        if words and not any(o in name for o in words): continue
        found = lines_of(name, more)
        print("\n".join(found), flush=True)
        lines += found
        if not words: (ROOT/"benchmarks/results/stack_runs.md").write_text("\n".join(lines))


if __name__ == "__main__": main()
