"Scores and differences over groups and repeats, intervals of a model, and warnings."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluated import column, knows, make_small, with_depth, with_interval
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score, roc_auc_score

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.data.split import leave_one_out, repeated
from aam_nb.evaluation.evaluation import average, coverage_text, interval_scores, score_all
from aam_nb.evaluation.validate import evaluate
from aam_nb.evaluation.verdict import verdict


@pytest.fixture(scope="module")
def study(): return simulate(samples=80, asvs=80, groups=24, seed=5)


@pytest.fixture(autouse=True)
def small_forest(monkeypatch): make_small(monkeypatch)


def test_number_scores_are_those_of_sklearn(study):
    e = evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3,
                 fit_model=knows(study, "age", 2.))
    for o, p in e.predictions.items():
        mae = e.scores[o]["mae"]
        assert mae[0] == pytest.approx(mean_absolute_error(e.truth, p))
        assert e.scores[o]["r2"][0] == pytest.approx(r2_score(e.truth, p))
        assert mae[1] <= mae[0] <= mae[2]
        if o != "forest":
            assert e.differences[o]["mae"][0] == pytest.approx(mae[0] - e.scores["forest"]["mae"][0])
    assert e.members == ("aam", "forest", "clr", "branch")
    assert np.allclose(e.predictions["average"], np.mean([e.predictions[o] for o in e.members], 0))


def auc_within_folds(e, p, k):
    "The AUC of class `k` over folds, weighted by pairs."
    folds = [e.fold == f for f in (1, 2, 3)]
    yes = e.truth == k
    pairs = [yes[o].sum()*(~yes[o]).sum() for o in folds]
    return np.average([roc_auc_score(yes[o], p[o, k]) for o in folds], weights=pairs)


def test_class_scores_are_those_of_sklearn(study):
    e = evaluate(study, column(study, "site"), groups=column(study, "subject"), folds=3)
    assert e.members == ("forest", "clr", "branch") and np.allclose(e.predictions["average"].sum(1), 1)
    assert e.model == ""
    for o, p in e.predictions.items():
        assert e.scores[o]["auc"][0] == pytest.approx(np.mean([auc_within_folds(e, p, k) for k in range(3)]))
        assert e.scores[o]["accuracy"][0] == pytest.approx(accuracy_score(e.truth, p.argmax(1)))
    assert e.scores["trivial"]["auc"] == (.5, .5, .5)


def test_classes_have_a_calibration_error(study):
    from aam_nb.training.metrics import calibration_error
    e = evaluate(study, column(study, "site"), groups=column(study, "subject"), folds=3)
    assert e.scores["forest"]["calibration_error"][0] == calibration_error(e.truth, e.predictions["forest"])


def test_difference_is_paired(study):
    rng, ones = np.random.default_rng(0), np.ones(80)
    y, hard = rng.normal(size=80), rng.normal(size=80)
    said = dict(forest=y + 3*hard, a=y + 2.7*hard)
    scores, gaps = score_all("regression", y, said, ones, column(study, "subject").to_numpy(object))
    width = lambda v: v[2] - v[1]
    assert width(gaps["a"]["mae"]) < .3*width(scores["a"]["mae"]) and gaps["a"]["mae"][2] < 0
    alone = score_all("regression", y, dict(forest=said["forest"]), ones, None)[0]["forest"]["mae"]
    assert alone[0] == scores["forest"]["mae"][0]


def test_average_is_of_the_model_and_the_members():
    p = dict(aam=np.array([[.2, .8]]), forest=np.array([[.6, .4]]), depth=np.array([[1., 0]]))
    assert np.allclose(average(p, "aam")[0], [[.4, .6]]) and average(p, "")[1] == ("forest",)


def test_repeats_are_means_of_the_repeats(study):
    "What the repeats give together is the mean of what each gives, and ids say which repeat a row is of."
    y, g = column(study, "age"), column(study, "subject")
    folds = repeated(study.ids, 3, 3, g, seed=1)
    both = evaluate(study, y, groups=g, folds=folds, fit_model=knows(study, "age", 2.))
    parts = [evaluate(study, y, groups=g, folds=folds[i:i+3]) for i in (0, 3, 6)]
    for m in ("mae", "r2", "rmse", "spearman"): # equal predictions may rank in two ways
        mean = np.mean([o.scores["forest"][m][0] for o in parts])
        assert both.scores["forest"][m][0] == pytest.approx(mean, abs=2e-3 if m == "spearman" else 1e-9)
    assert both.samples == 80 and len(both.ids) == 240 and set(both.fold) == set(range(1, 10))
    assert both.fold_text == "9 folds in 3 repeats" and both.scores["aam"]["mae"] == (2., 2., 2.)
    for r in (1, 2, 3): assert list(both.ids[both.repeat == r]) == list(study.ids)
    first = both.first()
    assert list(first.ids) == list(study.ids) and (first.fold <= 3).all() and "drawn 3 times" in both.notes[0]
    assert np.allclose(first.predictions["forest"], parts[0].predictions["forest"])


def test_an_interval_draws_a_sample_with_all_its_repeats():
    "Ten copies of the same predictions have the interval of one, with groups and without."
    rng = np.random.default_rng(0)
    y = rng.normal(size=60)
    p = y + rng.normal(size=60)
    ids, group, ten_times = [f"S{i}" for i in range(60)], np.repeat(np.arange(20), 3), lambda o: np.tile(o,
                                                                                                         10)
    for g in (None, group):
        one, _ = score_all("regression", y, dict(forest=p), np.ones(60), g, ids=ids)
        tens = None if g is None else ten_times(g)
        ten, _ = score_all("regression", ten_times(y), dict(forest=ten_times(p)), np.ones(600), tens,
                           ids=ids*10)
        assert ten["forest"]["mae"] == pytest.approx(one["forest"]["mae"])


@pytest.mark.parametrize("wide,found",
                         [(.3, "fewer than promised"), (1.6, "as promised"), (9., "more than promised")])
def test_intervals_that_promise_too_much_are_a_warning(study, wide, found):
    model, _ = with_interval(study, "age", wide)
    e = evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3, fit_model=model)
    text = coverage_text(e)
    assert found in text and "promise to hold 90 %" in text and "24 groups" in text
    assert (text in e.warnings) == (found[0] == "f")


def test_coverage_draws_whole_groups():
    "Twelve groups that are all in or all out: the interval is that of twelve coins and not of 120."
    group, span = np.repeat(np.arange(12), 10), np.tile([-1., 1.], (120, 1))
    truth = (group % 4 == 0)*5.
    width = lambda drawn: np.ptp(interval_scores(truth, span, drawn)["coverage"][1:])
    assert interval_scores(truth, span, group)["coverage"][0] == .75
    assert width(group) > 2*width(np.arange(120))


def test_warnings(study):
    y, site, g = column(study, "age"), column(study, "site"), column(study, "subject")
    assert any("only 24 groups" in o for o in evaluate(study, y, groups=g, folds=3).warnings)
    assert any("'subject' looks like subjects" in o for o in evaluate(study, y, folds=3).warnings)
    one = pd.Series(np.where(g.isin(sorted(set(g))[:12]), "sick", "well"), index=g.index, name="state")
    assert any("24 independent observations, not 80" in o for o in evaluate(study, one, groups=g,
                                                                            folds=3).warnings)
    leak = evaluate(with_depth(study, np.where(site == "gut", .1, 1.)), site, groups=g, folds=3)
    assert leak.alarm.fires and leak.alarm.text in leak.warnings
    assert any("depth alone" in o for o in verdict(leak))


def test_one_class_a_fold_gives_no_verdict(study):
    "With even classes the training majority is the other class: a random guess seems to have skill."
    from aam_nb.evaluation.report import report_html
    g = column(study, "subject")
    state = pd.Series(np.where(g.str[-1].astype(int) % 2, "sick", "well"), index=g.index, name="state")
    e = evaluate(study, state, groups=g, folds=leave_one_out(study.ids, g, g), names=sorted(set(g)))
    assert np.isnan(e.scores["forest"]["auc"][0])
    assert any("No test part holds two classes" in o for o in e.warnings)
    assert e.scores["trivial"]["accuracy"][0] == 0 and len(verdict(e)) == 1 and "No verdict" in verdict(e)[0]
    page = report_html(e, "Sick or well", study)
    assert "held out" in page and "P00" in page and ">nan" not in page


@pytest.mark.parametrize("target", ["age", "site"])
def test_covariates_are_a_method_when_named_and_only_then(study, target):
    "A method scored like the others, no member of the average; the baselines on reads stay what they were."
    y, g, rng = column(study, target), column(study, "subject"), np.random.default_rng(0)
    near = pd.factorize(y.astype(str) if target == "site" else y > y.median())[0]
    diet = np.where(rng.random(80) < .8, near, rng.integers(2, size=80)).astype(str)
    weight = np.where(rng.random(80) < .2, np.nan, rng.normal(size=80))
    fed = replace(study, metadata=study.metadata.assign(diet=diet, weight=weight))
    plain, both = (evaluate(fed, y, groups=g, folds=3, covariates=o) for o in ((), ("diet", "weight")))
    assert set(both.predictions) - set(plain.predictions) == {"covariates"} and both.members == plain.members
    assert "covariates" not in plain.scores
    for o in plain.predictions: assert np.allclose(plain.predictions[o], both.predictions[o])
    skill = lambda o: -both.scores[o]["mae"][0] if target == "age" else both.scores[o]["auc"][0]
    assert skill("covariates") > skill("trivial") and "covariates" in both.differences
    assert both.seconds["covariates"] > 0
    said = "'Covariates only' may use diet, weight; the other baselines see reads alone."
    assert both.covariates_text == said and said in both.notes
    assert repr(both).endswith(said) and "Covariates only  " in repr(both)
    assert plain.covariates_text == "" and "ovariates" not in repr(plain)
    assert not any("reads alone" in o for o in plain.notes)


def test_a_model_with_covariates_is_named_beside_its_rival(study):
    from aam_nb.evaluation.report import report_html
    fed = replace(study, metadata=study.metadata.assign(diet=np.tile(["a", "b"], 40)))
    y, how = column(study, "age"), dict(groups=column(study, "subject"), folds=3)
    e = evaluate(fed, y, fit_model=knows(study, "age", 2.), covariates=("diet",), **how)
    page = report_html(e, "With diet", fed)
    assert "aam and 'Covariates only' may use diet; the other baselines see reads alone." in e.notes
    assert page.count("the other baselines see reads alone") == 1 and page.count("Covariates only</th>") == 1
    assert "A linear model of the covariates" in page
    assert "ovariates" not in report_html(evaluate(fed, y, **how), "Without", fed)
    with pytest.raises(AamError, match="'diets' is not a column.*'diet'"):
        evaluate(fed, y, covariates=("diets",), **how)
    with pytest.raises(AamError, match="another name"):
        evaluate(fed, y, fit_model=knows(study, "age"), model_name="covariates", **how)


def test_report_of_repeats_counts_samples_once(study):
    from aam_nb.evaluation.report import report_html
    g = column(study, "subject")
    e = evaluate(study, column(study, "site"), groups=g, folds=repeated(study.ids, 3, 2, g))
    page = report_html(e, "Sites", study)
    assert "from 80 samples, 24 groups, in 6 folds in 2 repeats" in page
    assert ">2.3<" in page.replace("</th>", "<")
