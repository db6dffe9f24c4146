"Baselines see nothing of the test rows, find what is there, and find nothing where there is nothing."
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from aam_nb.core import AamError, draw_key
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.baselines import Fold, fit_predict, possible_baselines
from aam_nb.stack.features import Features, covariate_features
from aam_nb.stack.penalised import grid, penalty_folds
from aam_nb.registry import baselines

COVARIATES = ("diet", ("country", "city"), "weight", "bmi")
TRAIN, TEST = np.arange(60), np.arange(60, 90)
TRIED = [k for k, o in baselines.items() if o.when != "named"] + ["kernel_aitchison", "kernel_generalized"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    "Forests and boosting of few trees: what is tested does not depend on their number."
    from aam_nb.evaluation import baselines as page
    from aam_nb.stack import members
    monkeypatch.setattr(members, "EXTRA", 30)
    monkeypatch.setattr(page, "boosting", partial(page.boosting, most=10))


@pytest.fixture(scope="module")
def study(): return simulate(samples=90, asvs=150, groups=30, seed=3)


@pytest.fixture(scope="module")
def truth(study):
    site = np.unique(study.metadata["site"].to_numpy(str), return_inverse=True)[1]
    return dict(age=study.metadata["age"].to_numpy(float), site=site,
                subject=study.metadata["subject"].to_numpy(object))


@pytest.fixture(scope="module")
def fed(study):
    "The study with covariates, some missing; only the last 30 rows have the diet 'raw' and the city 'new'."
    rng, age = np.random.default_rng(0), study.metadata["age"].to_numpy(float)
    n = len(age)
    diet = np.array(["milk", "mixed", "solid"], dtype=object)[np.digitize(age + rng.normal(0, 4, n), [6, 12])]
    country = rng.choice(["A", "B"], n)
    city = np.array([f"{o}{i}" for o, i in zip(country, rng.integers(3, size=n))], dtype=object)
    diet[60:64], city[62:66] = "raw", "new"
    diet[rng.random(n) < .1] = np.nan
    city[rng.random(n) < .1] = np.nan
    weight, bmi = 4 + .4*age + rng.normal(0, 2, n), rng.normal(20, 3, n)
    weight[rng.random(n) < .2] = np.nan
    bmi[70:75] = np.nan # none in training
    more = dict(diet=diet, country=country, city=city, weight=weight, bmi=bmi)
    return replace(study, metadata=study.metadata.assign(**more))


def predicted(name, study, y, train=TRAIN, test=TEST, **how):
    "A baseline's predictions of the test rows; `study` may hold its features already."
    covariates = how.pop("covariates", "")
    features = study if isinstance(study, Features) else Features(study, covariates)
    return fit_predict(name, Fold(features=features, y=y, train=train, test=test, **how))


def sklearn_covariates(metadata, y, classes, folds):
    "The same baseline out of scikit-learn's parts: encoders, linear models, the penalty by penalty folds."
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import log_loss, mean_squared_error
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    metadata = metadata.assign(city=metadata.country + "/" + metadata.city) # missing where the city is
    numbers = make_pipeline(StandardScaler(),
                            SimpleImputer(strategy="constant", fill_value=0., add_indicator=True))
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["diet", "country", "city"]),
                                     sparse_threshold=0, remainder=numbers)
    columns = ["diet", "country", "city", "weight", "bmi"]
    x = encode.fit(metadata[columns].iloc[TRAIN]).transform(metadata[columns])
    def fit(rows, times):
        penalty = times*((x[rows] - x[rows].mean(0))**2).sum()/len(rows)
        if not classes: return Ridge(alpha=penalty).fit(x[rows], y[rows]).predict
        return LogisticRegression(C=1/penalty, tol=1e-8, max_iter=5000).fit(x[rows], y[rows]).predict_proba
    loss = (lambda y, p: log_loss(y, p, labels=range(classes))) if classes else mean_squared_error
    multiples = grid[::2] if classes else grid
    best = min(multiples, key=lambda o: sum(loss(y[b], fit(a, o)(x[b]))*len(b) for a, b in folds))
    return fit(TRAIN, best)(x[TEST])


@pytest.mark.parametrize("task,classes", [("regression", 0), ("classification", 3)])
def test_covariates_are_a_pipeline_of_sklearn(fed, truth, task, classes):
    y = truth["age"]
    if classes: y = np.digitize(y, [6, 12]) # infants of three stages
    folds = penalty_folds(y, TRAIN, task, truth["subject"], seed=draw_key(42, "inner") % 2**32)
    ours = predicted("covariates", fed, y, classes=classes, groups=truth["subject"], covariates=COVARIATES)
    assert np.allclose(ours, sklearn_covariates(fed.metadata, y, classes, folds), atol=1e-4)
    assert np.ptp(ours, axis=0).min() > .1


def test_covariates_that_training_lacks_count_for_nothing(fed, truth):
    "With no other the prediction is the trivial one."
    y, late = truth["age"], np.arange(90) >= 60
    blank = fed.metadata.assign(diet=fed.metadata.diet.where(late), bmi=np.where(late, fed.metadata.bmi, 20.))
    assert covariate_features(blank, ("diet", "bmi"), TRAIN).shape == (90, 0)
    others = covariate_features(blank, (("country", "city"), "weight"), TRAIN)
    assert np.array_equal(covariate_features(blank, COVARIATES, TRAIN), others)
    found = predicted("covariates", replace(fed, metadata=blank), y, covariates=("diet", "bmi"))
    assert np.array_equal(found, np.full(30, np.median(y[TRAIN])))


def test_covariates_are_there_when_they_are_named(fed, truth):
    y = truth["age"]
    assert "covariates" in possible_baselines(fed, COVARIATES) and "covariates" not in possible_baselines(fed)
    usual = {"trivial", "depth", "covariates", "clr", "branch", "forest"}
    assert set(possible_baselines(fed, COVARIATES)) == usual
    with pytest.raises(AamError, match="the covariates are '' and the study has metadata"):
        predicted("covariates", fed, y)
    with pytest.raises(AamError, match="the study has no metadata"):
        predicted("covariates", replace(fed, metadata=None), y, covariates=COVARIATES)
    with pytest.raises(AamError, match="'town' is not a column"):
        predicted("covariates", fed, y, covariates=(("country", "town"),))


def test_records_say_everything_that_a_report_needs():
    usual = ["trivial", "depth", "covariates", "clr", "branch", "forest"]
    assert list(baselines)[:6] == usual and [k for k, o in baselines.items() if o.when == "usual"] == usual
    assert {k for k, o in baselines.items() if o.average} == {"clr", "branch", "forest"}
    assert len({o.order for o in baselines.values()}) == len(baselines)
    for o in baselines.values():
        assert o.about and not o.about.endswith(".") and o.called("regression") and o.called("classification")
    called = baselines["trivial"].called
    assert (called("regression"), called("classification")) == ("Median", "Class shares")


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("classes,target", [(0, "age"), (3, "site")])
def test_test_rows_teach_nothing(fed, truth, name, classes, target):
    "Other targets, counts and covariates in the test rows change no prediction of the remaining test row."
    y, groups = truth[target], None if name == "forest" else truth["subject"]
    how = dict(test=np.array([60]), classes=classes, groups=groups, threads=1, covariates=COVARIATES)
    before = predicted(name, fed, y, **how)
    counts, metadata = fed.table.counts.toarray(), fed.metadata.copy()
    counts[61:] = counts[61:][:, ::-1]*3
    metadata.loc[metadata.index[61:], ["diet", "city", "weight", "bmi"]] = ["odd", "far", 99., -9.]
    other = replace(fed, table=replace(fed.table, counts=sparse.csr_matrix(counts)), metadata=metadata)
    lies = y.copy()
    lies[60:] = lies[60:][::-1] if classes else 1e6
    assert np.allclose(before, predicted(name, other, lies, **how), atol=1e-8)


@pytest.mark.parametrize("name", TRIED)
def test_class_that_training_lacks(fed, truth, name):
    site = truth["site"]
    train, test = np.flatnonzero(site != 1), np.flatnonzero(site == 1)[:5]
    how = dict(groups=truth["subject"], threads=1, covariates=COVARIATES)
    p = predicted(name, fed, site, train, test, classes=3, **how)
    assert p.shape == (5, 3) and np.allclose(p.sum(1), 1) and (p[:, 1] == 0).all()


def test_signal_is_found(study, truth):
    y, features, mae = truth["age"], Features(study), {}
    for o in possible_baselines(study, more=("all",)):
        mae[o] = np.abs(predicted(o, features, y, groups=truth["subject"]) - y[TEST]).mean()
    poor = ("trivial", "depth", "presence", "boosting") # Boosting of ten trees, here
    assert max(v for k, v in mae.items() if k not in poor) < .85*mae["trivial"], mae
    assert mae["trivial"] == pytest.approx(np.abs(np.median(y[TRAIN]) - y[TEST]).mean())


def test_depth_sees_depth_and_constant_depth_nothing():
    rng = np.random.default_rng(0)
    depth = np.exp(rng.normal(8, 1, 100)).astype(int)
    y, base = (np.log(depth) - 8)**2, simulate(samples=100, asvs=20, groups=20, seed=0)
    counts = sparse.csr_matrix(np.stack([depth, depth], axis=1))
    deep = replace(base, table=replace(base.table, counts=counts, sequences=base.table.sequences[:2]),
                   tree=None, tip=None)
    rows = dict(train=np.arange(70), test=np.arange(70, 100))
    error = np.abs(predicted("depth", deep, y, **rows) - y[70:]).mean()
    assert error < .2*np.abs(np.median(y[:70]) - y[70:]).mean()
    flat = replace(deep, table=replace(deep.table, counts=sparse.csr_matrix(np.full((100, 2), 50))))
    assert np.allclose(predicted("depth", flat, y, **rows), np.median(y[:70]))
    assert "branch" not in possible_baselines(flat)
    with pytest.raises(AamError, match="need a tree"): predicted("branch", flat, y, **rows)


def test_canary_permuted_labels_show_no_skill(study, truth):
    "Labels dealt out among subjects: no baseline may beat the median, on average over deals."
    features, subjects = Features(study), np.unique(truth["subject"])
    gain = {o: [] for o in possible_baselines(study, more=("all",))}
    for deal in range(4):
        rng = np.random.default_rng(deal)
        y = rng.permutation(truth["age"])
        test = np.flatnonzero(np.isin(truth["subject"], rng.permutation(subjects)[:10]))
        train = np.setdiff1d(np.arange(90), test)
        for o in gain:
            p = predicted(o, features, y, train, test, groups=truth["subject"])
            gain[o].append(1 - ((p - y[test])**2).mean()/((y[train].mean() - y[test])**2).mean())
    assert all(np.mean(v) < .06 for v in gain.values()), gain


def test_baselines_on_request_stand_in_an_evaluation(study, truth):
    "Beside the usual ones, whose average stays what it was."
    from aam_nb.evaluation.validate import evaluate
    how = dict(groups=truth["subject"], folds=2, threads=1)
    usual = evaluate(study, study.metadata["age"], **how)
    more = evaluate(study, study.metadata["age"], **how, baselines=("rbf", "kernel_jaccard"))
    assert set(more.predictions) - set(usual.predictions) == {"rbf", "kernel_jaccard"}
    assert more.members == usual.members == ("forest", "clr", "branch")
    assert np.array_equal(more.predictions["average"], usual.predictions["average"])
    assert "jaccard" in more.about("kernel_jaccard") and more.scores["rbf"]["mae"][1] > 0


def test_unknown_name(study):
    with pytest.raises(AamError, match="Did you mean 'forest'"):
        predicted("florest", study, np.zeros(90), [0], [1])


def test_reference_scores_on_infants(data_dir):
    "Out-of-fold R2 of both ridges on ecam_infant near the study's .68 and .67, by group."
    from aam_nb.data.metadata import read_metadata
    from aam_nb.data.split import kfold, strata
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    d = data_dir/"ecam_infant"
    files = read_table(d/"table.biom"), read_metadata(d/"metadata.tsv"), read_tree(d/"tree.nwk")
    s = make_study(*files, where="is_infant == 1")
    known = s.metadata["month_of_life"].notna()
    s = replace(s, table=s.table.samples(known.to_numpy()), metadata=s.metadata[known])
    y = s.metadata["month_of_life"].to_numpy(float)
    g = s.metadata["host_subject_id"].astype(str).to_numpy(object)
    assert len(y) == 699 and len(set(g)) == 42
    features, p = Features(s), {o: np.zeros(699) for o in ("clr", "branch")}
    for train, test in kfold(s.ids, 5, g, strata(y, "regression"), 42):
        train, test = s.positions(train), s.positions(test)
        for o in p: p[o][test] = predicted(o, features, y, train, test, groups=g)
    r2 = {o: 1 - ((v - y)**2).sum()/((y - y.mean())**2).sum() for o, v in p.items()}
    assert .65 < r2["branch"] < .72 and .66 < r2["clr"] < .73, r2
