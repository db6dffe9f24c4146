"Labels dealt at random are not predicted, through every kind of split; true ones are, and a leak is seen."
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import aam_nb.evaluation.baselines as baselines
import aam_nb.evaluation.report as report
from aam_nb.config import config_from
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.split import labels, nested, strata
from aam_nb.data.split_lists import folds_for, split_for
from aam_nb.stack.features import Features, branch_gram
from aam_nb.evaluation.validate import evaluate
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.train import train_run

KINDS = ["by group", "by group and stratum", "random", "stratified", "repeated", "one clinic at a time",
         "listed folds", "listed parts"]
ALONE = ("random", "stratified") # kinds that take the samples as independent


@pytest.fixture(scope="module")
def study():
    "40 subjects with 3 samples each, who come from four clinics and are in a list of five folds."
    found = simulate(samples=120, asvs=80, groups=40, seed=3)
    number = found.metadata.subject.str[1:].astype(int)
    part = number.mod(5).map({0: "test", 1: "valid"}).fillna("train")
    listed = dict(clinic=number.mod(4).map("clinic {}".format), fold=number.mod(5) + 1., part=part)
    return replace(found, metadata=found.metadata.assign(**listed))


@pytest.fixture(autouse=True)
def small_forest(monkeypatch):
    forest = baselines.forest
    monkeypatch.setattr(baselines, "forest", lambda *a, **k: forest(*a, **k, trees=20))


def asked(study, kind, values, seed):
    "What a run would ask the splits for."
    about = study.metadata
    listed = {"listed folds": about["fold"], "listed parts": about["part"]}
    return dict(groups=None if kind in ALONE else about["subject"], seed=seed, given=listed.get(kind),
                strata=None if kind in ("random", "by group") else strata(values),
                leave_out=about["clinic"] if kind == "one clinic at a time" else None)


def dealt(study, values, deal, by_subject):
    "The values of samples dealt to other samples, or the means of subjects to all samples of other subjects."
    rng, subject = np.random.default_rng(deal), study.metadata.subject
    if not by_subject:
        return pd.Series(rng.permutation(values.to_numpy()), index=values.index, name=values.name)
    mean = values.groupby(subject).mean()
    new = dict(zip(mean.index, rng.permutation(mean.to_numpy()), strict=True))
    return subject.map(new).rename(values.name)


def nearest(study, values, groups, seed):
    "A model that chooses something on inner folds: the number of neighbours."
    gram, y, rows = branch_gram(study), values.to_numpy(float), study.positions
    far = gram.diagonal()[:, None] + gram.diagonal() - 2*gram

    def guess(a, b, k): return y[a][np.argsort(far[np.ix_(b, a)], axis=1, kind="stable")[:, :k]].mean(1)

    def error(inner, k): return sum(((guess(rows(a), rows(b), k) - y[rows(b)])**2).sum() for a, b in inner)

    def fit(train, test, fold):
        inner, = nested([(train, test)], study.ids, 3, groups, y, seed=seed)
        best = min((1, 3, 9, 27), key=lambda k: error(inner, k))
        return dict(test=guess(rows(train), rows(test), best))
    return fit


def scored(study, values, kind, seed=0):
    "Out-of-fold r2 of each method."
    how = asked(study, kind, values, seed)
    folds = folds_for(study.ids, folds=3, repeats=2 if kind == "repeated" else 1, **how)
    model = nearest(study, values, how["groups"], seed)
    found = evaluate(study, values, groups=how["groups"], folds=folds, seed=seed, fit_model=model)
    return {k: v["r2"][0] for k, v in found.scores.items()}


def held_out_r2(study, kind, draws, deal=True):
    "r2 of ridge on branches over the test parts of several trainings, against the mean of the training part."
    features, error, plain = Features(study), 0., 0.
    for seed in range(draws):
        values = dealt(study, study.metadata.age, seed, kind not in ALONE) if deal else study.metadata.age
        y, how = values.to_numpy(float), asked(study, kind, values, seed)
        split, groups = split_for(study.ids, **how), None if how["groups"] is None else labels(how["groups"])
        train, test = study.positions([*split.train, *split.valid]), study.positions(split.test)
        fold = baselines.Fold(features=features, y=y, train=train, test=test, groups=groups)
        p = baselines.fit_predict("branch", fold)
        error += ((p - y[test])**2).sum()
        plain += ((y[train].mean() - y[test])**2).sum()
    return 1 - error/plain


@pytest.mark.parametrize("kind", KINDS)
def test_dealt_labels_show_no_skill_in_an_evaluation(study, kind):
    ages = [dealt(study, study.metadata.age, deal, kind not in ALONE) for deal in range(2)]
    found = pd.DataFrame([scored(study, age, kind, deal) for deal, age in enumerate(ages)])
    assert (found.mean() < .1).all(), found


@pytest.mark.parametrize("kind", [o for o in KINDS if o != "repeated"])
def test_dealt_labels_show_no_skill_in_a_training(study, kind):
    assert held_out_r2(study, kind, 5) < .1
    assert held_out_r2(study, kind, 5, deal=False) > .2


@pytest.mark.parametrize("kind", ["by group and stratum", "repeated", "one clinic at a time", "listed parts"])
def test_true_labels_do(study, kind):
    found = scored(study, study.metadata.age, kind)
    assert found["branch"] > .3 and found["forest"] > .2 and found["aam"] > .2, found
    assert found["trivial"] < .1, found


def test_a_leak_would_be_seen(study):
    "The labels of subjects, dealt at random, are predicted as soon as samples are taken as independent."
    found = scored(study, dealt(study, study.metadata.age, 0, True), "stratified")
    assert max(found["aam"], found["branch"], found["forest"]) > .2, found


@pytest.mark.parametrize("kind", ["by group and stratum", "one clinic at a time", "listed folds"])
def test_dealt_classes_show_no_skill(study, kind):
    aucs = []
    for deal in range(2):
        values = dealt(study, study.metadata.age, deal, True)
        values = pd.Series(np.where(values > values.median(), "old", "young"), index=values.index)
        how = asked(study, kind, values, deal)
        found = evaluate(study, values, groups=how["groups"], folds=folds_for(study.ids, folds=3, **how))
        aucs.append({k: v["auc"][0] for k, v in found.scores.items()})
    assert (pd.DataFrame(aucs).mean() < .62).all(), aucs


SMALL = {"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8, "identity": 16},
         "pretrain_asv": {"steps": 30, "batch": 64}, "optim": {"steps": 60, "batch": 16, "every": 10},
         "run": {"folds": 3, "inner": 2, "threads": 1}}
CHOICES = {"by group": {"data": {"stratify": False}},
           "by group and stratum": {},
           "stratified": {"data": {"groups": "", "independent": True}},
           "random": {"data": {"groups": "", "independent": True, "stratify": False}},
           "repeated": {"run": {"repeats": 2}},
           "one clinic at a time": {"data": {"leave_out": "clinic"}},
           "listed folds": {"data": {"split": "fold"}},
           "listed parts": {"data": {"split": "part"}}}


def configured(kind, folder, name, seed):
    "What `aam evaluate` or `aam train` is asked for, on the files in a folder."
    files = {o.partition(".")[0]: str(folder/o) for o in ("table.biom", "metadata.tsv", "tree.nwk")}
    data = {**files, "target": "age", "groups": "subject", **CHOICES[kind].get("data", {})}
    run = {"seed": seed, "out": str(folder/name), **CHOICES[kind].get("run", {})}
    return config_from({"data": data, "run": run}, base=config_from(SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_dealt_labels_show_no_skill_from_files_to_scores(study, kind, tmp_path, monkeypatch):
    "The whole chain, pretraining and all, as `aam evaluate` and `aam train` run it."
    monkeypatch.setattr(report, "write_report", lambda found, path, **k: path)
    skill, order = [], []
    for deal in range(2):
        values, folder = dealt(study, study.metadata.age, deal, kind not in ALONE), tmp_path/str(deal)
        write_study(replace(study, metadata=study.metadata.assign(age=values)), folder)
        evaluate_run(configured(kind, folder, "evaluate", deal), say=lambda text: None)
        train_run(configured(kind, folder, "train", deal), say=lambda text: None)
        scores = pd.read_csv(folder/"evaluate/scores.tsv", sep="\t").set_index(["score", "method"]).value
        skill.append(scores["r2"])
        held_out = json.loads((folder/"train/scores.json").read_text())
        order.append({k: v["spearman"] for k, v in held_out.items()})
    assert (pd.DataFrame(skill).mean() < .1).all(), skill
    assert (pd.DataFrame(order).astype(float).mean().dropna() < .45).all(), order
