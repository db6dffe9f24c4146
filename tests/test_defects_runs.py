"Defects of the program that this one follows (`defect_cases`): a whole run."
import shutil
from dataclasses import replace

from defect_cases import NAN, batch_of, model_of, quiet, said
import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.config import config_from
from aam_nb.data.simulate import simulate, write_study
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import decoded, predict_table
from aam_nb.runs.predict import predict_run
from aam_nb.runs.train import train_run
from aam_nb.sections import LossConfig
from aam_nb.training.measure import measure_samples
from aam_nb.training.objectives import SampleObjective
from aam_nb.training.log import read_log


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run with targets, quantiles, covariates, distances, hidden reads and a common depth."
    folder = tmp_path_factory.mktemp("run")
    study = simulate(samples=48, asvs=40, groups=12, length=40, seed=8)
    rng = np.random.default_rng(0)
    diet = rng.choice(["meat", "plants"], 48).astype(object)
    diet[:6] = np.nan
    metadata = study.metadata.assign(diet=diet, bmi=rng.normal(25, 4, 48).round(1))
    write_study(replace(study, metadata=metadata), folder)
    names = dict(table="table.biom", metadata="metadata.tsv", tree="tree.nwk")
    files = {k: str(folder/v) for k, v in names.items()}
    small = dict(width=16, layers=1, sample_width=16, head_width=8, identity=16, fusion="gated")
    config = config_from({"data": dict(files, target="age, site", covariates="diet, bmi", groups="subject",
                                       depth=1000, test=0., valid=.4), "model": small,
                          "target": dict(loss="quantile", bounds="0:", transform="log1p_zscore"),
                          "loss": dict(metric="faith_pd, unweighted", distance=.5, counts=.5),
                          "pretrain_asv": dict(steps=4, batch=24), "optim": dict(steps=12, batch=8, every=4),
                          "run": dict(out=str(folder/"run"), threads=1, refit=0)})
    bundle = shutil.move(train_run(config, say=quiet), folder/"bundle")
    truth = pd.read_csv(folder/"metadata.tsv", sep="\t", index_col=0, comment="#", dtype={"sample_id": str})
    told = pd.read_csv(folder/"run/predictions.tsv", sep="\t", index_col=0, dtype={"sample_id": str})
    return dict(folder=folder, bundle=bundle, truth=truth, told=told)


def again(run, tmp_path, **how):
    "Predict with the moved bundle."
    return predict_run(run["bundle"], run["folder"]/"table.biom", tmp_path/"new.tsv",
                       metadata=run["folder"]/"metadata.tsv", say=quiet, **how).rows


def test_A1_predict_reads_what_train_wrote(run, tmp_path):
    told = run["told"]
    new = again(run, tmp_path).loc[told.index]
    numbers = [o for o in new if o in told and new[o].dtype.kind == "f"]
    assert {"age:prediction", "age:q0.05", "age:q0.5", "age:q0.95"} <= set(numbers)
    assert sum(o.startswith("site:probability_") for o in numbers) == 3
    np.testing.assert_allclose(new[numbers].to_numpy(float), told[numbers].to_numpy(float), rtol=1e-5,
                               atol=1e-5)
    assert (new["site:label"] == told["site:label"]).all() and told["age:prediction"].std() > 0


def test_A2_predictions_are_in_the_units_of_the_metadata(run):
    bundle, told = load_bundle(run["bundle"]), run["told"]
    codec = bundle.targets.codecs[0]
    age = run["truth"].age.astype(float)
    assert bundle.config.data.depth == 1000
    assert (codec.transform, codec.levels) == ("log1p_zscore", (.05, .5, .95))
    # encoded, it would lie about 0
    assert (told["age:prediction"] >= 0).all()
    assert age.median()/3 < told["age:prediction"].median() < 3*age.median()
    # by hand: the inverse of log1p and of the z-score
    outputs = np.array([[-1., 0., 1.]])
    wanted = np.expm1(codec.mean + codec.sd*outputs[0])
    frame = decoded(bundle.targets, np.concatenate([outputs, [[0., 0., 0.]]], 1), np.array(["S"]))
    np.testing.assert_allclose(frame[["age:q0.05", "age:q0.5", "age:q0.95"]].to_numpy()[0],
                               np.maximum(wanted, 0), rtol=1e-6)


def test_A3_classes_are_text_and_come_back_as_text(run):
    told = run["told"]
    columns = [f"site:probability_{o}" for o in sorted(run["truth"].site.unique())]
    np.testing.assert_allclose(told[columns].sum(axis=1), 1, atol=1e-6)
    assert (told["site:label"] == [columns[i].partition("_")[2]
                                   for i in told[columns].to_numpy().argmax(1)]).all()


def test_A4_hidden_reads_are_learned_validated_and_left_alone_by_predict(run):
    records = [o for o in read_log(run["folder"]/"run/metrics.jsonl") if o["stage"].endswith("target")]
    assert records
    assert all(np.isfinite(o["counts"]) for o in records)
    assert all(np.isfinite(o["valid_loss"]) for o in records)
    batch = batch_of()
    batch = replace(batch, hidden=torch.arange(len(batch.asv)) % 3 == 0)
    model = model_of(counts=True)
    got = measure_samples(SampleObjective(model, LossConfig(counts=1.)), [batch])
    assert np.isfinite(got["counts"]) and got["loss"] == pytest.approx(got["counts"] + got["target"])
    # only the guess is made without them
    assert torch.equal(said(model, batch).target, said(model, replace(batch, hidden=None)).target)


def test_A5_a_target_is_learned_beside_faith_pd(run):
    records = [o for o in read_log(run["folder"]/"run/metrics.jsonl") if o["stage"].endswith("target")]
    assert all(np.isfinite([o["distance:faith_pd"], o["distance:unweighted"], o["target:age"],
                            o["target:site"]]).all() for o in records)


def test_B15_several_passes_are_averaged_as_a_person_would(run, tmp_path):
    one, more = again(run, tmp_path), again(run, tmp_path, overwrite=True, passes=4)
    classes = [o for o in more if "probability_" in o]
    values = ["age:q0.05", "age:q0.5", "age:q0.95"]
    assert set(one) <= set(more) and len(classes) == 3 and any(o.endswith("spread") for o in more)
    np.testing.assert_allclose(more[classes].sum(axis=1), 1, atol=1e-6)
    assert (more["site:label"] == [classes[i].partition("_")[2]
                                   for i in more[classes].to_numpy().argmax(1)]).all()
    # each quantile has its own mean
    assert (np.diff(more[values].to_numpy()) >= 0).all() and (more[values[0]] < more[values[2]]).any()
    two = again(run, tmp_path, overwrite=True, passes=2)
    gap = (two["age:prediction"] - one["age:prediction"]).abs()
    assert (gap > 0).any() and gap.max() < 10
    # a mean of months, not of encoded numbers
    np.testing.assert_allclose(gap, two["age:spread"]/2**.5, rtol=1e-6, atol=1e-9)


def test_a_bundle_predicts_a_table_of_samples_that_nobody_has_seen(run):
    table = simulate(samples=6, asvs=30, groups=3, length=40, seed=99).table
    metadata = pd.DataFrame({"diet": ["meat", "fish", None, "plants", "meat", "meat"],
                             "bmi": [20., 25, NAN, 30, 22, 24]}, index=table.sample_ids)
    found = predict_table(load_bundle(run["bundle"]), table, metadata=metadata).rows
    assert len(found) == 6 and found["age:prediction"].notna().sum() >= 4
    assert found.note.str.contains("in ASVs that the bundle was not trained on").all()
