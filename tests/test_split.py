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
from aam_nb.data.split import (
    fold_numbers,
    kfold,
    labels,
    leave_one_out,
    nested,
    repeated,
    split_groups,
    split_independent,
    strata,
)
from aam_nb.data.split_lists import (
    folds_for,
    folds_given,
    read_folds,
    read_given,
    read_split,
    split_for,
    split_given,
    write_folds,
    write_split,
)
from aam_nb.data.split_picture import plot_folds, plot_split
from aam_nb.data.subjects import subject_like
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
    with pytest.raises(AamError, match="not numbers: 1 of 2 .first: 'high'"): strata(["1", "high"], "regression")
    with pytest.raises(AamError, match="not numbers"): strata([1., np.inf])


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
    with pytest.raises(AamError, match=r"2 of 4 samples .first: 'S0001', 'S0003'.*data\.where"):
        split_groups(ids_of(4), ["a", None, "b", "  "])
    with pytest.raises(AamError, match="No group is given for 1 of 3 samples"): kfold(ids_of(3), 2, [1., np.nan, 2.])
    with pytest.raises(AamError, match="one group .'a'"): split_groups(ids_of(4), ["a"]*4)
    with pytest.raises(AamError, match="one group"): kfold(ids_of(4), 2, ["a"]*4)
    with pytest.raises(AamError, match="3 parts need 3 groups, and there are 2 .'a', 'b'"): split_groups(ids_of(4), list("aabb"))
    with pytest.raises(AamError, match="Folds asked for: 3, groups: 2"): kfold(ids_of(4), 3, list("aabb"))
    with pytest.raises(AamError, match="Folds asked for: 1"): kfold(ids_of(4), 1)
    with pytest.raises(AamError, match="Folds asked for: 5, samples: 4"): kfold(ids_of(4), 5)


def test_odd_ids_and_shares_are_refused():
    with pytest.raises(AamError, match="sample ids are repeated: 'a'"): split_groups(["a", "b", "a"], [1, 2, 3])
    with pytest.raises(AamError, match="Sample ids: 3, values for them: 2"): split_groups(["a", "b", "c"], [1, 2])
    with pytest.raises(AamError, match="no sample"): split_independent([])
    with pytest.raises(AamError, match="a sum below 1"): split_independent(ids_of(9), valid=.5, test=.5)
    with pytest.raises(AamError, match="a sum below 1"): split_groups(ids_of(9), list("abcdefghi"), valid=-.1)
    with pytest.raises(AamError, match="3 samples; found 2"): split_independent(ids_of(2))


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


# repeats, left-out values, folds within folds

def lists(folds): return [(list(a), list(b)) for a, b in folds]


@given(st.lists(st.integers(1, 5), min_size=4, max_size=15), st.integers(0, 99), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_repeats_test_each_sample_once_in_each_and_start_with_kfold(sizes, seed, repeats):
    group = np.repeat(np.arange(len(sizes)), sizes); ids = ids_of(len(group))
    out = repeated(ids, 3, repeats, group, seed=seed); at = fold_numbers(out)
    assert lists(out[:3]) == lists(kfold(ids, 3, group, seed=seed))
    assert at == [(r, k) for r in range(1, repeats + 1) for k in (1, 2, 3)]
    for r in range(1, repeats + 1): assert sorted(i for (q, _), (_, test) in zip(at, out, strict=True) if q == r for i in test) == ids


def test_repeats_differ_and_depend_on_the_seed_alone():
    ids = np.array(ids_of(60)); group = np.repeat(np.arange(20), 3).astype(str); order = np.random.default_rng(0).permutation(60)
    a = lists(repeated(ids, 4, 3, group, seed=5))
    assert a == lists(repeated(ids[order], 4, 3, group[order], seed=5)) and a != lists(repeated(ids, 4, 3, group, seed=6))
    assert a[:4] != a[4:8] != a[8:]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=2, max_size=15), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_one_value_at_a_time(groups, seed):
    "Each value is the test part of one fold; groups inside of a value never straddle; the order of the rows does not matter."
    group = np.repeat(np.arange(len(groups)), [n for _, n in groups]); ids = np.array(ids_of(len(group)))
    site = np.array([f"site {v}" for v, _ in groups])[group]
    if len(set(site)) < 2:
        with pytest.raises(AamError, match="of one value"): leave_one_out(ids, site, group)
        return
    out = leave_one_out(ids, site, group); of = dict(zip(ids, site, strict=True)); order = np.random.default_rng(seed).permutation(len(ids))
    assert [{of[i] for i in test} for _, test in out] == [{o} for o in sorted(set(site))]
    assert all(sorted([*train, *test]) == list(ids) for train, test in out)
    assert lists(out) == lists(leave_one_out(ids[order], site[order], group[order]))


def test_left_out_values_refuse_straddlers_by_name_missing_ones_and_numbers_are_plain():
    with pytest.raises(AamError, match=r"one value that is left out: 1 of 2 .first: 'b: X, Y'"):
        leave_one_out(ids_of(5), list("XXYYX"), list("aabbb"))
    with pytest.raises(AamError, match="No value is given for 1 of 3 samples"): leave_one_out(ids_of(3), ["X", None, "Y"])
    with pytest.raises(AamError, match="No group is given for 2 of 4 samples"): leave_one_out(ids_of(4), list("XXYY"), ["a", np.nan, "b", " "])
    assert list(labels([3., None, 12.])) == ["3", "", "12"] and list(labels(["3.5", 2.0])) == ["3.5", "2.0"] and list(labels([True, "x"])) == ["True", "x"]


def test_left_out_subjects_are_the_groups_themselves():
    group = np.repeat(list("abcd"), 3)
    assert [len(t) for _, t in leave_one_out(ids_of(12), group, group)] == [3]*4


@given(st.lists(st.integers(1, 5), min_size=8, max_size=20), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_inner_folds_lie_inside_and_keep_groups_whole(sizes, seed):
    group = np.repeat(np.arange(len(sizes)), sizes); ids = np.array(ids_of(len(group))); y = np.random.default_rng(seed).normal(size=len(ids))
    outer = kfold(ids, 3, group, strata(y), seed); inside = nested(outer, ids, 2, group, y, "regression", seed); of = dict(zip(ids, group, strict=True))
    order = np.random.default_rng(seed).permutation(len(ids))
    assert [lists(o) for o in inside] == [lists(o) for o in nested(outer, ids[order], 2, group[order], y[order], "regression", seed)]
    for (train, test), inner in zip(outer, inside, strict=True):
        assert sorted(i for _, b in inner for i in b) == list(train)
        for a, b in inner:
            assert not set(a) & set(b) and not (set(a) | set(b)) & set(test)
            assert not {of[i] for i in a} & {of[i] for i in b}


def test_inner_folds_see_no_target_of_the_test_part():
    ids, y = ids_of(60), np.random.default_rng(0).normal(size=60); outer = kfold(ids, 3)
    changed = y.copy(); at = [int(i[1:]) for i in outer[0][1]]; changed[at] += 100
    assert lists(nested(outer, ids, 3, values=y)[0]) == lists(nested(outer, ids, 3, values=changed)[0])


def test_too_small_a_training_part_is_named():
    with pytest.raises(AamError, match=r"training part of fold 2 cannot be cut into 3 inner folds .run.inner.*groups: 2"):
        nested(leave_one_out(ids_of(7), list("XXXYYYY")), ids_of(7), 3, list("aabcdef"))


# the user's lists

def test_parts_are_taken_as_they_are_and_a_missing_valid_is_drawn():
    ids, group = ids_of(40), np.repeat(np.arange(20), 2); part = np.repeat(["Train", "test", "valid", None], 10)
    split = split_given(ids, part, group)
    assert (list(split.train), list(split.test), list(split.valid)) == (ids[:10], ids[10:20], ids[20:30]), "samples without a part are in none"
    two = np.where(np.arange(40) < 30, "train", "test"); split = split_given(ids, two, group, valid=.2, seed=3)
    assert list(split.test) == ids[30:] and len(split.valid) == 8 and sorted([*split.train, *split.valid]) == ids[:30]
    of = dict(zip(ids, group, strict=True)); assert not {of[i] for i in split.train} & {of[i] for i in split.valid}
    assert len(split_given(ids, two, valid=.2, strata=np.arange(40) % 2).valid) == 8
    assert len(split_given(ids, two, valid=0).valid) == 0 and len(split_given(ids, ["train"]*40).test) == 0


def test_fold_numbers_as_a_split_and_as_folds():
    ids = ids_of(12); fold = [10., 10, 2, 2, 1, 1, 3, 3, np.nan, np.nan, 10, 10]
    split = split_given(ids, fold)
    assert (list(split.test), list(split.valid)) == (ids[4:6], ids[2:4]) and len(split.train) == 6
    assert list(split_given(ids, fold, test=0).valid) == ids[4:6]
    out = folds_given(ids, fold)
    assert [list(t) for _, t in out] == [ids[4:6], ids[2:4], ids[6:8], [*ids[:2], *ids[10:]]], "in the order of the numbers"
    assert all(len(a) + len(b) == 10 for a, b in out)
    (train, test), = folds_given(ids, ["train"]*4 + ["valid"]*4 + ["test"]*4)
    assert list(train) == ids[:8] and list(test) == ids[8:]


@pytest.mark.parametrize("given,message", [
    (["train", "test", "dev"], "The split says 'dev'"), (["train", "1", "2"], "wanted either"), (["a", "b", "c"], "data.leave_out"), ([1.5, 2, 3], "'1.5'"),
    ([None, None, ""], "nothing"), (["test"]*3, "one part only|no sample in the part 'train'"), ([1, 1, 1], "one fold|Folds in the split: 1"), ([-1, 1, 2], "'-1'")])
def test_lists_of_other_words(given, message):
    for take in (split_given, folds_given):
        with pytest.raises(AamError, match=message): take(ids_of(3), given)


def test_lists_refuse_groups_that_straddle_by_name():
    ids, group = ids_of(8), list("aabbccdd")
    for take in (split_given, folds_given):
        with pytest.raises(AamError, match=r"more than one fold: 1 of 4 .first: 'b: 1, 2'"): take(ids, [1, 1, 1, 2, 2, 2, 3, 3], group)
        with pytest.raises(AamError, match=r"more than one part of the split: 2 of 4 .first: 'a: test, train', 'd: train, valid'"):
            take(ids, ["train", "test", *["train"]*4, "valid", "train"], group)
        with pytest.raises(AamError, match="No group is given for 1"): take(ids, [1, 1, 2, 2, 3, 3, 4, 4], ["a", None, *"bbccdd"])
    assert len(folds_given(ids, [1, None, 2, 2, 3, 3, 1, 1], ["a", None, *"bbccdd"])) == 3, "who is in no fold needs no group"


def test_two_answers_and_repeats_of_fixed_folds_are_refused():
    ids, part = ids_of(8), [1, 1, 2, 2, 3, 3, 4, 4]
    for take in (split_for, folds_for):
        with pytest.raises(AamError, match="Choose one"): take(ids, given=part, leave_out=part)
    with pytest.raises(AamError, match="run.repeats is 3, but data.split"): folds_for(ids, repeats=3, given=part)
    with pytest.raises(AamError, match="run.repeats is 2, but data.leave_out"): folds_for(ids, repeats=2, leave_out=part)
    assert lists(folds_for(ids, leave_out=part)) == lists(folds_for(ids, given=part)) == lists(leave_one_out(ids, part))
    assert lists(folds_for(ids, folds=2, repeats=3, seed=1)) == lists(repeated(ids, 2, 3, seed=1))


def test_a_training_keeps_left_out_values_in_one_part():
    ids, site, group = ids_of(30), np.repeat(list("UVWXYZ"), 5), np.repeat(np.arange(15), 2)
    split = split_for(ids, leave_out=site, seed=1); of = dict(zip(ids, site, strict=True))
    a, b, c = ({of[i] for i in o} for o in (split.train, split.valid, split.test))
    assert a and b and c and not (a & b or a & c or b & c)
    with pytest.raises(AamError, match="more than one value that is left out: "): split_for(ids, leave_out=site, groups=group)
    with pytest.raises(AamError, match="3 parts need 3 groups"): split_for(ids[:10], leave_out=site[:10])
    assert list(split_for(ids, groups=group, seed=4).test) == list(split_groups(ids, group, seed=4).test)
    assert list(split_for(ids, seed=4).test) == list(split_independent(ids, seed=4).test)


def test_lists_in_files(tmp_path):
    def read(text): (tmp_path/"list.tsv").write_text(text); return read_given(tmp_path/"list.tsv")
    assert read("#SampleID\tPart\na\ttrain\n0012\ttest\n").to_dict() == {"a": "train", "0012": "test"}
    assert list(labels(read("id\tsite\tfold\n#q2:types\tcategorical\tnumeric\na\tX\t1\nb\tX\t\n"))) == ["1", ""]
    assert list(read("id\tanything\na\ttest\n")) == ["test"], "a single column needs no name"
    for text, message in (("id\tsite\tx\na\t1\t2\n", "columns 'site', 'x'; wanted one"), ("id\tpart\tfold\na\ttrain\t2\n", "wanted one"),
                          ("id\na\n", "no column beside the ids"), ("id\tpart\na\ttrain\na\ttest\n", "'a' has a row already"), ("a,b\n1,2\n", "ids")):
        with pytest.raises(AamError, match=message): read(text)
    with pytest.raises(AamError, match="absent"): read_given(tmp_path/"absent.tsv")


def test_an_older_run_gives_its_split_and_folds_again(tmp_path):
    ids, group = ids_of(30), np.repeat(np.arange(10), 3)
    split = split_groups(ids, group); write_split(split, tmp_path/"split.tsv"); again = split_given(ids, read_given(tmp_path/"split.tsv")[ids], group)
    for part in ("train", "valid", "test"): assert list(getattr(again, part)) == list(getattr(split, part))
    folds = kfold(ids, 4, group); write_folds(folds, tmp_path/"folds.tsv")
    assert lists(folds_given(ids, read_given(tmp_path/"folds.tsv")[ids], group)) == lists(folds)


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


def test_real_columns_are_left_out_where_subjects_lie_within_them_and_refused_where_not():
    m = real_metadata("ecam_infant").query("is_infant == 1")
    folds = leave_one_out(m.index, m.delivery, m.host_subject_id); assert [set(m.delivery[t]) for _, t in folds] == [{o} for o in sorted(set(m.delivery))]
    with pytest.raises(AamError, match=r"value that is left out: \d+ of \d+ .first: '"):
        leave_one_out(m.index, m.month_of_life, m.host_subject_id)


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


@given(st.integers(1, 3), st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_folds_round_trip(tmp_path_factory, repeats, k, seed):
    path = tmp_path_factory.mktemp("folds")/"folds.tsv"; folds = repeated(ids_of(12), k, repeats, seed=seed)
    write_folds(folds, path); assert lists(read_folds(path)) == lists(folds)
    one = folds[:1]; write_folds(one, path); assert lists(read_folds(path)) == lists(one), "samples that only train are kept"


def test_folds_file_names_what_is_held_out_and_its_errors(tmp_path):
    path = tmp_path/"folds.tsv"; folds = leave_one_out(ids_of(4), list("XXYY")); write_folds(folds, path, names=["X", "Y"])
    table = pd.read_csv(path, sep="\t"); assert list(table.held_out) == list("XXYY") and list(table.fold) == [1, 1, 2, 2]
    assert lists(read_folds(path)) == lists(folds)
    for text, message in (("a\n", "is not a list of folds"), ("sample_id\trepeat\tfold\na\t1\tx\n", "Line 2"), ("sample_id\trepeat\tfold\na\t1\n", "Line 2"),
                          ("sample_id\trepeat\tfold\na\t1\t\n", "Line 2"), ("sample_id\trepeat\tfold\na\t1\t1\na\t1\t2\n", "two folds of one repeat")):
        path.write_text(text)
        with pytest.raises(AamError, match=message): read_folds(path)


def test_picture_of_folds():
    folds = repeated(ids_of(40), 4, 2); fig = plot_folds(folds, pd.Series(np.arange(40.), index=ids_of(40), name="y")); fig.canvas.draw()
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["1.1", "1.2", "1.3", "1.4", "2.1", "2.2", "2.3", "2.4"]
    many = leave_one_out(ids_of(40), np.arange(40)); fig = plot_folds(many, pd.Series([None, *"ab"*19, "a"], index=ids_of(40), name="y"), names=ids_of(40))
    fig.canvas.draw(); assert len(fig.axes[0].get_yticklabels()) == 30, "of very many folds the first ones"
    plot_folds(many, pd.Series([np.nan, *range(39)], index=ids_of(40), name="y")).canvas.draw()
