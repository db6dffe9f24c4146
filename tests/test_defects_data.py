"Defects of the program that this one follows (`defect_cases`): what is read, split and encoded."
import os

from defect_cases import NAN
import numpy as np
import pandas as pd
import pytest

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.covariates import CovariateCodec
from aam_nb.data.distance_files import read_distances
from aam_nb.data.targets import Targets
from aam_nb.data.weights import target_weights
from aam_nb.inference.predict import decoded


def test_A11_a_matrix_that_lacks_a_sample_names_it(tmp_path):
    ids = ["a", "b", "c"]
    frame = pd.DataFrame(1. - np.eye(3), index=ids, columns=ids)
    frame.to_csv(tmp_path/"d.tsv", sep="\t")
    found = read_distances(tmp_path/"d.tsv")
    with pytest.raises(AamError, match="no distances for 1 of 4 samples .*'lost'"):
        found.align(["a", "b", "c", "lost"])
    # one it has too many is no harm
    np.testing.assert_array_equal(found.align(["c", "a"]).rows([0, 1]), 1. - np.eye(2))


def test_B11_a_category_with_one_sample_has_a_spread():
    y = pd.Series([1., 2, 3, 4, 5, 9, 30], name="y")
    by = pd.Series(["a"]*5 + ["alone", "pair"], name="site")
    codec = TargetCodec.fit(y, "regression", transform="zscore_by", by=by)
    more = codec.encode(pd.Series([8.9, 9.1, 40.]), pd.Series(["alone", "alone", "pair"]))
    assert np.isfinite(more).all() and np.abs(more).max() < 50


def test_B12_a_category_is_the_same_from_whole_numbers_and_from_numbers_with_holes():
    whole, holes = pd.Series([1, 2, 1, 2, 1, 2], name="g"), pd.Series([1., 2., 1., 2., NAN, 2.], name="g")
    y = pd.Series([1., 20, 3, 22, 2, 24], name="y")
    codec = TargetCodec.fit(y, "regression", transform="zscore_by", by=whole)
    words = holes.map(lambda v: NAN if np.isnan(v) else f"{v:.0f}")
    a, b, c = (codec.encode(y, o) for o in (whole, holes, words))
    np.testing.assert_array_equal(a[[0, 1, 2, 3, 5]], b[[0, 1, 2, 3, 5]])
    np.testing.assert_array_equal(b, c)
    of_all = (y - y.mean())/y.std(ddof=0)
    # its own numbers; those of all where it is missing
    assert a[1] != pytest.approx(of_all[1]) and b[4] == pytest.approx(of_all[4])
    told = CovariateCodec.fit(pd.DataFrame({"g": ["1", "2", "1"]}), "g")
    for o in ([1, 2], [1., 2.], ["1", "2"]):
        assert told.encode(pd.DataFrame({"g": o}))[0].tolist() == [[2], [3]]
    assert told.encode(pd.DataFrame({"g": [1., NAN, 3.]}))[0].tolist() == [[2], [0], [1]]


def test_B13_a_category_that_scales_a_target_need_not_be_told_to_the_model():
    config = config_from({"data": dict(target="y"), "target": dict(transform="zscore_by", by="site")})
    metadata = pd.DataFrame({"y": [1., 2, 3, 101, 102, 103], "site": list("aaabbb")}, index=list("uvwxyz"))
    targets = Targets.fit(metadata, config)
    assert not config.data.covariates and targets.needs == ("site",)
    np.testing.assert_allclose(targets.decode(targets.encode(metadata), metadata)["y"], metadata.y, rtol=1e-5)
    found = decoded(targets, targets.encode(metadata), metadata.index.to_numpy(), metadata)
    np.testing.assert_allclose(found.prediction, metadata.y, rtol=1e-5)
    with pytest.raises(AamError, match="site"): targets.decode(targets.encode(metadata))


@pytest.mark.parametrize("transform", ["none", "minmax", "zscore", "log1p_minmax", "log1p_zscore"])
def test_B14_bounds_hold_in_the_unit_of_the_target_and_below_the_mean(transform):
    y = pd.Series([0., 1, 2, 5, 14], name="y")
    codec = TargetCodec.fit(y, "regression", transform=transform, bounds=(0., 14.))
    # everything observed can be said, below the mean too
    np.testing.assert_allclose(codec.decode(codec.encode(y)), y, atol=1e-5)
    assert codec.decode(np.array([[-1e3], [1e3]])).tolist() == [0., 14.]


def test_weights_by_category_are_given_by_plain_names():
    "The older AAM wanted keys of an undocumented form, and silently gave every other key the weight 1."
    metadata = pd.DataFrame({"y": [1., 2, 3, 4], "site": list("aabb")})
    targets = TargetCodec.fit(metadata.y)
    targets = Targets((targets,))
    config = lambda text: config_from({"data": dict(target="y"), "target": dict(balance=text)})
    np.testing.assert_array_equal(target_weights(targets, metadata, config("site: a=2, b=1"))[:, 0],
                                  [2, 2, 1, 1])
    with pytest.raises(AamError, match="'aa'"): target_weights(targets, metadata, config("site: aa=2"))


def test_no_array_is_read_by_running_what_it_says(tmp_path):
    class Bad:
        def __reduce__(self): return os.mkdir, (str(tmp_path/"ran"),)
    np.save(tmp_path/"d.npy", np.array([Bad()], dtype=object), allow_pickle=True)
    (tmp_path/"d.ids.txt").write_text("a\n")
    with pytest.raises(AamError): read_distances(tmp_path/"d.npy").rows([0])
    assert not (tmp_path/"ran").exists()
