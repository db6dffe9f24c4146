"Members are scikit-learn's models on the views of a sample, and see nothing of what they predict."
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.stack import members
from aam_nb.stack.features import Features, Fold, log_branch
from aam_nb.stack.kernels import exponential, reach_of, squares_apart
from aam_nb.stack.members import MEMBERS, fit_linear, likeness, possible_members

TRAIN, TEST = np.arange(60), np.arange(60, 90)


@pytest.fixture(scope="module")
def study(): return simulate(samples=90, asvs=120, groups=30, seed=3)


@pytest.fixture(scope="module")
def fold(study):
    return Fold(features=Features(study), y=study.metadata["age"].to_numpy(float), train=TRAIN, test=TEST,
                groups=study.metadata["subject"].to_numpy(object), threads=1)


def test_rbf_is_scikit_learns_kernel_ridge(study, fold):
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics.pairwise import rbf_kernel
    x, made = log_branch(study), fit_linear(fold, "rbf")
    k = rbf_kernel(x, gamma=1/made.reach)
    pairs = cdist(x[TRAIN], x[TRAIN], "sqeuclidean")[np.triu_indices(60, 1)]
    assert made.reach == pytest.approx(2*np.median(pairs))
    centre = np.eye(60) - 1/60
    own = centre @ k[:60, :60] @ centre
    alpha = made.dual.multiple*np.trace(own)/60
    mean = fold.y[TRAIN].mean()
    other = k[60:, :60] - k[:60, :60].mean(0)
    m = KernelRidge(alpha=alpha, kernel="precomputed").fit(own, fold.y[TRAIN] - mean)
    wanted = m.predict(other @ centre) + mean
    np.testing.assert_allclose(made.predict(fold.features, TEST, TRAIN), wanted, atol=1e-7)


def test_log_unifrac_is_the_kernel_of_the_formula(study, fold):
    x = np.log1p((np.expm1(log_branch(study)/np.sqrt(study.tree.length))))
    wanted = cdist(x*study.tree.length, x*study.tree.length, "cityblock")
    made = MEMBERS["log_unifrac"].fit(fold)
    np.testing.assert_allclose(made.gram(fold.features), np.exp(-wanted/made.reach), atol=1e-9)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("classes", [0, 3])
def test_what_is_predicted_teaches_nothing(study, fold, monkeypatch, name, classes):
    "Other reads and targets outside of the training rows change no other prediction."
    monkeypatch.setattr(members, "EXTRA", 20)
    y = np.digitize(fold.y, [6, 12]) if classes else fold.y
    asked = replace(fold, y=y, classes=classes)
    before = MEMBERS[name].fit(asked).predict(asked.features, TEST[:3], TRAIN)
    counts = study.table.counts.toarray()
    counts[63:] = counts[63:, ::-1]*3
    from scipy import sparse
    other = Features(replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts))))
    lies = replace(asked, features=other, y=np.concatenate([y[:60], y[60:][::-1]]))
    after = MEMBERS[name].fit(lies).predict(other, TEST[:3], TRAIN)
    np.testing.assert_allclose(before, after, atol=1e-9)


def test_members_of_a_study_with_and_without_a_tree(study):
    bare = replace(study, tree=None, tip=None)
    assert set(possible_members(study)) | set(possible_members(bare)) == set(MEMBERS)
    for name in possible_members(bare):
        made = MEMBERS[name].fit(Fold(features=Features(bare), y=np.arange(90.), train=TRAIN, test=TEST))
        assert np.isfinite(made.predict(Features(bare), TEST, TRAIN)).all()
    with pytest.raises(AamError, match="[Nn]eed.* a tree"): likeness(Features(bare), "rbf", TRAIN)
    with pytest.raises(AamError, match="no distance between samples 'unweihgted'"):
        likeness(Features(study), "unweihgted", TRAIN)


def test_reach_and_squares_of_samples_that_do_not_differ():
    assert reach_of(np.zeros((5, 5)), np.arange(5)) == 1 and reach_of(np.zeros((5, 5)), np.arange(1)) == 1
    assert (exponential(squares_apart(np.ones((4, 4))), 1.) == 1).all()
