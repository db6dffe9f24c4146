"Weights of samples and classes, against scikit-learn."

import numpy as np
import pytest
from made_up_columns import META, several

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.metadata import read_metadata
from aam_nb.data.targets import Targets
from aam_nb.data.weights import target_weights


def weights(train=None, **kwargs):
    config = several(**kwargs)
    return target_weights(Targets.fit(META, config), META, config, train)


def test_nothing_said_weighs_nothing():
    assert weights() is None and weights(class_weights="gut=1") is None and weights(balance="run:a=1") is None


@pytest.mark.parametrize("train", [
    None, np.array([0, 2, 3, 4]), np.array([True, True, False, True, True, True]),
])
def test_balanced_weights_are_those_of_scikit_learn(train):
    from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
    rows = np.arange(6) if train is None else np.arange(6)[train]
    w = weights(train, balance="run")
    assert w.dtype == np.float32 and w.shape == (6, 3)
    for k in range(3):
        np.testing.assert_allclose(w[rows, k], compute_sample_weight("balanced", META.run.iloc[rows]),
                                   rtol=1e-6)
    w = weights(train, class_weights="balanced")
    known = META.site.iloc[rows].dropna()
    classes = np.unique(known)
    given = dict(zip(classes, compute_class_weight("balanced", classes=classes, y=known)))
    # 1 for the missing, and for a class that no training row has
    np.testing.assert_allclose(w[:, 1], [given.get(o, 1.) for o in META.site], rtol=1e-6)
    assert (w[:, [0, 2]] == 1).all() and w[rows][META.site.iloc[rows].notna(), 1].mean() == pytest.approx(1)


def test_weights_multiply():
    w = weights(weights="w", balance="run:a=3", class_weights="skin=.5, gut=2")
    sample = META.w.to_numpy()*[3, 3, 1, 1, 1, 1]
    np.testing.assert_allclose(w, np.stack([sample, sample*[2, .5, 1, 2, .5, 1], sample], axis=1), rtol=1e-6)


def test_numbers_and_missing_categories_weigh_too():
    meta = META.assign(run=[1, 1, 2, 2, 2, np.nan])
    config = several(balance="run:1=2,2=5")
    w = target_weights(Targets.fit(meta, config), meta, config)
    assert w[:, 0].tolist() == [2, 2, 5, 5, 5, 1]
    config = several(balance="run")
    w = target_weights(Targets.fit(meta, config), meta, config)
    np.testing.assert_allclose(w[:, 0], [5/4, 5/4, 5/6, 5/6, 5/6, 1])


@pytest.mark.parametrize("kwargs, says", [
    (dict(weights="wieght"), "target.weights needs the column 'wieght'"),
    (dict(weights="run"), "weight 'run' must be a number"),
    (dict(weights="age"), "'age' has no weight of 0 or more for 1 of 6 samples .first: 'E'"),
    (dict(balance="rnu"), "target.balance needs the column 'rnu'.*'run'"),
    (dict(balance="run:c=2"), "target.balance names 'c', which is not among 'a', 'b'"),
    (dict(balance="run:a"), "target.balance has 'a'; wanted NAME=WEIGHT"),
    (dict(balance="run:"), "wanted COLUMN, or a form such as site"),
    (dict(balance="run:a=-1"), "each weight 0 or more"), (dict(balance="run:a=1,a=2"), "each name once"),
    (dict(class_weights="Gut=2"), "target.class_weights names 'Gut'.*Did you mean 'gut'"),
    (dict(class_weights="balance"), "target.class_weights has 'balance'; wanted NAME=WEIGHT"),
    (dict(class_weights="gut=many"), "has 'gut=many'"),
    (dict(class_weights="balanced", target="age"), "no target has classes"),
    (dict(balance="run:a=0,b=0"), "All training samples weigh 0 for the target 'age'"),
])
def test_weights_that_cannot_be(kwargs, says):
    with pytest.raises(AamError, match=says): weights(**kwargs)


def test_training_samples_that_weigh_nothing():
    targets, config = Targets.fit(META, several()), several(weights="w")
    with pytest.raises(AamError, match="All training samples weigh 0 for the target 'age'"):
        target_weights(targets, META, config, np.array([2]))
    assert target_weights(targets, META, config, np.array([2, 3]))[2].tolist() == [0, 0, 0]


def test_real_targets_together(data_dir):
    from sklearn.utils.class_weight import compute_sample_weight
    m = read_metadata(data_dir/"ecam_infant"/"metadata.tsv")
    train = np.arange(0, len(m), 2)
    config = config_from({"data": dict(target="month_of_life, delivery"),
                          "target": dict(bounds="month_of_life=0:", class_weights="balanced")})
    targets = Targets.fit(m, config, train)
    z = targets.encode(m)
    w = target_weights(targets, m, config, train)
    assert z.shape == w.shape == (741, 2) and targets.outputs == 3
    assert z[train, 0].mean() == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(w[train, 1], compute_sample_weight("balanced", m.delivery.iloc[train]),
                               rtol=1e-6)
    wide = np.stack([z[:, 0], -z[:, 1], z[:, 1]], axis=1)
    out = targets.decode(wide)
    np.testing.assert_allclose(out["month_of_life"], m.month_of_life, rtol=1e-5, atol=1e-5)
    assert (targets.codecs[1].labels(out["delivery"])[m.delivery == "Vaginal"] == "Vaginal").all()
