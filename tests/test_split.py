"Splits keep groups whole, honour shares and strata, and depend on nothing but the samples and the seed."
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.split import (kfold, plot_split, read_split, split_groups, split_independent, strata, subject_like,
                               write_split)
from aam_nb.types import Split, strings

DATA = Path(os.environ.get("AAM_DATA", Path(__file__).parents[1]/"../shared/data"))


def ids_of(n): return [f"S{i:04d}" for i in range(n)]


def real_metadata(name):
    path = DATA/name/"metadata.tsv"
    if not path.exists(): pytest.skip(f"{path} is absent")
    from aam_nb.data.metadata import read_metadata
    return read_metadata(path)


def parts_of(split, column):
    return {k: set(column[list(getattr(split, k))]) for k in ("train", "valid", "test")}


# strata

def test_strata_are_even_bins_of_numbers_and_classes_of_labels():
    x = np.random.default_rng(0).normal(size=1000)
    bins = strata(x, bins=4)
    assert np.bincount(bins).tolist() == [250]*4
    assert all(x[bins == i].max() < x[bins == i+1].min() for i in range(3))
    assert strata(["b", None, "a", "b", np.nan]).tolist() == [1, 2, 0, 1, 2]
    assert strata([0, 1, 1, 0], "classification").tolist() == [0, 1, 1, 0]
    assert strata([True, False, True]).tolist() == [1, 0, 1], "truth values are classes"


def test_strata_of_ties_missing_values_and_constant():
    assert strata([0.]*8 + [1, 2], bins=5).tolist() == [0]*8 + [1, 1]
    assert strata([5., 5, 5]).tolist() == [0, 0, 0]
    assert strata([1., 2, np.nan, 3, 4], bins=2).tolist() == [0, 0, 2, 1, 1]
    assert strata([None, None]).tolist() == [0, 0]
    order = np.random.default_rng(1).permutation(100); x = np.random.default_rng(2).integers(0, 9, 100).astype(float)
    assert (strata(x[order]) == strata(x)[order]).all()


def test_strata_refuse_text_and_infinity_as_numbers():
    with pytest.raises(AamError, match="1 of 2 values are no numbers .first: 'high'"): strata(["1", "high"], "regression")
    with pytest.raises(AamError, match="no numbers"): strata([1., np.inf])


# one split by group

groups_and_classes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=3, max_size=25)

@given(groups_and_classes, st.integers(0, 2**31 - 1), st.sampled_from([(.2, .2), (.1, .3), (.25, 0), (0, .5), (.4, .4)]))
@settings(max_examples=30, deadline=None)
def test_groups_never_straddle_and_every_part_is_filled(groups, seed, shares):
    group = np.repeat(np.arange(len(groups)), [n for n, _ in groups]); ids = ids_of(len(group))
    y = np.random.default_rng(seed).integers(0, [k + 1 for _, k in groups])[group]
    split = split_groups(ids, group, valid=shares[0], test=shares[1], seed=seed, strata=y)
    assert sorted([*split.train, *split.valid, *split.test]) == ids
    of = dict(zip(ids, group, strict=True)); a, b, c = ({of[i] for i in o} for o in (split.train, split.valid, split.test))
    assert not (a & b or a & c or b & c)
    assert len(a) and bool(b) == bool(shares[0]) and bool(c) == bool(shares[1])


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_met_as_nearly_as_groups_allow(seed):
    rng = np.random.default_rng(seed); size = rng.integers(1, 20, 60); group = np.repeat(np.arange(60), size)
    for valid, test in ((.2, .2), (.15, .3), (.1, .1)):
        split = split_groups(ids_of(len(group)), group, valid=valid, test=test, seed=seed)
        for part, share in ((split.valid, valid), (split.test, test)): assert abs(len(part) - share*len(group)) <= size.max()/2


def test_one_giant_group_does_not_spoil_the_shares():
    group = np.repeat(np.arange(21), [50] + [5]*20)
    split = split_groups(ids_of(150), group)
    assert abs(len(split.test) - 30) <= 5 and abs(len(split.valid) - 30) <= 5 # within one of the small groups


def test_strata_are_spread_over_the_parts():
    rng = np.random.default_rng(0); group = np.repeat(np.arange(80), 6)
    y = (rng.random(80) < .25).astype(int)[group] # a property of the subject
    on, off = [], []
    for seed in range(4):
        for out, s in ((on, y), (off, None)):
            split = split_groups(ids_of(480), group, seed=seed, strata=s)
            at = [int(i[1:]) for i in split.test]; out.append(abs(y[at].mean() - y.mean()))
    assert max(on) < .03 < np.mean(off)


def test_row_order_does_not_matter_and_the_seed_does():
    rng = np.random.default_rng(0); group = rng.integers(0, 40, 300).astype(str); ids = np.array(ids_of(300)); y = rng.random(300)
    order = rng.permutation(300)
    def run(at, **kw): return split_groups(ids[at], group[at], strata=strata(y[at]), **kw)
    a, b, c = run(slice(None)), run(order), run(slice(None), seed=7)
    for part in ("train", "valid", "test"): assert list(getattr(a, part)) == list(getattr(b, part))
    assert set(a.test) != set(c.test)
    fold = [kfold(ids[at], 4, group[at], strata(y[at])) for at in (slice(None), order)]
    plain = [kfold(ids[at], 4, strata=strata(y[at])) for at in (slice(None), order)]
    whole = [split_independent(ids[at], strata=strata(y[at])) for at in (slice(None), order)]
    for one, two in (fold, plain): assert all((x[1] == z[1]).all() and (x[0] == z[0]).all() for x, z in zip(one, two, strict=True))
    assert list(whole[0].test) == list(whole[1].test)


def test_groups_of_numbers_and_of_text_are_the_same():
    number = np.repeat(np.arange(12.), 5)
    a, b = split_groups(ids_of(60), number), split_groups(ids_of(60), number.astype(str))
    assert list(a.test) == list(b.test)


def test_missing_groups_single_group_and_too_few_are_refused():
    with pytest.raises(AamError, match=r"2 of 4 samples have no group .first: 'S0001', 'S0003'.*data\.where"):
        split_groups(ids_of(4), ["a", None, "b", "  "])
    with pytest.raises(AamError, match="1 of 3 samples have no group"): kfold(ids_of(3), 2, [1., np.nan, 2.])
    with pytest.raises(AamError, match="one group .'a'"): split_groups(ids_of(4), ["a"]*4)
    with pytest.raises(AamError, match="one group"): kfold(ids_of(4), 2, ["a"]*4)
    with pytest.raises(AamError, match="3 parts need 3 groups, and there are 2 .'a', 'b'"): split_groups(ids_of(4), list("aabb"))
    with pytest.raises(AamError, match="3 folds were asked for, and there are 2 groups"): kfold(ids_of(4), 3, list("aabb"))
    with pytest.raises(AamError, match="1 folds"): kfold(ids_of(4), 1)
    with pytest.raises(AamError, match="5 folds were asked for, and there are 4 samples"): kfold(ids_of(4), 5)


def test_odd_ids_and_shares_are_refused():
    with pytest.raises(AamError, match="1 sample ids are repeated .first: 'a'"): split_groups(["a", "b", "a"], [1, 2, 3])
    with pytest.raises(AamError, match="3 sample ids but 2"): split_groups(["a", "b", "c"], [1, 2])
    with pytest.raises(AamError, match="no sample"): split_independent([])
    with pytest.raises(AamError, match="below 1"): split_independent(ids_of(9), valid=.5, test=.5)
    with pytest.raises(AamError, match="below 1"): split_groups(ids_of(9), list("abcdefghi"), valid=-.1)
    with pytest.raises(AamError, match="3 samples, and there are 2"): split_independent(ids_of(2))


# independent samples

@given(st.integers(3, 80), st.integers(0, 2**31 - 1), st.sampled_from([(.2, .2), (.3, .1), (0, .5), (.5, 0)]))
@settings(max_examples=30, deadline=None)
def test_independent_split_has_exact_sizes_and_even_strata(n, seed, shares):
    y = np.random.default_rng(seed).integers(0, 3, n); ids = ids_of(n)
    split = split_independent(ids, *shares, seed=seed, strata=y)
    assert sorted([*split.train, *split.valid, *split.test]) == ids and len(split.train)
    assert len(split.test) == (max(1, round(shares[1]*n)) if shares[1] else 0)
    if shares[1]:
        at = [int(i[1:]) for i in split.test]; want = len(at)*np.bincount(y, minlength=3)/n
        assert (abs(np.bincount(y[at], minlength=3) - want) < 1 + 1e-9).all()


# folds

def test_folds_equal_scikit_learn_on_sorted_samples():
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    rng = np.random.default_rng(0); ids = np.array(ids_of(200)); group = rng.integers(10, 40, 200).astype(str); y = rng.integers(0, 2, 200)
    ours = kfold(ids, 5, group, y, seed=42)
    theirs = StratifiedGroupKFold(5, shuffle=True, random_state=42).split(ids, y, group)
    for (train, test), (a, b) in zip(ours, theirs, strict=True): assert (train == ids[a]).all() and (test == ids[b]).all()
    theirs = StratifiedKFold(5, shuffle=True, random_state=42).split(ids, y)
    for (_, test), (_, b) in zip(kfold(ids, 5, strata=y, seed=42), theirs, strict=True): assert (test == ids[b]).all()


@given(st.lists(st.integers(1, 6), min_size=2, max_size=20), st.integers(0, 99), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_folds_cover_each_sample_once_and_none_is_empty(sizes, seed, classes):
    group = np.repeat(np.arange(len(sizes)), sizes); y = np.random.default_rng(seed).integers(0, classes, len(group))
    for folds in {2, min(5, len(sizes)), len(sizes)}:
        out = kfold(ids_of(len(group)), folds, group, y, seed)
        assert sorted(i for _, test in out for i in test) == ids_of(len(group))
        for train, test in out:
            assert len(train) and len(test) and set(train).isdisjoint(test)
            assert set(group[[int(i[1:]) for i in train]]).isdisjoint(group[[int(i[1:]) for i in test]])


def test_more_classes_than_samples_a_class_make_plain_folds_without_warnings(recwarn):
    assert len(kfold(ids_of(10), 5, strata=np.arange(10))) == 5
    assert len(kfold(ids_of(10), 5, np.arange(10), strata=[0]*9 + [1])) == 5
    assert not recwarn.list


# columns that look like subjects

def study(n=40, each=3, seed=0, **more):
    who = np.repeat(np.arange(n), each); rng = np.random.default_rng(seed)
    base = {"age": rng.uniform(0, 80, n*each).round(1), "day": rng.integers(0, 30, n*each),
            "sex": np.where(rng.random(n) < .5, "f", "m")[who], "country": rng.choice(["a", "b", "c"], n)[who],
            "treatment": rng.choice(["drug", "placebo"], n*each)}
    return pd.DataFrame(base | {k: v(who) for k, v in more.items()}, index=ids_of(n*each))


@pytest.mark.parametrize("name", ["subject", "host_subject_id", "hostsubjectid", "HOST_SUBJECT_ID", "HostSubjectId", "Patient ID", "patient", "PatientNo",
                                  "participant.id", "household", "family_id", "mother_id", "mom_child_id", "cage", "Mouse", "donor", "anonymized_name"])
@pytest.mark.parametrize("kind", [float, str])
def test_names_of_subjects_are_found(name, kind):
    assert [o for o, _ in subject_like(study(**{name: lambda who: who.astype(kind)}))] == [name]


@pytest.mark.parametrize("name,values", [
    ("Subject", lambda who: np.where(who % 2, "Patient", "Control")), ("mom_child", lambda who: np.where(who % 5, "C", "M")),
    ("patient_age", lambda who: who % 7), ("family_history", lambda who: who % 9), ("host_taxid", lambda who: who % 6),
    ("household_size", lambda who: 1 + who % 7), ("FAMILY_RELATIONSHIP", lambda who: (who % 22).astype(str)),
    ("host_subject_id", lambda who: np.arange(len(who))), ("subject", lambda who: ["P1"]*len(who)),
    ("subject_id", lambda who: [None]*len(who)), ("month", lambda who: who % 12), ("run", lambda who: [f"R{o:02d}" for o in who//4]),
    ("plate_id", lambda who: [f"plate{o}" for o in who//4]), ("collection_date", lambda who: [f"2012-03-{o % 28 + 1:02d}" for o in who]),
    ("when", lambda who: [f"2012-03-{o % 28 + 1:02d}" for o in who]), ("dose", lambda who: [f"{o % 8}mg" for o in np.arange(len(who))]),
    ("batch code", lambda who: [f"B{o}" for o in who]), ("bmi", lambda who: 20 + who*.5), ("diet", lambda who: [f"diet {'abcdefgh'[o % 8]}" for o in who])])
def test_other_columns_raise_no_alarm(name, values):
    assert subject_like(study(**{name: values})) == []


def test_codes_of_any_name_are_found_by_what_they_bring_along():
    found = subject_like(study(who=lambda who: [f"KX{o:03d}" for o in who]))
    assert [o for o, _ in found] == ["who"] and "'sex', 'country' are the same within each" in found[0][1]
    rng = np.random.default_rng(0)
    assert subject_like(study(code=lambda who: [f"KX{o:03d}" for o in rng.permutation(who)])) == [], "codes that bring nothing along"


def test_a_single_repeat_in_many_samples_is_no_alarm_and_several_are():
    def repeats(n): return lambda who: [f"P{max(o, n)}" for o in np.arange(len(who))]
    assert subject_like(study(100, 3, subject_id=repeats(1))) == []
    assert len(subject_like(study(100, 3, subject_id=repeats(30)))) == 1


@pytest.mark.parametrize("name,column", [("ecam_infant", "host_subject_id"), ("ibd_crohns_2538", "host_subject_id"), ("tiny_ecam60", "host_subject_id")])
def test_real_subjects_are_found_and_nothing_else(name, column):
    assert [o for o, _ in subject_like(real_metadata(name))] == [column]


def test_hmp_hosts_and_technical_repeats_are_found_in_time():
    m = real_metadata("hmp_v35_bodysite"); begin = time.process_time(); found = [o for o, _ in subject_like(m)]
    assert time.process_time() - begin < 10 # about 1 s when nothing else runs
    assert "hostsubjectid" in found and "srs" in found and not {"sex", "bmi", "HMPbodysubsite", "Runid", "collectday", "AGE"} & set(found)


@pytest.mark.parametrize("name", ["cfs87", "global_gut"])
def test_independent_real_data_raise_no_alarm(name):
    assert subject_like(real_metadata(name)) == []


def test_real_split_by_subject_is_near_its_shares():
    m = real_metadata("ecam_infant").query("is_infant == 1"); s = strata(m.month_of_life)
    split = split_groups(m.index, m.host_subject_id, strata=s)
    of = parts_of(split, m.host_subject_id)
    assert not of["train"] & of["test"] and not of["train"] & of["valid"] and not of["valid"] & of["test"]
    for part in (split.valid, split.test):
        assert abs(len(part)/len(m) - .2) < .01
        got = np.bincount(s[m.index.get_indexer(list(part))], minlength=5)/len(part)
        assert abs(got - np.bincount(s)/len(m)).sum()/2 < .06


# files and pictures

def test_split_round_trip_and_its_errors(tmp_path):
    split = split_groups(["é 1", "x", "y", "z"], list("abcd"))
    path = tmp_path/"run"/"split.tsv"; write_split(split, path); again = read_split(path)
    for part in ("train", "valid", "test"): assert list(getattr(again, part)) == list(getattr(split, part))
    def bad(text):
        (tmp_path/"bad.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(AamError) as e: read_split(tmp_path/"bad.tsv")
        assert "bad.tsv" in str(e.value)
        return str(e.value)
    assert "wanted sample_id and part" in bad("id\tset\n")
    assert "wanted sample_id and part" in bad("")
    assert "Line 3" in bad("sample_id\tpart\na\ttrain\nb\tdev\n")
    assert "Line 2" in bad("sample_id\tpart\na\n")
    assert "two parts" in bad("sample_id\tpart\na\ttrain\na\ttest\n")
    assert "text" in bad(b"\xff\xfe\x00")
    with pytest.raises(AamError, match="no file"): read_split(tmp_path/"absent.tsv")
    with pytest.raises(AamError): read_split(tmp_path)


def test_picture_for_numbers_classes_and_missing_values():
    import matplotlib.pyplot as plt
    split = Split(train=strings("abcd"), valid=strings("ef"), test=strings(""))
    for values in ([1., 2, 3, np.nan, 5, 6], ["x", "y", None, "x", "y", "y"]):
        fig = plot_split(split, pd.Series(values, index=list("abcdef"), name="target"))
        fig.canvas.draw(); assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["train", "valid"]
    assert not plt.get_fignums(), "the figure is not left open"
