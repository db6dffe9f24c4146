"Penalised models on inner products equal scikit-learn on raw features; whole groups choose the penalty."
import numpy as np
import pytest

from aam_nb.data.simulate import simulate
from aam_nb.stack.features import coordinates
from aam_nb.stack.penalised import logistic, penalised, penalty_folds, ridge, trivial


@pytest.fixture(scope="module")
def truth():
    found = simulate(samples=90, asvs=150, groups=30, seed=3).metadata
    site = np.unique(found["site"].to_numpy(str), return_inverse=True)[1]
    return dict(age=found["age"].to_numpy(float), site=site, subject=found["subject"].to_numpy(object))


def raw(n, p, seed=0):
    "Features of different scales, an order of the rows, and a target that three of the features make."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))*rng.uniform(.2, 3, p) + rng.normal(size=p)
    return x, rng.permutation(n), x[:, :3] @ [1, -2, .5] + rng.normal(size=n)


@pytest.mark.parametrize("n,p", [(40, 400), (120, 30), (30, 30)])
@pytest.mark.parametrize("alpha", [1e-2, 1., 300.])
def test_ridge_is_sklearn_on_raw_features(n, p, alpha):
    from sklearn.linear_model import Ridge
    x, order, y = raw(n, p)
    train, test = order[:n*2//3], order[n*2//3:]
    z, squares = coordinates(x @ x.T, train)
    ours = ridge(z, squares, y, train, np.array([5., alpha]))[test, 1]
    assert np.allclose(ours, Ridge(alpha=alpha, solver="svd").fit(x[train], y[train]).predict(x[test]),
                       atol=1e-5)


@pytest.mark.parametrize("n,p,k", [(60, 300, 2), (60, 300, 4), (150, 12, 3)])
@pytest.mark.parametrize("alpha", [.5, 50.])
def test_logistic_is_sklearn_on_raw_features(n, p, k, alpha):
    from sklearn.linear_model import LogisticRegression
    x, order, y = raw(n, p, 1)
    y = np.digitize(y, np.quantile(y, np.arange(1, k)/k))
    train, test = order[:n*2//3], order[n*2//3:]
    ours = logistic(coordinates(x @ x.T, train)[0], y, k, train, np.array([alpha, 1e3]))[test, :, 0]
    theirs = LogisticRegression(C=1/alpha, tol=1e-10, max_iter=20_000).fit(x[train],
                                                                           y[train]).predict_proba(x[test])
    assert np.allclose(ours, theirs, atol=2e-4)


def test_penalty_folds_keep_groups_and_stay_inside(truth):
    age, subject, train = truth["age"], truth["subject"], np.arange(5, 60)
    pairs = penalty_folds(age, train, "regression", subject)
    assert len(pairs) == 3 and sorted(np.concatenate([b for _, b in pairs])) == list(train)
    for a, b in pairs: assert not set(subject[a]) & set(subject[b]) and set(a) | set(b) == set(train)
    assert penalty_folds(age, train, "regression", np.repeat("one", 90)) == []
    assert len(penalty_folds(age, train, "regression", np.where(np.arange(90) % 2, "a", "b"))) == 2


def test_penalty_is_chosen_on_groups():
    "A subject's own offset helps only on both sides of a fold; whole groups must choose a strong penalty."
    rng = np.random.default_rng(0)
    g, offset, train = np.repeat(np.arange(30), 8), rng.normal(size=30), np.arange(240)
    x = rng.normal(size=(30, 200))[g] + rng.normal(size=(240, 200))*.1
    y = offset[g] + rng.normal(size=240)*.1
    by_group = penalised(x @ x.T, y, train, folds=penalty_folds(y, train, "regression", g.astype(str)))[1]
    by_sample = penalised(x @ x.T, y, train, folds=penalty_folds(y, train, "regression"))[1]
    assert by_group >= 100*by_sample


def test_trivial_gives_the_shares_of_the_training_rows(truth):
    train, test, site = np.arange(60), np.arange(60, 90), truth["site"]
    assert np.allclose(trivial(site, train, test, 3)[0], [(site[train] == k).mean() for k in range(3)])
