"Folds by group, rows that line up, models that are checked, and no skill where there is none."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluated import column, knows, make_small, with_interval
from scipy import sparse

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.data.split import leave_one_out
from aam_nb.data.split_lists import folds_given
from aam_nb.evaluation.validate import Plan, evaluate
from aam_nb.evaluation.verdict import verdict


@pytest.fixture(scope="module")
def study(): return simulate(samples=80, asvs=80, groups=24, seed=5)


@pytest.fixture(autouse=True)
def small_forest(monkeypatch): make_small(monkeypatch)


def test_rows_columns_and_ids_line_up(study):
    "A model that knows gets no error, however target and groups are sorted."
    y, g, mixed, parts = column(study, "age"), column(study,
                                                      "subject"), np.random.default_rng(0).permutation(80), []
    def model(train, test, fold):
        parts.append((set(train), set(test)))
        return dict(test=y.loc[list(test)].to_numpy()[:, None], oof=y.loc[list(train)].to_numpy())
    e = evaluate(study, y.iloc[mixed], groups=g.iloc[mixed], folds=4, fit_model=model, seed=1)
    assert e.scores["aam"]["mae"][0] == 0 and list(e.ids) == list(study.ids) and np.allclose(e.truth, y)
    assert len(parts) == 4 and set().union(*(b for _, b in parts)) == set(study.ids)
    for a, b in parts: assert not a & b and not set(g.loc[list(a)]) & set(g.loc[list(b)])
    assert all(len(set(e.fold[e.groups == o])) == 1 for o in set(e.groups)) and set(e.fold) == {1, 2, 3, 4}
    assert "0.000" in e.notes[-1] and "aam is better than the random forest" in verdict(e)[0]


def test_a_plan_and_its_fields_say_the_same(study):
    y, plan = column(study, "age"), Plan(groups=column(study, "subject"), folds=3, seed=1)
    whole, parts = evaluate(study, y, plan), evaluate(study, y, Plan(folds=3), groups=plan.groups, seed=1)
    assert repr(whole) == repr(parts)
    with pytest.raises(TypeError, match="fold"): evaluate(study, y, fold=3)


def test_missing_targets_and_empty_samples_are_left_out_and_counted(study):
    y, counts = column(study, "age").astype(float).copy(), study.table.counts.tolil()
    y.iloc[[3, 4]] = np.nan
    counts[9] = 0
    s = replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts, dtype=np.int32)))
    e = evaluate(s, y, groups=column(study, "subject"), folds=3)
    assert len(e.ids) == 77 and not {study.ids[i] for i in (3, 4, 9)} & set(e.ids)
    assert any("no target are not scored: 2 of 80" in o for o in e.notes)
    assert any("no reads are not scored: 1 of 80" in o for o in e.notes)
    assert np.allclose(e.truth, y.loc[list(e.ids)])


def test_classes_in_another_order_or_fewer(study):
    y, g = column(study, "site"), column(study, "subject")
    known = sorted(set(y))
    def model(train, test, fold):
        order, true = known[::-1] if fold == 1 else known, y.loc[list(test)]
        return dict(test=np.stack([(true == o).to_numpy(float) for o in order], axis=1),
                    classes=np.array(order))
    e = evaluate(study, y, groups=g, folds=3, fit_model=model)
    assert e.scores["aam"]["accuracy"][0] == 1 and list(e.labels("aam")) == list(y.loc[list(e.ids)])


def span(n, low=0., high=1., **more):
    "Predictions with an interval."
    return dict(test=np.zeros(n), low=np.full(n, low), high=np.full(n, high)) | more


@pytest.mark.parametrize("out,message", [
    (lambda n: dict(test=np.zeros(n + 1)), "shape"),
    (lambda n: dict(test=np.full(n, np.nan)), "not finite"),
    (lambda n: np.zeros(n), "wanted a dict"),
    (lambda n: dict(test=np.zeros(n), oof=np.zeros(3)), "oof"),
    (lambda n: span(n), "low, high and level together"),
    (lambda n: span(n, level=.9) | dict(high=np.ones(3)), "3 high ends"),
    (lambda n: span(n, 1., level=.9) | dict(high=np.append(np.zeros(2), np.ones(n - 2))),
     "2 of .* intervals in fold 1"),
    (lambda n: span(n, level=.9) | dict(low=np.append(np.nan, np.zeros(n - 1))),
     "1 of .* intervals in fold 1")])
def test_a_model_that_gives_something_else(study, out, message):
    with pytest.raises(AamError, match=message):
        evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3, fit_model=lambda a, b,
                 k: out(len(b)))


def test_intervals_in_some_folds_only_or_of_classes_are_refused(study):
    how = dict(groups=column(study, "subject"), folds=3)
    some, _ = with_interval(study, "age", 1., only=(1, 3))
    with pytest.raises(AamError, match="intervals in 2 of 3 folds"):
        evaluate(study, column(study, "age"), fit_model=some, **how)
    def of_classes(train, test, fold):
        return span(len(test), level=.9) | dict(test=np.full((len(test), 3), 1/3))
    with pytest.raises(AamError, match="for a target that is a number"):
        evaluate(study, column(study, "site"), fit_model=of_classes, **how)
    assert evaluate(study, column(study, "age"), fit_model=knows(study, "age"), **how).interval is None


def without_gut(study):
    "Ages, missing for samples of the gut; and the sites."
    y, site = column(study, "age").astype(float).copy(), column(study, "site")
    y[(site == "gut").to_numpy()] = np.nan
    return y, site


def test_a_model_hears_the_number_of_its_fold_in_the_list(study):
    "Also where a fold before it has no sample that can be scored."
    (y, site), asked = without_gut(study), {}
    def model(train, test, fold):
        asked[fold] = set(site.loc[list(test)])
        return dict(test=np.zeros(len(test)))
    evaluate(study, y, folds=leave_one_out(study.ids, site), fit_model=model)
    assert asked == {2: {"mouth"}, 3: {"skin"}}


def test_folds_lose_what_cannot_be_scored(study):
    "A fold whose samples have no target goes, with its name."
    y, site = without_gut(study)
    e = evaluate(study, y, folds=leave_one_out(study.ids, site), names=sorted(set(site)))
    assert e.names == ("mouth", "skin") and set(e.fold) == {1, 2}
    assert set(site.loc[list(e.ids)]) == {"mouth", "skin"}


def test_left_out_values_and_parts(study):
    y, g = column(study, "age"), column(study, "subject")
    number = g.str[-1].astype(int).mod(3)
    clinic = "clinic " + number.astype(str)
    e = evaluate(study, y, groups=g, folds=leave_one_out(study.ids, clinic, g), names=sorted(set(clinic)))
    assert [set(clinic[e.fold == k]) for k in (1, 2, 3)] == [{o} for o in e.names]
    assert list(e.ids) == list(study.ids)
    part = number.map({0: "test", 1: "valid", 2: "train"})
    e = evaluate(study, y, groups=g, folds=folds_given(study.ids, part, g))
    assert set(e.ids) == set(part.index[part == "test"]) and set(e.fold) == {1}
    assert f"in no test part are used for training and are not scored: {80 - e.samples} of 80" in e.notes[-1]


def test_folds_that_leak_are_refused(study):
    y, g, ids = column(study, "age"), column(study, "subject"), study.ids
    with pytest.raises(AamError, match="Groups on both sides of fold 2: 1"):
        evaluate(study, y, groups=g, folds=[(ids[g == "P00"], ids[g == "P01"]), (ids[:41], ids[41:])])
    with pytest.raises(AamError, match="Samples on both sides of fold 1: 1"):
        evaluate(study, y, folds=[(ids[:41], ids[40:])])
    with pytest.raises(AamError, match="samples to train: 0"): evaluate(study, y, folds=[([], ids)])
    with pytest.raises(AamError, match="no fold"): evaluate(study, y, folds=[])


def test_bad_asks(study):
    y, g = column(study, "age"), column(study, "subject")
    with pytest.raises(AamError, match="groups"): evaluate(study, y, groups=np.repeat("one", 80))
    with pytest.raises(AamError, match="Rarefy"): evaluate(study, y, groups=g, depth=10)
    with pytest.raises(AamError, match="No group is given"):
        evaluate(study, y, groups=g.where(g != g.iloc[0]))
    with pytest.raises(AamError, match="another name"):
        evaluate(study, y, groups=g, fit_model=knows(study, "age"), model_name="forest")
    with pytest.raises(AamError, match="1 of 80"): evaluate(study, y.iloc[1:], groups=g)
    with pytest.raises(AamError): evaluate(study, column(study, "site"), task="regression", groups=g)


def test_common_depth(study):
    from aam_nb.batches.reads import rarefy
    table = rarefy(study.table, 300, 0)
    s = replace(study, table=table, metadata=study.metadata.iloc[study.positions(table.sample_ids)])
    e = evaluate(s, column(s, "age"), groups=column(s, "subject"), folds=3, depth=300)
    assert e.depth == 300 and not e.alarm.fires
    assert np.allclose(e.predictions["depth"], e.predictions["trivial"])


def test_groups_that_are_numbers_keep_short_names(study):
    g = pd.Series(pd.factorize(column(study, "subject"))[0].astype(float), index=study.metadata.index)
    found = evaluate(study, column(study, "age"), groups=g, folds=3).groups
    assert set(found) == {str(i) for i in range(g.nunique())}


def test_canary_permuted_labels_show_no_skill(study):
    "Through folds, baselines and average: labels dealt out at random are not predicted."
    how, gains, aucs = dict(groups=column(study, "subject"), folds=3), [], []
    for deal in range(2):
        order = np.random.default_rng(deal).permutation(80)
        dealt = lambda name, order=order: pd.Series(column(study, name).to_numpy()[order],
                                                    index=study.metadata.index)
        gains.append({k: v["r2"][0] for k, v in evaluate(study, dealt("age"), **how).scores.items()})
        aucs.append({k: v["auc"][0] for k, v in evaluate(study, dealt("site"), **how).scores.items()})
    assert (pd.DataFrame(gains).mean() < .05).all() and (pd.DataFrame(aucs).mean() < .58).all(), (gains, aucs)
