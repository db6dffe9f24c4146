"Boosting is scikit-learn's, with as many trees as whole groups can use."
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from aam_nb.core import draw_key
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.boosting import best_rounds, boosting
from aam_nb.stack.features import Features, Fold, prevalent


@pytest.fixture(scope="module")
def fold():
    study = simulate(samples=200, asvs=60, groups=40, seed=1)
    return Fold(features=Features(study), y=study.metadata["age"].to_numpy(float), train=np.arange(150),
                test=np.arange(150, 200), groups=study.metadata["subject"].to_numpy(object), threads=1)


@pytest.mark.parametrize("classes", [0, 3])
def test_it_is_scikit_learns(fold, classes):
    y = np.digitize(fold.y, [6, 12]) if classes else fold.y
    fold = Fold(**{**vars(fold), "y": y, "classes": classes})
    x = fold.features.relative[:, prevalent(fold.features.counts, fold.train)].toarray()
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    m = kind(max_iter=best_rounds(x, fold, 15), max_leaf_nodes=15, max_features=.1, early_stopping=False,
             random_state=draw_key(42, "boosting") % 2**32).fit(x[fold.train], y[fold.train])
    theirs = m.predict_proba(x[fold.test]) if classes else m.predict(x[fold.test])
    np.testing.assert_allclose(boosting(fold, most=15), theirs, atol=1e-12)


def test_whole_groups_say_when_to_stop():
    "What is peculiar to a subject helps only where the subject is on both sides."
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 6)
    x, y = rng.normal(size=(30, 20))[group] + rng.normal(size=(180, 20))*.01, rng.normal(size=30)[group]
    how = dict(features=None, y=y, train=np.arange(180), test=np.arange(0))
    assert best_rounds(x, Fold(**how, groups=group.astype(str)), 40) < best_rounds(x, Fold(**how), 40)
