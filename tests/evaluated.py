"What the tests of evaluations share: a small study, small forests, and models that are not trained."
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse

import aam_nb.evaluation.baselines as baselines


def make_small(monkeypatch):
    "A forest of 30 trees: these tests are about what is done with the numbers."
    forest = baselines.forest
    monkeypatch.setattr(baselines, "forest", lambda *a, **k: forest(*a, **k, trees=30))


def column(study, name): return study.metadata[name]


def knows(study, name, wrong=0.):
    "A model that looks the answer up by id, and is wrong by a constant."
    y = column(study, name)
    return lambda train, test, fold: dict(test=y.loc[list(test)].to_numpy(float) + wrong)


def with_depth(study, factor):
    "The study with the reads of each sample multiplied."
    counts = (study.table.counts.toarray()*factor[:, None]).astype(np.int32)
    return replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts)))


def with_interval(study, name, wide, level=.9, only=range(9)):
    "A model that is off by noise, with an interval around it in some of its folds; and the noise."
    y = column(study, name)
    off = pd.Series(np.random.default_rng(0).normal(size=len(y)), index=y.index)
    def model(train, test, fold):
        p = (y + off).loc[list(test)].to_numpy()
        span = dict(low=p - wide, high=p + wide, level=np.array(level)) if fold in only else {}
        return dict(test=p, **span)
    return model, off
