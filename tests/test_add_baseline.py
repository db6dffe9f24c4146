"A baseline from outside the package is one record: it stands in files and reports as if it were built in."
import json

import numpy as np
import pandas as pd
import pytest

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.evaluation.baselines import Baseline, Fold, fit_predict
from aam_nb.stack.features import Features
from aam_nb.registry import baselines, registered
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.train import train_run

SMALL = {"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8, "identity": 16},
         "pretrain_asv": {"steps": 4, "batch": 32}, "optim": {"steps": 6, "batch": 16, "every": 3},
         "run": {"folds": 2, "inner": 2, "threads": 1}}
SENTENCE = "the value of the training sample with the most similar branches"


def nearest(fold):
    "The value of the nearest training sample, as a number or as the share 1 of its class."
    gram = fold.features.branches
    near = (gram.diagonal()[fold.train] - 2*gram[np.ix_(fold.test, fold.train)]).argmin(1)
    found = fold.y[fold.train][near]
    return np.eye(fold.classes)[found] if fold.classes else found


NEAREST = Baseline(name="nearest", title="Nearest sample", class_title="Class of the nearest sample",
                   about=SENTENCE, predict=nearest,
                   needs_tree=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, seed=0), folder)
    return folder


def config(files, out, target, **data):
    names = {k: str(files/v) for k,
             v in dict(table="table.biom", metadata="metadata.tsv", tree="tree.nwk").items()}
    how = {**SMALL, "data": {**names, "target": target, "groups": "subject", **data}}
    return config_from({**how, "run": {**SMALL["run"], "out": str(out)}})


@pytest.mark.parametrize("target,title", [("age", "Nearest sample"), ("site", "Class of the nearest sample")])
def test_it_stands_in_files_and_report(files, tmp_path, target, title):
    with registered(baselines, NEAREST):
        report = evaluate_run(config(files, tmp_path/"run", target), say=lambda text: None)
    page, folder = report.read_text(), report.parent
    assert f"{title}</th>" in page and SENTENCE.capitalize() in page and page.count(title) > 1
    found = json.loads((folder/"evaluation.json").read_text())
    main = "mae" if target == "age" else "auc"
    assert len(found["scores"]["nearest"][main]) == 3 and main in found["differences"]["nearest"]
    assert found["seconds"]["nearest"] > 0
    rows = pd.read_csv(folder/"predictions.tsv", sep="\t")
    assert set(rows["nearest"]) <= set(rows["true"])
    assert title in pd.read_csv(folder/"scores.tsv", sep="\t").title.tolist()


def test_it_is_scored_beside_a_training(files, tmp_path):
    lines = []
    with registered(baselines, NEAREST): train_run(config(files, tmp_path/"run", "age"), say=lines.append)
    assert "nearest" in json.loads((tmp_path/"run/scores.json").read_text())
    assert "  nearest" in "\n".join(lines)


def test_it_is_gone_with_the_registration_and_names_are_not_taken_twice():
    study = simulate(samples=40, asvs=40, groups=10, seed=0)
    fold = Fold(features=Features(study), y=study.metadata["age"].to_numpy(float), train=np.arange(30),
                test=np.arange(30, 40))
    with registered(baselines, NEAREST): assert fit_predict("nearest", fold).shape == (10,)
    with pytest.raises(AamError, match="no baseline 'nearest'"): fit_predict("nearest", fold)
    with pytest.raises(AamError, match="named 'forest' already"):
        with registered(baselines, Baseline(name="forest", title="Mine", about="mine", predict=nearest)): pass
    assert baselines["forest"].title == "Random forest"
