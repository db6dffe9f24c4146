"One ranking of the columns that could keep samples together, quoted by every check."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import kinds, look, quick, small, text_of, with_columns, with_counts

from aam_nb.core import AamError, Caller, speaking
from aam_nb.data.groupings import counted_anew, divides, grouping_text, rank_groupings
from aam_nb.data.split import kfold
from aam_nb.data.subjects import subject_like
from aam_nb.evaluation.depth import depth_alarm
from aam_nb.evaluation.evaluation import _ungrouped_warnings
from aam_nb.runs.choice import group_values
from aam_nb.sections import DataConfig


@pytest.fixture
def mice():
    "30 mice in four cages, both named by their columns."
    s = small()
    number = s.metadata["subject"].str[1:].astype(int)
    metadata = s.metadata.rename(columns={"subject": "mouse"})
    return replace(s, metadata=metadata.assign(Cage=[f"C{o % 4}" for o in number]))


def caged(cages, per=5, each=4):
    "Mice in cages, with samples of each mouse."
    mouse = np.repeat(np.arange(cages*per), each)
    return pd.DataFrame({"mouse": [f"m{o}" for o in mouse], "cage": [f"c{o//per}" for o in mouse]})


def test_inspection_training_and_evaluation_ask_for_the_same_groups(mice):
    todo = [o for o in quick(mice, "age") if o.kind == "groups"][0].todo
    with pytest.raises(AamError, match="Pass groups=.mouse.") as e:
        group_values(mice, DataConfig(target="age"))
    said = grouping_text(rank_groupings(mice.metadata, subject_like(mice.metadata)))
    assert "groups='mouse'" in todo and said in todo and said in str(e.value)
    assert "4 groups, which allow no more than 4 folds" in said and "leave_out='Cage'" in said
    assert "'mouse' looks like subjects" in _ungrouped_warnings(mice.metadata, np.zeros(120))[0]


def test_the_right_grouping_is_not_scolded(mice):
    folds = kfold(mice.ids, 5, mice.metadata["mouse"])
    for found in (quick(mice, "age", "mouse"), quick(mice, "age", "mouse", folds=folds)):
        assert kinds(found, "leak") == kinds(found, "warning") == set()
    assert kinds(quick(mice, "age", "Cage")) == set()
    cut = quick(mice, "age", "Cage", folds=kfold(mice.ids, 4, mice.metadata["Cage"]))
    assert kinds(cut) == set()


@pytest.mark.parametrize("cages, first", [(4, "mouse"), (5, "cage"), (12, "cage")])
def test_the_coarsest_column_with_enough_groups_comes_first(cages, first):
    m = caged(cages)
    assert rank_groupings(m, subject_like(m))[0].name == first


def test_the_figures_of_a_grouping(mice):
    mouse, cage = rank_groupings(mice.metadata, subject_like(mice.metadata))
    assert (mouse.groups, mouse.folds, mouse.enough, mouse.torn) == (30, 30, True, ("Cage",))
    assert (cage.groups, cage.folds, cage.enough, cage.whole) == (4, 4, False, ("mouse",))


def test_where_no_column_has_enough_groups_the_nearest_is_named():
    m = caged(2, per=2, each=20)
    ranked = rank_groupings(m, [("cage", ""), ("mouse", "")])
    assert ranked[0].name == "mouse" and "no more than 4 folds (folds=4)" in grouping_text(ranked)
    assert "2 groups, too few to divide" in grouping_text(ranked)


def test_crossed_columns_are_judged_by_what_the_folds_divide():
    s = small()
    number = s.metadata["subject"].str[1:].astype(int)
    litter = [f"L{(o + i % 2) % 30//2}" for i, o in enumerate(number)]
    s = with_columns(s, litter=litter)
    litter = np.array(litter)
    assert "of 'litter' span several groups" in text_of(quick(s, "age", "subject"), "groups")
    by_subject = kfold(s.ids, 5, s.metadata["subject"])
    cut = text_of(quick(s, "age", "subject", folds=by_subject), "groups")
    assert "values of 'litter'" in cut and "both sides of the split" in cut
    some = np.isin(litter, ["L0", "L1", "L2"])
    whole = quick(s, "age", "subject", folds=[(s.ids[some], s.ids[~some])])
    assert "'litter'" not in text_of(whole, "groups")


def test_numbers_that_begin_again_in_every_cage_are_no_subjects():
    m = caged(12).assign(mouse=np.tile(np.repeat(np.arange(5), 4), 12))
    assert counted_anew(m.mouse, m.cage) and not counted_anew(m.cage, caged(12).mouse)
    s = small()
    number = s.metadata["subject"].str[1:].astype(int)
    s = with_columns(s, mouse=number % 3, cage=[f"C{o//3}" for o in number]).metadata.drop(columns="subject")
    s = replace(small(), metadata=s)
    assert kinds(quick(s, "age", "cage")) == set()
    assert kinds(quick(s, "age", "cage", folds=kfold(s.ids, 5, s.metadata["cage"]))) == set()


def test_one_value_that_says_unknown_divides_nothing():
    m = caged(12)
    m.loc[::30, "cage"] = "unknown"
    assert not divides(m.mouse, m.mouse) and not divides(m.cage.where(m.cage != "unknown"), m.mouse)
    first = caged(12).assign(house=lambda o: np.where(o.cage.isin(["c1", "c7"]), "unknown", o.cage))
    assert not divides(first.cage, first.house)


def test_depth_has_one_figure():
    s = small()
    age, counts = s.metadata["age"].to_numpy(), s.table.counts.toarray()
    s = with_counts(s, counts*(age/12 + .05)[:, None])
    alarm = depth_alarm(s, s.metadata["age"])
    said = text_of(look(s, "age", "subject").findings, "depth")
    assert alarm.fires and f"rank correlation {alarm.value:.3f}" in said and "out of fold" not in said
    assert f"{alarm.value:.3f}" in alarm.text


def test_the_command_line_reads_its_own_options(mice):
    flags = {"data.groups": "--groups COLUMN", "data.independent": "--independent"}
    refused = pytest.raises(AamError, match="--groups mouse, or --independent")
    with speaking(Caller(flags=flags, commands={})), refused:
        group_values(mice, DataConfig(target="age"))
