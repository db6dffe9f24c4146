"""What earlier versions wrote still opens, predicts and goes on.

Each folder of tests/formats holds what one format left: a simulated study, its store, a training of two
targets and an evaluation of one, their settings texts with commas.
"""
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from aam_nb.batches.build import build_store
from aam_nb.batches.store import open_store
from aam_nb.data.metadata import read_metadata
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import read_tree
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.recipe import load_config
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.train import train_run

RENAMED = {"told": "covariates", "aam": "net"} # Methods that older evaluations call otherwise
FORMATS = sorted((Path(__file__).parent/"formats").iterdir())


def quiet(text): pass


@pytest.fixture(params=FORMATS, ids=lambda o: o.name)
def older(request, tmp_path, monkeypatch):
    "A copy of what one format left, as the working folder: its configurations name files by relative paths."
    folder = tmp_path/"older"
    shutil.copytree(request.param, folder)
    monkeypatch.chdir(folder)
    return folder


def same_numbers(found, wanted):
    """Whether two tables of predictions hold the same words, and the same numbers to a part in a hundred
    thousand."""
    assert list(found.columns) == list(wanted.columns)
    for name in wanted.columns:
        if wanted[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5)
        else: assert found[name].fillna("").tolist() == wanted[name].fillna("").tolist()


def read(path): return pd.read_csv(path, sep="\t", dtype={"sample_id": str})


def test_a_bundle_predicts_the_same(older, tmp_path):
    bundle = load_bundle(older/"train/bundle")
    predict_table(bundle, read_table(older/"study/table.biom")).write(tmp_path/"again.tsv")
    found, wanted = read(tmp_path/"again.tsv"), read(older/"predictions.tsv")
    same_numbers(found.drop(columns="note"), wanted.drop(columns="note"))
    # Which samples are doubtful is said today; what their reads are needs letters that older bundles lack
    doubtful = wanted.unseen_reads > .5
    assert doubtful.any() and (found.note.notna() == doubtful).all()
    assert found.note[doubtful].str.endswith("ASVs that the bundle was not trained on").all()


def test_a_store_opens_and_is_what_is_built_today(older, tmp_path):
    files = older/"study"
    study = make_study(read_table(files/"table.biom"), read_metadata(files/"metadata.tsv"),
                       read_tree(files/"tree.nwk"))
    old, new = open_store(older/"store", check=True), build_store(study, tmp_path/"store")
    assert old.digest == new.digest


def going_on(folder):
    "The configuration of a run, to go on with."
    return load_config(folder/"config.toml", ("run.resume=true", "run.overwrite=false"))


def test_a_training_goes_on_to_the_same_weights(older):
    wanted = load_file(older/"train/bundle/model.safetensors")
    wanted_rows = read(older/"train/predictions.tsv")
    shutil.rmtree(older/"train/bundle")
    (older/"train/predictions.tsv").unlink()
    train_run(going_on(older/"train"), say=quiet)
    found = load_file(older/"train/bundle/model.safetensors")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items(): np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    same_numbers(read(older/"train/predictions.tsv"), wanted_rows)


def test_an_evaluation_goes_on_to_the_same_scores(older):
    path = older/"evaluate/evaluation.json"
    wanted = json.loads(path.read_text())["scores"]
    path.unlink()
    (older/"evaluate/folds/depth_3045_2.npz").unlink()
    evaluate_run(going_on(older/"evaluate"), say=quiet)
    found = json.loads(path.read_text())["scores"]
    for method, scores in wanted.items():
        for name, values in scores.items():
            value, low, high = found[RENAMED.get(method, method)][name]
            assert value == pytest.approx(values[0], abs=1e-5)
            assert low is None or low <= value <= high, "intervals are made in another way since"
