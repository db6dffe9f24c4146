"Baselines equal scikit-learn on the raw features, see nothing of the test rows, and find nothing where there is nothing."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.baselines import (
    BASELINES,
    baselines,
    fit_predict,
    grid,
    inner_folds,
    logistic,
    penalised,
    ridge,
    trivial,
)
from aam_nb.evaluation.features import (
    Features,
    branch_gram,
    clr,
    clr_gram,
    coordinates,
    log_branch,
    prevalent,
    relative,
    told,
)


@pytest.fixture(scope="module")
def study(): return simulate(samples=90, asvs=150, groups=30, seed=3)


@pytest.fixture(scope="module")
def truth(study):
    site = np.unique(study.metadata["site"].to_numpy(str), return_inverse=True)[1]
    return dict(age=study.metadata["age"].to_numpy(float), site=site, subject=study.metadata["subject"].to_numpy(object))


TOLD = ("diet", ("country", "city"), "weight", "bmi")


@pytest.fixture(scope="module")
def fed(study):
    "The study with covariates: missing categories and numbers, and in the last 30 rows a diet and a city that no row before has."
    rng, age = np.random.default_rng(0), study.metadata["age"].to_numpy(float); n = len(age)
    diet = np.array(["milk", "mixed", "solid"], dtype=object)[np.digitize(age + rng.normal(0, 4, n), [6, 12])]
    country = rng.choice(["A", "B"], n); city = np.array([f"{o}{i}" for o, i in zip(country, rng.integers(3, size=n))], dtype=object)
    diet[60:64], city[62:66] = "raw", "new"; diet[rng.random(n) < .1] = np.nan; city[rng.random(n) < .1] = np.nan
    weight, bmi = 4 + .4*age + rng.normal(0, 2, n), rng.normal(20, 3, n); weight[rng.random(n) < .2] = np.nan; bmi[70:75] = np.nan # bmi: none in training
    return replace(study, metadata=study.metadata.assign(diet=diet, country=country, city=city, weight=weight, bmi=bmi))


def raw(n, p, seed=0):
    rng = np.random.default_rng(seed); x = rng.normal(size=(n, p))*rng.uniform(.2, 3, p) + rng.normal(size=p)
    return x, rng.permutation(n), x[:, :3] @ [1, -2, .5] + rng.normal(size=n)


@pytest.mark.parametrize("n,p", [(40, 400), (120, 30), (30, 30)])
@pytest.mark.parametrize("alpha", [1e-2, 1., 300.])
def test_ridge_is_sklearn_on_raw_features(n, p, alpha):
    from sklearn.linear_model import Ridge
    x, order, y = raw(n, p); train, test = order[:n*2//3], order[n*2//3:]
    z, squares = coordinates(x @ x.T, train)
    ours = ridge(z, squares, y, train, np.array([5., alpha]))[test, 1]
    assert np.allclose(ours, Ridge(alpha=alpha, solver="svd").fit(x[train], y[train]).predict(x[test]), atol=1e-5)


@pytest.mark.parametrize("n,p,k", [(60, 300, 2), (60, 300, 4), (150, 12, 3)])
@pytest.mark.parametrize("alpha", [.5, 50.])
def test_logistic_is_sklearn_on_raw_features(n, p, k, alpha):
    from sklearn.linear_model import LogisticRegression
    x, order, y = raw(n, p, 1); y = np.digitize(y, np.quantile(y, np.arange(1, k)/k)); train, test = order[:n*2//3], order[n*2//3:]
    ours = logistic(coordinates(x @ x.T, train)[0], y, k, train, np.array([alpha, 1e3]))[test, :, 0]
    theirs = LogisticRegression(C=1/alpha, tol=1e-10, max_iter=20_000).fit(x[train], y[train]).predict_proba(x[test])
    assert np.allclose(ours, theirs, atol=2e-4)


def test_features_against_skbio_and_by_hand(study):
    from skbio.stats.composition import clr as skbio_clr
    counts = study.table.counts.toarray()
    assert np.allclose(clr(study.table.counts), skbio_clr(counts + .5))
    assert np.allclose(clr_gram(study.table.counts), clr(study.table.counts) @ clr(study.table.counts).T)
    assert np.allclose(relative(study.table.counts).toarray(), counts/counts.sum(1, keepdims=True))
    tree, at = study.tree, np.argsort(study.tip)                  # ASVs in the tree's order of tips
    below = np.stack([counts[:, at][:, a:b].sum(1) for a, b in zip(tree.start, tree.stop, strict=True)], axis=1)/counts.sum(1, keepdims=True)
    assert np.allclose(log_branch(study), np.log(1 + below/1e-4)*np.sqrt(tree.length))
    assert np.allclose(branch_gram(study, block=17), log_branch(study) @ log_branch(study).T)


def test_no_reads_no_warning(study, recwarn):
    counts = study.table.counts.tolil(); counts[0] = 0
    empty = replace(study, table=replace(study.table, counts=sparse.csr_matrix(counts, dtype=np.int32)))
    assert relative(empty.table.counts)[0].sum() == 0 and np.isfinite(log_branch(empty)).all() and not log_branch(empty)[0].any()
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_prevalence_counts_training_rows_only():
    x = sparse.csr_matrix(np.array([[1, 0, 2], [1, 0, 0], [1, 0, 0], [0, 5, 1], [0, 5, 1], [0, 5, 1]]))
    assert list(prevalent(x, np.array([0, 1, 2]))) == [0]
    assert list(prevalent(x, np.array([3, 4, 5]))) == [1, 2]
    assert list(prevalent(x, np.array([0, 3]))) == [0, 1, 2]       # nothing in three samples: whatever occurs


def test_inner_folds_keep_groups_and_stay_inside(truth):
    train = np.arange(5, 60); pairs = inner_folds(truth["age"], train, "regression", truth["subject"])
    assert len(pairs) == 3 and sorted(np.concatenate([b for _, b in pairs])) == list(train)
    for a, b in pairs: assert not set(truth["subject"][a]) & set(truth["subject"][b]) and set(a) | set(b) == set(train)
    assert inner_folds(truth["age"], train, "regression", np.repeat("one", 90)) == []
    assert len(inner_folds(truth["age"], train, "regression", np.where(np.arange(90) % 2, "a", "b"))) == 2


def test_penalty_is_chosen_on_groups():
    "A subject's own offset helps only when the subject is on both sides; group folds must choose a strong penalty."
    rng = np.random.default_rng(0); g = np.repeat(np.arange(30), 8); offset = rng.normal(size=30); train = np.arange(240)
    x = rng.normal(size=(30, 200))[g] + rng.normal(size=(240, 200))*.1; y = offset[g] + rng.normal(size=240)*.1
    by_group = penalised(x @ x.T, y, train, folds=inner_folds(y, train, "regression", g.astype(str)))[1]
    by_sample = penalised(x @ x.T, y, train, folds=inner_folds(y, train, "regression"))[1]
    assert by_group >= 100*by_sample


def sklearn_told(metadata, y, train, test, classes, folds):
    "The same baseline out of scikit-learn's parts: its encoders, its linear models, and the penalty by the inner folds."
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import log_loss, mean_squared_error
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    table = metadata.assign(city=metadata.country + "/" + metadata.city) # missing where the city is
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["diet", "country", "city"]), sparse_threshold=0, remainder=make_pipeline(
        StandardScaler(), SimpleImputer(strategy="constant", fill_value=0., add_indicator=True)))
    columns = ["diet", "country", "city", "weight", "bmi"]; x = encode.fit(table[columns].iloc[train]).transform(table[columns])
    def fit(rows, times):
        penalty = times*((x[rows] - x[rows].mean(0))**2).sum()/len(rows)
        if not classes: return Ridge(alpha=penalty).fit(x[rows], y[rows]).predict
        return LogisticRegression(C=1/penalty, tol=1e-8, max_iter=5000).fit(x[rows], y[rows]).predict_proba
    loss = (lambda y, p: log_loss(y, p, labels=range(classes))) if classes else mean_squared_error
    multiples = grid[::2] if classes else grid
    best = min(multiples, key=lambda o: sum(loss(y[b], fit(a, o)(x[b]))*len(b) for a, b in folds))
    return fit(train, best)(x[test])


@pytest.mark.parametrize("task,classes", [("regression", 0), ("classification", 3)])
def test_told_is_a_pipeline_of_sklearn(fed, truth, task, classes):
    from aam_nb.core import draw_key
    y, train, test = truth["age"], np.arange(60), np.arange(60, 90)
    if classes: y = np.digitize(y, [6, 12]) # infants of three stages
    folds = inner_folds(y, train, task, truth["subject"], seed=draw_key(42, "inner") % 2**32)
    ours = fit_predict("told", Features(fed, TOLD), y, train, test, task, classes, groups=truth["subject"])
    assert np.allclose(ours, sklearn_told(fed.metadata, y, train, test, classes, folds), atol=1e-4) and np.ptp(ours, axis=0).min() > .1


def test_told_codes_by_hand():
    rows = pd.DataFrame(dict(diet=["a", "b", None, "c"], country=["X", "Y", "X", "X"], city=["x", "y", None, "z"], bmi=[1., 3., np.nan, 2.]))
    found = told(rows, ("diet", ("country", "city"), "bmi"), np.array([0, 1]))
    #          missing, unknown, a, b | missing, unknown, X, Y | missing, unknown, x, y | number, missing; the number stands where its column is read
    parts = dict(diet=[[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]], country=[[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0]],
                 city=[[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]], bmi=[[-1, 0], [1, 0], [0, 1], [0, 0]])
    assert np.array_equal(found, np.hstack(list(parts.values())))


def test_told_where_nothing_is_told(study, fed, truth):
    "A covariate that the training rows lack counts for nothing; with no other the prediction is the trivial one."
    train, test, y = np.arange(60), np.arange(60, 90), truth["age"]
    blank = fed.metadata.assign(diet=fed.metadata.diet.where(np.arange(90) >= 60), bmi=np.where(np.arange(90) < 60, 20., fed.metadata.bmi))
    assert told(blank, ("diet", "bmi"), train).shape == (90, 0) and np.array_equal(told(blank, TOLD, train), told(blank, (("country", "city"), "weight"), train))
    assert np.array_equal(fit_predict("told", Features(replace(fed, metadata=blank), ("diet", "bmi")), y, train, test), np.full(30, np.median(y[train])))
    assert "told" in baselines(fed, TOLD) and "told" not in baselines(fed) and set(baselines(fed, TOLD)) == set(BASELINES)
    with pytest.raises(AamError, match="the covariates are '' and the study has metadata"): fit_predict("told", fed, y, train, test)
    with pytest.raises(AamError, match="the study has no metadata"): fit_predict("told", Features(replace(fed, metadata=None), TOLD), y, train, test)
    with pytest.raises(AamError, match="'town' is no column"): fit_predict("told", Features(fed, (("country", "town"),)), y, train, test)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("task,target", [("regression", "age"), ("classification", "site")])
def test_test_rows_teach_nothing(fed, truth, name, task, target):
    "Other targets, counts and covariates in the test rows change no prediction of the remaining test row."
    train, test = np.arange(60), np.array([60]); y = truth[target]; kw = dict(task=task, classes=3, groups=truth["subject"], threads=1)
    if name == "forest": kw["groups"] = None
    before = fit_predict(name, Features(fed, TOLD), y, train, test, **kw)
    counts = fed.table.counts.toarray(); counts[61:] = counts[61:][:, ::-1]*3; metadata = fed.metadata.copy()
    metadata.loc[metadata.index[61:], ["diet", "city", "weight", "bmi"]] = ["odd", "far", 99., -9.]
    other = replace(fed, table=replace(fed.table, counts=sparse.csr_matrix(counts)), metadata=metadata)
    lies = y.copy(); lies[60:] = lies[60:][::-1] if task == "classification" else 1e6
    assert np.allclose(before, fit_predict(name, Features(other, TOLD), lies, train, test, **kw), atol=1e-8)


@pytest.mark.parametrize("name", BASELINES)
def test_class_that_training_lacks(fed, truth, name):
    train = np.flatnonzero(truth["site"] != 1); test = np.flatnonzero(truth["site"] == 1)[:5]
    p = fit_predict(name, Features(fed, TOLD), truth["site"], train, test, "classification", 3, groups=truth["subject"], threads=1)
    assert p.shape == (5, 3) and np.allclose(p.sum(1), 1) and (p[:, 1] == 0).all()


def test_signal_is_found(study, truth):
    train, test, y = np.arange(60), np.arange(60, 90), truth["age"]; f = Features(study)
    mae = {o: np.abs(fit_predict(o, f, y, train, test, groups=truth["subject"]) - y[test]).mean() for o in baselines(study)}
    assert max(mae["clr"], mae["branch"], mae["forest"]) < .8*mae["trivial"]
    assert mae["trivial"] == pytest.approx(np.abs(np.median(y[train]) - y[test]).mean())
    assert np.allclose(trivial(truth["site"], train, test, 3)[0], [(truth["site"][train] == k).mean() for k in range(3)])


def test_depth_sees_depth_and_constant_depth_nothing():
    rng = np.random.default_rng(0); depth = np.exp(rng.normal(8, 1, 100)).astype(int); y = (np.log(depth) - 8)**2
    counts = sparse.csr_matrix(np.stack([depth, depth], axis=1)); base = simulate(samples=100, asvs=20, groups=20, seed=0)
    deep = replace(base, table=replace(base.table, counts=counts, sequences=base.table.sequences[:2]), tree=None, tip=None)
    train, test = np.arange(70), np.arange(70, 100)
    assert np.abs(fit_predict("depth", deep, y, train, test) - y[test]).mean() < .2*np.abs(np.median(y[train]) - y[test]).mean()
    flat = replace(deep, table=replace(deep.table, counts=sparse.csr_matrix(np.full((100, 2), 50))))
    assert np.allclose(fit_predict("depth", flat, y, train, test), np.median(y[train]))
    assert "branch" not in baselines(flat)
    with pytest.raises(AamError, match="need a tree"): fit_predict("branch", flat, y, train, test)


def test_canary_permuted_labels_show_no_skill(study, truth):
    "Labels dealt out among subjects: no baseline may beat the median, on average over deals."
    f, subjects = Features(study), np.unique(truth["subject"]); gain = {o: [] for o in baselines(study)}
    for deal in range(4):
        rng = np.random.default_rng(deal); y = rng.permutation(truth["age"])
        test = np.flatnonzero(np.isin(truth["subject"], rng.permutation(subjects)[:10])); train = np.setdiff1d(np.arange(90), test)
        for o in gain:
            p = fit_predict(o, f, y, train, test, groups=truth["subject"])
            gain[o].append(1 - ((p - y[test])**2).mean()/((y[train].mean() - y[test])**2).mean())
    assert all(np.mean(v) < .06 for v in gain.values()), gain


def test_unknown_name(study):
    with pytest.raises(AamError, match="Did you mean 'forest'"): fit_predict("florest", study, np.zeros(90), [0], [1])


def test_reference_scores_on_infants(data_dir):
    "Out-of-fold R2 of both ridges on ecam_infant near the study's .68 and .67, by group."
    from aam_nb.data.metadata import read_metadata
    from aam_nb.data.split import kfold, strata
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    d = data_dir/"ecam_infant"
    s = make_study(read_table(d/"table.biom"), read_metadata(d/"metadata.tsv"), read_tree(d/"tree.nwk"), where="is_infant == 1")
    s = replace(s, table=s.table.samples(s.metadata["month_of_life"].notna().to_numpy()),
                metadata=s.metadata[s.metadata["month_of_life"].notna()])
    y, g, f = s.metadata["month_of_life"].to_numpy(float), s.metadata["host_subject_id"].astype(str).to_numpy(object), Features(s)
    assert len(y) == 699 and len(set(g)) == 42
    p = {o: np.zeros(699) for o in ("clr", "branch")}
    for train, test in kfold(s.ids, 5, g, strata(y, "regression"), 42):
        train, test = s.positions(train), s.positions(test)
        for o in p: p[o][test] = fit_predict(o, f, y, train, test, groups=g)
    r2 = {o: 1 - ((v - y)**2).sum()/((y - y.mean())**2).sum() for o, v in p.items()}
    assert .65 < r2["branch"] < .72 and .66 < r2["clr"] < .73, r2
