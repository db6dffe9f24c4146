"Several targets side by side, and what is learned from training rows alone."
import json

import numpy as np
import pytest
from made_up_columns import META, several

from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.targets import Targets


def test_targets_stand_side_by_side():
    targets = Targets.fit(META, several(loss="mse, ph=quantile", bounds="ph=0:14",
                                        transform="log1p_minmax, ph=none", quantiles=".1, .5, .9"))
    assert targets.names == ("age", "site", "ph") and targets.outputs == 7
    assert targets.slices == [slice(0, 1), slice(1, 4), slice(4, 7)]
    assert len(targets) == 3
    assert [(o.task, o.outputs, o.loss, o.levels) for o in targets.columns] == [
        ("regression", 1, "mse", ()), ("classification", 3, "mse", ()),
        ("regression", 3, "quantile", (.1, .5, .9))]
    age, site, ph = targets
    assert (age.transform, ph.transform) == ("log1p_minmax", "none")
    assert (age.low, ph.low, ph.high) == (None, 0., 14.)
    assert site == TargetCodec.fit(META.site)
    z = targets.encode(META)
    assert z.shape == (6, 3) and z.dtype == np.float32
    assert np.array_equal(np.isnan(z), META[["age", "site", "ph"]].isna())
    assert np.array_equal(z, np.hstack([o.encode(META[o.name]) for o in targets]), equal_nan=True)
    x = np.random.default_rng(0).normal(size=(4, 7))
    out = targets.decode(x)
    assert list(out) == ["age", "site", "ph"]
    assert all(np.array_equal(out[o.name], o.decode(x[:, k])) for o, k in zip(targets, targets.slices))
    assert Targets.from_dict(json.loads(json.dumps(targets.to_dict()))) == targets and targets.needs == ()


def test_numbers_are_of_training_rows_and_classes_of_all():
    rows = np.array([0, 1, 3])
    for train in (rows, np.isin(np.arange(6), rows)):
        age, site, _ = Targets.fit(META, several(), train)
        assert age.mean == pytest.approx(7/3) and site.classes == ("gut", "oral", "skin")
    assert Targets.fit(META, several()).codecs[0].mean == 14. # All rows


def test_only_training_rows_teach_the_categories():
    config = several("age", transform="zscore_by", by="run")
    codec, = Targets.fit(META, config, np.arange(2))
    assert set(codec.places) == {"a"} and codec.by == "run" and Targets((codec,)).needs == ("run",)
    changed = META.assign(age=META.age.where(META.index < "C", 1e3), run=["a", "a", *"xyzz"])
    assert Targets.fit(changed, config, np.arange(2)) == Targets((codec,))


@pytest.mark.parametrize("config, says", [
    (several("aeg"), "Predicting needs the column 'aeg'.*Did you mean 'age'"),
    (several(loss="mse, site=mae"), "target.loss names 'site', whose values are classes"),
    (several(bounds="site=0:"), "target.bounds names 'site'"),
    (several(transform="zscore, site=none"), "target.transform names 'site'"),
    (several(transform="zscore_by", by="ph"), "target.by is 'ph', which is to be predicted"),
    (several(transform="zscore_by", by="rnu"), "needs the column 'rnu'"),
    (several(bounds="ph=0:6"), "'ph' lie above the bound 6"),
    (several(task="auto, site=regression"), "'site' must be a number"),
])
def test_targets_that_cannot_be(config, says):
    with pytest.raises(AamError, match=says): Targets.fit(META, config)


def test_targets_that_are_not_there_or_not_whole():
    targets = Targets.fit(META, several())
    saved = targets.to_dict()
    with pytest.raises(AamError, match="Learning needs the columns 'age', 'site'"):
        targets.encode(META[["ph"]])
    with pytest.raises(AamError, match=r"outputs of the shape \(2, 3\); wanted .samples, 5"):
        targets.decode(np.zeros((2, 3)))
    for bad in ({}, [], {"codecs": []}, {"codecs": {}}, {"codecs": saved["codecs"][:1]*2},
                saved | {"more": 1}, {"codecs": [{}]}):
        with pytest.raises(AamError): Targets.from_dict(bad)
