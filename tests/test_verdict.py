"The verdict says what the interval allows, and the files hold the scores that the evaluation holds."
import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluated import column, knows, make_small, with_interval

from aam_nb.data.simulate import simulate
from aam_nb.data.split import repeated
from aam_nb.evaluation.validate import evaluate
from aam_nb.evaluation.verdict import compare, difference, verdict, write_evaluation


@pytest.fixture(scope="module")
def study(): return simulate(samples=80, asvs=80, groups=24, seed=5)


@pytest.fixture(autouse=True)
def small_forest(monkeypatch): make_small(monkeypatch)


def test_verdict_says_what_the_interval_allows(study):
    e = evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3,
                 fit_model=knows(study, "age", 30.))
    assert "aam is worse than the random forest" in verdict(e)[0]
    assert any("No skill is shown: aam is worse than the median" in o for o in verdict(e))
    same = replace(e, predictions=e.predictions | {"aam": e.predictions["forest"]},
                   scores=e.scores | {"aam": e.scores["forest"]},
                   differences=e.differences | {"aam": {"mae": (0., 0., 0.)}})
    found, text = compare(same, "aam", "forest")
    assert found == "level" and "cannot be told apart" in text
    gap = difference(e, "aam", "forest")
    assert gap[1] < gap[0] < gap[2] and gap[0] == pytest.approx(e.differences["aam"]["mae"][0])


def test_written_numbers_give_the_same_scores(study, tmp_path):
    y, g, folder = column(study, "age"), column(study, "subject"), tmp_path/"a"/"b"
    e = evaluate(study, y, groups=g, folds=3, fit_model=knows(study, "age", 1.))
    write_evaluation(e, folder)
    rows = pd.read_csv(folder/"predictions.tsv", sep="\t", dtype={"sample_id": str, "group": str})
    assert list(rows.sample_id) == list(e.ids) and list(rows.group) == list(e.groups)
    assert (rows["true"] - e.truth).abs().max() < 1e-9 and list(rows.fold) == list(e.fold)
    assert set(rows.repeat) == {1}
    for o in e.predictions:
        assert (rows[o] - rows["true"]).abs().mean() == pytest.approx(e.scores[o]["mae"][0], abs=1e-4)
    scores = pd.read_csv(folder/"scores.tsv", sep="\t").set_index(["method", "score"])
    assert scores.loc[("aam", "mae"), "value"] == pytest.approx(e.scores["aam"]["mae"][0])
    assert np.isnan(scores.loc[("aam", "rmse"), "low"])
    strict = lambda o: pytest.fail(f"{o} is not JSON")
    rest = json.loads((folder/"evaluation.json").read_text(), parse_constant=strict)
    assert rest["verdict"] == list(verdict(e)) and rest["samples"] == 80


def test_written_classes_give_the_same_labels(study, tmp_path):
    e = evaluate(study, column(study, "site"), groups=column(study, "subject"), folds=3)
    write_evaluation(e, tmp_path)
    with open(tmp_path/"predictions.tsv") as f: rows = list(csv.DictReader(f, delimiter="\t"))
    assert [r["forest"] for r in rows] == list(e.labels("forest"))
    for r in rows: assert abs(sum(float(r[f"average:{k}"]) for k in e.classes) - 1) < 1e-4


def test_covariates_stand_in_the_files(study, tmp_path):
    fed = replace(study, metadata=study.metadata.assign(diet=np.tile(["a", "b"], 40)))
    e = evaluate(fed, column(study, "age"), groups=column(study, "subject"), folds=3,
                 covariates=("diet", ("site",)))
    write_evaluation(e, tmp_path)
    assert json.loads((tmp_path/"evaluation.json").read_text())["covariates"] == "diet, site"
    assert "covariates" in pd.read_csv(tmp_path/"predictions.tsv", sep="\t")


@pytest.mark.parametrize("repeats", [1, 2])
def test_intervals_are_counted_in_the_order_of_the_rows(study, repeats, tmp_path):
    g = column(study, "subject")
    model, off = with_interval(study, "age", 1.2, .8)
    e = evaluate(study, column(study, "age"), groups=g, folds=repeated(study.ids, 3, repeats, g),
                 fit_model=model)
    assert np.allclose(e.interval, e.predictions["aam"][:, None] + [-1.2, 1.2])
    assert e.level == pytest.approx(.8)
    coverage, width = e.scores["aam"]["coverage"], e.scores["aam"]["width"]
    assert coverage[0] == pytest.approx((off.abs() <= 1.2).mean()) and coverage[1] < coverage[0] < coverage[2]
    assert width[0] == pytest.approx(2.4) and "coverage 0." in repr(e)
    assert not {"coverage", "width"} & set(e.scores["forest"]) and e.first().interval.shape == (80, 2)
    rows = pd.read_csv(write_evaluation(e, tmp_path)/"predictions.tsv", sep="\t")
    inside = rows["true"].between(rows["aam:low"] - 1e-4, rows["aam:high"] + 1e-4)
    assert inside.mean() == pytest.approx(coverage[0])
    rest = json.loads((tmp_path/"evaluation.json").read_text())
    assert rest["level"] == pytest.approx(.8) and "interval" not in rest
    assert "aam\taam\tcoverage" in (tmp_path/"scores.tsv").read_text()
