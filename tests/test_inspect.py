"The leak check finds what is planted and what real studies hold, unasked, and is silent on clean ones."
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from html_pages import Page
from planted import kinds, look, quick, real, small, text_of, with_again, with_columns, with_counts

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.data.split import kfold, split_groups, split_independent
from aam_nb.data.tokens import sequence_keys
from aam_nb.evaluation.checks import control_findings
from aam_nb.evaluation.inspect_page import write_inspection
from aam_nb.evaluation.question import target_of
from aam_nb.evaluation.shortcuts import lab_columns
from aam_nb.evaluation.together import id_findings
from aam_nb.types import Split, strings


@pytest.fixture
def study(): return small()


# Clean studies

@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [dict(samples=120, groups=30), dict(samples=60, groups=20, depth=1000),
                                  dict(samples=90, groups=90)])
def test_no_alarm_on_a_clean_study(size, seed):
    s = simulate(asvs=150, seed=seed, **size)
    groups = "subject" if size["groups"] < size["samples"] else ""
    for target in ("age", "site"): assert look(s, target, groups, seed=seed).alarms == ()
    parts = split_groups(s.ids, s.metadata["subject"], seed=seed)
    folds = kfold(s.ids, 5, s.metadata["subject"], seed=seed)
    assert not kinds(quick(s, "age", groups, split=parts))
    assert not kinds(quick(s, "age", groups, folds=folds))
    assert not kinds(quick(s, "age", groups, pretrained=sequence_keys(["a", "b"])))


@pytest.mark.parametrize("lacks", [dict(metadata=None), dict(tree=None, tip=None),
                                   dict(metadata=None, tree=None, tip=None)])
def test_works_without_metadata_tree_or_target(study, lacks, tmp_path):
    s = replace(study, **lacks)
    found = look(s)
    whole = "200 tips; it covers 200 of 200 ASVs and 100.0% of the reads"
    assert found.facts["tree"] == ("none" if "tree" in lacks else whole)
    assert kinds(found.findings) == (set() if s.metadata is None else {"groups"})
    assert quick(s) == list(found.findings)
    Page(write_inspection(found, tmp_path).read_text())
    if s.metadata is None:
        with pytest.raises(AamError, match="metadata="): look(s, "age")
        with pytest.raises(AamError, match="metadata="): look(s, groups="subject")


def test_columns_and_ids_that_are_not_there_are_named(study):
    with pytest.raises(AamError, match="no column 'agee' for the target. Did you mean 'age'"):
        look(study, "agee")
    with pytest.raises(AamError, match="no column 'subjct' for the groups"): quick(study, "age", "subjct")
    with pytest.raises(AamError, match="'nobody'"): quick(study, folds=[(study.ids[:9], ["nobody"])])


def test_a_column_that_cannot_be_the_target_is_a_finding(study):
    s = with_columns(study, same="a", gone=np.nan, name=[f"n{i}" for i in range(120)])
    reasons = dict(same="one class only", gone="missing for all 120", name="too many to learn")
    for name, why in reasons.items():
        found = look(s, name, "subject")
        assert not found.shortcuts and kinds(found.alarms) == {"target"}
        assert target_of(found.case) is None and why in text_of(found.alarms, "target")


# Planted leaks

@pytest.mark.parametrize("seed", range(4))
def test_planted_depth_leak(study, seed):
    counts, low = study.table.counts.toarray(), ("gut", "mouth", "skin")[seed % 3]
    counts[study.metadata["site"].to_numpy() == low] //= 4
    s = with_counts(study, counts)
    leak, = [o for o in quick(s, "site", "subject", seed=seed) if o.severity == "leak"]
    assert leak.kind == "depth" and re.search(r"AUC 0\.[6-9]", leak.text)
    assert re.search(r"depth=\d+ loses \d+ of 120", leak.todo)
    assert "depth" not in kinds(quick(s, "age", "subject", seed=seed))


def test_planted_depth_leak_of_a_number(study):
    """Up with the age, and up and down again in the middle: bins see both, where one correlation sees the
    first."""
    age, counts = study.metadata["age"].to_numpy(), study.table.counts.toarray()
    for factor in (age/12 + .05, 1 + 30*(age > 16) + 8*(age < 8)):
        found = quick(with_counts(study, counts*factor[:, None]), "age", "subject")
        assert kinds(found, "leak") == {"depth"} and "rank correlation" in text_of(found, "depth")


@pytest.mark.parametrize("redraw", [None, 1])
def test_planted_duplicate_across_folds(study, redraw):
    s = with_again(study, 7, subject="P99", seed=redraw)
    folds = kfold(s.ids, 5, s.metadata["subject"], seed=3)
    at = {i: k for k, (_, test) in enumerate(folds) for i in test}
    assert at["S007"] != at["again"] # else it is no leak, and another seed is wanted
    found = quick(s, "age", "subject", folds=folds)
    assert kinds(found, "leak") == {"alike"} and "'S007' and 'again'" in text_of(found, "alike")
    assert "both sides of the split" in text_of(found, "alike")
    pair = ["S007", "again"]
    found = quick(s, "age", "subject", folds=[(np.setdiff1d(s.ids.astype(str), pair), pair)])
    assert [o.severity for o in found if o.kind == "alike"] == ["note"]


def test_planted_duplicate_across_a_split_or_groups(study):
    s = with_again(study, 7, subject="P99")
    rest = [o for o in s.ids if o not in ("S007", "again")]
    apart = dict(train=["S007"], valid=["again"], test=rest), dict(train=rest, valid=["S007"], test=["again"])
    for parts in apart:
        split = Split(**{k: strings(v) for k, v in parts.items()})
        assert "alike" in kinds(quick(s, split=split), "leak")
    assert "different values of 'subject'" in text_of(quick(s, groups="subject"), "alike")
    inside = quick(with_again(study, 7), groups="subject")
    assert [(o.severity, o.kind) for o in inside] == [("note", "alike")]


def test_planted_pretraining_overlap(study):
    keys = sequence_keys(["S003", "S017", "elsewhere"])
    parts = split_groups(study.ids, study.metadata["subject"], seed=1)
    every = text_of(quick(study, groups="subject", pretrained=keys), "pretrained")
    assert "2 of 120" in every and "'S003', 'S017'" in every
    scored = {*parts.valid, *parts.test}
    n = len(scored & {"S003", "S017"})
    found = quick(study, groups="subject", split=parts, pretrained=keys)
    assert (f"{n} of {len(scored)}" in text_of(found, "pretrained")) if n else not kinds(found)
    assert not kinds(quick(study, groups="subject", split=parts, pretrained=sequence_keys(parts.train)))


def test_planted_run_and_plate(study):
    run = np.where(study.metadata["site"] == "skin", "R1", "R2")
    s = with_columns(study, sequencing_run=run, Plate_ID=[f"plate {i % 4}" for i in range(120)], run_id=run)
    found = look(s, "site", "subject")
    lab, = [o for o in found.findings if o.kind == "lab"]
    assert "'sequencing_run' alone, with 2 values" in lab.text and "Plate_ID" not in lab.text
    assert "leave_out='sequencing_run'" in lab.todo
    # run_id says the same as sequencing_run
    assert [o.name for o in found.shortcuts] == ["depth", "sequencing_run", "Plate_ID"]
    assert [o.fires for o in found.shortcuts] == [False, True, False]
    assert "lab" not in kinds(quick(s, "site", "subject")) and not look(s, "age", "subject").alarms


def test_missing_is_a_value(study):
    batch = np.where(study.metadata["site"] == "gut", None, np.arange(120) % 3)
    assert "'batch'" in text_of(look(with_columns(study, batch=batch), "site", "subject").findings, "lab")


# Samples that belong together

def test_groups_that_a_split_cuts(study):
    assert kinds(quick(study, "age", "subject", split=split_independent(study.ids)), "leak") == {"groups"}
    found = text_of(quick(study, folds=kfold(study.ids, 5)), "groups")
    assert re.search(r"of 30 values of 'subject' .* have samples on both sides", found)


def test_a_household_runs_through_subjects(study):
    s = with_columns(study, household_id=[f"H{int(o[1:])//3}" for o in study.metadata["subject"]])
    found = quick(s, "age", "subject")
    assert kinds(found, "leak") == {"groups"}
    assert "10 values of 'household_id' span several groups of 'subject'" in found[0].text
    assert not kinds(quick(s, "age", "household_id")) # subjects lie inside households
    assert "groups='household_id'" in quick(s, "age")[0].todo


def test_series_in_time_and_missing_groups(study):
    s = with_columns(study, day_of_life=np.arange(120) % 4)
    assert "'day_of_life' varies within its values" in quick(s)[0].text
    assert "series" not in quick(study)[0].text
    m = study.metadata.copy()
    m.loc["S001", "subject"] = None
    found = quick(replace(study, metadata=m), groups="subject")
    assert "1 of 120 samples has no value in 'subject'" in text_of(found, "groups")


def test_ids_in_series():
    assert id_findings([f"10249.C{i//3:03}.{i % 3:02}SS" for i in range(60)])
    assert id_findings([f"P{i//2}-{i % 2}" for i in range(40)])
    sites = [f"{s}.{i}" for s in ("gut", "oral") for i in range(30)]
    for ids in ([f"S{i:03}" for i in range(60)], [f"study.{i}" for i in range(60)], sites,
                [f"1.SKB{i}.640{i}" for i in range(60)]):
        assert not id_findings(ids)


# The other checks

def test_target_that_never_varies_within_a_group(study):
    s = with_columns(study, kind=[("a", "b")[int(o[1:]) % 2] for o in study.metadata["subject"]])
    assert [(o.kind, o.severity) for o in quick(s, "kind", "subject")] == [("constant", "note")]
    few = replace(s, table=study.table.samples(slice(0, 40)), metadata=s.metadata.iloc[:40])
    found = quick(few, "kind", "subject")
    assert "10 independent observations, not 40" in text_of(found, "constant")
    assert found[0].severity == "warning"
    rare = with_columns(study, kind=["x", *"yz"*59, "y"])
    assert "'x' occurs in fewer than three groups" in text_of(quick(rare, "kind", "subject"), "target")


def test_controls(study):
    ids = ["BLANK.1", "extraction-control.2", "NTC3", "mock_4", *study.ids[4:]]
    found, = control_findings(replace(study, table=replace(study.table, sample_ids=strings(ids))))
    assert found.text.startswith("4 samples")
    cases = ["Control", "Case"]*60
    s = with_columns(study, sample_type=["control blank", "Zymo D6300", *["stool"]*118], state=cases)
    found, = control_findings(s)
    assert "2 samples" in found.text and "'sample_type'" in found.text
    assert not control_findings(with_columns(study, state=cases))


def test_table_checks(study):
    counts = study.table.counts.toarray()
    counts[[3, 9]] = 0
    s = with_counts(study, counts)
    assert "2 of 120 samples have no reads" in text_of(quick(s, "site", "subject"), "empty")
    assert not look(s, "site", "subject").alarms
    seqs = study.table.sequences.copy()
    seqs[1] = seqs[0][:80]
    cut = quick(replace(study, table=replace(study.table, sequences=seqs)), groups="subject")
    said = text_of(cut, "lengths")
    assert "1 ASV is the beginning of a longer ASV. The table has lengths from 80 to 100 bases" in said
    tip = study.tip.copy()
    tip[:100] = -1
    assert "of the reads belong to ASVs" in text_of(quick(replace(study, tip=tip), groups="subject"), "tree")


def test_laboratory_columns():
    yes = ["run", "Run_ID", "RunID", "RUNCENTER", "plate_number", "seq batch", "extraction_kit_lot",
           "SEQUENCING_DATE", "instrument_model", "Platform", "EXPERIMENTCENTER", "RUN_LANE",
           "library_prep_plate", "flowcell"]
    no = ["pool_frequency", "running", "run_per_week", "site", "trunk", "brunch", "airplane", "pilot",
          "kitchen_type", "centered_age", "BarcodeSequence"]
    columns = {o: np.arange(300)//(i + 2) % 7 for i, o in enumerate(yes + no)}
    assert set(lab_columns(pd.DataFrame(columns))) == set(yes) and not lab_columns(None)
    assert not lab_columns(pd.DataFrame(dict(run=np.arange(60), plate=1, batch=np.nan)))


# Real studies

def test_ecam(data_dir):
    s = real(data_dir, "ecam_infant")
    found = quick(s, "month_of_life")
    assert kinds(found, "leak") == {"groups", "alike"}
    assert "'host_subject_id'" in text_of(found, "groups") and "series in time" in text_of(found, "groups")
    found = quick(s, "delivery", "host_subject_id")
    assert "42 independent observations, not 741" in text_of(found, "constant")
    # four pairs of infants or mothers share a sample
    assert "different values of 'host_subject_id'" in text_of(found, "alike")
    bare = look(replace(s, metadata=None, tree=None, tip=None))
    assert "'10249.C001'" in text_of(bare.findings, "ids")


def test_ibd(data_dir):
    s = real(data_dir, "ibd_crohns_2538")
    first = quick(s)
    assert "'host_subject_id'" in text_of(first, "groups") and "groups='host_subject_id'" in first[0].todo
    found = look(s, "ibd", "host_subject_id")
    assert kinds(found.findings, "leak") == {"depth"} and found.shortcuts[0].value > .95
    assert "24 independent observations, not 449" in text_of(found.findings, "constant")


def test_hmp(data_dir):
    s, start = real(data_dir, "hmp_v35_bodysite"), time.process_time()
    found = look(s, "HMPbodysupersite")
    seconds = time.process_time() - start
    host, srs = s.metadata["hostsubjectid"].to_numpy(), s.metadata["srs"].to_numpy()
    i, j = found.pairs.T
    assert kinds(found.findings, "leak") >= {"groups", "alike"} and len(found.pairs) > 500
    assert "technical repeats" in text_of(found.findings, "alike")
    assert (host[i] == host[j]).all() and (srs[i] == srs[j]).mean() > .6
    inside = look(s, groups="hostsubjectid").findings
    assert kinds(inside) == {"alike", "orientation"} and kinds(inside, "note") == kinds(inside)
    assert seconds < 60


def test_others(data_dir):
    gut = look(real(data_dir, "global_gut"), "country")
    assert "'RUN_PREFIX' alone, with 14 values" in text_of(gut.findings, "lab")
    assert not look(real(data_dir, "cfs87"), "Subject").alarms
    assert not look(real(data_dir, "tiny_ecam60"), "month_of_life", "host_subject_id").alarms
