"The alarm about depth fires where reads tell the target, and stays silent where they do not."
from dataclasses import replace

import numpy as np
import pytest
from evaluated import column, with_depth
from scipy import sparse
from sklearn.metrics import roc_auc_score

from aam_nb.data.simulate import simulate
from aam_nb.evaluation.depth import depth_alarm


@pytest.fixture(scope="module")
def study(): return simulate(samples=80, asvs=80, groups=24, seed=5)


def test_alarm_on_planted_depth_and_not_without(study):
    site, age = column(study, "site"), column(study, "age").to_numpy()
    assert not depth_alarm(study, site).fires and not depth_alarm(study, age).fires
    for factor in (.2, 5.): # shallow and deep alike
        found = depth_alarm(with_depth(study, np.where(site == "gut", factor, 1.)), site)
        assert found.fires and found.measure == "AUC" and found.value > .6 and "common depth" in found.text
    for sign in (-1, 1):
        found = depth_alarm(with_depth(study, np.exp(sign*(age - age.mean())/age.std())), age)
        assert found.fires and np.sign(found.value) == sign and abs(found.value) > .3
    two = np.where(site == "gut", "a", "b")
    auc = roc_auc_score(two == "b", study.table.depths)
    assert depth_alarm(study, two).value == pytest.approx(max(auc, 1 - auc))


def test_chance_is_the_rank_test_of_scipy(study):
    from scipy.stats import kruskal, spearmanr
    site, age, reads = column(study, "site"), column(study, "age").to_numpy(), study.table.depths
    assert depth_alarm(study, age).chance == spearmanr(reads, age).pvalue
    assert depth_alarm(study, site).chance == kruskal(*(reads[site == o] for o in sorted(set(site)))).pvalue


def test_alarm_proposes_the_tenth_percentile(study):
    age, depths = column(study, "age"), np.sort(study.table.depths)
    found = depth_alarm(study, age)
    assert found.lost == (depths < found.depth).sum() and found.lost <= 8 and found.depth == depths[7]
    assert depth_alarm(study, age, depth=123).depth == 123
    flat = replace(study, table=replace(study.table, counts=sparse.csr_matrix(np.full((80, 80), 3))))
    assert not depth_alarm(flat, age).fires and "same depth" in depth_alarm(flat, age).text


def test_alarm_needs_more_than_chance():
    "Ten samples rank above .6 by luck one time in three; that is no alarm."
    rng, fires, kinds = np.random.default_rng(0), 0, np.array(list("aabbabbaab"))
    tiny = simulate(samples=10, asvs=20, groups=10, seed=0)
    for _ in range(60): fires += depth_alarm(with_depth(tiny, rng.uniform(1, 9, 10)), kinds).fires
    assert fires <= 9
