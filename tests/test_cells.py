"Cells that mean something else are named: commas, codes, spellings, ids, and counts that are no reads."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate
from aam_nb.data.values import infer_task, other_signs
from aam_nb.evaluation.cells import code_findings, count_findings, spelling_findings
from aam_nb.evaluation.inspect import inspect_study
from aam_nb.evaluation.question import Question
from aam_nb.runs.choice import check_classes
from aam_nb.runs.parts import choose_split
from aam_nb.runs.prepare import leak_notes

TINY = simulate(samples=60, asvs=60, groups=20, seed=0)


def study(**columns):
    "The tiny study with other columns, read from text as a file gives them."
    return replace(TINY, metadata=TINY.metadata.assign(**columns))


def said(target, covariates=(), task="auto", table=None, **columns):
    "What the inspection says of cells and counts, and whether a training says the same."
    made = study(**columns)
    if table is not None: made = replace(made, table=table)
    found = inspect_study(made, Question(target=target, groups="subject", covariates=covariates, task=task))
    kinds = [o for o in found.findings if o.kind in ("cells", "counts")]
    config = config_from(dict(data=dict(target=target, groups="subject", covariates=covariates, task=task)))
    parts = choose_split(made, config, made.metadata[target], made.metadata["subject"].to_numpy())
    train = leak_notes(made, config, parts, None)
    assert [any(o.text in line for line in train) for o in kinds] == [True]*len(kinds)
    return " ".join(str(o) for o in kinds)


@pytest.mark.parametrize("cells, signs", [
    (["6,0", "7,0", "5,5"], "decimal commas"), (["6,05", "7"], "decimal commas"),
    (["1.234,5", "2"], "decimal commas"),
    (["1,732", "235"], "commas between thousands"), (["1,732.5"], "commas between thousands"),
    ([",5", "0,75"], "decimal commas"), (["6,0", "Unknown", "5,5"], "decimal commas"),
    (["−5", "4"], "other signs"),
    (["1 200", "950"], "other signs"), (["a,b", "c"], ""), (["1", "2.5"], ""), (["1,2 kg", "3"], ""),
    (["6,0", "gut", "skin", "hand"], ""), (["3m", "6m"], ""), ([], ""),
])
def test_numbers_with_other_signs_are_never_classes(cells, signs):
    assert other_signs(cells) == signs
    if not signs: return
    with pytest.raises(AamError, match=f"'y' holds numbers in an unusual form .*written with {signs}: write"):
        TargetCodec.fit(pd.Series(cells*2, name="y"))
    with pytest.raises(AamError, match=f"must be a number, but .*written with {signs}: write"):
        TargetCodec.fit(pd.Series(cells*2, name="y"), task="regression")
    if len(cells) > 1: assert TargetCodec.fit(pd.Series(cells*2, name="y"), task="classification").classes


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9), st.integers(1, 4))
def test_every_column_with_decimal_commas_is_named(values, digits):
    cells = [f"{o:.{digits}f}".replace(".", ",") for o in values]
    assert other_signs(cells) in ("decimal commas", "commas between thousands")
    with pytest.raises(AamError, match="commas"): infer_task("y", pd.Series(cells))


@pytest.mark.parametrize("values, codes", [
    ([4.1, 10.8, -999, -999], [-999]), ([4.1, 10.8, -9], [-9]), ([0, 3, 9999, 99], [99, 9999]),
    ([20, 95, 99], []),
    ([-9, -20, 5], []), ([999, 998, 1001], []), ([-999, -999], []),
    ([6.5, 7, np.nan, -99.0], [-99]),
    ([1, 2, 888], [888]), ([7, 8, 9, 10], []), ([-9, -7, -8], []),
    ([500, 600, -999, -888], [-999, -888]),
])
def test_codes_for_a_missing_value(values, codes):
    found = code_findings("age", np.array(values, dtype=float))
    assert sorted(float(o.text.split("the value ")[1].split(",")[0]) for o in found) == sorted(codes)


def test_codes_are_said_for_targets_and_covariates():
    age = TINY.metadata["age"].where(np.arange(60) % 6 > 0, -999.)
    text = said("age", age=age)
    assert "10 of 60 samples have the value -999, far below the others" in text and "age != -999" in text
    assert "'BMI kg'" in said("site", ("BMI kg",), **{"BMI kg": age}) and said("age") == ""
    comma = [f"{o:.1f}".replace(".", ",") for o in TINY.metadata["age"]]
    assert "holds numbers with decimal commas" in said("age", ("ph",), ph=comma)


@pytest.mark.parametrize("texts, named", [
    (["Control", "control"], True), (["High_Fat", "High Fat"], True), (["high-fat", "HighFat"], True),
    (["M", "male"], True), (["straße", "STRASSE"], True), (["B cells", "T cells"], False),
    (["1-1", "11"], False), (["a", "b", ""], False), (["P1", "P10"], False), (["x.1", "x1"], False),
])
def test_spellings(texts, named): assert bool(spelling_findings("diet", texts)) == named


def test_spellings_are_said_for_targets_groups_and_covariates():
    diet = np.where(np.arange(60) % 2, "Control", "control")
    assert "'Control', 'control'" in said("diet", diet=diet)
    assert "'Control', 'control'" in said("age", ("diet",), diet=diet)
    low = [o if i % 2 else o.lower() for i, o in enumerate(TINY.metadata["subject"])]
    found = inspect_study(study(subject=low), Question(target="age", groups="subject"))
    assert any(o.kind == "cells" and "differ only in spelling" in o.text for o in found.findings)


def test_few_whole_numbers_and_ids_as_targets():
    sick, many = np.arange(60) % 2, np.arange(60)
    assert "the numbers '0' and '1' alone" in said("sick", sick=sick)
    assert said("sick", task="classification", sick=sick) == "" == said("sick", task="regression", sick=sick)
    assert "by its name" in said("host_subject_id", host_subject_id=many//3)
    assert "by its values" in said("k", k=many + 1)
    assert said("count", count=(many*7) % 41) == ""
    ids = said("sample_code", sample_code=[f"X{i//3}" for i in many])
    assert "looks like the id of a sample or a subject" in ids


def test_texts_that_become_one_number_are_said(tmp_path):
    rows = "".join(f"{o}\t{['7', '7.0', '8.25'][i % 3]}\n" for i, o in enumerate(TINY.ids))
    (tmp_path/"m.tsv").write_text("id\tdose\n" + rows)
    dose = read_metadata(tmp_path/"m.tsv")
    made = replace(TINY, metadata=dose.assign(age=TINY.metadata["age"]))
    for question in (Question(target="dose"), Question(target="age", covariates=("dose",))):
        text = " ".join(o.text for o in inspect_study(made, question).findings)
        assert "'dose' is used as numbers" in text and "'7', '7.0'" in text


def counted(change):
    "The tiny table with other counts."
    counts = TINY.table.counts.copy()
    dense = counts.toarray()
    counts.data = change(dense)[dense > 0].astype(np.int32)
    return replace(TINY.table, counts=counts)


def test_counts_that_are_no_reads():
    million = counted(lambda x: np.maximum(1, np.round(1e6*x/x.sum(axis=1, keepdims=True))))
    assert "All samples have about 1,000,000 reads" in said("age", table=million)
    assert "Every count of the table is 1" in said("age", table=counted(np.sign))
    assert not count_findings(TINY)


def test_rarefied_tables_are_reads():
    from aam_nb.batches.reads import rarefy
    for depth in (500, 1000):
        table = rarefy(TINY.table, depth, 0)
        assert not count_findings(replace(TINY, table=table))


@pytest.mark.parametrize("groups, sick, says", [
    ("", [1] + [0]*59, "'yes' is in one sample only"),
    ("subject", [1, 1, 1] + [0]*57, "'yes' is in one group only"),
    ("", [1, 1] + [0]*58, ""), ("subject", [1, 1, 1, 1, 1, 1] + [0]*54, ""),
])
def test_a_class_that_cannot_be_tested_is_refused(groups, sick, says):
    who = [f"P{i//3}" for i in range(60)]
    made = study(sick=np.where(sick, "yes", "no"), subject=who)
    config = config_from(dict(data=dict(target="sick", groups=groups, independent=not groups)))
    if not says: return check_classes(made, config)
    with pytest.raises(AamError, match=says): check_classes(made, config)


def test_rare_classes_beside_others_stay():
    kinds = ["a"] + ["b", "c"]*29 + ["b"]
    config = config_from(dict(data=dict(target="kind", independent=True)))
    assert check_classes(study(kind=kinds), config) is None
