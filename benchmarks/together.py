"""Two targets by one model against one model each: paired differences on the same samples, with
intervals over groups.

    python benchmarks/studies.py ecam_small
    python benchmarks/studies.py ecam_both
    python benchmarks/studies.py ecam_delivery data.split=runs/ecam_both/evaluate/folds.tsv   # the same folds
    python benchmarks/together.py month_of_life=runs/ecam_small/evaluate \\
        delivery=runs/ecam_delivery/evaluate --both runs/ecam_both/evaluate

The folders are those of `aam evaluate`. A sample is out of fold in each of them.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from aam_nb.evaluation.scores import score_functions
from aam_nb.training.metrics import bootstrap


def predictions(folder):
    "Out-of-fold predictions by sample id; group as text."
    return pd.read_csv(Path(folder)/"predictions.tsv", sep="\t", index_col="sample_id",
                       dtype={"sample_id": str, "group": str, "true": str})


def scores_of(found):
    "Task, and the scores of the model's predictions, each a function of row numbers."
    classes = [o.removeprefix("aam:") for o in found.columns
               if o.startswith("aam:") and o not in ("aam:low", "aam:high")]
    task = "classification" if classes else "regression"
    if classes:
        true = np.array([classes.index(o) for o in found.true])
        predicted = found[[f"aam:{c}" for c in classes]].to_numpy()
    else: true, predicted = found.true.astype(float).to_numpy(), found.aam.to_numpy()
    return score_functions(task, true, predicted, found.fold.to_numpy())


def compared(name, apart, both):
    "Scores apart and together, and together minus apart, on the samples that both have."
    a, b = predictions(apart), predictions(both/name)
    ids = a.index.intersection(b.index)
    a, b = a.loc[ids], b.loc[ids]
    rows = np.arange(len(ids))
    equal = (a.groupby("fold").ngroup() == b.groupby("fold").ngroup()).all()
    folds = "the same folds" if equal else "other folds"
    for metric, before in scores_of(a).items():
        after = scores_of(b)[metric]
        low, high = bootstrap(lambda r, before=before, after=after: after(r) - before(r), a.group.to_numpy(),
                              n=1000, seed=42)
        gap = after(rows) - before(rows)
        print(f"{name:16}{metric:10}{len(ids):6} samples, {folds}   "
              f"apart {before(rows):.3f}   together {after(rows):.3f}   "
              f"difference {gap:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    ask = argparse.ArgumentParser()
    ask.add_argument("apart", nargs="+", help="TARGET=FOLDER")
    ask.add_argument("--both", type=Path, required=True)
    given = ask.parse_args()
    for word in given.apart:
        name, _, folder = word.partition("=")
        compared(name, folder, given.both)
