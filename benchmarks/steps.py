"""What the parts of one outer fold take, and what inner folds score, with fewer steps of pretraining.

    python benchmarks/steps.py month delivery cfs --steps 500,400,300

The first outer fold with seed 42, without a ready encoder: CPU seconds of pretraining, of the three nets, of
their ridge regressions with penalties and shares, and of the model of all samples; then R2 or log loss of the
inner folds. No reported fold is looked at.
"""
import argparse
import time
from pathlib import Path

import net
import numpy as np
from scipy.special import log_softmax

SEED = 42


def timed(what, seconds, make):
    "What `make` gives; its CPU seconds are added."
    begun = time.process_time()
    made = make()
    seconds[what] = seconds.get(what, 0.) + time.process_time() - begun
    return made


def fitted(bench, train, inner, seconds):
    "The inner models of the first fold; a model of all samples is fitted for its time alone."
    from aam_nb.runs.with_ridge import fit_both_on_all, penalties, with_learned_shares, with_ridge
    from aam_nb.training.sample_stage import pretrained
    from aam_nb.training.target_stage import codecs, fit_target
    start = timed("pretraining", seconds, lambda: pretrained(bench, train, (1,)))
    learned = codecs(bench, train)
    def with_regression(made, valid):
        return with_learned_shares(with_ridge(made, penalties(made, valid)), valid)
    found = []
    for k, (fit, valid) in enumerate(inner):
        part = (bench, start, *learned, fit, valid, (1, k))
        made = timed("nets", seconds, lambda part=part: fit_target(*part))
        found.append(timed("ridges", seconds, lambda m=made, v=valid: with_regression(m, v)))
    timed("all samples", seconds, lambda: fit_both_on_all(bench, start, learned, train, found, (1, "all", 0)))
    return found


def score(made, inner, what):
    "R2 or log loss over inner folds: of the whole model, or of the net alone."
    lost = spread = 0
    for one, (fit, valid) in zip(made, inner, strict=True):
        out = one.outputs(valid) if what == "both" else net.apart(one, valid)["net"]
        y = one.targets.encode(one.bench.metadata)[:, 0]
        if out.shape[1] > 1:
            lost -= log_softmax(out.astype(float), axis=1)[np.arange(len(valid)), y[valid].astype(int)].sum()
            spread += len(valid)
        else:
            lost += ((out[:, 0] - y[valid])**2).sum()
            spread += ((y[valid] - y[fit].mean())**2).sum()
    return lost/spread if out.shape[1] > 1 else 1 - lost/spread


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tasks", nargs="+", choices=list(net.TASKS))
    p.add_argument("--steps", default="500,400")
    p.add_argument("--out", type=Path, default=net.ROOT/"runs/net")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| task | steps | s pretraining | nets | ridges | all samples | net alone | with ridge |")
    print("|---"*8 + "|")
    for task, steps in ((t, s) for t in args.tasks for s in args.steps.split(",")):
        ready, seconds = net.prepared(task, SEED, (f"pretrain_asv.steps={steps}",), args.out), {}
        at = ready.study.positions
        inner = [tuple(map(at, o)) for o in ready.parts.inner[0]]
        made = fitted(ready.bench, at(ready.parts.outer[0][0]), inner, seconds)
        cells = [f"{o:.1f}" for o in seconds.values()]
        cells += [f"{score(made, inner, o):.4f}" for o in ("net", "both")]
        print(f"| {task} | {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__": main()
