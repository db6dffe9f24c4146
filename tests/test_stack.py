"A stack learns its weights where no member has seen the samples, and folds that leak are refused."
from dataclasses import replace

import numpy as np
import pytest

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.stack import stack as page
from aam_nb.stack.features import Features, Fold
from aam_nb.stack.keep import beside, pack, pack_reads, unpack, unpack_reads
from aam_nb.stack.members import MEMBERS
from aam_nb.stack.penalised import penalty_folds
from aam_nb.stack.stack import check_inner, fit_stack, out_of_fold, Stack

LINEAR = ("clr", "branch", "log_unifrac")
TRAIN, TEST = np.arange(90), np.arange(90, 120)


@pytest.fixture(scope="module")
def fold():
    study = simulate(samples=120, asvs=100, groups=30, seed=3)
    return Fold(features=Features(study), y=study.metadata["age"].to_numpy(float), train=TRAIN, test=TEST,
                groups=study.metadata["subject"].to_numpy(object), threads=1)


def inner(fold, groups=True):
    return penalty_folds(fold.y, fold.train, fold.task, fold.groups if groups else None)


def test_folds_that_leak_are_refused(fold):
    good, train, g = inner(fold), fold.train, fold.groups
    check_inner(good, train, g)
    (a, b), rest = good[0], good[1:]
    wrong = {"groups on both sides": inner(fold, groups=False),
             "rows on both sides": [(np.r_[a, b[:1]], b), *rest],
             "rows that do not train": [(np.r_[a, 119], b), *rest], "wanted each row once": rest}
    for why, folds in wrong.items():
        with pytest.raises(AamError, match=why): out_of_fold(fold, LINEAR, folds)
    with pytest.raises(AamError, match="wanted each row once"): check_inner([*good, good[0]], train, g)
    far = [(a, np.r_[b, 119]), *rest]
    with pytest.raises(AamError, match="rows that do not train"): check_inner(far, train, g)


def test_a_stack_on_ungrouped_folds_is_caught(fold, monkeypatch):
    "Whoever makes the inner folds without the groups gets no stack."
    ungrouped = lambda y, train, task, groups, *how: penalty_folds(y, train, task, None, *how)
    monkeypatch.setattr(page, "penalty_folds", ungrouped)
    with pytest.raises(AamError, match="groups on both sides"): fit_stack(fold, LINEAR)


@pytest.mark.parametrize("classes", [0, 3])
def test_out_of_fold_predictions_are_those_of_members_that_have_not_seen_the_rows(fold, classes):
    y = np.digitize(fold.y, [6, 12]) if classes else fold.y
    fold = replace(fold, y=y, classes=classes)
    folds = inner(fold)
    found = out_of_fold(fold, ("branch",), folds)["branch"]
    for a, b in folds:
        lies = y.copy()
        lies[b] = lies[b][::-1]
        m = MEMBERS["branch"].fit(replace(fold, y=lies, train=a))
        np.testing.assert_allclose(found[b], m.predict(fold.features, b, a), atol=1e-9)


def test_test_rows_teach_a_stack_nothing(fold):
    lies = fold.y.copy()
    lies[90:] = 1e6
    ours, theirs = (fit_stack(replace(fold, y=y), LINEAR) for y in (fold.y, lies))
    same = [o.predict(fold.features, TEST, TRAIN) for o in (ours, theirs)]
    np.testing.assert_array_equal(*same)


def test_a_kept_stack_predicts_as_in_the_fold(fold):
    made = fit_stack(fold, LINEAR)
    arrays, settings = pack(made.members)
    b = beside(unpack_reads(pack_reads(fold.features.study, TRAIN)), fold.features.study.table.samples(TEST))
    back = Stack(members=unpack(arrays, settings), pool=made.pool)
    wanted = made.predict(fold.features, TEST, TRAIN)
    np.testing.assert_allclose(back.predict(b.features, b.rows, b.train), wanted, atol=1e-5)
    assert set(made.members) == set(made.pool.names) and made.pool.why


def test_canary_permuted_labels_show_no_skill(fold):
    gains = []
    for deal in range(4):
        rng = np.random.default_rng(deal)
        y = rng.permutation(fold.y)
        test = np.flatnonzero(np.isin(fold.groups, rng.permutation(np.unique(fold.groups))[:10]))
        asked = replace(fold, y=y, train=np.setdiff1d(np.arange(120), test), test=test)
        p = fit_stack(asked, LINEAR).predict(fold.features, test, asked.train)
        gains.append(1 - ((p - y[test])**2).mean()/((y[asked.train].mean() - y[test])**2).mean())
    assert np.mean(gains) < .06, gains


def test_a_single_group_gets_the_plain_mean(fold):
    made = fit_stack(replace(fold, groups=np.repeat("one", 120).astype(object)), LINEAR)
    assert made.pool.weights == (1/3,)*3 and "a single group" in made.pool.why
