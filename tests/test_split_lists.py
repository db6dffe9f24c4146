"Lists of parts and folds, what a run asks for, and the files and pictures of splits."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.split import kfold, labels, leave_one_out, repeated, split_groups, split_independent
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
from aam_nb.types import Split, strings


def ids_of(n): return [f"S{i:04d}" for i in range(n)]


def lists(folds): return [(list(a), list(b)) for a, b in folds]


# the user's lists

def test_parts_are_taken_as_they_are_and_a_missing_valid_is_drawn():
    ids, group = ids_of(40), np.repeat(np.arange(20), 2)
    part = np.repeat(["Train", "test", "valid", None], 10)
    split = split_given(ids, part, group)
    found = list(split.train), list(split.test), list(split.valid)
    assert found == (ids[:10], ids[10:20], ids[20:30]), "samples without a part are in none"
    two = np.where(np.arange(40) < 30, "train", "test")
    split = split_given(ids, two, group, valid=.2, seed=3)
    assert list(split.test) == ids[30:] and len(split.valid) == 8
    assert sorted([*split.train, *split.valid]) == ids[:30]
    of = dict(zip(ids, group, strict=True))
    assert not {of[i] for i in split.train} & {of[i] for i in split.valid}
    assert len(split_given(ids, two, valid=.2, strata=np.arange(40) % 2).valid) == 8
    assert len(split_given(ids, two, valid=0).valid) == 0 and len(split_given(ids, ["train"]*40).test) == 0


def test_fold_numbers_as_a_split_and_as_folds():
    ids = ids_of(12)
    fold = [10., 10, 2, 2, 1, 1, 3, 3, np.nan, np.nan, 10, 10]
    split = split_given(ids, fold)
    assert (list(split.test), list(split.valid)) == (ids[4:6], ids[2:4]) and len(split.train) == 6
    assert list(split_given(ids, fold, test=0).valid) == ids[4:6]
    out = folds_given(ids, fold)
    in_order = [ids[4:6], ids[2:4], ids[6:8], [*ids[:2], *ids[10:]]]
    assert [list(t) for _, t in out] == in_order, "in the order of the numbers"
    assert all(len(a) + len(b) == 10 for a, b in out)
    (train, test), = folds_given(ids, ["train"]*4 + ["valid"]*4 + ["test"]*4)
    assert list(train) == ids[:8] and list(test) == ids[8:]


@pytest.mark.parametrize("given,message", [
    (["train", "test", "dev"], "The split says 'dev'"), (["train", "1", "2"], "wanted either"),
    (["a", "b", "c"], "data.leave_out"), ([1.5, 2, 3], "'1.5'"),
    ([None, None, ""], "nothing"), (["test"]*3, "one part only|no sample in the part 'train'"),
    ([1, 1, 1], "one fold|Folds in the split: 1"), ([-1, 1, 2], "'-1'")])
def test_lists_of_other_words(given, message):
    for take in (split_given, folds_given):
        with pytest.raises(AamError, match=message): take(ids_of(3), given)


def test_lists_refuse_groups_that_straddle_by_name():
    ids, group = ids_of(8), list("aabbccdd")
    for take in (split_given, folds_given):
        with pytest.raises(AamError, match=r"more than one fold: 1 of 4 .first: 'b: 1, 2'"):
            take(ids, [1, 1, 1, 2, 2, 2, 3, 3], group)
        torn = "'a: test, train', 'd: train, valid'"
        with pytest.raises(AamError, match=f"more than one part of the split: 2 of 4 .first: {torn}"):
            take(ids, ["train", "test", *["train"]*4, "valid", "train"], group)
        with pytest.raises(AamError, match="No group is given for 1"):
            take(ids, [1, 1, 2, 2, 3, 3, 4, 4], ["a", None, *"bbccdd"])
    found = folds_given(ids, [1, None, 2, 2, 3, 3, 1, 1], ["a", None, *"bbccdd"])
    assert len(found) == 3, "who is in no fold needs no group"


def test_two_answers_and_repeats_of_fixed_folds_are_refused():
    ids, part = ids_of(8), [1, 1, 2, 2, 3, 3, 4, 4]
    for take in (split_for, folds_for):
        with pytest.raises(AamError, match="Choose one"): take(ids, given=part, leave_out=part)
    with pytest.raises(AamError, match="run.repeats is 3, but data.split"):
        folds_for(ids, repeats=3, given=part)
    with pytest.raises(AamError, match="run.repeats is 2, but data.leave_out"):
        folds_for(ids, repeats=2, leave_out=part)
    wanted = lists(leave_one_out(ids, part))
    assert lists(folds_for(ids, leave_out=part)) == lists(folds_for(ids, given=part)) == wanted
    assert lists(folds_for(ids, folds=2, repeats=3, seed=1)) == lists(repeated(ids, 2, 3, seed=1))


def test_a_training_keeps_left_out_values_in_one_part():
    ids, site, group = ids_of(30), np.repeat(list("UVWXYZ"), 5), np.repeat(np.arange(15), 2)
    split = split_for(ids, leave_out=site, seed=1)
    of = dict(zip(ids, site, strict=True))
    a, b, c = (set(map(of.get, o)) for o in (split.train, split.valid, split.test))
    assert a and b and c and not (a & b or a & c or b & c)
    with pytest.raises(AamError, match="more than one value that is left out: "):
        split_for(ids, leave_out=site, groups=group)
    with pytest.raises(AamError, match="3 parts need 3 groups"): split_for(ids[:10], leave_out=site[:10])
    assert list(split_for(ids, groups=group, seed=4).test) == list(split_groups(ids, group, seed=4).test)
    assert list(split_for(ids, seed=4).test) == list(split_independent(ids, seed=4).test)


def test_lists_in_files(tmp_path):
    def read(text):
        (tmp_path/"list.tsv").write_text(text)
        return read_given(tmp_path/"list.tsv")
    assert read("#SampleID\tPart\na\ttrain\n0012\ttest\n").to_dict() == {"a": "train", "0012": "test"}
    typed = read("id\tsite\tfold\n#q2:types\tcategorical\tnumeric\na\tX\t1\nb\tX\t\n")
    assert list(labels(typed)) == ["1", ""]
    assert list(read("id\tanything\na\ttest\n")) == ["test"], "a single column needs no name"
    for text, message in (("id\tsite\tx\na\t1\t2\n", "columns 'site', 'x'; wanted one"),
                          ("id\tpart\tfold\na\ttrain\t2\n", "wanted one"),
                          ("id\na\n", "no column beside the ids"),
                          ("id\tpart\na\ttrain\na\ttest\n", "'a' has a row already"), ("a,b\n1,2\n", "ids")):
        with pytest.raises(AamError, match=message): read(text)
    with pytest.raises(AamError, match="absent"): read_given(tmp_path/"absent.tsv")


def test_an_older_run_gives_its_split_and_folds_again(tmp_path):
    ids, group = ids_of(30), np.repeat(np.arange(10), 3)
    split = split_groups(ids, group)
    write_split(split, tmp_path/"split.tsv")
    again = split_given(ids, read_given(tmp_path/"split.tsv")[ids], group)
    for part in ("train", "valid", "test"): assert list(getattr(again, part)) == list(getattr(split, part))
    folds = kfold(ids, 4, group)
    write_folds(folds, tmp_path/"folds.tsv")
    assert lists(folds_given(ids, read_given(tmp_path/"folds.tsv")[ids], group)) == lists(folds)


# files and pictures

def test_split_round_trip_and_its_errors(tmp_path):
    split = split_groups(["é 1", "x", "y", "z"], list("abcd"))
    path = tmp_path/"run"/"split.tsv"
    write_split(split, path)
    again = read_split(path)
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
    assert "Two parts" in bad("sample_id\tpart\na\ttrain\na\ttest\n")
    assert "text" in bad(b"\xff\xfe\x00")
    with pytest.raises(AamError, match="no file"): read_split(tmp_path/"absent.tsv")
    with pytest.raises(AamError): read_split(tmp_path)


def test_picture_for_numbers_classes_and_missing_values():
    import matplotlib.pyplot as plt
    split = Split(train=strings("abcd"), valid=strings("ef"), test=strings(""))
    for values in ([1., 2, 3, np.nan, 5, 6], ["x", "y", None, "x", "y", "y"]):
        fig = plot_split(split, pd.Series(values, index=list("abcdef"), name="target"))
        fig.canvas.draw()
        assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["train", "valid"]
    assert not plt.get_fignums(), "the figure is not left open"


@given(st.integers(1, 3), st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_folds_round_trip(tmp_path_factory, repeats, k, seed):
    path = tmp_path_factory.mktemp("folds")/"folds.tsv"
    folds = repeated(ids_of(12), k, repeats, seed=seed)
    write_folds(folds, path)
    assert lists(read_folds(path)) == lists(folds)
    one = folds[:1]
    write_folds(one, path)
    assert lists(read_folds(path)) == lists(one), "samples that only train are kept"


def test_folds_file_names_what_is_held_out_and_its_errors(tmp_path):
    path = tmp_path/"folds.tsv"
    folds = leave_one_out(ids_of(4), list("XXYY"))
    write_folds(folds, path, names=["X", "Y"])
    table = pd.read_csv(path, sep="\t")
    assert list(table.held_out) == list("XXYY") and list(table.fold) == [1, 1, 2, 2]
    assert lists(read_folds(path)) == lists(folds)
    for text, message in (("a\n", "is not a list of folds"), ("sample_id\trepeat\tfold\na\t1\tx\n", "Line 2"),
                          ("sample_id\trepeat\tfold\na\t1\n", "Line 2"),
                          ("sample_id\trepeat\tfold\na\t1\t\n", "Line 2"),
                          ("sample_id\trepeat\tfold\na\t1\t1\na\t1\t2\n", "two folds of one repeat")):
        path.write_text(text)
        with pytest.raises(AamError, match=message): read_folds(path)


def test_picture_of_folds():
    folds = repeated(ids_of(40), 4, 2)
    fig = plot_folds(folds, pd.Series(np.arange(40.), index=ids_of(40), name="y"))
    fig.canvas.draw()
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["1.1", "1.2", "1.3", "1.4", "2.1", "2.2",
                                                                     "2.3", "2.4"]
    many = leave_one_out(ids_of(40), np.arange(40))
    fig = plot_folds(many, pd.Series([None, *"ab"*19, "a"], index=ids_of(40), name="y"), names=ids_of(40))
    fig.canvas.draw()
    assert len(fig.axes[0].get_yticklabels()) == 30, "of very many folds the first ones"
    plot_folds(many, pd.Series([np.nan, *range(39)], index=ids_of(40), name="y")).canvas.draw()
