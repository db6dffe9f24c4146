"What plain models see equals scikit-bio and a computation by hand; training rows alone decide what is kept."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from aam_nb.data.simulate import simulate
from aam_nb.stack.features import (
    branch_gram,
    clr,
    clr_gram,
    covariate_features,
    log_branch,
    prevalent,
    relative,
)


@pytest.fixture(scope="module")
def study(): return simulate(samples=90, asvs=150, groups=30, seed=3)


def test_features_against_skbio_and_by_hand(study):
    from skbio.stats.composition import clr as skbio_clr
    counts, tree = study.table.counts.toarray(), study.tree
    whole = counts.sum(1, keepdims=True)
    assert np.allclose(clr(study.table.counts), skbio_clr(counts + .5))
    assert np.allclose(clr_gram(study.table.counts), clr(study.table.counts) @ clr(study.table.counts).T)
    assert np.allclose(relative(study.table.counts).toarray(), counts/whole)
    in_order = counts[:, np.argsort(study.tip)] # ASVs in the tree's order of tips
    below = np.stack([in_order[:, a:b].sum(1) for a, b in zip(tree.start, tree.stop, strict=True)],
                     axis=1)/whole
    assert np.allclose(log_branch(study), np.log(1 + below/1e-4)*np.sqrt(tree.length))
    assert np.allclose(branch_gram(study, block=17), log_branch(study) @ log_branch(study).T)


def test_no_reads_no_warning(study, recwarn):
    counts = study.table.counts.tolil()
    counts[0] = 0
    empty = replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts, dtype=np.int32)))
    assert relative(empty.table.counts)[0].sum() == 0
    assert np.isfinite(log_branch(empty)).all() and not log_branch(empty)[0].any()
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_prevalence_counts_training_rows_only():
    x = sparse.csr_matrix(np.array([[1, 0, 2], [1, 0, 0], [1, 0, 0], [0, 5, 1], [0, 5, 1], [0, 5, 1]]))
    assert list(prevalent(x, np.array([0, 1, 2]))) == [0]
    assert list(prevalent(x, np.array([3, 4, 5]))) == [1, 2]
    assert list(prevalent(x, np.array([0, 3]))) == [0, 1, 2]       # nothing in three samples: whatever occurs


def test_covariate_codes_by_hand():
    rows = pd.DataFrame(dict(diet=["a", "b", None, "c"], country=["X", "Y", "X", "X"],
                             city=["x", "y", None, "z"],
                             bmi=[1., 3., np.nan, 2.]))
    found = covariate_features(rows, ("diet", ("country", "city"), "bmi"), np.array([0, 1]))
    # missing, unknown, a, b | missing, unknown, X, Y | missing, unknown, x, y | number, missing
    # The number stands where its column is read.
    parts = dict(diet=[[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]],
                 country=[[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0]],
                 city=[[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]],
                 bmi=[[-1, 0], [1, 0], [0, 1], [0, 0]])
    assert np.array_equal(found, np.hstack(list(parts.values())))
