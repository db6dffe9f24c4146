"Studies with something wrong planted in them, and quick out-of-fold predictions of a fair model."
import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.model_selection import GroupKFold

from aam_nb.data.distances import log_share
from aam_nb.data.simulate import simulate
from aam_nb.data.tree import branch_abundance
from aam_nb.evaluation.depth import depth_alarm
from aam_nb.evaluation.evaluation import Evaluation, score_all


def log_branches(study):
    "Log abundance at each branch, which is what extra trees do well on."
    return log_share(branch_abundance(study.tree, study.tip, study.table.counts)/study.table.depths[:, None])


def out_of_fold(study, values, groups, seed=0, trees=60):
    "An evaluation of extra trees over five folds by group, without baselines."
    values, x = np.asarray(values), log_branches(study)
    number = values.dtype.kind == "f"
    classes = () if number else tuple(sorted(set(values)))
    y = values if number else np.searchsorted(classes, values)
    p, fold = np.zeros((len(y), max(1, len(classes)))), np.zeros(len(y), dtype=int)
    for k, (a, b) in enumerate(GroupKFold(5, shuffle=True, random_state=seed).split(x, y, groups), 1):
        kind = ExtraTreesRegressor(trees, max_features=.3, min_samples_leaf=2, random_state=seed) if number \
            else ExtraTreesClassifier(trees, min_samples_leaf=2, random_state=seed)
        kind.fit(x[a], y[a])
        p[b], fold[b] = kind.predict(x[b])[:, None] if number else kind.predict_proba(x[b]), k
    p = p[:, 0] if number else p
    task = "regression" if number else "classification"
    scores, gaps = score_all(task, y, {"trees": p}, fold, groups)
    return Evaluation(target="target", task=task, classes=classes, model="trees", ids=study.ids, truth=y,
                      groups=groups, fold=fold, predictions={"trees": p}, scores=scores, differences=gaps,
                      alarm=depth_alarm(study, values, task), members=())


def clear(seed): return simulate(samples=200, asvs=300, groups=40, length=60, noise=.3, seed=seed)


def swapped_labels(values, rng, pairs=5, plate=None):
    """Labels of which some pairs were exchanged; and the pairs, int [pairs, 2]. Numbers that are exchanged
    differ by 12 or more, half the range: a smaller error is hidden in the noise."""
    values, found = np.array(values), []
    while len(found) < pairs:
        i, j = sorted(rng.choice(len(values), 2, replace=False))
        alike = abs(values[i] - values[j]) < 12 if values.dtype.kind == "f" else values[i] == values[j]
        taken = {o for pair in found for o in pair}
        if alike or {i, j} & taken or (plate is not None and plate[i] != plate[j]): continue
        values[[i, j]] = values[[j, i]]
        found.append((i, j))
    return values, np.array(found)


def columns(groups, rng):
    "Columns of which none has to do with errors: three constant within groups, two that vary in them."
    who = np.unique(groups, return_inverse=True)[1]
    k, n = who.max() + 1, len(who)
    found = dict(sex=rng.integers(0, 2, k)[who], clinic=rng.permutation(np.arange(k) % 4)[who],
                 rare=(rng.random(k) < .2)[who], plate=rng.integers(0, 6, n), diet=rng.integers(0, 3, n))
    return pd.DataFrame({k: v.astype(str) for k, v in found.items()})
