"A bad subgroup is named first; in studies without one, hardly ever one is named."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from aam_nb.evaluation import residuals
from aam_nb.evaluation.error_analysis import errors
from aam_nb.evaluation.subgroups import compared, dividing_columns, holm, subgroups

from swapped import clear, columns, out_of_fold


def rows_of(error, groups=None):
    "Errors as a table of tested samples."
    n = len(error)
    return residuals.Tested(ids=np.array([f"S{i}" for i in range(n)], dtype=object),
                            truth=np.zeros(n), predicted=error, error=error, groups=groups, classes=())


def study_of(seed, bad=False):
    "A study with columns that mean nothing. A bad clinic has written down ages at random."
    study = clear(seed)
    groups, rng = study.metadata["subject"].to_numpy(object), np.random.default_rng(seed)
    metadata = columns(groups, rng).set_index(study.ids)
    metadata["target"] = study.metadata["age"].to_numpy()
    if bad:
        at = np.flatnonzero(metadata["clinic"] == "3")
        metadata.iloc[at, metadata.columns.get_loc("target")] = rng.uniform(0, 24, len(at)).round(1)
    return replace(study, metadata=metadata), groups


def named(seed, bad=False):
    "What is named in a study, and the analysis."
    study, groups = study_of(seed, bad)
    found = errors(out_of_fold(study, study.metadata["target"].to_numpy(), groups, seed, trees=30), study)
    return [(o.column, o.value) for o in found.subgroups if o.worse], found


def test_a_planted_bad_subgroup_is_named_first():
    worse, found = named(0, bad=True)
    assert worse[:1] == [("clinic", "3")]
    assert found.findings()[0].startswith("Samples with clinic = 3 are predicted worse")


def test_nothing_is_named_in_a_clean_study():
    worse, found = named(0)
    assert not worse and found.findings()[0].startswith("No subgroup is shown")


@pytest.mark.slow
def test_a_planted_bad_subgroup_is_named_first_in_nearly_all_studies():
    assert np.mean([named(seed, bad=True)[0][:1] == [("clinic", "3")] for seed in range(40)]) >= .8


@pytest.mark.slow
def test_clean_studies_name_no_more_than_promised():
    many = 100
    assert sum(bool(named(seed)[0]) for seed in range(many)) <= .05*many


def test_errors_of_nobody_in_particular_name_no_more_than_promised():
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = np.repeat([f"P{i}" for i in range(30)], 3).astype(object)
        error = np.repeat(rng.normal(0, 1, 30), 3) + rng.normal(0, 1, 90)
        hits += any(o.worse for o in subgroups(rows_of(error, groups), columns(groups, rng)))
    assert hits <= 6 # at most .05 of 60, with room for chance


def test_without_groups_it_is_welch():
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(0, np.where(np.arange(80) < 30, 2, 1)))
    inside = np.arange(80) < 30
    theirs = ttest_ind(size[inside], size[~inside], equal_var=False)
    low, high, p = compared(size, inside, np.arange(80))
    gap = theirs.confidence_interval()
    assert np.allclose((low, high), (gap.low, gap.high), atol=.02)
    assert p == pytest.approx(theirs.pvalue, rel=.15)


def test_holm_is_that_of_the_paper():
    p = np.array([.01, .02, .03, .04, .05])
    assert np.allclose(holm(p), [.05, .08, .09, .09, .09]) and (holm(np.array([.5, .9])) <= 1).all()


def test_whole_groups_count_not_samples():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 20).astype(str).astype(object)
    inside = np.repeat(np.arange(12) < 6, 20)
    error = np.repeat(np.abs(rng.normal(2, 1, 12)), 20) + inside
    assert compared(error, inside, groups)[2] > 20*compared(error, inside, np.arange(240))[2]


def test_which_columns_are_looked_at():
    groups = np.repeat([f"P{i}" for i in range(20)], 2).astype(object)
    many = pd.DataFrame(dict(twin=["a", "b"]*20, code=["x", "y"]*20, subject=groups, constant=1,
                             two=["u"]*4 + ["v"]*36, age=np.linspace(0, 1, 40)))
    assert {k: v[1] for k, v in dividing_columns(many).items()} == {"twin": ("code",), "two": ()}
    found = subgroups(rows_of(np.random.default_rng(0).normal(size=40), groups), many)
    assert [o.column for o in found] == ["twin"] # 'two' has a value in two groups only


def test_repeats_count_a_sample_once():
    study, groups = study_of(2)
    e = out_of_fold(study, study.metadata["target"].to_numpy(), groups, 2, trees=10)
    p = e.predictions["trees"]
    twice = replace(e, ids=np.tile(e.ids, 2), truth=np.tile(e.truth, 2), groups=np.tile(e.groups, 2),
                    fold=np.concatenate([e.fold, e.fold + 5]),
                    predictions={"trees": np.concatenate([p, p + 1])})
    assert len(residuals.tested(twice).ids) == len(e.ids)
    assert np.allclose(residuals.tested(twice).error, residuals.tested(e).error + .5)
