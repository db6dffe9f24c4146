"Forests as arrays predict as scikit-learn does, also at the thresholds themselves."
import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from aam_nb.stack.trees import arrays_of, fit_trees, single_precision


def drawn(n=150, p=30, seed=0):
    "Features with many ties, some of them between the numbers that a float32 can hold; a target."
    rng = np.random.default_rng(seed)
    x = np.round(rng.gamma(.5, size=(n, p)), 1)
    return x, (x[:, 0] - x[:, 1] + rng.normal(0, .1, n)), np.digitize(x[:, 2], [.2, .6])


@pytest.mark.parametrize("kind", [ExtraTreesRegressor, RandomForestRegressor])
def test_numbers_as_scikit_learn(kind):
    x, y, _ = drawn()
    m = kind(40, random_state=1, n_jobs=1).fit(x[:100], y[:100])
    ours = arrays_of(m).predict(x, block=37)
    np.testing.assert_allclose(ours[:, 0], m.predict(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [ExtraTreesClassifier, RandomForestClassifier])
def test_classes_as_scikit_learn(kind):
    x, _, y = drawn()
    m = kind(40, random_state=1, min_samples_leaf=3, n_jobs=1).fit(x[:100], y[:100])
    np.testing.assert_allclose(arrays_of(m).predict(x), m.predict_proba(x), rtol=0, atol=1e-12)


def test_values_at_a_threshold_go_where_scikit_learn_sends_them():
    x, y, _ = drawn()
    m = RandomForestRegressor(20, random_state=0, n_jobs=1).fit(x, y)
    found = arrays_of(m)
    at = [o for e in m.estimators_ for o in e.tree_.threshold[e.tree_.feature >= 0]]
    near = np.float32(at)
    probes = np.concatenate([np.nextafter(near, np.float32(s)) for s in (-np.inf, np.inf)] + [near])
    grid = np.repeat(np.random.default_rng(0).choice(probes, (400, 1)), 30, axis=1)
    np.testing.assert_allclose(found.predict(grid)[:, 0], m.predict(grid), rtol=0, atol=1e-12)


def test_single_precision_divides_alike():
    rng = np.random.default_rng(0)
    t = np.concatenate([rng.normal(size=200), [.1, .5, 0.]])
    cut = single_precision(t)
    for x in (cut, np.nextafter(cut, np.float32(np.inf)), np.nextafter(cut, np.float32(-np.inf))):
        assert ((x.astype(np.float64) <= t) == (x <= cut)).all()


def test_a_class_that_training_lacks_and_an_empty_table():
    x, _, y = drawn()
    y = np.where(y == 1, 2, y)
    p = fit_trees(x.astype(np.float32), y, True, classes=4, trees=10, threads=1).predict(x)
    assert (p[:, [1, 3]] == 0).all() and np.allclose(p.sum(1), 1)
    assert fit_trees(x.astype(np.float32), y*1., False, trees=2, threads=1).predict(x[:0]).shape == (0, 1)
