"Columns of any name that tie samples together and give the target away are found, and innocent ones are not."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import kinds, look, quick, real, with_columns

from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate
from aam_nb.data.split import kfold
from aam_nb.evaluation.hazards import (
    closeness, constant_within, hazards, holds_samples_together, is_measured, named_kind, projected)
from aam_nb.evaluation.question import Case, numbered, Question


def study(each, values, seed=0, **columns):
    "Samples in groups of alike communities, and columns made from the group's number; nothing names it."
    s = simulate(samples=each*values, asvs=150, groups=values, seed=seed)
    who, rng = numbered(s.metadata["subject"]), np.random.default_rng(seed)
    made = {k: f(who, rng) for k, f in columns.items()}
    return replace(s, metadata=s.metadata.drop(columns=["subject", "age"]).assign(**made))


def shuffled(values): return lambda who, rng: 1. + rng.permutation(values)[who]


def alarm(found, column):
    "The alarms that name a column."
    return [o for o in found if o.severity != "note" and f"'{column}'" in o.text]


# What is planted

@pytest.mark.parametrize("name", ["code", "house", "v17"])
@pytest.mark.parametrize("order", ["shuffled", "in order"])
def test_a_number_that_codes_houses(name, order):
    houses = shuffled(36) if order == "shuffled" else lambda who, rng: who + 1.
    s = study(5, 36, village=lambda who, rng: np.array(["Hill", "Lake", "Ford"])[who//12], **{name: houses})
    found, = alarm(quick(s, "village"), name)
    assert found.severity == "leak" and f"groups='{name}'" in found.todo and "36 " in found.text
    assert not alarm([o for o in quick(s, "village", name) if o.kind != "constant"], name)


def test_a_number_that_codes_hosts_of_one_age_each():
    s = study(2, 90, code=shuffled(90), age=lambda who, rng: rng.integers(20, 70, 90)[who])
    found, = alarm(quick(s, "age"), "code")
    assert "each of them has one value of 'age'" in found.text
    assert "closer to each other than to others" in found.text
    assert "90 groups, enough for 5 folds" in found.todo


def test_hosts_whose_ages_all_differ():
    s = study(2, 90, code=shuffled(90), age=lambda who, rng: rng.uniform(20, 70, 90)[who].round(3))
    assert "'code'" in alarm(quick(s, "age"), "code")[0].text


@pytest.mark.parametrize("name", ["location", "where"])
def test_places_whose_samples_have_alike_ph(name):
    places = lambda who, rng: np.array([f"{o} creek" for o in rng.permutation(40)])[who]
    ph = lambda who, rng: (6 + rng.normal(size=40)[who] + rng.normal(0, .6, len(who))).round(2)
    s = study(3, 40, ph=ph, **{name: places})
    found, = alarm(quick(s, "ph"), name)
    assert found.severity == "leak" and "each of them" not in found.text


@pytest.mark.parametrize("name", ["study", "Study_ID", "qiita_study_id", "project", "dataset"])
def test_a_study_that_explains_half_of_the_target(name):
    part = lambda who, rng: rng.integers(6, size=len(who))
    s = study(1, 160, part=part)
    rng, part = np.random.default_rng(1), s.metadata["part"].to_numpy()
    target = rng.permutation(6)[part]*.55 + rng.normal(size=160)
    means = pd.Series(target).groupby(part).transform("mean")
    assert .3 < means.var()/target.var() < .6
    made = {"y": target, name: [f"s{o}" for o in part]}
    s = replace(s, metadata=s.metadata.drop(columns="part").assign(**made))
    found, = alarm(quick(s, "y"), name)
    assert found.kind == "study" and f"leave_out='{name}'" in found.todo


@pytest.mark.parametrize("name", ["date", "collection_date", "sampled"])
@pytest.mark.parametrize("once", [True, False])
def test_a_sampling_date_with_one_age_each(name, once):
    days = pd.date_range("2020-03-01", periods=26, freq="3D").strftime("%Y-%m-%d").to_numpy()
    weeks = lambda who, rng: (rng.permutation(26) if once else rng.integers(4, 12, 26))[who]
    s = study(5, 26, weeks=weeks, **{name: lambda who, rng: days[who]})
    found, = alarm(quick(s, "weeks"), name)
    assert "26 values over 130 samples" in found.text and "each of them has one value" in found.text


def test_houses_of_named_subjects():
    s = study(8, 30, hh=lambda who, rng: rng.permutation(30)[who] + 100,
              bmi=lambda who, rng: rng.normal(25, 4, 30)[who] + rng.normal(0, .1, 240),
              subject=lambda who, rng: [f"P{2*o + i % 2:02d}" for i, o in enumerate(who)])
    folds = kfold(s.ids, 5, s.metadata["subject"])
    for found in (quick(s, "bmi", "subject"), quick(s, "bmi", "subject", folds=folds)):
        assert alarm(found, "hh") and "groups='hh'" in alarm(found, "hh")[0].todo
    assert not alarm(quick(s, "bmi", "hh"), "hh")
    assert not alarm(quick(s, "bmi", "hh", folds=kfold(s.ids, 5, s.metadata["hh"])), "hh")


def test_codes_that_are_told_apart_by_what_is_written(tmp_path):
    s = study(4, 30, code=lambda who, rng: who, village=lambda who, rng: rng.choice(list("abc"), 30)[who])
    texts = [f"{o//2:0{2 + o % 2}d}" for o in s.metadata["code"]] # 00, 000, 01, 001, ...
    lines = "".join(f"{i}\t{t}\t{v}\n" for i, t, v in zip(s.ids, texts, s.metadata["village"], strict=True))
    (tmp_path/"m.tsv").write_text("sample-id\tcode\tvillage\n" + lines)
    s = replace(s, metadata=read_metadata(tmp_path/"m.tsv"))
    found, = alarm(quick(s, "village"), "code")
    assert "30 values" in found.text


# What is innocent

@pytest.mark.parametrize("seed", range(6))
def test_innocent_columns_raise_no_alarm(seed):
    s = simulate(samples=120, asvs=150, groups=30, seed=seed)
    rng, who = np.random.default_rng(seed), numbered(s.metadata["subject"])
    days = np.datetime64("2020-01-01") + rng.permutation(120)
    innocent = dict(bmi=rng.normal(25, 4, 120).round(1), height=rng.integers(150, 190, 30)[who],
                    number=rng.integers(30, size=120), score=rng.integers(6, size=120),
                    rounded=s.table.depths//1000, collection_date=days.astype(str),
                    location=[f"L{o}" for o in rng.integers(40, size=120)],
                    study=[f"s{o}" for o in rng.integers(4, size=120)])
    s = replace(s, metadata=s.metadata.assign(**innocent))
    for target in ("age", "site", "bmi"): assert look(s, target, "subject", seed=seed).alarms == ()


def test_the_target_in_other_words_is_no_hazard():
    age = lambda who, rng: rng.integers(1, 40, len(who)) + 0.
    s = study(1, 160, age=age)
    m = s.metadata
    s = with_columns(s, months=m.age*12, group=[f"g{o:.0f}" for o in m.age//4], height=(80 + 2*m.age).round())
    assert not kinds(quick(s, "age"))


def test_a_quantity_that_decides_the_class_is_no_code():
    bmi = lambda who, rng: rng.integers(18, 40, len(who))
    s = study(1, 160, bmi=bmi)
    s = with_columns(s, state=np.where(s.metadata["bmi"] > 29, "obese", "lean"))
    assert not kinds(quick(s, "state"))


def test_a_condition_within_subjects_is_no_house():
    s = study(6, 30, subject=lambda who, rng: [f"P{o}" for o in who])
    rng = np.random.default_rng(0)
    food = rng.integers(25, size=180)
    s = with_columns(s, food=[f"food {o}" for o in food], taste=food % 5 + rng.normal(0, .1, 180))
    assert not alarm(quick(s, "taste", "subject"), "food")


# The parts

def test_structure():
    few, many = np.repeat(np.arange(5), 40), np.repeat(np.arange(50), 4)
    assert not holds_samples_together(few) and holds_samples_together(few, often=.3, others=np.inf)
    assert holds_samples_together(many) and not holds_samples_together(np.arange(200))
    assert not holds_samples_together(np.where(np.arange(200) < 100, -1, many))


def test_names():
    assert {named_kind(o, ["x"]) for o in ("study", "StudyID", "study_name", "bioproject")} == {"study"}
    assert {named_kind(o, ["x"]) for o in ("site", "house no", "Location", "plot-id")} == {"place"}
    assert {named_kind(o, ["x"]) for o in ("date", "sampling_date", "collection timestamp")} == {"date"}
    no = ("body_site", "study_day", "site_type", "house_size", "birth_date", "update", "diet", "home_country")
    assert {named_kind(o, ["x"]) for o in no} == {""}
    assert named_kind("x", ["2020-01-03", "2020-01-09"]) == named_kind("x", ["20200103"]) == "date"
    assert named_kind("x", ["3", "9"]) == named_kind("x", []) == ""


def test_measured_numbers_have_order():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200).astype(float)
    size = pd.Series(rng.integers(10, size=200) + 10*y)
    code = pd.Series(rng.permutation(20)[rng.integers(20, size=200)])
    assert is_measured(size, y, "classification", .98) and not is_measured(code, y, "classification", .98)
    assert is_measured(pd.Series([1.5, 2.]), np.array([0., 1.]), "classification", 1.)
    assert not is_measured(pd.Series(["a", "b"]), np.array([0., 1.]), "classification", 1.)


def test_projections_keep_distances():
    s = simulate(samples=60, asvs=150, groups=60, seed=0)
    root = np.sqrt(s.table.counts.toarray()/s.table.depths[:, None])
    wanted = np.linalg.norm(root[:, None] - root[None], axis=-1)
    def squares(x): return np.square(x[:, None] - x[None]).sum(-1)
    found = np.sqrt(np.mean([squares(projected(s, o)) for o in range(40)], axis=0))
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > .99
    assert np.isclose(found.mean(), wanted.mean(), rtol=.05)


def test_closeness_is_about_zero_without_structure():
    rng = np.random.default_rng(0)
    found = [closeness(rng.integers(20, size=100), rng.normal(size=(100, 8)), np.zeros(100, int), seed=o)
             for o in range(40)]
    assert abs(np.mean(found)) < .6 and max(found) < 4
    v = np.repeat(np.arange(20), 5)
    assert closeness(v, rng.normal(size=(20, 8))[v] + rng.normal(size=(100, 8)), np.zeros(100, int)) > 8


def test_constant_targets():
    v = np.repeat(np.arange(20), 3)
    assert constant_within(v, v % 2.) and not constant_within(v, np.arange(60.))
    assert constant_within(v, np.r_[1., v[1:] % 2]) and not constant_within(np.arange(9), np.arange(9.))


# Real studies

def test_hosts_of_real_studies_hidden_behind_a_number(data_dir):
    s = real(data_dir, "hmp_v35_bodysite")
    host = numbered(s.metadata["hostsubjectid"])
    code = 1. + np.random.default_rng(0).permutation(host.max() + 1)[host]
    s = replace(s, metadata=s.metadata[["bmi", "AGE", "HMPbodysubsite"]].assign(number=code))
    case = Case(s, Question(target="bmi"))
    assert [o for o, _ in case.suspects] == ["number"], "found by what is constant within it"
    assert not hazards(case), "the age of a host is no hazard beside the host"
    alone = replace(s, metadata=s.metadata[["bmi", "number"]])
    assert [o.name for o in hazards(Case(alone, Question(target="bmi")))] == ["number"]


def test_real_studies_whose_groups_are_named_have_no_hazard(data_dir):
    for name, target, groups in (("ecam_infant", "month_of_life", "host_subject_id"),
                                 ("cfs87", "Subject", ""),
                                 ("global_gut", "age_years", ""),
                                 ("hmp_v35_bodysite", "HMPbodysubsite", "hostsubjectid")):
        assert not hazards(Case(real(data_dir, name), Question(target=target, groups=groups))), name


def test_patients_and_controls_that_were_sampled_on_other_days(data_dir):
    s = real(data_dir, "ibd_crohns_2538")
    found, = [o for o in quick(s, "ibd", "host_subject_id") if o.kind == "date"]
    assert found.severity == "warning" and "'collection_date'" in found.text
    days = s.metadata.dropna(subset="collection_date").groupby("ibd")["collection_date"].agg(set)
    assert not days["Crohns"] & days["Control"]
