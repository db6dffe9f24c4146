"Penalised models on inner products equal scikit-learn on raw features; whole groups choose the penalty."
import numpy as np
import pytest

from aam_nb.data.simulate import simulate
from aam_nb.stack.features import coordinates
from aam_nb.stack.penalised import fit_dual, logistic, penalised, penalty_folds, ridge, trivial


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
    folds = penalty_folds(y, train, "regression", g.astype(str)), penalty_folds(y, train, "regression")
    by_group, by_sample = (penalised(x @ x.T, y, train, folds=o).multiple for o in folds)
    assert by_group >= 100*by_sample


def test_trivial_gives_the_shares_of_the_training_rows(truth):
    train, test, site = np.arange(60), np.arange(60, 90), truth["site"]
    assert np.allclose(trivial(site, train, test, 3)[0], [(site[train] == k).mean() for k in range(3)])


@pytest.mark.parametrize("k", [0, 2, 4])
def test_weights_of_samples_are_sklearn_on_raw_features(k):
    "Also with features far from 0, and with a class that training lacks."
    from sklearn.linear_model import LogisticRegression, Ridge
    x, order, y = raw(60, 300, 2)
    x = x + 50
    if k: y = np.digitize(y, np.quantile(y, np.arange(1, k)/k))
    train, test = order[:40], order[40:]
    made = fit_dual(x @ x.T, y, train, k + (k > 0), multiple=.1)
    alpha = .1*((x[train] - x[train].mean(0))**2).sum()/40
    ours = made.predict(x[test] @ x[train].T)
    theirs = Ridge(alpha=alpha).fit(x[train], y[train]).predict(x[test])
    if not k: return np.testing.assert_allclose(ours, theirs)
    theirs = LogisticRegression(C=1/alpha, tol=1e-10, max_iter=20_000).fit(x[train], y[train])
    assert (ours[:, k] == 0).all()
    np.testing.assert_allclose(ours[:, :k], theirs.predict_proba(x[test]), atol=2e-4)
