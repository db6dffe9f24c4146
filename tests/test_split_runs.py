"What a configuration says of splits reaches a training and an evaluation, is written, or is refused."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import aam_nb.evaluation.baselines as baselines
import aam_nb.evaluation.report as report
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.split import leave_one_out, repeated
from aam_nb.data.split_lists import read_folds, read_split
from aam_nb.data.table import read_table
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.choice import group_values
from aam_nb.runs.parts import choose_folds, choose_split, with_split
from aam_nb.runs.samples import load_study
from aam_nb.runs.train import train_run
from aam_nb.types import Table

SMALL = {"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8, "identity": 16},
         "pretrain_asv": {"steps": 3, "batch": 24}, "optim": {"steps": 4, "batch": 8, "every": 2},
         "run": {"folds": 3, "inner": 2, "threads": 1}}


def quiet(text): pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A study on disk: 12 subjects from three clinics, with columns of folds and of parts."
    folder = tmp_path_factory.mktemp("study")
    study = simulate(samples=48, asvs=40, groups=12, length=40, seed=8)
    number = study.metadata.subject.str[1:].astype(int)
    listed = dict(clinic=number.mod(3).map("clinic {}".format), fold=number.mod(4) + 1.,
                  part=number.mod(4).map({0: "test", 1: "valid"}).fillna("train"))
    write_study(replace(study, metadata=study.metadata.assign(**listed)), folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "Small forests and no drawing: these tests are about who is held out."
    forest = baselines.forest
    monkeypatch.setattr(baselines, "forest", lambda *a, **k: forest(*a, **k, trees=5))
    monkeypatch.setattr(report, "write_report", lambda found, path, **k: path)


def config(files, out, data=None, **sections):
    "A small configuration on that study."
    given = dict(table=str(files/"table.biom"), metadata=str(files/"metadata.tsv"),
                 tree=str(files/"tree.nwk"), target="age", groups="subject")
    return config_from({"data": {**given, **(data or {})}, **{k: dict(v) for k, v in sections.items()},
                        "run": {"out": str(out), **sections.get("run", {})}},
                       base=config_from(SMALL))


def metadata(files): return pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#")
def asked(cfg, choose):
    "What a run would choose."
    study = with_split(load_study(cfg.data), cfg.data)
    parts = choose(study, cfg, study.metadata[cfg.targets[0]], group_values(study, cfg.data))
    return getattr(parts, "outer", parts)
def lists(folds): return [(list(a), list(b)) for a, b in folds]


def test_repeats_are_written_resumed_and_scored(files, tmp_path):
    cfg = config(files, tmp_path/"run", run=dict(repeats=2))
    evaluate_run(cfg, say=quiet)
    folds = read_folds(tmp_path/"run/folds.tsv")
    m = metadata(files)
    assert len(folds) == 6 and len(list((tmp_path/"run/folds").glob("*.npz"))) == 6
    assert lists(folds) == lists(asked(cfg, choose_folds))
    assert lists(folds[:3]) == lists(asked(config(files, "x"), choose_folds))
    for train, test in folds: assert not set(m.subject[train]) & set(m.subject[test])
    found = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t")
    assert (found.groupby("sample_id").size() == 2).all() and set(found.repeat) == {1, 2}
    for p in (tmp_path/"run/folds").glob("*_5.npz"): p.unlink() # killed in the second repeat
    evaluate_run(replace(cfg, run=replace(cfg.run, resume=True)), say=quiet)
    again = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t")
    np.testing.assert_allclose(again["stack"], found["stack"])


def test_one_clinic_at_a_time(files, tmp_path):
    heard = []
    evaluate_run(config(files, tmp_path/"run", dict(leave_out="clinic")), say=heard.append)
    m = metadata(files)
    told = pd.read_csv(tmp_path/"run/folds.tsv", sep="\t", index_col=0)
    assert (told.held_out == m.clinic[told.index]).all() and told.fold.nunique() == 3
    assert lists(read_folds(tmp_path/"run/folds.tsv")) == lists(leave_one_out(m.index, m.clinic))
    assert any(o.startswith("3 outer folds, 2 models") for o in heard)
    assert '"names": [\n  "clinic 0"' in (tmp_path/"run/evaluation.json").read_text()
    split = asked(config(files, "x", dict(leave_out="clinic")), choose_split)
    clinics = {frozenset(m.clinic[o]) for o in (split.train, split.valid, split.test)}
    assert len(clinics) == 3, "a training keeps each clinic in one part"


@pytest.mark.parametrize("how", ["column", "file"])
def test_listed_parts_and_folds(files, tmp_path, how):
    m = metadata(files)
    for name in ("part", "fold"): m[[name]].to_csv(tmp_path/f"{name}.tsv", sep="\t")
    named = lambda name: dict(split=name if how == "column" else str(tmp_path/f"{name}.tsv"))
    train_run(config(files, tmp_path/"train", named("part")), say=quiet)
    split = read_split(tmp_path/"train/split.tsv")
    for o in ("train", "valid", "test"): assert set(getattr(split, o)) == set(m.index[m.part == o])
    assert (tmp_path/"train/split.png").read_bytes()[:4] == b"\x89PNG"
    split = asked(config(files, "x", named("fold")), choose_split)
    assert set(m.fold[split.test]) == {1} and set(m.fold[split.valid]) == {2}
    folds = asked(config(files, "x", named("fold")), choose_folds)
    assert [set(m.fold[t]) for _, t in folds] == [{1}, {2}, {3}, {4}]
    (train, test), = asked(config(files, "x", named("part")), choose_folds)
    assert set(test) == set(m.index[m.part == "test"]) and len(train) + len(test) == 48
    if how == "file": return
    evaluate_run(config(files, tmp_path/"parts", named("part")), say=quiet)
    found = pd.read_csv(tmp_path/"parts/predictions.tsv", sep="\t")
    assert set(found.sample_id) == set(test)
    assert lists(read_folds(tmp_path/"parts/folds.tsv")) == [(sorted(train), sorted(test))]


def test_an_older_run_is_repeated_from_its_files(files, tmp_path):
    first = config(files, tmp_path/"a")
    train_run(first, say=quiet)
    evaluate_run(replace(first, run=replace(first.run, out=str(tmp_path/"b"))), say=quiet)
    split = asked(config(files, "x", dict(split=str(tmp_path/"a/split.tsv"))), choose_split)
    old = read_split(tmp_path/"a/split.tsv")
    for o in ("train", "valid", "test"): assert list(getattr(split, o)) == list(getattr(old, o))
    assert lists(asked(config(files, "x", dict(split=str(tmp_path/"b/folds.tsv"))),
                       choose_folds)) == lists(asked(first, choose_folds))


def test_what_a_list_misses_and_what_it_names_beyond_is_said(files, tmp_path):
    m = metadata(files)
    part = m.part.copy()
    part = pd.concat([part[part.index != "S00"], pd.Series({"stranger": "test"})]).rename("part")
    part["S01"] = np.nan
    part.to_csv(tmp_path/"p.tsv", sep="\t", index_label="id")
    heard = []
    train_run(config(files, tmp_path/"run", dict(split=str(tmp_path/"p.tsv"))), say=heard.append)
    said = " ".join(heard)
    assert "are not in the study" in said and "'stranger'" in said and "left out: 2 of 48" in said
    assert "'S00', 'S01'" in said
    split = read_split(tmp_path/"run/split.tsv")
    assert sum(map(len, (split.train, split.valid, split.test))) == 46
    pd.Series({"x": "train", "y": "test"}, name="part").to_csv(tmp_path/"q.tsv", sep="\t", index_label="id")
    with pytest.raises(AamError, match="names none of the 48 samples; it names 'x', 'y'"):
        train_run(config(files, tmp_path/"q", dict(split=str(tmp_path/"q.tsv"))))
    assert not (tmp_path/"q").exists()


@pytest.mark.parametrize("work", [train_run, evaluate_run])
@pytest.mark.parametrize("data,message", [
    (dict(leave_out="site"), "value that is left out: .* of 12 .first: 'P"),
    (dict(split="site"), "The split says 'gut', 'mouth', 'skin'"),
    (dict(split="nowhere.tsv"), "neither a column of the metadata nor a file"),
    (dict(leave_out="clinics"), "no column 'clinics' .data.leave_out.*Did you mean 'clinic'"),
    (dict(leave_out="clinic", split="part"), "(?i)choose one")])
def test_refused_before_anything_is_made(files, tmp_path, work, data, message):
    with pytest.raises(AamError, match=message): work(config(files, tmp_path/"run", data), say=quiet)
    assert not (tmp_path/"run").exists()


def test_listed_groups_that_straddle_and_fixed_folds_that_repeat(files, tmp_path):
    m = metadata(files)
    part = m.part.where(m.index != m.index[m.part == "train"][0], "test")
    part.to_csv(tmp_path/"p.tsv", sep="\t")
    torn = m.subject[m.index[m.part == "train"][0]]
    for work in (train_run, evaluate_run):
        with pytest.raises(AamError, match=f"part of the split: 1 of 12 .first: '{torn}: test, train'"):
            work(config(files, tmp_path/"run", dict(split=str(tmp_path/"p.tsv"))), say=quiet)
    for data, who in ((dict(leave_out="clinic"), "data.leave_out"), (dict(split="fold"), "data.split")):
        with pytest.raises(AamError, match=f"run.repeats is 2, but {who}"):
            evaluate_run(config(files, tmp_path/"run", data, run=dict(repeats=2)), say=quiet)
    with pytest.raises(AamError, match="training part of fold 1 cannot be cut into 9 inner folds .run.inner"):
        evaluate_run(config(files, tmp_path/"run", dict(leave_out="clinic"), run=dict(inner=9)), say=quiet)
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("data,more", [({}, {}), (dict(stratify=False), {}), ({}, dict(repeats=3)),
                                       (dict(leave_out="clinic"), {}), (dict(split="fold"), {}),
                                       (dict(split="part"), {}), (dict(groups="", independent=True), {})])
def test_row_order_changes_no_split_and_the_seed_does_where_it_draws(files, tmp_path, data, more):
    table = read_table(files/"table.biom")
    order = np.random.default_rng(0).permutation(48)
    write_table(Table(counts=table.counts[order], sample_ids=table.sample_ids[order],
                      sequences=table.sequences), tmp_path/"b.biom")
    here, there = (config(files, "x", {**data, **t}, run=more)
                   for t in ({}, dict(table=str(tmp_path/"b.biom"))))
    other = replace(here, run=replace(here.run, seed=7))
    a, b, c = (asked(o, choose_split) for o in (here, there, other))
    for part in ("train", "valid", "test"): assert list(getattr(a, part)) == list(getattr(b, part))
    a, b, d = (lists(asked(o, choose_folds)) for o in (here, there, other))
    assert a == b
    fixed = "split" in data or "leave_out" in data
    assert (a == d) == fixed


def test_strata_can_be_left_out(files):
    here, there = (asked(config(files, "x", dict(stratify=o, groups="", independent=True)), choose_folds)
                   for o in (True, False))
    assert lists(here) != lists(there)
    assert lists(there) == lists(repeated(metadata(files).index, 3, 1, seed=42))


def test_a_common_depth_keeps_left_out_values(files, tmp_path):
    evaluate_run(config(files, tmp_path/"run", dict(leave_out="clinic", depth=1000)), say=quiet)
    m = metadata(files)
    told = pd.read_csv(tmp_path/"run/folds.tsv", sep="\t", index_col=0)
    assert (told.held_out == m.clinic[told.index]).all()
