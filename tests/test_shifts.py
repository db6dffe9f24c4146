"Guests are predicted by models that never saw them, and copies are compared with their originals."
from dataclasses import replace

import numpy as np
import pytest
from evaluated import column, make_small
from scipy import sparse

from aam_nb.data.simulate import simulate
from aam_nb.evaluation.guests import (
    SHIFTS, VARIANTS, Guests, beside_table, features_with, joined, shift_guests, spurious, thinned)
from aam_nb.evaluation.validate import PlainFolds, Plan, evaluate
from aam_nb.registry import baselines


@pytest.fixture(scope="module")
def study(): return simulate(samples=60, asvs=80, groups=15, seed=5)


@pytest.fixture(autouse=True)
def small_forest(monkeypatch): make_small(monkeypatch)


@pytest.mark.parametrize("share", [.5, .25, .1])
def test_thinned_reads_are_those_of_the_sample(study, share):
    made = thinned(study.table, share, seed=3)
    assert (made.counts.toarray() <= study.table.counts.toarray()).all()
    assert (made.depths == np.maximum(1, np.round(share*study.table.depths))).all()
    again = thinned(study.table.samples([5]), share, seed=3)
    assert (again.counts.toarray() == made.counts[5].toarray()).all() # a sample's draw is its own


def test_thinned_reads_do_not_depend_on_the_order_of_asvs(study):
    order = np.random.default_rng(0).permutation(80)
    other = replace(study.table, counts=study.table.counts[:, order].tocsr(),
                    sequences=study.table.sequences[order])
    assert (thinned(other, .1).counts.toarray() == thinned(study.table, .1).counts.toarray()[:, order]).all()


def test_spurious_reads_are_new_near_and_as_many_as_asked(study):
    made, known = spurious(study.table, .05, seed=1), set(study.table.sequences)
    new = made.sequences[80:]
    assert (made.depths == study.table.depths).all() and not set(new) & known and len(set(new)) == len(new)
    near = [min(sum(a != b for a, b in zip(o, p)) for p in known) for o in new[:20]]
    assert set(near) == {1} and len(new) <= VARIANTS*80
    share = made.counts[:, 80:].sum()/made.counts.sum()
    assert abs(share - .05) < .003 # 5 sd of a binomial of 350,000 reads is .002


def test_a_sample_of_one_read_keeps_it(study):
    counts = sparse.csr_matrix(([1], ([0], [3])), shape=(2, 80), dtype=np.int32)
    table = replace(study.table.samples([0, 1]), counts=counts)
    for change, share in SHIFTS.values():
        made = change(table, share)
        assert made.counts.toarray()[0, 3] == 1 and list(made.depths) == [1, 0]


def test_a_fold_predicts_copies_of_its_own_test_part_and_all_strangers(study):
    guests = shift_guests(study)
    strange = replace(guests, of=np.where(guests.kind == guests.kinds[0], "", guests.of))
    test = study.ids[:7]
    assert set(guests.of[guests.of_fold(test)]) == set(test) and len(guests.of_fold(test)) == 35
    assert len(strange.of_fold(test)) == 60 + 28
    assert len(shift_guests(study, most=10)) == 50


def test_columns_and_tips_of_a_study_stay(study):
    guests, rows = shift_guests(study), np.array([0, 299])
    both = joined(study, guests, rows)
    assert list(both.table.sequences[:80]) == list(study.table.sequences) and len(both.ids) == 62
    assert (both.tip[:80] == study.tip).all() and (both.tip[80:] == -1).all() and len(both.tip) > 80
    assert both.metadata.age.iloc[61] == study.metadata.age.loc[guests.of[299]]
    own = {o: n for o, n in zip(guests.table.sequences, guests.table.counts[299].toarray()[0]) if n}
    assert {o: n for o, n in zip(both.table.sequences, both.table.counts[61].toarray()[0]) if n} == own


@pytest.mark.parametrize("name", [k for k, o in baselines.items() if o.when != "named" and k != "covariates"])
def test_guests_change_no_baseline_and_copies_of_all_reads_are_their_originals(study, name, monkeypatch):
    "A copy that is not changed gets the prediction of its original, by each baseline."
    from aam_nb.stack import members
    monkeypatch.setattr(members, "EXTRA", 20)
    whole = Guests(table=replace(study.table, sample_ids=np.array([f"{o} again" for o in study.ids], object)),
                   kind=np.array(["same"]*60, object), of=study.ids, metadata=study.metadata)
    plan = Plan(groups=column(study, "subject"), folds=3, seed=1, baselines=(name,))
    plain, with_them = (PlainFolds(study, column(study, "age"), plan, guests=o) for o in (None, whole))
    for k, (_, test) in plain.scored.folds.items():
        alone, both = plain.ask(name, k)[0], with_them.ask(name, k)[0]
        assert len(both) == 2*len(test)
        assert np.allclose(both[:len(test)], alone, atol=1e-8)
        assert np.allclose(both[len(test):], alone, atol=1e-8)


def test_foreign_reads_are_no_asv_for_the_forest(study):
    "A random forest sees spurious reads as reads that are missing."
    guests = shift_guests(study)
    rows = np.flatnonzero(guests.kind == "5 % spurious reads")[:5]
    features = features_with(study, (), guests, rows)
    assert np.allclose(np.asarray(features.relative[60:].sum(1)).ravel(), 1)
    assert features.relative[60:, :80].sum(1).max() < .99


def test_losses_are_scored_on_the_same_rows(study):
    y = column(study, "age")
    guests = shift_guests(study)
    def knows(train, test, fold): return dict(test=y.loc[list(test)].to_numpy())
    def off(train, test, fold):
        "It is a month off on thin reads, in some folds more than in others."
        copied = list(guests.of[guests.of_fold(test)])
        return dict(knows(train, test, fold), guests=y.loc[copied].to_numpy() + fold)
    how = dict(groups=column(study, "subject"), folds=3, seed=1, model_name="net")
    e = evaluate(study, y, guests=guests, fit_model=off, **how)
    plain = evaluate(study, y, fit_model=knows, **how)
    assert repr(e) == repr(plain) and not plain.shifts and [o.kind for o in e.shifts] == list(SHIFTS)
    for o in e.shifts:
        assert np.isclose(o.losses["net"][0], e.fold.mean()) and o.before["net"] == 0
        assert list(e.ids[o.rows]) == list(study.ids)
        value = np.abs(o.predictions["forest"] - e.truth[o.rows]).mean()
        assert np.isclose(o.losses["forest"][0], value - e.scores["forest"]["mae"][0])
        assert np.isclose(o.beyond["net"][0], o.losses["net"][0] - o.losses["forest"][0])
    low, high = e.shifts[0].losses["net"][1:]
    assert low < e.fold.mean() < high
    assert set(e.shifts[0].scores) == set(e.predictions)


def test_repeats_and_classes(study):
    from aam_nb.data.split import repeated
    subject, site = column(study, "subject"), column(study, "site")
    folds = repeated(study.ids, folds=2, repeats=2, groups=subject)
    e = evaluate(study, site, groups=subject, folds=folds, guests=shift_guests(study))
    assert all(len(o.rows) == 120 for o in e.shifts)
    o = e.shifts[2]
    assert o.losses["forest"][0] == o.before["forest"] - o.scores["forest"]
    assert "forest" not in o.beyond and "average" in o.beyond


def test_a_model_that_says_nothing_of_guests_has_no_row(study):
    y = column(study, "age")
    e = evaluate(study, y, groups=column(study, "subject"), folds=3, guests=shift_guests(study),
                 fit_model=lambda train, test, fold: dict(test=np.zeros(len(test))))
    assert "aam" not in e.shifts[0].scores and "average" not in e.shifts[0].scores


def test_tables_beside_each_other(study):
    a, b = study.table.samples([0, 1]), study.table.samples([2])
    both = beside_table(replace(a, counts=a.counts[:, :50], sequences=a.sequences[:50]), b)
    reads = dict(zip(both.sequences, both.counts[2].toarray()[0]))
    assert {o: n for o, n in reads.items() if n} == {
        o: n for o, n in zip(b.sequences, b.counts.toarray()[0]) if n}
