"Splits keep groups whole, honour shares and strata, and depend on nothing but the samples and the seed."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.metadata import read_metadata
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


def ids_of(n): return [f"S{i:04d}" for i in range(n)]


def real_metadata(data_dir, name):
    path = data_dir/name/"metadata.tsv"
    if not path.exists(): pytest.skip(f"{path} is absent")
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
    order = np.random.default_rng(1).permutation(100)
    x = np.random.default_rng(2).integers(0, 9, 100).astype(float)
    assert (strata(x[order]) == strata(x)[order]).all()


def test_strata_refuse_text_and_infinity_as_numbers():
    with pytest.raises(AamError, match="not numbers: 1 of 2 .first: 'high'"):
        strata(["1", "high"], "regression")
    with pytest.raises(AamError, match="not numbers"): strata([1., np.inf])


# one split by group

groups_and_classes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=3, max_size=25)

@given(groups_and_classes, st.integers(0, 2**31 - 1), st.sampled_from([(.2, .2), (.1, .3), (.25, 0), (0, .5),
                                                                       (.4, .4)]))
@settings(max_examples=30, deadline=None)
def test_groups_never_straddle_and_every_part_is_filled(groups, seed, shares):
    group = np.repeat(np.arange(len(groups)), [n for n, _ in groups])
    ids = ids_of(len(group))
    y = np.random.default_rng(seed).integers(0, [k + 1 for _, k in groups])[group]
    split = split_groups(ids, group, valid=shares[0], test=shares[1], seed=seed, strata=y)
    assert sorted([*split.train, *split.valid, *split.test]) == ids
    of = dict(zip(ids, group, strict=True))
    a, b, c = (set(map(of.get, o)) for o in (split.train, split.valid, split.test))
    assert not (a & b or a & c or b & c)
    assert len(a) and bool(b) == bool(shares[0]) and bool(c) == bool(shares[1])


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_met_as_nearly_as_groups_allow(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 20, 60)
    group = np.repeat(np.arange(60), size)
    for valid, test in ((.2, .2), (.15, .3), (.1, .1)):
        split = split_groups(ids_of(len(group)), group, valid=valid, test=test, seed=seed)
        for part, share in ((split.valid, valid), (split.test, test)):
            assert abs(len(part) - share*len(group)) <= size.max()/2


def test_one_giant_group_does_not_spoil_the_shares():
    group = np.repeat(np.arange(21), [50] + [5]*20)
    split = split_groups(ids_of(150), group)
    assert abs(len(split.test) - 30) <= 5 and abs(len(split.valid) - 30) <= 5 # within one of the small groups


def test_strata_are_spread_over_the_parts():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(80), 6)
    y = (rng.random(80) < .25).astype(int)[group] # a property of the subject
    on, off = [], []
    for seed in range(4):
        for out, s in ((on, y), (off, None)):
            split = split_groups(ids_of(480), group, seed=seed, strata=s)
            at = [int(i[1:]) for i in split.test]
            out.append(abs(y[at].mean() - y.mean()))
    assert max(on) < .03 < np.mean(off)


def test_row_order_does_not_matter_and_the_seed_does():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 40, 300).astype(str)
    ids = np.array(ids_of(300))
    y = rng.random(300)
    order = rng.permutation(300)
    def run(at, **kw): return split_groups(ids[at], group[at], strata=strata(y[at]), **kw)
    a, b, c = run(slice(None)), run(order), run(slice(None), seed=7)
    for part in ("train", "valid", "test"): assert list(getattr(a, part)) == list(getattr(b, part))
    assert set(a.test) != set(c.test)
    fold = [kfold(ids[at], 4, group[at], strata(y[at])) for at in (slice(None), order)]
    plain = [kfold(ids[at], 4, strata=strata(y[at])) for at in (slice(None), order)]
    whole = [split_independent(ids[at], strata=strata(y[at])) for at in (slice(None), order)]
    for one, two in (fold, plain):
        assert all((x[1] == z[1]).all() and (x[0] == z[0]).all() for x, z in zip(one, two, strict=True))
    assert list(whole[0].test) == list(whole[1].test)


def test_groups_of_numbers_and_of_text_are_the_same():
    number = np.repeat(np.arange(12.), 5)
    a, b = split_groups(ids_of(60), number), split_groups(ids_of(60), number.astype(str))
    assert list(a.test) == list(b.test)


def test_missing_groups_single_group_and_too_few_are_refused():
    with pytest.raises(AamError, match=r"2 of 4 samples .first: 'S0001', 'S0003'.*data\.where"):
        split_groups(ids_of(4), ["a", None, "b", "  "])
    with pytest.raises(AamError, match="No group is given for 1 of 3 samples"):
        kfold(ids_of(3), 2, [1., np.nan, 2.])
    with pytest.raises(AamError, match="one group .'a'"): split_groups(ids_of(4), ["a"]*4)
    with pytest.raises(AamError, match="one group"): kfold(ids_of(4), 2, ["a"]*4)
    with pytest.raises(AamError, match="3 parts need 3 groups, and there are 2 .'a', 'b'"):
        split_groups(ids_of(4), list("aabb"))
    with pytest.raises(AamError, match="Folds asked for: 3, groups: 2"): kfold(ids_of(4), 3, list("aabb"))
    with pytest.raises(AamError, match="Folds asked for: 1"): kfold(ids_of(4), 1)
    with pytest.raises(AamError, match="Folds asked for: 5, samples: 4"): kfold(ids_of(4), 5)


def test_odd_ids_and_shares_are_refused():
    with pytest.raises(AamError, match="sample ids are repeated: 'a'"):
        split_groups(["a", "b", "a"], [1, 2, 3])
    with pytest.raises(AamError, match="Sample ids: 3, values for them: 2"):
        split_groups(["a", "b", "c"], [1, 2])
    with pytest.raises(AamError, match="no sample"): split_independent([])
    with pytest.raises(AamError, match="a sum below 1"): split_independent(ids_of(9), valid=.5, test=.5)
    with pytest.raises(AamError, match="a sum below 1"): split_groups(ids_of(9), list("abcdefghi"), valid=-.1)
    with pytest.raises(AamError, match="3 samples; found 2"): split_independent(ids_of(2))


# independent samples

@given(st.integers(3, 80), st.integers(0, 2**31 - 1), st.sampled_from([(.2, .2), (.3, .1), (0, .5), (.5, 0)]))
@settings(max_examples=30, deadline=None)
def test_independent_split_has_exact_sizes_and_even_strata(n, seed, shares):
    y = np.random.default_rng(seed).integers(0, 3, n)
    ids = ids_of(n)
    split = split_independent(ids, *shares, seed=seed, strata=y)
    assert sorted([*split.train, *split.valid, *split.test]) == ids and len(split.train)
    assert len(split.test) == (max(1, round(shares[1]*n)) if shares[1] else 0)
    if shares[1]:
        at = [int(i[1:]) for i in split.test]
        want = len(at)*np.bincount(y, minlength=3)/n
        assert (abs(np.bincount(y[at], minlength=3) - want) < 1 + 1e-9).all()


# folds

def test_folds_equal_scikit_learn_on_sorted_samples():
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    rng = np.random.default_rng(0)
    ids = np.array(ids_of(200))
    group = rng.integers(10, 40, 200).astype(str)
    y = rng.integers(0, 2, 200)
    ours = kfold(ids, 5, group, y, seed=42)
    theirs = StratifiedGroupKFold(5, shuffle=True, random_state=42).split(ids, y, group)
    for (train, test), (a, b) in zip(ours, theirs, strict=True):
        assert (train == ids[a]).all() and (test == ids[b]).all()
    theirs = StratifiedKFold(5, shuffle=True, random_state=42).split(ids, y)
    for (_, test), (_, b) in zip(kfold(ids, 5, strata=y, seed=42), theirs, strict=True):
        assert (test == ids[b]).all()


@given(st.lists(st.integers(1, 6), min_size=2, max_size=20), st.integers(0, 99), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_folds_cover_each_sample_once_and_none_is_empty(sizes, seed, classes):
    group = np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(seed).integers(0, classes, len(group))
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
    group = np.repeat(np.arange(len(sizes)), sizes)
    ids = ids_of(len(group))
    out = repeated(ids, 3, repeats, group, seed=seed)
    at = fold_numbers(out)
    assert lists(out[:3]) == lists(kfold(ids, 3, group, seed=seed))
    assert at == [(r, k) for r in range(1, repeats + 1) for k in (1, 2, 3)]
    for r in range(1, repeats + 1):
        assert sorted(i for (q, _), (_, test) in zip(at, out, strict=True) if q == r for i in test) == ids


def test_repeats_differ_and_depend_on_the_seed_alone():
    ids = np.array(ids_of(60))
    group = np.repeat(np.arange(20), 3).astype(str)
    order = np.random.default_rng(0).permutation(60)
    a = lists(repeated(ids, 4, 3, group, seed=5))
    assert a == lists(repeated(ids[order], 4, 3, group[order], seed=5))
    assert a != lists(repeated(ids, 4, 3, group, seed=6))
    assert a[:4] != a[4:8] != a[8:]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=2, max_size=15), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_one_value_at_a_time(groups, seed):
    "Each value is the test part of one fold, no group is torn, and the order of the rows does not matter."
    group = np.repeat(np.arange(len(groups)), [n for _, n in groups])
    ids = np.array(ids_of(len(group)))
    site = np.array([f"site {v}" for v, _ in groups])[group]
    if len(set(site)) < 2:
        with pytest.raises(AamError, match="of one value"): leave_one_out(ids, site, group)
        return
    out = leave_one_out(ids, site, group)
    of = dict(zip(ids, site, strict=True))
    order = np.random.default_rng(seed).permutation(len(ids))
    assert [set(map(of.get, test)) for _, test in out] == [{o} for o in sorted(set(site))]
    assert all(sorted([*train, *test]) == list(ids) for train, test in out)
    assert lists(out) == lists(leave_one_out(ids[order], site[order], group[order]))


def test_left_out_values_refuse_straddlers_by_name_missing_ones_and_numbers_are_plain():
    with pytest.raises(AamError, match=r"one value that is left out: 1 of 2 .first: 'b: X, Y'"):
        leave_one_out(ids_of(5), list("XXYYX"), list("aabbb"))
    with pytest.raises(AamError, match="No value is given for 1 of 3 samples"):
        leave_one_out(ids_of(3), ["X", None, "Y"])
    with pytest.raises(AamError, match="No group is given for 2 of 4 samples"):
        leave_one_out(ids_of(4), list("XXYY"), ["a", np.nan, "b", " "])
    assert list(labels([3., None, 12.])) == ["3", "", "12"] and list(labels(["3.5", 2.0])) == ["3.5", "2.0"]
    assert list(labels([True, "x"])) == ["True", "x"]


def test_left_out_subjects_are_the_groups_themselves():
    group = np.repeat(list("abcd"), 3)
    assert [len(t) for _, t in leave_one_out(ids_of(12), group, group)] == [3]*4


@given(st.lists(st.integers(1, 5), min_size=8, max_size=20), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_inner_folds_lie_inside_and_keep_groups_whole(sizes, seed):
    group = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.array(ids_of(len(group)))
    y = np.random.default_rng(seed).normal(size=len(ids))
    outer = kfold(ids, 3, group, strata(y), seed)
    inside = nested(outer, ids, 2, group, y, "regression", seed)
    of = dict(zip(ids, group, strict=True))
    order = np.random.default_rng(seed).permutation(len(ids))
    turned = nested(outer, ids[order], 2, group[order], y[order], "regression", seed)
    assert [lists(o) for o in inside] == [lists(o) for o in turned]
    for (train, test), inner in zip(outer, inside, strict=True):
        assert sorted(i for _, b in inner for i in b) == list(train)
        for a, b in inner:
            assert not set(a) & set(b) and not (set(a) | set(b)) & set(test)
            assert not {of[i] for i in a} & {of[i] for i in b}


def test_inner_folds_see_no_target_of_the_test_part():
    ids, y = ids_of(60), np.random.default_rng(0).normal(size=60)
    outer = kfold(ids, 3)
    changed = y.copy()
    at = [int(i[1:]) for i in outer[0][1]]
    changed[at] += 100
    assert lists(nested(outer, ids, 3, values=y)[0]) == lists(nested(outer, ids, 3, values=changed)[0])


def test_too_small_a_training_part_is_named():
    with pytest.raises(AamError, match=r"fold 2 cannot be cut into 3 inner folds .run.inner.*groups: 2"):
        nested(leave_one_out(ids_of(7), list("XXXYYYY")), ids_of(7), 3, list("aabcdef"))


# real studies

def test_real_split_by_subject_is_near_its_shares(data_dir):
    m = real_metadata(data_dir, "ecam_infant").query("is_infant == 1")
    s = strata(m.month_of_life)
    split = split_groups(m.index, m.host_subject_id, strata=s)
    of = parts_of(split, m.host_subject_id)
    assert not of["train"] & of["test"] and not of["train"] & of["valid"] and not of["valid"] & of["test"]
    for part in (split.valid, split.test):
        assert abs(len(part)/len(m) - .2) < .01
        got = np.bincount(s[m.index.get_indexer(list(part))], minlength=5)/len(part)
        assert abs(got - np.bincount(s)/len(m)).sum()/2 < .06


def test_real_columns_are_left_out_where_subjects_lie_within_them_and_refused_where_not(data_dir):
    m = real_metadata(data_dir, "ecam_infant").query("is_infant == 1")
    folds = leave_one_out(m.index, m.delivery, m.host_subject_id)
    assert [set(m.delivery[t]) for _, t in folds] == [{o} for o in sorted(set(m.delivery))]
    with pytest.raises(AamError, match=r"value that is left out: \d+ of \d+ .first: '"):
        leave_one_out(m.index, m.month_of_life, m.host_subject_id)
