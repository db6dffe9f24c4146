"""Intervals of one width beside those that adapt, on real studies, round a ridge on centred log-ratios.

    AAM_DATA=../shared/data python benchmarks/intervals_ridge.py --out benchmarks/results/intervals_ridge.md

The ridge stands in for the net, so that a study takes seconds. Five outer folds by group, three inner ones,
the intervals of the three models averaged, as evaluations do without `run.refit`. Then ages are learned in
one country of global_gut and predicted in the others, where more reads are unseen: how often intervals hold
the age, by thirds of the unseen reads, with widths that do not know of them and with those that do.
"""
import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from intervals import HEAD, judged, row, told, WAYS
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from aam_nb.data.codec import TargetCodec
from aam_nb.data.natural import natural_bounds
from aam_nb.data.table import read_table
from aam_nb.evaluation.calibrate import calibrated

DATA = Path(os.environ.get("AAM_DATA", "../shared/data"))
SEEDS = 42, 7
TASKS = [("ecam_infant", "month_of_life", "host_subject_id"), ("global_gut", "age_years", "family"),
         ("cfs87", "General_health", ""), ("cfs87", "Bell", ""), ("cfs87", "Age", "")]


@dataclass(frozen=True)
class Told:
    "A target and what predicts it, sample by sample."
    counts: np.ndarray
    y: np.ndarray
    group: np.ndarray
    country: np.ndarray

    @property
    def clr(self):
        logs = np.log(self.counts + .5)
        return logs - logs.mean(1, keepdims=True)


def read(study, target, groups):
    "A study's samples with a value. Families of global_gut are the first letters and digits of a name."
    meta = pd.read_csv(DATA/study/"metadata.tsv", sep="\t", index_col=0, dtype=str)
    if study == "ecam_infant": meta = meta[meta.is_infant.astype(float) == 1]
    if study == "global_gut":
        name = meta.index.to_series().str.rsplit(".", n=1).str[0]
        meta["family"] = name.str.extract(r"^([A-Za-z]+\.?\d+)", expand=False).fillna(name)
    y = pd.to_numeric(meta[target], errors="coerce").dropna()
    table = read_table(DATA/study/"table.biom")
    rows = pd.Index(table.sample_ids).get_indexer(y.index)
    y, counts = y[rows >= 0], table.counts.toarray()[rows[rows >= 0]].astype(float)
    meta = meta.loc[y.index]
    group = meta[groups] if groups else y.index
    country = meta.get("country", pd.Series("", index=y.index))
    shared = (counts > 0).sum(0) > 1
    return Told(counts[:, shared], y.to_numpy(), np.asarray(group, str), np.asarray(country, str))


def unseen(told_of, fit, rows):
    "The share of each sample's reads in ASVs that no training sample has."
    new = ~(told_of.counts[fit] > 0).any(0)
    return told_of.counts[rows][:, new].sum(1)/told_of.counts[rows].sum(1)


def fitted(told_of, train, seed):
    "Codec and truth of a training part, its out-of-fold outputs and unseen shares, and the inner models."
    y, x, group = told_of.y, told_of.clr, told_of.group
    codec = TargetCodec.fit(pd.Series(y[train], name="y"), "regression")
    codec = replace(codec, natural=natural_bounds(y[train], group[train]))
    z = (y - codec.mean)/codec.sd
    oof, shares, models = np.empty((len(train), 1)), np.empty(len(train)), []
    for fit, held in GroupKFold(3, shuffle=True, random_state=seed).split(train, groups=group[train]):
        models.append(RidgeCV(alphas=np.logspace(2, 6, 9)).fit(x[train[fit]], z[train[fit]]))
        oof[held, 0] = models[-1].predict(x[train[held]])
        shares[held] = unseen(told_of, train[fit], train[held])
    return codec, z[train], oof, shares, models


def evaluated(task):
    "Lines of one target."
    told_of = read(*task)
    for seed in SEEDS:
        rows = {o: [] for o in WAYS}
        outer = GroupKFold(5, shuffle=True, random_state=seed)
        for train, test in outer.split(told_of.y, groups=told_of.group):
            codec, truth, oof, _, models = fitted(told_of, train, seed)
            outputs = [o.predict(told_of.clr[test])[:, None] for o in models]
            for name, way in WAYS.items():
                made = way(codec, oof, truth, told_of.group[train], .9)
                ends = np.mean([made.interval(o) for o in outputs], axis=0)
                point = np.mean([made.decode(o) for o in outputs], axis=0)
                rows[name].append((point, told_of.y[test], *ends.T))
        bounds = natural_bounds(told_of.y, told_of.group)
        for name, parts in rows.items():
            found = [np.concatenate(o) for o in zip(*parts, strict=True)]
            values = judged(*found, np.ones(len(found[0])), .9, bounds)
            yield row(f"{task[0]} {task[1]}, seed {seed}", len(set(told_of.group)), name, values)


def moved():
    "Lines of ages that are learned in one country and predicted in the others."
    told_of = read(*TASKS[1])
    for home in np.unique(told_of.country):
        train, test = (np.flatnonzero(o) for o in (told_of.country == home, told_of.country != home))
        codec, truth, oof, shares, _ = fitted(told_of, train, 42)
        model = RidgeCV(alphas=np.logspace(2, 6, 9)).fit(told_of.clr[train], truth)
        output, new = model.predict(told_of.clr[test])[:, None], unseen(told_of, train, test)
        made, _ = calibrated(codec, oof, truth, told_of.group[train], unseen=shares)
        parts = np.array_split(np.argsort(new, kind="stable"), 3)
        for name, known in (("not told", None), ("told", new)):
            low, high = made.interval(output, unseen=known).T
            held = (low <= told_of.y[test]) & (told_of.y[test] <= high)
            each = [f"{held[o].mean():.2f} at {new[o].mean():.1%}" for o in parts]
            cells = [home, name, f"{made.reach.usual:.1%}", *each, f"{held.mean():.3f}"]
            yield f"| {' | '.join(cells)} | {(high - low).mean():.3g} |"


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--out", type=Path, default=None, help="write the tables here as Markdown")
    asked, lines = ask.parse_args(), [f"| {' | '.join(HEAD)} |", "|---"*len(HEAD) + "|"]
    for task in TASKS: lines += told(evaluated(task))
    head = ["learned in", "of unseen reads", "usual", "fewest unseen", "more", "most", "coverage", "width"]
    lines += ["", f"| {' | '.join(head)} |", "|---"*len(head) + "|", *told(moved())]
    if asked.out: asked.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__": main()
