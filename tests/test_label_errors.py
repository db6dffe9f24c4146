"Labels that are wrong, and samples that were exchanged, are found in simulated studies."
from dataclasses import replace

import numpy as np
import pytest

from aam_nb.evaluation import residuals
from aam_nb.evaluation.error_analysis import errors
from aam_nb.evaluation.label_errors import (
    class_margins, confident_classes, confident_joint, standardised, suspects)
from aam_nb.evaluation.swaps import handled_together, swaps

from swapped import clear, out_of_fold, swapped_labels

SEEDS = range(4) # None of them was used to choose how suspicion is measured


def hit(found, wrong):
    "The share of planted errors among as many samples from the top of the list."
    return np.isin(found.suspects.order[:wrong.size], wrong).mean()


def analysed(seed, target, plates=False):
    "A study of 200 samples with ten wrong labels, its errors, and which labels were exchanged."
    study, rng = clear(seed), np.random.default_rng(seed)
    plate = np.arange(200)//40 if plates else None
    labels, pairs = swapped_labels(study.metadata[target].to_numpy(), rng, plate=plate)
    metadata = study.metadata.assign(target=labels)
    if plates: metadata["plate"] = plate
    study = replace(study, metadata=metadata)
    groups = metadata["subject"].to_numpy(object)
    return errors(out_of_fold(study, labels, groups, seed), study), pairs


@pytest.mark.parametrize("target", ["age", "site"])
def test_planted_label_swaps_lead_the_list(target):
    found, pairs = analysed(0, target)
    assert hit(found, pairs) >= .8
    assert "likely wrong" in found.findings()[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["age", "site"])
def test_planted_label_swaps_lead_the_list_of_many_studies(target):
    assert np.mean([hit(*analysed(seed, target)) for seed in range(20)]) >= .8


@pytest.mark.slow
def test_planted_pairs_lead_the_list_of_swaps():
    shares = []
    for seed in range(20):
        found, pairs = analysed(seed, "age", plates=True)
        top = {(o.first, o.second) for o in found.swaps[:len(pairs)]}
        shares.append(np.mean([tuple(o) in top for o in pairs.tolist()]))
    assert np.mean(shares) >= .8


def made(seed, n=300, k=4):
    "Labels of which one in ten is wrong, and probabilities that are good but not perfect."
    rng = np.random.default_rng(seed)
    true = rng.choice(k, n, p=np.arange(1, k + 1)/np.arange(1, k + 1).sum())
    p = rng.dirichlet(np.full(k, .7), n) + 1.5*np.eye(k)[true]
    label = np.where(rng.random(n) < .1, rng.integers(0, k, n), true)
    return label, p/p.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_confident_learning_is_that_of_its_authors(seed):
    count = pytest.importorskip("cleanlab.count")
    from cleanlab.filter import find_label_issues
    label, p = made(seed)
    assert (confident_joint(label, p) == count.compute_confident_joint(label, p, calibrate=False)).all()
    theirs = find_label_issues(label, p, filter_by="confident_learning", n_jobs=1)
    confident = confident_classes(label, p)
    assert ((confident >= 0) & (confident != label) == theirs).mean() > .99


def test_a_class_without_samples_is_never_suspected():
    p = np.array([[.5, .3, .2], [.2, .5, .3], [.6, .2, .2], [.1, .7, .2]])
    label = np.array([0, 1, 0, 1])
    assert (class_margins(label, p)[1] < 2).all() and (confident_classes(label, p) < 2).all()


def test_errors_that_neighbours_share_are_not_suspicious():
    found, pairs = analysed(0, "age")
    rows, shared = found.rows, found.new.among[0] <= np.median(found.new.among[0])
    moved = replace(rows, error=rows.error + 12*shared, predicted=rows.predicted + 12*shared)
    alone, beside = (np.abs(standardised(moved, far)[0]) for far in (None, found.new.among))
    calm = np.setdiff1d(np.flatnonzero(shared), pairs)
    assert np.median(beside[calm]) < .6*np.median(alone[calm])


def test_what_samples_share_raises_a_pair_and_nothing_else_does():
    found, pairs = analysed(0, "age", plates=True)
    assert list(handled_together(found.study.metadata))[0] == "plate"
    with_plate = swaps(found.rows, found.suspects, found.study.metadata)
    without = swaps(found.rows, found.suspects)
    assert all(o.weight > o.gain for o in with_plate if o.shared) and all(not o.shared for o in without)
    assert {o.weight == o.gain for o in without} == {True}


def test_clean_labels_of_a_good_model_are_left_alone():
    study = clear(1)
    groups = study.metadata["subject"].to_numpy(object)
    e = out_of_fold(study, study.metadata["site"].to_numpy(), groups, 1)
    assert suspects(residuals.tested(e)).likely.mean() < .1
