"Weights of a stack: against an optimiser of SciPy, by groups, and never worse than the best member unsaid."
import numpy as np
import pytest
from scipy.optimize import minimize

from aam_nb.stack.pool import (
    log_weights,
    fit_pool,
    log_pool,
    losses_of,
    mean_weights,
    Pool,
    standard_error,
)


def loss_of(p, y): return losses_of(p, y).mean()


def told(n=300, noise=(.4, .6, 1.), seed=0):
    "A truth, and what members with independent errors say of it."
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return y, {f"m{i}": y + rng.normal(0, o, n) for i, o in enumerate(noise)}


def shares(x):
    "Probabilities of three classes that follow a number."
    logits = np.stack([-2*x, np.zeros_like(x), 2*x], axis=1)
    return np.exp(logits)/np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("pull", [1e-3, .1, 10.])
def test_weights_of_numbers_are_the_constrained_optimum(pull):
    y, said = told()
    p = np.column_stack(list(said.values()))
    a, b = p - y.mean(), y - y.mean()
    size = (a**2).sum()/3
    loss = lambda w: ((a @ w - b)**2).sum() + pull*size*((w - 1/3)**2).sum()
    best = minimize(loss, np.full(3, 1/3), bounds=[(0, None)]*3, method="SLSQP", tol=1e-12,
                    constraints=dict(type="eq", fun=lambda w: w.sum() - 1)).x
    np.testing.assert_allclose(mean_weights(p, y, pull), best, atol=1e-4)


@pytest.mark.parametrize("pull", [1e-3, .1])
def test_weights_of_classes_are_the_optimum(pull):
    y, said = told()
    p, y = np.stack([shares(o) for o in said.values()], axis=1), np.digitize(y, [-.5, .5])
    def loss(w):
        q = np.exp(log_pool(np.log(p), w))
        return -np.log(q[np.arange(300), y]).mean() + pull*3*((w - 1/3)**2).sum()
    best = minimize(loss, np.full(3, .3), bounds=[(0, None)]*3, method="Nelder-Mead",
                    options=dict(xatol=1e-7, fatol=1e-10, maxiter=4000)).x
    np.testing.assert_allclose(log_weights(p, y, pull), best, atol=1e-3)


def test_independent_members_do_better_together():
    y, said = told()
    new, later = told(seed=1)
    pool = fit_pool(said, y)
    errors = {k: loss_of(p, new) for k, p in later.items()}
    assert loss_of(pool.combine(later), new) < .9*min(errors.values())
    assert loss_of(pool.combine(later), new) < loss_of(np.mean(list(later.values()), axis=0), new)
    assert pool.losses[:3] == tuple(loss_of(p, y) for p in said.values())
    assert pool.losses[3] < min(pool.losses[:3])


def test_few_groups_get_the_plain_mean_and_the_best_member_guards():
    y, said = told(noise=(.5, .5, .5))
    group = np.repeat(np.arange(30), 10)
    few = fit_pool(said, y, group)
    assert few.weights == (1/3,)*3 and "30 groups are too few" in few.why
    poor = {**said, "m1": np.random.default_rng(5).normal(0, 3, 300), "m2": np.zeros(300)}
    alone = fit_pool(poor, y, group)
    assert alone.weights == (1., 0., 0.) and alone.why.startswith("'m0' alone")
    assert np.array_equal(alone.combine(poor), poor["m0"])


def test_a_member_that_says_nothing_gets_little_weight():
    y, said = told(400, (.5, .5))
    said["nonsense"] = np.random.default_rng(9).permutation(y)
    assert fit_pool(said, y, np.repeat(np.arange(200), 2)).weights[2] < .1


def test_a_lucky_member_does_not_win_alone():
    "Six members that are equally good in truth: the plain mean stays, though one of them is ahead by chance."
    kept, ahead = 0, 0
    for seed in range(20):
        y, said = told(80, (.5,)*6, seed)
        shared = np.random.default_rng(seed + 100).normal(0, 1.5, 80) # what all of them get wrong
        said = {k: p + shared for k, p in said.items()}
        pool = fit_pool(said, y)
        kept += len(set(pool.weights)) == 1
        ahead += min(pool.losses[:-1]) < pool.losses[-1]
    assert kept >= 19 and ahead >= 5


def test_standard_error_over_groups_is_that_of_group_means():
    rng = np.random.default_rng(0)
    means, groups = rng.normal(size=25), np.repeat(np.arange(25), 4)
    assert standard_error(means[groups], groups) == pytest.approx(means.std(ddof=1)/5)
    assert standard_error(np.ones(4), np.zeros(4)) == np.inf


@pytest.mark.parametrize("n", [60, 300])
def test_classes_are_probabilities_also_where_a_member_is_sure(n):
    y, said = told(n)
    k = np.digitize(y, [-.5, .5])
    sure = {o: shares(p) for o, p in said.items()}
    sure["sure"] = np.eye(3)[np.digitize(said["m0"], [-.5, .5])]
    pool = fit_pool(sure, k, classes=3)
    p = pool.combine(sure)
    assert np.isfinite(p).all() and np.allclose(p.sum(1), 1) and pool.logs == (n > 100)
    assert loss_of(p, k) <= 1.02*min(loss_of(o, k) for o in sure.values())


def test_one_member_is_itself():
    y, said = told()
    only = {"m0": said["m0"]}
    np.testing.assert_allclose(fit_pool(only, y).combine(only), said["m0"])
    logs = Pool(names=("a",), weights=(1.,), logs=True)
    assert logs.combine({"a": np.array([[.3, .7]])})[0, 1] == pytest.approx(.7)
