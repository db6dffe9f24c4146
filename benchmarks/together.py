"""Two targets by one model against one model each: paired differences on the same samples, with intervals over groups.

    python benchmarks/together.py month_of_life=runs/ecam_small/evaluate delivery=runs/ecam_delivery/evaluate --both runs/ecam_both/evaluate

The folders are those of `aam evaluate`. A sample is out of fold in each of them.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from aam_nb.training.metrics import class_metrics, paired_bootstrap, regression_metrics


def predictions(folder):
    "Out-of-fold predictions by sample id; group as text."
    return pd.read_csv(Path(folder)/"predictions.tsv", sep="\t", index_col="sample_id", dtype={"sample_id": str, "group": str, "true": str})


def compared(name, apart, both):
    "Scores apart and together, and together minus apart, on the samples that both have."
    a, b = predictions(apart), predictions(both/name); ids = a.index.intersection(b.index); a, b = a.loc[ids], b.loc[ids]
    classes = [o.removeprefix("aam:") for o in a.columns if o.startswith("aam:") and o not in ("aam:low", "aam:high")]
    if classes:
        true = np.array([classes.index(o) for o in a.true]); said = [o[[f"aam:{c}" for c in classes]].to_numpy() for o in (b, a)]
        said = [o/o.sum(1, keepdims=True) for o in said]; metrics = dict(auc=class_metrics, accuracy=class_metrics)
    else: true = a.true.astype(float).to_numpy(); said = [o.aam.to_numpy() for o in (b, a)]; metrics = dict(mae=regression_metrics, r2=regression_metrics)
    for metric, score in metrics.items():
        of = lambda t, p, score=score, metric=metric: score(t, p)[metric]
        gap, low, high = paired_bootstrap(of, true, *said, a.group.to_numpy(), n=1000, seed=42)
        scores = f"apart {of(true, said[1]):.3f}   together {of(true, said[0]):.3f}   difference {gap:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"{name:16}{metric:10}{len(ids):6} samples   {scores}")


if __name__ == "__main__":
    ask = argparse.ArgumentParser(); ask.add_argument("apart", nargs="+", help="TARGET=FOLDER"); ask.add_argument("--both", type=Path, required=True)
    given = ask.parse_args()
    for word in given.apart: name, _, folder = word.partition("="); compared(name, folder, given.both)
