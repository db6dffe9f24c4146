"Folds by group, scores that others also compute, an alarm where depth tells, and no skill where there is none."
import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score, roc_auc_score

import aam_nb.evaluation.validate as validate
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.depth import depth_alarm
from aam_nb.evaluation.evaluation import average, coverage_text, interval_scores, score_all
from aam_nb.evaluation.scores import fold_auc, show
from aam_nb.evaluation.validate import evaluate
from aam_nb.evaluation.verdict import compare, difference, verdict, write_evaluation


@pytest.fixture(scope="module")
def study(): return simulate(samples=80, asvs=80, groups=24, seed=5)


@pytest.fixture(autouse=True)
def small_forest(monkeypatch):
    "A forest of 30 trees and short bootstraps: these tests are about what is done with the numbers."
    import aam_nb.evaluation.baselines as baselines
    forest = baselines.forest
    monkeypatch.setattr(baselines, "forest", lambda *a, **k: forest(*a, **k, trees=30))
    monkeypatch.setattr(validate, "score_all", lambda *a, **k: score_all(*a, **k, draws=60))


def column(study, name): return study.metadata[name]


def knows(study, name, wrong=0.):
    "A model that looks the answer up by id, and is wrong by a constant."
    y = column(study, name)
    return lambda train, test, fold: dict(test=y.loc[list(test)].to_numpy(float) + wrong)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=40), st.integers(0, 5))
def test_fold_auc_is_sklearn_within_folds(rows, seed):
    yes, score, fold = (np.array(o) for o in zip(*rows, strict=True)); yes = yes.astype(bool)
    drawn = np.random.default_rng(seed).integers(len(yes), size=len(yes))      # repeated rows, as a bootstrap draws them
    ours, total, pairs = fold_auc(yes, score, fold)(drawn), 0., 0
    for k in set(fold):
        at = drawn[fold[drawn] == k]; n = yes[at].sum()*(~yes[at]).sum()
        if n: total += n*roc_auc_score(yes[at], score[at]); pairs += n
    assert ours == pytest.approx(total/pairs) if pairs else np.isnan(ours)


def test_training_shares_get_one_half():
    "Pooled over folds the shares would get less, since a fold rich in a class leaves fewer of it to train."
    rng = np.random.default_rng(0); fold = np.repeat(np.arange(5), 20); y = (rng.random(100) < np.array([.1, .3, .5, .7, .9])[fold])
    share = np.array([y[fold != k].mean() for k in range(5)])[fold]
    assert roc_auc_score(y, share) < .3 and fold_auc(y, share, fold)(np.arange(100)) == .5


def with_depth(study, factor):
    counts = (study.table.counts.toarray()*factor[:, None]).astype(np.int32)
    return replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts)))


def test_alarm_on_planted_depth_and_not_without(study):
    site, age = column(study, "site"), column(study, "age").to_numpy()
    assert not depth_alarm(study, site).fires and not depth_alarm(study, age).fires
    for factor in (.2, 5.): # shallow and deep alike
        found = depth_alarm(with_depth(study, np.where(site == "gut", factor, 1.)), site)
        assert found.fires and found.measure == "AUC" and found.value > .6 and "common depth" in found.text
    for sign in (-1, 1):
        found = depth_alarm(with_depth(study, np.exp(sign*(age - age.mean())/age.std())), age)
        assert found.fires and np.sign(found.value) == sign and abs(found.value) > .3
    two = np.where(site == "gut", "a", "b"); value = depth_alarm(study, two).value
    auc = roc_auc_score(two == "b", study.table.depths); assert value == pytest.approx(max(auc, 1 - auc))


def test_alarm_proposes_the_tenth_percentile(study):
    found = depth_alarm(study, column(study, "age")); depths = np.sort(study.table.depths)
    assert found.lost == (depths < found.depth).sum() and found.lost <= 8 and found.depth == depths[7]
    assert depth_alarm(study, column(study, "age"), depth=123).depth == 123
    flat = with_depth(study, np.ones(80)); flat = replace(flat, table=replace(flat.table, counts=sparse.csr_matrix(np.full((80, 80), 3))))
    assert not depth_alarm(flat, column(study, "age")).fires and "same depth" in depth_alarm(flat, column(study, "age")).text


def test_alarm_needs_more_than_chance():
    "Ten samples rank above .6 by luck one time in three; that is no alarm."
    rng = np.random.default_rng(0); tiny = simulate(samples=10, asvs=20, groups=10, seed=0); fires = 0
    for _ in range(60):
        s = with_depth(tiny, rng.uniform(1, 9, 10)); fires += depth_alarm(s, np.array(list("aabbabbaab"))).fires
    assert fires <= 9


def test_rows_columns_and_ids_line_up(study):
    "A model that knows gets no error, however target and groups are sorted."
    y, g = column(study, "age"), column(study, "subject"); mixed = np.random.default_rng(0).permutation(80)
    seen = []
    def model(train, test, fold):
        seen.append((set(train), set(test))); return dict(test=y.loc[list(test)].to_numpy()[:, None], oof=y.loc[list(train)].to_numpy())
    e = evaluate(study, y.iloc[mixed], groups=g.iloc[mixed], folds=4, fit_model=model, seed=1)
    assert e.scores["aam"]["mae"][0] == 0 and list(e.ids) == list(study.ids) and np.allclose(e.truth, y)
    assert [len(o) for o in seen] == [2]*4 and set().union(*(b for _, b in seen)) == set(study.ids)
    for a, b in seen: assert not a & b and not set(g.loc[list(a)]) & set(g.loc[list(b)])
    assert all(len(set(e.fold[e.groups == o])) == 1 for o in set(e.groups)) and set(e.fold) == {1, 2, 3, 4}
    assert "0.000" in e.notes[-1] and "aam is better than the random forest" in verdict(e)[0]


def test_scores_are_those_of_sklearn(study):
    e = evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3, fit_model=knows(study, "age", 2.))
    for o, p in e.predictions.items():
        assert e.scores[o]["mae"][0] == pytest.approx(mean_absolute_error(e.truth, p))
        assert e.scores[o]["r2"][0] == pytest.approx(r2_score(e.truth, p))
        assert e.scores[o]["mae"][1] <= e.scores[o]["mae"][0] <= e.scores[o]["mae"][2]
        if o != "forest": assert e.differences[o]["mae"][0] == pytest.approx(e.scores[o]["mae"][0] - e.scores["forest"]["mae"][0])
    assert e.members == ("aam", "forest", "clr", "branch") and np.allclose(e.predictions["average"], np.mean([e.predictions[o] for o in e.members], 0))
    c = evaluate(study, column(study, "site"), groups=column(study, "subject"), folds=3)
    assert c.members == ("forest", "clr", "branch") and np.allclose(c.predictions["average"].sum(1), 1) and c.model == ""
    for o, p in c.predictions.items():
        auc = [np.average([roc_auc_score((c.truth == k)[c.fold == f], p[c.fold == f, k]) for f in (1, 2, 3)],
                          weights=[(c.truth == k)[c.fold == f].sum()*(c.truth != k)[c.fold == f].sum() for f in (1, 2, 3)]) for k in range(3)]
        assert c.scores[o]["auc"][0] == pytest.approx(np.mean(auc))
        assert c.scores[o]["accuracy"][0] == pytest.approx(accuracy_score(c.truth, p.argmax(1)))
    assert c.scores["trivial"]["auc"] == (.5, .5, .5)


def test_difference_is_paired(study):
    rng = np.random.default_rng(0); y = rng.normal(size=80); hard = rng.normal(size=80); g = column(study, "subject").to_numpy(object)
    scores, gaps = score_all("regression", y, dict(forest=y + 3*hard, a=y + 2.7*hard), np.ones(80), g)
    width = lambda v: v[2] - v[1]
    assert width(gaps["a"]["mae"]) < .3*width(scores["a"]["mae"]) and gaps["a"]["mae"][2] < 0
    alone = score_all("regression", y, dict(forest=y + 3*hard), np.ones(80), None)[0]["forest"]["mae"]
    assert alone[0] == scores["forest"]["mae"][0]


def test_missing_targets_and_empty_samples_are_left_out_and_counted(study):
    y = column(study, "age").astype(float).copy(); y.iloc[[3, 4]] = np.nan
    counts = study.table.counts.tolil(); counts[9] = 0
    s = replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts, dtype=np.int32)))
    e = evaluate(s, y, groups=column(study, "subject"), folds=3)
    assert len(e.ids) == 77 and not {study.ids[i] for i in (3, 4, 9)} & set(e.ids)
    assert any("2 of 80 samples have no target" in o for o in e.notes) and any("1 of 80 samples have no reads" in o for o in e.notes)
    assert np.allclose(e.truth, y.loc[list(e.ids)])


def test_classes_in_another_order_or_fewer(study):
    y, g = column(study, "site"), column(study, "subject"); known = sorted(set(y))
    def model(train, test, fold):
        order = known[::-1] if fold == 1 else known
        return dict(test=np.stack([(y.loc[list(test)] == o).to_numpy(float) for o in order], axis=1), classes=np.array(order))
    e = evaluate(study, y, groups=g, folds=3, fit_model=model)
    assert e.scores["aam"]["accuracy"][0] == 1 and list(e.labels("aam")) == list(y.loc[list(e.ids)])


@pytest.mark.parametrize("out,message", [
    (lambda n: dict(test=np.zeros(n + 1)), "shape"), (lambda n: dict(test=np.full(n, np.nan)), "not finite"), (lambda n: np.zeros(n), "wanted a dict"),
    (lambda n: dict(test=np.zeros(n), oof=np.zeros(3)), "oof"),
    (lambda n: dict(test=np.zeros(n), low=np.zeros(n), high=np.ones(n)), "low, high and level together"),
    (lambda n: dict(test=np.zeros(n), low=np.zeros(n), high=np.ones(3), level=.9), "3 high ends"),
    (lambda n: dict(test=np.zeros(n), low=np.ones(n), high=np.append(np.zeros(2), np.ones(n - 2)), level=.9), "2 of .* intervals in fold 1"),
    (lambda n: dict(test=np.zeros(n), low=np.append(np.nan, np.zeros(n - 1)), high=np.ones(n), level=.9), "1 of .* intervals in fold 1")])
def test_a_model_that_gives_something_else(study, out, message):
    with pytest.raises(AamError, match=message):
        evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3, fit_model=lambda a, b, k: out(len(b)))


def with_interval(study, name, wide, level=.9, only=range(9)):
    "A model that is off by noise, with an interval round it in some of its folds."
    y = column(study, name); off = pd.Series(np.random.default_rng(0).normal(size=len(y)), index=y.index)
    def model(train, test, fold):
        p = (y + off).loc[list(test)].to_numpy(); span = dict(low=p - wide, high=p + wide, level=np.array(level)) if fold in only else {}
        return dict(test=p, **span)
    return model, off


@pytest.mark.parametrize("repeats", [1, 2])
def test_intervals_are_counted_in_the_order_of_the_rows(study, repeats, tmp_path):
    from aam_nb.data.split import repeated
    y, g = column(study, "age"), column(study, "subject"); model, off = with_interval(study, "age", 1.2, .8)
    e = evaluate(study, y, groups=g, folds=repeated(study.ids, 3, repeats, g), fit_model=model)
    assert np.allclose(e.interval, e.predictions["aam"][:, None] + [-1.2, 1.2]) and e.level == pytest.approx(.8)
    coverage, width = e.scores["aam"]["coverage"], e.scores["aam"]["width"]
    assert coverage[0] == pytest.approx((off.abs() <= 1.2).mean()) and coverage[1] < coverage[0] < coverage[2] and width[0] == pytest.approx(2.4)
    assert not {"coverage", "width"} & set(e.scores["forest"]) and e.first().interval.shape == (80, 2) and "coverage 0." in repr(e)
    t = pd.read_csv(write_evaluation(e, tmp_path)/"predictions.tsv", sep="\t")
    inside = t["true"].between(t["aam:low"] - 1e-4, t["aam:high"] + 1e-4); assert inside.mean() == pytest.approx(coverage[0])
    told = json.loads((tmp_path/"evaluation.json").read_text()); assert told["level"] == pytest.approx(.8) and "interval" not in told
    assert "aam\taam\tcoverage" in (tmp_path/"scores.tsv").read_text()


@pytest.mark.parametrize("wide,found", [(.3, "fewer than promised"), (1.6, "as promised"), (9., "more than promised")])
def test_intervals_that_promise_too_much_are_a_warning(study, wide, found):
    e = evaluate(study, column(study, "age"), groups=column(study, "subject"), folds=3, fit_model=with_interval(study, "age", wide)[0])
    assert found in coverage_text(e) and "promise to hold 90 %" in coverage_text(e) and "24 groups" in coverage_text(e)
    assert (coverage_text(e) in e.warnings) == (found[0] == "f")


def test_intervals_in_some_folds_only_or_of_classes_are_refused(study):
    g = column(study, "subject")
    with pytest.raises(AamError, match="intervals in 2 of 3 folds"):
        evaluate(study, column(study, "age"), groups=g, folds=3, fit_model=with_interval(study, "age", 1., only=(1, 3))[0])
    n = lambda test: len(test)
    with pytest.raises(AamError, match="for a target that is a number"):
        evaluate(study, column(study, "site"), groups=g, folds=3,
                 fit_model=lambda a, b, k: dict(test=np.full((n(b), 3), 1/3), low=np.zeros(n(b)), high=np.ones(n(b)), level=.9))
    assert evaluate(study, column(study, "age"), groups=g, folds=3, fit_model=knows(study, "age")).interval is None


def test_coverage_draws_whole_groups():
    "Twelve groups that are all in or all out: the interval is that of twelve coins and not of 120."
    group = np.repeat(np.arange(12), 10); truth = (group % 4 == 0)*5.; span = np.tile([-1., 1.], (120, 1))
    wide = {k: np.ptp(interval_scores(truth, span, o)["coverage"][1:]) for k, o in (("groups", group), ("samples", np.arange(120)))}
    assert interval_scores(truth, span, group)["coverage"][0] == .75 and wide["groups"] > 2*wide["samples"]


def test_a_model_hears_the_number_of_its_fold_in_the_list(study):
    "Also where a fold before it has no sample that can be scored."
    from aam_nb.data.split import leave_one_out
    y = column(study, "age").astype(float).copy(); site = column(study, "site"); y[(site == "gut").to_numpy()] = np.nan; heard = {}
    def model(train, test, fold): heard[fold] = set(site.loc[list(test)]); return dict(test=np.zeros(len(test)))
    evaluate(study, y, folds=leave_one_out(study.ids, site), fit_model=model)
    assert heard == {2: {"mouth"}, 3: {"skin"}}


def test_classes_have_a_calibration_error(study):
    from aam_nb.training.metrics import calibration_error
    e = evaluate(study, column(study, "site"), groups=column(study, "subject"), folds=3)
    assert e.scores["forest"]["calibration_error"][0] == calibration_error(e.truth, e.predictions["forest"])


@pytest.mark.parametrize("target", ["age", "site"])
def test_told_is_there_with_covariates_and_only_then(study, target, tmp_path):
    "A model of its own, scored like the others, no member of the average; the baselines on reads are what they were."
    y, g = column(study, target), column(study, "subject"); rng = np.random.default_rng(0)
    diet = np.where(rng.random(80) < .8, pd.factorize(y.astype(str) if target == "site" else y > y.median())[0], rng.integers(2, size=80)).astype(str)
    fed = replace(study, metadata=study.metadata.assign(diet=diet, weight=np.where(rng.random(80) < .2, np.nan, rng.normal(size=80))))
    plain, both = (evaluate(fed, y, groups=g, folds=3, covariates=o) for o in ((), ("diet", "weight")))
    assert set(both.predictions) - set(plain.predictions) == {"covariates"} and "covariates" not in plain.scores and both.members == plain.members
    for o in plain.predictions: assert np.allclose(plain.predictions[o], both.predictions[o])
    skill = (lambda e, o: -e.scores[o]["mae"][0]) if target == "age" else (lambda e, o: e.scores[o]["auc"][0])
    assert skill(both, "covariates") > skill(both, "trivial") and "covariates" in both.differences and both.seconds["covariates"] > 0
    said = "'Covariates only' may use diet, weight; the other baselines see reads alone."
    assert both.covariates_text == said and said in both.notes and repr(both).endswith(said) and "Covariates only  " in repr(both)
    assert plain.covariates_text == "" and not any("reads alone" in o for o in plain.notes) and "ovariates" not in repr(plain)
    told = json.loads((write_evaluation(both, tmp_path)/"evaluation.json").read_text()); assert told["covariates"] == "diet, weight"
    assert "covariates" in pd.read_csv(tmp_path/"predictions.tsv", sep="\t")


def test_a_model_that_is_told_is_named_beside_its_rival(study):
    from aam_nb.evaluation.report import report_html
    fed = replace(study, metadata=study.metadata.assign(diet=np.tile(["a", "b"], 40))); y, g = column(study, "age"), column(study, "subject")
    e = evaluate(fed, y, groups=g, folds=3, fit_model=knows(study, "age", 2.), covariates=("diet",)); page = report_html(e, "Told", fed)
    assert "aam and 'Covariates only' may use diet; the other baselines see reads alone." in e.notes and page.count("the other baselines see reads alone") == 1
    assert page.count("Covariates only</th>") == 1 and "a linear model of the covariates" in page
    page = report_html(evaluate(fed, y, groups=g, folds=3), "Not told", fed); assert "ovariates" not in page
    with pytest.raises(AamError, match="'diets' is no column.*'diet'"): evaluate(fed, y, groups=g, folds=3, covariates=("diets",))
    with pytest.raises(AamError, match="another name"): evaluate(fed, y, groups=g, fit_model=knows(study, "age"), model_name="covariates")


def test_bad_asks(study):
    y, g = column(study, "age"), column(study, "subject")
    with pytest.raises(AamError, match="groups"): evaluate(study, y, groups=np.repeat("one", 80))
    with pytest.raises(AamError, match="Rarefy"): evaluate(study, y, groups=g, depth=10)
    with pytest.raises(AamError, match="no group"): evaluate(study, y, groups=g.where(g != g.iloc[0]))
    with pytest.raises(AamError, match="another name"): evaluate(study, y, groups=g, fit_model=knows(study, "age"), model_name="forest")
    with pytest.raises(AamError, match="1 of 80"): evaluate(study, y.iloc[1:], groups=g)
    with pytest.raises(AamError): evaluate(study, column(study, "site"), task="regression", groups=g)


def test_common_depth(study):
    from aam_nb.batches.reads import rarefy
    table = rarefy(study.table, 300, 0); rows = study.positions(table.sample_ids)
    s = replace(study, table=table, metadata=study.metadata.iloc[rows])
    e = evaluate(s, column(s, "age"), groups=column(s, "subject"), folds=3, depth=300)
    assert e.depth == 300 and not e.alarm.fires and np.allclose(e.predictions["depth"], e.predictions["trivial"])


def test_warnings(study):
    g = column(study, "subject"); few = evaluate(study, column(study, "age"), groups=g, folds=3).warnings
    assert any("only 24 groups" in o for o in few)
    unsaid = evaluate(study, column(study, "age"), folds=3).warnings
    assert any("'subject' looks like subjects" in o for o in unsaid)
    one = pd.Series(np.where(g.isin(sorted(set(g))[:12]), "sick", "well"), index=g.index, name="state")
    told = evaluate(study, one, groups=g, folds=3).warnings
    assert any("24 independent observations, not 80" in o for o in told)
    leak = evaluate(with_depth(study, np.where(column(study, "site") == "gut", .1, 1.)), column(study, "site"), groups=g, folds=3)
    assert leak.alarm.fires and leak.alarm.text in leak.warnings and any("Depth alone reaches" in o for o in verdict(leak))


def test_verdict_says_what_the_interval_allows(study):
    y, g = column(study, "age"), column(study, "subject")
    e = evaluate(study, y, groups=g, folds=3, fit_model=knows(study, "age", 30.))
    assert "aam is worse than the random forest" in verdict(e)[0] and any("No skill is shown: aam is worse than the median" in o for o in verdict(e))
    same = replace(e, predictions=e.predictions | {"aam": e.predictions["forest"]}, scores=e.scores | {"aam": e.scores["forest"]},
                   differences=e.differences | {"aam": {"mae": (0., 0., 0.)}})
    assert compare(same, "aam", "forest")[0] == "level" and "cannot be told apart" in compare(same, "aam", "forest")[1]
    gap = difference(e, "aam", "forest", draws=200); assert gap[1] < gap[0] < gap[2] and gap[0] == pytest.approx(e.differences["aam"]["mae"][0])


def test_canary_permuted_labels_show_no_skill(study):
    "Through folds, baselines and average: labels dealt out at random are not predicted."
    g, gains, aucs = column(study, "subject"), [], []
    for deal in range(2):
        order = np.random.default_rng(deal).permutation(80)
        y = pd.Series(column(study, "age").to_numpy()[order], index=study.metadata.index)
        site = pd.Series(column(study, "site").to_numpy()[order], index=study.metadata.index)
        gains.append({k: v["r2"][0] for k, v in evaluate(study, y, groups=g, folds=3).scores.items()})
        aucs.append({k: v["auc"][0] for k, v in evaluate(study, site, groups=g, folds=3).scores.items()})
    assert (pd.DataFrame(gains).mean() < .05).all() and (pd.DataFrame(aucs).mean() < .58).all(), (gains, aucs)


def test_written_evaluation_gives_the_same_scores(study, tmp_path):
    y, g = column(study, "age"), column(study, "subject")
    e = evaluate(study, y, groups=g, folds=3, fit_model=knows(study, "age", 1.)); write_evaluation(e, tmp_path/"a"/"b")
    folder = tmp_path/"a"/"b"; t = pd.read_csv(folder/"predictions.tsv", sep="\t", dtype={"sample_id": str, "group": str})
    assert list(t.sample_id) == list(e.ids) and list(t.group) == list(e.groups) and (t["true"] - e.truth).abs().max() < 1e-9
    for o in e.predictions: assert (t[o] - t["true"]).abs().mean() == pytest.approx(e.scores[o]["mae"][0], abs=1e-4)
    assert list(t.fold) == list(e.fold) and set(t.repeat) == {1}
    scores = pd.read_csv(folder/"scores.tsv", sep="\t").set_index(["method", "score"])
    assert scores.loc[("aam", "mae"), "value"] == pytest.approx(e.scores["aam"]["mae"][0]) and np.isnan(scores.loc[("aam", "rmse"), "low"])
    with open(folder/"evaluation.json") as f: told = json.load(f, parse_constant=lambda o: pytest.fail(f"{o} is not JSON"))
    assert told["verdict"] == list(verdict(e)) and told["samples"] == 80
    c = evaluate(study, column(study, "site"), groups=g, folds=3); write_evaluation(c, folder)
    with open(folder/"predictions.tsv") as f: rows = list(csv.DictReader(f, delimiter="\t"))
    assert [r["forest"] for r in rows] == list(c.labels("forest"))
    assert all(abs(sum(float(r[f"average:{k}"]) for k in c.classes) - 1) < 1e-4 for r in rows)


def test_groups_that_are_numbers_keep_short_names(study):
    g = pd.Series(pd.factorize(column(study, "subject"))[0].astype(float), index=study.metadata.index)
    assert set(evaluate(study, column(study, "age"), groups=g, folds=3).groups) == {str(i) for i in range(g.nunique())}


def test_average_and_show():
    p = dict(aam=np.array([[.2, .8]]), forest=np.array([[.6, .4]]), depth=np.array([[1., 0]]))
    assert np.allclose(average(p, "aam")[0], [[.4, .6]]) and average(p, "")[1] == ("forest",)
    assert (show(2.8312), show(12345.6), show(-.0123), show(.5, .1), show(float("nan"))) == ("2.83", "12,346", "\u22120.0123", "0.500", "\u2013")


def test_repeats_are_means_of_the_repeats(study):
    "What the repeats give together is the mean of what each gives, and ids say which repeat a row is of."
    from aam_nb.data.split import repeated
    y, g = column(study, "age"), column(study, "subject"); folds = repeated(study.ids, 3, 3, g, seed=1)
    both = evaluate(study, y, groups=g, folds=folds, fit_model=knows(study, "age", 2.))
    parts = [evaluate(study, y, groups=g, folds=folds[i:i+3]) for i in (0, 3, 6)]
    for m in ("mae", "r2", "rmse", "spearman"): # equal predictions may rank in two ways
        assert both.scores["forest"][m][0] == pytest.approx(np.mean([o.scores["forest"][m][0] for o in parts]), abs=2e-3 if m == "spearman" else 1e-9)
    assert both.samples == 80 and len(both.ids) == 240 and set(both.fold) == set(range(1, 10)) and both.fold_text == "9 folds in 3 repeats"
    for r in (1, 2, 3): assert list(both.ids[both.repeat == r]) == list(study.ids)
    first = both.first(); assert list(first.ids) == list(study.ids) and (first.fold <= 3).all()
    assert np.allclose(first.predictions["forest"], parts[0].predictions["forest"]) and "drawn 3 times" in both.notes[0]
    assert both.scores["aam"]["mae"] == (2., 2., 2.)


def test_an_interval_draws_a_sample_with_all_its_repeats():
    "Ten copies of the same predictions have the interval of one, with groups and without."
    rng = np.random.default_rng(0); y = rng.normal(size=60); p = y + rng.normal(size=60)
    ids = [f"S{i}" for i in range(60)]; group = np.repeat(np.arange(20), 3)
    for g in (None, group):
        one = score_all("regression", y, dict(forest=p), np.ones(60), g, ids=ids)[0]["forest"]["mae"]
        tens = None if g is None else np.tile(g, 10)
        ten = score_all("regression", np.tile(y, 10), dict(forest=np.tile(p, 10)), np.ones(600), tens, ids=ids*10)[0]["forest"]["mae"]
        assert ten == pytest.approx(one)


def test_left_out_values_and_parts(study):
    from aam_nb.data.split import leave_one_out
    from aam_nb.data.split_lists import folds_given
    y, g = column(study, "age"), column(study, "subject"); clinic = "clinic " + g.str[-1].astype(int).mod(3).astype(str)
    e = evaluate(study, y, groups=g, folds=leave_one_out(study.ids, clinic, g), names=sorted(set(clinic)))
    assert [set(clinic[e.fold == k]) for k in (1, 2, 3)] == [{o} for o in e.names] and list(e.ids) == list(study.ids)
    part = g.str[-1].astype(int).mod(3).map({0: "test", 1: "valid", 2: "train"}); e = evaluate(study, y, groups=g, folds=folds_given(study.ids, part, g))
    assert set(e.ids) == set(part.index[part == "test"]) and set(e.fold) == {1} and f"{80 - e.samples} of 80 samples are in no test part" in e.notes[-1]


def test_folds_lose_what_cannot_be_scored(study):
    "A fold whose samples have no target goes, with its name."
    from aam_nb.data.split import leave_one_out
    y = column(study, "age").astype(float).copy(); site = column(study, "site"); y[(site == "gut").to_numpy()] = np.nan
    e = evaluate(study, y, folds=leave_one_out(study.ids, site), names=sorted(set(site)))
    assert e.names == ("mouth", "skin") and set(e.fold) == {1, 2} and set(site.loc[list(e.ids)]) == {"mouth", "skin"}


def test_folds_that_leak_are_refused(study):
    y, g, ids = column(study, "age"), column(study, "subject"), study.ids
    with pytest.raises(AamError, match="Groups on both sides of fold 2"):
        evaluate(study, y, groups=g, folds=[(ids[g == "P00"], ids[g == "P01"]), (ids[:41], ids[41:])])
    with pytest.raises(AamError, match="Samples on both sides of fold 1: 1"): evaluate(study, y, folds=[(ids[:41], ids[40:])])
    with pytest.raises(AamError, match="samples to train: 0"): evaluate(study, y, folds=[([], ids)])
    with pytest.raises(AamError, match="no fold"): evaluate(study, y, folds=[])


def test_one_class_a_fold_gives_no_verdict(study):
    "Where the classes are even, the training majority is the other class: whatever guesses at random seems to have skill."
    from aam_nb.data.split import leave_one_out
    from aam_nb.evaluation.report import report_html
    g = column(study, "subject"); state = pd.Series(np.where(g.str[-1].astype(int) % 2, "sick", "well"), index=g.index, name="state")
    e = evaluate(study, state, groups=g, folds=leave_one_out(study.ids, g, g), names=sorted(set(g)))
    assert np.isnan(e.scores["forest"]["auc"][0]) and any("No test part holds two classes" in o for o in e.warnings)
    assert e.scores["trivial"]["accuracy"][0] == 0 and len(verdict(e)) == 1 and "No verdict" in verdict(e)[0]
    page = report_html(e, "Sick or well", study); assert "held out" in page and "P00" in page and ">nan" not in page


def test_report_of_repeats_counts_samples_once(study):
    from aam_nb.data.split import repeated
    from aam_nb.evaluation.report import report_html
    g = column(study, "subject"); e = evaluate(study, column(study, "site"), groups=g, folds=repeated(study.ids, 3, 2, g))
    page = report_html(e, "Sites", study); assert "from 80 samples, 24 groups, in 6 folds in 2 repeats" in page and ">2.3<" in page.replace("</th>", "<")
