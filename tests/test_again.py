"Other folds: random ones, places left out, labels dealt at random and fewer groups."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluated import column, make_small

from aam_nb.data.simulate import simulate
from aam_nb.evaluation.again import (
    Again, ask_again, gains, left_out, left_out_text, place_columns, place_folds, random_folds, random_text)
from aam_nb.evaluation.curve import SHARES, curve_text, fewer, learning_curve
from aam_nb.evaluation.permutations import (
    Permutations, exchange_of, exchanged_values, permutation_test, permutation_text)
from aam_nb.evaluation.validate import PlainFolds, Plan, evaluate


@pytest.fixture(scope="module")
def study(): return simulate(samples=120, asvs=60, groups=40, seed=5)


@pytest.fixture(scope="module")
def plan(study): return Plan(groups=column(study, "subject"), folds=3, seed=1)


@pytest.fixture(autouse=True)
def small_forest(monkeypatch): make_small(monkeypatch)


@pytest.fixture(scope="module")
def found(study, plan):
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        return evaluate(study, column(study, "age"), plan)


def test_kept_answers_are_not_fitted_again(study, plan, found, monkeypatch):
    keep, y = {}, column(study, "age")
    first = random_folds(found, study, y, plan, ("trivial", "clr", "depth"), keep)
    monkeypatch.setattr(PlainFolds, "ask", lambda *a: pytest.fail("fitted again"))
    again = random_folds(found, study, y, plan, ("trivial", "clr", "depth"), keep)
    assert again.scores == first.scores and len(keep) == 9


def test_random_folds_flatter_what_knows_subjects(study, plan):
    "A target that is a number of each subject cannot be learned by group, and is recognised by random folds."
    subject = column(study, "subject")
    number = subject.map(dict(zip(sorted(set(subject)), np.random.default_rng(0).normal(size=40))))
    e = evaluate(study, number, plan)
    made = random_folds(e, study, number, plan, ("clr", "branch", "forest", "trivial"), {})
    gain, low, high = made.optimism["forest"]
    assert gain > 0 and low > 0 and np.isclose(gain, made.grouped["forest"] - made.scores["forest"])
    assert abs(made.optimism["trivial"][0]) < .02 < gain
    assert "more than chance explains" in random_text(e, made)
    from scipy.stats import kendalltau
    names = made.methods
    assert made.tau == kendalltau([made.scores[o] for o in names], [made.grouped[o] for o in names]).statistic


def test_gains_are_paired_by_sample(found):
    "The order of the rows does not matter, and samples that one of both lacks are left out."
    order = np.random.default_rng(0).permutation(120)[:100]
    part = dict(ids=found.ids[order], truth=found.truth[order], fold=found.fold[order], groups=None)
    better = found.predictions["forest"][order] + .5*(found.truth - found.predictions["forest"])[order]
    made = Again(task="regression", predictions=dict(forest=better), **part)
    error = np.abs(found.truth - found.predictions["forest"])[order].mean()
    assert np.isclose(gains(found, made)["forest"][0], .5*error)


def test_places_are_held_out_with_their_groups(study):
    subject = column(study, "subject").to_numpy()
    place = pd.Series(np.where(subject < "P20", "A", "B"), index=study.ids)
    place.iloc[:2] = [np.nan, "B" if place.iloc[1] == "A" else "A"] # one is missing, one crosses over
    folds, places = place_folds(place, study.ids, subject)
    assert places == ("A", "B")
    for (train, test), o in zip(folds, places):
        assert set(test) == set(study.ids[(place == o).to_numpy()]) and study.ids[0] not in train
        rows = study.positions(train)
        assert not set(subject[rows]) & set(subject[study.positions(test)])
        assert (place.iloc[rows] != o).all()


def test_columns_that_cannot_be_left_out_are_passed_over(study):
    subject = column(study, "subject")
    n = subject.str[1:].astype(int)
    told = replace(study, metadata=study.metadata.assign(
        hospital="h" + n.mod(4).astype(str), sequencing_run="r" + n.mod(2).astype(str), country="here",
        plate=[str(i) for i in range(120)], body_site="gut", runner=n.mod(3).astype(str)))
    assert place_columns(told, subject.to_numpy()) == ["sequencing_run", "hospital"]
    assert place_columns(told, subject.to_numpy(), but=("hospital",)) == ["sequencing_run"]
    assert place_columns(study, subject.to_numpy()) == [] # each child has all body sites
    assert place_columns(replace(study, metadata=None)) == []


def test_a_gap_between_places_is_seen(study, plan):
    "Where each place adds its own number to the target, a new place is predicted badly."
    subject = column(study, "subject")
    place = subject.str[1:].astype(int).mod(6)
    counts = study.table.counts.toarray()
    for i, p in enumerate(place): counts[i, 50 + p] += 2000 # what gives the place away
    told = replace(study, table=replace(study.table, counts=type(study.table.counts)(counts)),
                   metadata=study.metadata.assign(hospital=place.astype(str)))
    y = (column(study, "age") + 30.*place).rename("age")
    e = evaluate(told, y, plan)
    made = left_out(e, told, y, plan, "hospital", ("clr", "forest"), {})
    assert made.samples == 120 and made.gains["forest"][2] < 0 and made.places == tuple("012345")
    assert np.isclose(made.gains["forest"][0], made.grouped["forest"] - made.scores["forest"][0])
    assert "does not carry over" in left_out_text(e, made)


def test_a_place_with_one_class_has_no_auc(study, plan):
    state = column(study, "subject").str[1:].astype(int).mod(2).map({0: "sick", 1: "well"}).rename("state")
    told = replace(study, metadata=study.metadata.assign(hospital=state))
    e = evaluate(told, state, plan)
    assert "no AUC" in left_out_text(e, left_out(e, told, state, plan, "hospital", ("forest",), {}))


def test_exchange_keeps_what_belongs_together():
    groups = np.repeat(["a", "b", "c", "d"], [1, 3, 2, 4])
    whole = np.repeat([1, 1, 2, 3], [1, 3, 2, 4])
    rng = np.random.default_rng(0)
    assert exchange_of(whole, groups) == "whole" and exchange_of(np.arange(10), groups) == "within"
    for _ in range(20):
        dealt = exchanged_values(whole, groups, rng)
        firsts = [set(dealt[groups == o]) for o in "abcd"]
        assert all(len(o) == 1 for o in firsts) and sorted(sum(map(list, firsts), [])) == [1, 1, 2, 3]
        inside = exchanged_values(np.arange(10), groups, rng)
        assert all(set(inside[groups == o]) == set(np.flatnonzero(groups == o)) for o in "abcd")
    assert sorted(exchanged_values(np.arange(10), None, rng)) == list(range(10))


@pytest.mark.parametrize("value, null, lower, p", [
    (3., [3., 4, 5], True, 2/4), (2., [1., 1, 1], True, 1.), (3., [3., np.nan, 5], True, 2/3),
    (.4, [.5, .6], False, 1.), (.7, [.5, .6], False, 1/3)])
def test_p_counts_the_true_one(value, null, lower, p):
    "Phipson and Smyth 2010: (1 + b)/(1 + N)."
    made = Permutations(method="clr", how="free", value=value, null=np.array(null), lower=lower)
    assert np.isclose(made.p, p)


def test_a_permutation_test_finds_signal_and_goes_on(study, plan, found):
    y, keep = column(study, "age"), {}
    how = dict(study=study, values=y, plan=replace(plan, groups=None), method="clr", keep=keep)
    made = permutation_test(found.scores["clr"]["mae"][0], n=19, **how)
    assert made.p == 1/20 and made.how == "free" and "Luck does not explain" in permutation_text(made, "it")
    few = permutation_test(found.scores["clr"]["mae"][0], n=3, **how)
    assert (few.null == made.null[:3]).all() and "too few" in permutation_text(few, "it")
    assert len(keep) == 19


def test_p_is_not_small_where_there_is_nothing(study, plan):
    "The true labels are dealt at random too: p is spread over 1/10 to 1, and folds are drawn anew."
    rng, subject = np.random.default_rng(0), column(study, "subject")
    number, found, drawn = dict(zip(sorted(set(subject)), rng.normal(size=40))), [], []
    def redraw(dealt):
        drawn.append(dealt)
        return plan.folds
    for deal in range(2):
        y = pd.Series(exchanged_values(subject.map(number).to_numpy(), subject, rng), index=study.ids)
        true = ask_again(PlainFolds(study, y, plan), ("clr",), {}, "true").value("clr")
        found.append(permutation_test(true, study, y, replace(plan, seed=deal), "clr", 19, {}, redraw).p)
    assert min(found) >= .05 and max(found) >= .3 and len(drawn) == 38


def test_shares_are_nested_and_whole_groups(study, plan):
    scored = PlainFolds(study, column(study, "age"), plan).scored
    before = [set()]*3
    for share in (*SHARES, 1.):
        rows = fewer(scored.folds, scored.groups, share)
        for i, ((train, test), (whole, same)) in enumerate(zip(rows, scored.folds.values())):
            assert before[i] <= set(train) <= set(whole) and list(test) == list(same)
            left = set(whole) - set(train)
            assert not set(scored.groups[list(left)]) & set(scored.groups[train])
            before[i] = set(train)
    assert before[0] == set(scored.folds[1][0])


def test_a_curve_ends_at_the_evaluation(study, plan, found):
    made = learning_curve(found, study, column(study, "age"), plan, ("trivial", "clr"), {})
    assert made.scores["clr"][-1] == found.scores["clr"]["mae"] and len(made.groups) == 5
    assert np.isclose(made.late["clr"][0], made.scores["clr"][2][0] - made.scores["clr"][4][0])
    low, high = made.late["clr"][1:]
    assert low <= made.late["clr"][0] <= high
    assert abs(made.late["trivial"][0]) < .5


@pytest.mark.parametrize("gain, words", [
    ((1., .5, 1.5), "would likely help"), ((1., -.5, 2.), "cannot be shown"),
    ((-1., -2., -.5), "did not help"), ((1., np.nan, np.nan), "cannot be shown")])
def test_what_a_curve_says(found, study, plan, gain, words):
    from aam_nb.evaluation.curve import Curve
    made = Curve(groups=np.arange(5.), scores=dict(clr=[(3., 2., 4.)]*5), late=dict(clr=gain), unit="groups")
    assert words in curve_text(found, made)
