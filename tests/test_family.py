"""The model family: what can be combined trains, is saved, loads elsewhere and predicts the same.

What cannot be combined is refused with a reason. A table of factors is covered in pairs: each value of each
factor meets each value of every other one in some row.
"""
import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.inference.bundle import load_bundle
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.predict import predict_run
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.train import train_run
from aam_nb.sections import REGRESSIONS, TRANSFORMS
from aam_nb.training.target_stage import validation_loss
from aam_nb.types import Column

SMALL = {"model": {"width": 16, "layers": 2, "heads": 2, "sample_width": 16, "sample_layers": 1,
                   "head_width": 8, "identity": 16, "latents": 4, "latent_layers": 1},
         "data": {"test": 0., "valid": .3}, "augment": {"rarefy": .5},
         "pretrain_asv": {"steps": 2, "batch": 16}, "optim": {"steps": 4, "batch": 12, "every": 2,
                                                              "chunk": 24},
         "pretrain_sample": {"batch": 8, "chunk": 24}, "run": {"threads": 1, "watch": 0., "refit": 0}}
FUSIONS = ("none", "concat", "add", "gated", "cross", "perceiver")
METRICS = ("none", "unweighted", "weighted", "weighted_normalized", "generalized", "faith_pd", "braycurtis",
           "jaccard", "aitchison", "robust_aitchison", "unweighted, aitchison, faith_pd")
FACTORS = dict(task=("age", "site", "age, site"), fusion=FUSIONS, loss=REGRESSIONS, transform=TRANSFORMS,
               metric=METRICS, frozen=(True, False))


def pairwise(factors):
    "Rows in which each pair of values of two factors occurs, found greedily."
    names = list(factors)
    left = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in factors[a]
            for y in factors[b]}
    rows = []
    def pair(a, b): return tuple(sorted((a, b), key=lambda p: names.index(p[0])))
    def gain(row, name, v): return sum(pair((name, v), o) in left for o in row.items())
    while left:
        (a, x), (b, y) = min(left, key=str)
        row = {a: x, b: y}
        for name in names:
            if name not in row:
                row[name] = max(factors[name], key=lambda v, name=name, row=row: gain(row, name, v))
        ordered = [(n, row[n]) for n in names]
        left -= set(itertools.combinations(ordered, 2))
        rows.append(dict(ordered))
    return rows


ROWS = pairwise(FACTORS)


def quiet(text): pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A simulated study with columns to be told: a plain category, a nested place, a number; all with holes."
    folder = tmp_path_factory.mktemp("study")
    study = simulate(samples=40, asvs=40, groups=10, length=40, seed=8)
    rng = np.random.default_rng(0)
    place = rng.choice(["a/a1", "a/a2", "b/b1", "b/b2"], 40)
    told = study.metadata.assign(diet=rng.choice(["meat", "plants", "both"], 40),
                                 country=[o[0] for o in place], city=[o[2:] for o in place],
                                 bmi=rng.normal(25, 4, 40).round(1), weight=rng.uniform(.5, 2, 40).round(2))
    for k in ("diet", "city", "bmi"): told.loc[rng.random(40) < .15, k] = np.nan
    told.loc[told.index[:5], "age"] = np.nan
    told.loc[told.index[3:9], "site"] = np.nan
    write_study(study.__class__(table=study.table, metadata=told, tree=study.tree, tip=study.tip), folder)
    return folder


def config(files, out, task="age", **sections):
    data = dict(table=str(files/"table.biom"), metadata=str(files/"metadata.tsv"), tree=str(files/"tree.nwk"),
                target=task, groups="subject")
    given = {"data": data, "run": {"out": str(out)}}
    for k, v in sections.items(): given[k] = {**given.get(k, {}), **v}
    return config_from(given, base=config_from(SMALL))


def of_row(files, out, task, fusion, loss, transform, metric, frozen):
    "The configuration of a row of the table."
    told = {} if fusion == "none" else dict(covariates="diet, country/city, bmi")
    taught = dict(steps=0) if metric == "none" else dict(steps=2, freeze=frozen)
    model = {} if fusion == "none" else dict(fusion=fusion, scale_by="diet")
    return config(files, out, task, data=told, model=model, target=dict(loss=loss, transform=transform,
                              by="country" if transform == "zscore_by" else "", bounds="0:"),
                  loss={} if metric == "none" else dict(metric=metric, distance=.5), pretrain_sample=taught,
                  optim=dict(freeze=frozen))


def same(told, again):
    "Every predicted column, number or label, is the same to 1e-5."
    columns = [o for o in again.columns if o in told.columns and o != "note"]
    assert len(columns) >= 1
    for o in columns:
        a, b = told[o], again[o]
        if a.dtype.kind in "fi":
            np.testing.assert_allclose(b.to_numpy(float), a.to_numpy(float), rtol=1e-5, atol=1e-5, err_msg=o)
        else: assert (a.astype(str) == b.astype(str)).all(), o
    return told[columns]


def trained(cfg, files, tmp_path):
    "Predictions of the held-out samples, by the run and by its bundle after that was moved."
    moved = shutil.move(train_run(cfg, say=quiet), tmp_path/"elsewhere")
    out = cfg.run.out
    told = pd.read_csv(f"{out}/predictions.tsv", sep="\t", index_col=0, dtype={"sample_id": str})
    again = predict_run(moved, files/"table.biom", tmp_path/"new.tsv", metadata=files/"metadata.tsv",
                        say=quiet).rows.loc[told.index]
    return same(told, again), moved


@pytest.mark.parametrize("row", ROWS, ids=lambda o: "-".join(str(v).replace(", ", "+") for v in o.values()))
def test_what_can_be_combined_predicts_what_it_predicted(row, files, tmp_path):
    told, moved = trained(of_row(files, tmp_path/"run", **row), files, tmp_path)
    model = load_bundle(moved).model
    assert len(model.columns) == len(row["task"].split(", "))
    assert (model.fusion is None) == (row["fusion"] == "none")
    numbers = told.select_dtypes("number")
    assert np.isfinite(numbers.drop(columns=[o for o in numbers if o.endswith(("low", "high"))])).all().all()
    lows = [o for o in told.columns if o.endswith("low")]
    assert len(lows) == ("age" in row["task"])
    for o in lows:
        low, middle, high = (told[o.replace("low", k)] for k in ("low", "prediction", "high"))
        # the bounds are kept in the target's unit
        assert (0 <= low).all() and (low <= middle).all() and (middle <= high).all()


def test_the_table_covers_each_pair():
    seen = {pair for row in ROWS for pair in itertools.combinations(row.items(), 2)}
    wanted = sum(len(FACTORS[a])*len(FACTORS[b]) for a, b in itertools.combinations(FACTORS, 2))
    assert len(seen) == wanted and len(ROWS) < 100


TOLD = dict(data=dict(covariates="diet, bmi"))
OPTIONS = {
    "pools": dict(model=dict(pools="clade, mean")),
    "clr": dict(model=dict(abundance="clr")),
    "presence": dict(model=dict(abundance="presence")),
    "depth": dict(model=dict(depth=True)),
    "attention": dict(model=dict(sample="attention")),
    "both": dict(model=dict(sample="both")),
    "linear asvs": dict(model=dict(linear="asvs", components=5)),
    "linear branches": dict(model=dict(linear="branches", components=5)),
    "linear both": dict(model=dict(linear="both", components=5)),
    "head linear": dict(model=dict(head="linear")),
    "head mlp": dict(model=dict(head="mlp")),
    "patch": dict(model=dict(patch=7)),
    "readout": dict(model=dict(readout="attention")),
    "no identity": dict(model=dict(identity=0)),
    "limit": dict(data=dict(limit=6)),
    "random limit": dict(data=dict(limit=6, select="random")),
    "weights": dict(target=dict(weights="weight")),
    "balance": dict(target=dict(balance="diet")),
    "given balance": dict(target=dict(balance="country: a=3, b=1")),
    "asymmetric": dict(target=dict(loss="asymmetric", over=5.)),
    "quantiles": dict(target=dict(loss="quantile", quantiles=".1, .5, .6")),
    "counts": dict(loss=dict(counts=1.)),
    "counts first": dict(loss=dict(counts=1.), pretrain_sample=dict(steps=2)),
    "hide": dict(loss=dict(counts=1., hide=.8)),
    "span": dict(loss=dict(span=3)),
    "some layers": dict(optim=dict(freeze=False, freeze_layers=1)),
    "slower layers": dict(optim=dict(freeze=False, layer_decay=.1)),
    "all layers": dict(optim=dict(freeze=False)),
    "told": TOLD,
    "told less": dict(TOLD, augment=dict(covariate_dropout=.9)),
    "told more": dict(data=dict(covariates="diet, country/city, bmi")),
    "scaled": dict(TOLD, model=dict(scale_by="diet")),
    "wider": dict(TOLD, model=dict(covariate_width=8)),
    "latents": dict(TOLD, model=dict(fusion="perceiver", latents=2)),
    "latent layers": dict(TOLD, model=dict(fusion="perceiver", latent_layers=2)),
    "one metric": dict(loss=dict(distance=1., metric="jaccard")),
    "two metrics": dict(loss=dict(distance=1., metric="jaccard, braycurtis")),
}


@pytest.fixture(scope="module")
def spoken(files, tmp_path_factory):
    "Predictions of each option, by its name."
    found = {}
    def of(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("option")
            found[name] = trained(config(files, folder/"run", **OPTIONS.get(name, {})), files,
                                  folder)[0].prediction
        return found[name]
    return of


# What an option is compared with, if not the defaults
BESIDE = {"random limit": "limit", "told less": "told", "told more": "told", "scaled": "told",
          "wider": "told", "latents": "told", "latent layers": "latents", "given balance": "balance",
          "linear both": "linear asvs", "counts first": "counts", "hide": "counts",
          "some layers": "all layers", "slower layers": "all layers", "two metrics": "one metric"}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_survives_and_does_something(name, spoken):
    "An option that changes nothing would be a dead one."
    base = BESIDE.get(name, "plain")
    assert not np.allclose(spoken(name), spoken(base), rtol=1e-6)


@pytest.mark.parametrize("how", [dict(class_weights="balanced"), dict(class_weights="gut=1, skin=4"),
                                 dict(smoothing=.3)], ids=str)
def test_each_option_of_classes_does_something(how, files, tmp_path):
    plain, _ = trained(config(files, tmp_path/"a", "site"), files, tmp_path)
    (tmp_path/"more").mkdir()
    other, _ = trained(config(files, tmp_path/"b", "site", target=how), files, tmp_path/"more")
    assert not np.allclose(plain.filter(like="probability"), other.filter(like="probability"), rtol=1e-6)


@pytest.mark.parametrize("how,text", [
    (dict(data=dict(covariates="age")), "which is to be predicted"),
    (dict(data=dict(covariates="diett")), "no column 'diett' .data.covariates.*Did you mean 'diet'"),
    (dict(model=dict(fusion="gated")), "data.covariates is empty"),
    (dict(TOLD, model=dict(scale_by="country")), "not among data.covariates"),
    (dict(target=dict(transform="zscore_by")), "wanted target.by"),
    (dict(target=dict(by="diet")), "no target has the transform zscore_by"),
    (dict(target=dict(transform="cubed")), "wanted one of none, minmax"),
    (dict(target=dict(loss="mae, ph=mse")), "'ph', which is not among age"),
    (dict(target=dict(loss="quantile", quantiles=".1, .9")), "with .5 among them"),
    (dict(target=dict(bounds="5:1")), "wanted two rising numbers"),
    (dict(target=dict(bounds="0:1")), "age"),
    (dict(target=dict(weights="diet")), "diet"),
    (dict(target=dict(balance="diet: fish=2, meat=1")), "fish"),
    (dict(target=dict(class_weights="lung=3")), "lung"),
    (dict(loss=dict(metric="euclid", distance=1.)), "names 'euclid'"),
    (dict(loss=dict(metric="jaccard, jaccard", distance=1.)), "names 'jaccard' twice"),
    (dict(loss=dict(metric="precomputed", distance=1.)), "wanted data.distances"),
    (dict(data=dict(tree=""), model=dict(linear="branches")), "needs one tree"),
    (dict(data=dict(tree=""), loss=dict(distance=1.)), "distance along a tree"),
    (dict(TOLD, augment=dict(mix="reads")), "covariates cannot be mixed"),
    (dict(optim=dict(freeze=False, freeze_layers=3)),
     "optim.freeze_layers is 3; wanted at most model.layers .2."),
    (dict(model=dict(pools="clade, peaks")), "names 'peaks'"),
    (dict(model=dict(pools="")), "model.pools is empty"),
])
def test_what_cannot_be_combined_is_refused_with_its_reason(how, text, files, tmp_path):
    with pytest.raises(AamError, match=text): train_run(config(files, tmp_path/"run", **how), say=quiet)
    assert not (tmp_path/"run").exists()


def test_two_targets_are_evaluated_side_by_side(files, tmp_path):
    "Each with its own folder, its own samples, baselines and report, from models that learned both."
    heard = []
    report = evaluate_run(config(files, tmp_path/"run", "age, site", run=dict(folds=3, inner=2)),
                          say=heard.append)
    truth = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#")
    age, site = (pd.read_csv(tmp_path/"run"/o/"predictions.tsv", sep="\t") for o in ("age", "site"))
    assert report == tmp_path/"run/age/report.html" and (tmp_path/"run/site/report.html").is_file()
    assert set(age.sample_id) == set(truth.index[truth.age.notna()])
    assert set(site.sample_id) == set(truth.index[truth.site.notna()])
    assert len(age) != len(site)
    assert {"stack", "net", "forest", "stack:low", "stack:high"} <= set(age.columns)
    assert (age["stack:low"] <= age["stack:high"]).all()
    assert "stack:gut" in site
    # one set of folds for all targets
    both = age.merge(site, on="sample_id")
    assert (both.fold_x == both.fold_y).all()
    assert len(list((tmp_path/"run/folds").glob("*.npz"))) == 3
    assert sum("The report is" in o for o in heard) == 2


def test_a_class_that_is_too_sure_does_not_stop_the_others():
    "Beside a number, logits times four are worth as much; alone, a class pays for being too sure."
    site, age = Column(name="site", task="classification", outputs=3), Column(name="age", task="regression")
    torch.manual_seed(0)
    logits, target = torch.randn(200, 3), torch.randint(0, 3, (200, 1)).float()
    number = torch.zeros(200, 1)
    logits[torch.arange(200), target[:, 0].long()] += 1.5
    both = torch.cat([target, number], 1)
    worth = lambda x: validation_loss(torch.cat([x, number], 1), both, (site, age))
    plain = lambda x: validation_loss(x, target, (site,))["site"]
    assert float(worth(8*logits)["site"]) == pytest.approx(float(worth(2*logits)["site"]), rel=.01)
    assert worth(logits)["age"] == 0
    assert plain(8*logits) > 2*plain(logits) and worth(8*logits.roll(1, 1))["site"] > 1.
    alone = torch.nn.functional.cross_entropy(logits, target[:, 0].long())
    assert plain(logits) == pytest.approx(float(alone))


def test_prediction_needs_what_the_model_is_told(files, tmp_path):
    bundle = train_run(config(files, tmp_path/"run", **TOLD), say=quiet)
    with pytest.raises(AamError, match="diet.*metadata="):
        predict_run(bundle, files/"table.biom", tmp_path/"a.tsv", say=quiet)
    told = predict_run(bundle, files/"table.biom", tmp_path/"b.tsv", metadata=files/"metadata.tsv",
                       say=quiet).rows.prediction
    other = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, dtype=str)
    other.loc[other.index[0 if other.index[0][0] != "#" else 1]:, "diet"] = "fish"
    other.to_csv(tmp_path/"other.tsv", sep="\t")
    unknown = predict_run(bundle, files/"table.biom", tmp_path/"c.tsv", metadata=tmp_path/"other.tsv",
                          say=quiet).rows.prediction
    assert unknown.notna().all() and not np.allclose(told, unknown)


def test_passes_give_a_mean_and_a_spread(files, tmp_path):
    bundle = train_run(config(files, tmp_path/"run", data=dict(limit=6, select="random")), say=quiet)
    once, twice = (predict_run(bundle, files/"table.biom", tmp_path/f"{n}.tsv", passes=n, say=quiet).rows
                   for n in (1, 8))
    assert "spread" not in once and (twice.spread > 0).mean() > .5
    assert not np.allclose(once.prediction, twice.prediction)
    assert np.abs(once.prediction - twice.prediction).max() < 10*twice.spread.max()


def test_pretraining_is_watched(files, tmp_path):
    "A tenth of the samples teaches nothing, and the log has what they measure, metric by metric."
    heard = []
    pretrain_run(config(files, tmp_path/"run", "", data=dict(target=""), run=dict(watch=.3),
                        loss=dict(metric="unweighted, aitchison"),
                        pretrain_sample=dict(steps=2, freeze=False, every=1)), say=heard.append)
    log = pd.read_json(tmp_path/"run/metrics.jsonl", lines=True)
    sample = log[log.stage == "pretrain_sample"].iloc[-1]
    assert 1 < sample.valid_bases_perplexity < 20 and 0 <= sample.valid_bases_accuracy <= 1
    for o in ("spearman", "mantel", "stress"):
        assert np.isfinite(sample[f"valid_unweighted_{o}"]) and np.isfinite(sample[f"valid_aitchison_{o}"])
    assert any("spearman" in o for o in heard)
    taught = load_bundle(tmp_path/"run/bundle")
    ids = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#").index
    assert 0 < (~taught.taught_by(ids)).sum() < 25
