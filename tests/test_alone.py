"One thing alone predicts a target out of fold, and chance, whole groups included, is told from it."
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from aam_nb.data.simulate import simulate
from aam_nb.evaluation.alone import cells, exchanges, gain, guesses, shortcuts
from aam_nb.evaluation.depth import depth_alone, depth_bins


def by_hand(y, here, train):
    "The mean of the samples that count, drawn to the mean of all others by one more sample."
    return (y[here].sum() + y[train].mean())/(here.sum() + 1)


@pytest.mark.parametrize("seed", range(2))
def test_guesses_are_the_shrunk_means_of_other_folds(seed):
    rng = np.random.default_rng(seed)
    value, fold = rng.integers(4, size=90), rng.integers(5, size=90)
    y, c = rng.normal(size=90), rng.integers(3, size=90)
    guess, shares = guesses(*cells(value, fold, y, 1))[0][..., 0], guesses(*cells(value, fold, c, 3))[0]
    for a, f in np.ndindex(4, 5):
        train, here = fold != f, (value == a) & (fold != f)
        assert np.isclose(guess[a, f], by_hand(y, here, train))
        assert np.allclose(shares[a, f], [by_hand(c == k, here, train) for k in range(3)])


def test_gain_is_the_share_of_the_squared_error():
    rng = np.random.default_rng(0)
    value, fold = rng.integers(4, size=90), rng.integers(5, size=90)
    y, c = rng.normal(size=90), rng.integers(3, size=90)
    hot = np.eye(3)[c]
    for k, target, truth in ((1, y, y[:, None]), (3, c, hot)):
        guess = guesses(*cells(value, fold, target, k))[0][value, fold]
        plain = np.array([truth[fold != f].mean(0) for f in range(5)])[fold]
        assert np.isclose(gain(value, fold, target, k),
                          1 - ((truth - guess)**2).sum()/((truth - plain)**2).sum())


def test_exchanges_keep_groups_whole():
    group, rng = np.repeat([0, 1, 2, 3], [1, 4, 4, 7]), np.random.default_rng(0)
    size = np.bincount(group)
    for o in exchanges(group, 50, rng):
        givers = [set(group[o[group == g]]) for g in range(4)]
        assert all(len(v) == 1 for v in givers) and len(set.union(*givers)) == 4 # each group gives to one
        for g in range(4): assert np.bincount(o[group == g]).max() <= -(-size[g]//size[min(givers[g])])
    alone = next(exchanges(np.arange(30), 1, rng))
    assert sorted(alone) == list(range(30))


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_chance_does_not_fire(task):
    rng, n, fired = np.random.default_rng(5), 60, 0
    for seed in range(60):
        y = rng.normal(size=n) if task == "regression" else rng.integers(2, size=n).astype(float)
        tried = {"a": rng.integers(3, size=n), "b": rng.integers(8, size=n)}
        fired += sum(o.fires for o in shortcuts(tried, y, task, np.arange(n)//2, seed=seed, draws=999))
    assert fired <= 1


def test_a_trait_of_the_group_needs_many_groups():
    "Plain exchanges would call this certain: the samples of 8 subjects follow the run. Groups have 70 ways."
    trait, group = np.repeat(np.arange(8) % 2, 4).astype(float), np.repeat(np.arange(8), 4)
    grouped, = shortcuts({"run": trait}, trait, "classification", group)
    plain, = shortcuts({"run": trait}, trait, "classification")
    assert grouped.value == 1 and not grouped.fires and plain.fires and grouped.chance > .01


def test_too_little_is_not_tested():
    y = np.arange(30.) % 2
    assert not shortcuts({"run": y[:18]}, y[:18], "classification")
    assert not shortcuts({"run": y}, y*0, "classification")
    assert not shortcuts({"run": y}, y, "classification", np.arange(30) % 4)
    assert shortcuts({"same": y*0}, y, "classification") == []
    lost = np.where(np.arange(30) < 10, np.nan, y)
    assert shortcuts({"run": y}, lost, "classification")[0].samples == 20


def test_a_candidate_is_judged_the_same_alone_and_beside_others():
    y, group = np.random.default_rng(0).normal(size=80), np.arange(80)//2
    tried = {"near": (y > 0).astype(int), "dealt": np.arange(80) % 3, "far": (y > 1).astype(int)}
    found = shortcuts(tried, y, "regression", group, draws=99)
    for o in found:
        one, = shortcuts({o.name: tried[o.name]}, y, "regression", group, draws=99)
        assert repr(one) == repr(o)


@pytest.mark.parametrize("target", ["age", "site"])
def test_depth_is_one_test_asked_in_two_ways(target):
    study = simulate(samples=80, asvs=80, groups=24, seed=5)
    values, group = study.metadata[target], study.metadata["subject"]
    task = "regression" if target == "age" else "classification"
    y = values.to_numpy(float) if target == "age" else np.unique(values.to_numpy(str),
                                                                 return_inverse=True)[1].astype(float)
    wanted, = shortcuts({"depth": depth_bins(study)}, y, task, group)
    assert repr(depth_alone(study, values, fitted=True, groups=group)) == repr(wanted)
    plain = depth_alone(study, values)
    assert plain.measure == wanted.measure and plain.samples == wanted.samples == 80
    flat = sparse.csr_matrix(np.full(study.table.counts.shape, 3, dtype=np.int32))
    flat = replace(study, table=replace(study.table, counts=flat))
    assert depth_alone(flat, values) is None and depth_alone(flat, values, fitted=True) is None
