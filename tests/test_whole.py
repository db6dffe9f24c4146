"The model that a training run keeps learns from all samples; the scores stay those of the one that did not."
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from aam_nb.batches.build import build_store
from aam_nb.batches.collate import known_places
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.data.tokens import sequence_keys
from aam_nb.evaluation import baselines
from aam_nb.evaluation.calibrate import calibrated
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.runs.notebook import train
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.train import train_run
from aam_nb.runs.whole import check_whole
from aam_nb.runs.with_ridge import fit_both, fit_both_on_all
from aam_nb.stack.keep import beside
from aam_nb.training.bench import Bench
from aam_nb.training.log import read_log
from aam_nb.training.loop import Loop
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.sample_stage import pretrained
from aam_nb.training.target_stage import codecs, Fitted

STUDY = simulate(samples=60, asvs=60, groups=20, length=36, seed=2)
SMALL = {"model": dict(width=16, sample_width=16, head_width=16, layers=1, identity=8),
         "pretrain_asv": dict(steps=6, batch=20, every=3), "optim": dict(steps=12, batch=8, every=3),
         "run": dict(threads=1, trackers=[], refit=1, device="cpu")}


def quiet(text): pass


@pytest.fixture(autouse=True)
def small_forest(monkeypatch): monkeypatch.setattr(baselines.forest, "__defaults__", (5,))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(STUDY, folder)
    return study_files(folder)


def config_of(files, out, target="age", data=None, **run):
    data = dict(**files, target=target, groups="subject") | (data or {})
    return config_from(dict(data=data, run=dict(out=str(out)) | run), base=config_from(SMALL))


def weights(out): return load_file(out/"bundle/model.safetensors")


def same(a, b): return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    "A run that keeps the model of its split, one that keeps a model of all samples, and what that one said."
    top, said = tmp_path_factory.mktemp("runs"), []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(baselines.forest, "__defaults__", (5,))
        train_run(config_of(files, top/"split", refit=0), say=quiet)
        train_run(config_of(files, top/"whole"), say=said.append)
    return top/"split", top/"whole", said


def test_scores_and_predictions_stay_those_of_the_split(runs):
    split, whole, said = runs
    for name in ("predictions.tsv", "scores.json", "split.tsv"):
        assert (split/name).read_bytes() == (whole/name).read_bytes()
    assert not same(weights(split), weights(whole))
    a, b = load_bundle(split/"bundle"), load_bundle(whole/"bundle")
    assert a.about["scores"] == b.about["scores"] and "fitted" not in a.about
    told = pd.read_csv(split/"predictions.tsv", sep="\t", index_col=0)
    new = [predict_table(o, STUDY.table).rows.loc[told.index] for o in (a, b)]
    np.testing.assert_allclose(new[0]["prediction"], told["prediction"], rtol=1e-5, atol=1e-5)
    assert not np.allclose(new[1]["prediction"], told["prediction"], rtol=1e-3)


def test_it_is_said_which_model_has_which_score(runs):
    split, whole, said = runs
    parts = pd.read_csv(whole/"split.tsv", sep="\t", index_col=0).iloc[:, 0].value_counts()
    text = f"of a model fitted on {parts.train} samples; the bundle was then fitted on all 60, for "
    pages = [(whole/o).read_text() for o in ("bundle/README.md", "report.html")]
    for where in (" ".join(said), load_bundle(whole/"bundle").about["fitted"], *pages):
        assert text in where and f"{parts.valid} of them had picked its steps" in where
    assert text not in (split/"report.html").read_text()
    assert "fitted on all samples, is in" in said[-2] and "by the model that was scored are in" in said[-2]


def test_the_bundle_knows_all_samples_and_their_asvs(runs):
    split, whole, _ = runs
    bundle = load_bundle(whole/"bundle")
    there = STUDY.table.sequences[np.asarray(STUDY.table.counts.sum(0)).ravel() > 0]
    assert set(bundle.known) == set(sequence_keys(there)) and bundle.taught_by(STUDY.ids).all()
    assert bundle.about["samples"] == 60 and bundle.about["groups"] == 20
    assert not load_bundle(split/"bundle").taught_by(STUDY.ids).all()


def bench_of(bundle):
    return Bench(config=bundle.config, store=build_store(STUDY), metadata=STUDY.metadata,
                 accelerator=make_accelerator(bundle.config.run))


def test_intervals_rest_on_all_samples_that_did_not_train(runs):
    split, whole, _ = runs
    scored, kept = load_bundle(split/"bundle"), load_bundle(whole/"bundle").targets.codecs[0]
    held = STUDY.positions(pd.read_csv(split/"predictions.tsv", sep="\t", index_col=0).index)
    bench, codec = bench_of(scored), scored.targets.codecs[0]
    place = known_places(bench.store.keys[:], scored.known)
    made = Fitted(model=scored.model, bench=bench, targets=scored.targets, known=scored.known, place=place,
                  rows=np.arange(0), covariates=None, encoded=None, embeddings=None)
    truth = codec.encode(STUDY.metadata.age)[held, 0]
    groups = STUDY.metadata.subject.to_numpy()[held]
    new = beside(scored.stack.known, STUDY.table.samples(held))
    outputs = scored.stack.outputs(scored.targets, made.outputs(held), new)
    wanted, note = calibrated(codec, outputs, truth, groups)
    assert (kept.mean, kept.sd) == (codec.mean, codec.sd)    # Margins are in these units
    assert kept.margin == pytest.approx(wanted.margin, rel=1e-5) and kept.reach != codec.reach
    assert kept.level == wanted.level > codec.level
    assert load_bundle(whole/"bundle").about["calibration"] == [note]
    assert f"learned from {len(held)} samples of {len(set(groups))} groups held out" in note


def test_it_is_what_a_fit_on_all_samples_gives(runs):
    _, whole, _ = runs
    bundle = load_bundle(whole/"bundle")
    bench = bench_of(bundle)
    rows = np.argsort(STUDY.ids)
    log = pd.DataFrame(read_log(whole/"metrics.jsonl"))
    judged = log[log.stage == "target"]
    steps = int(judged.step[judged.valid_loss.idxmin()])
    parts = pd.read_csv(whole/"split.tsv", sep="\t", index_col=0).iloc[:, 0]
    train, valid = (STUDY.positions(parts.index[parts == o]) for o in ("train", "valid"))
    most = min(round(steps*60/len(train)), 12)
    assert f"for {most} steps (that model was best after {steps})" in bundle.about["fitted"]
    scored = fit_both(bench, pretrained(bench, train, held_back=valid), codecs(bench, train), train, valid)
    assert scored.fit.best_step == steps
    learned, key = (scored.targets, None), ("all",)
    made = fit_both_on_all(bench, pretrained(bench, rows, key), learned, rows, [scored], key)
    assert made.fit.steps == most
    for k, v in made.model.state_dict().items(): assert torch.equal(v, bundle.model.state_dict()[k]), k
    assert set(log.stage) == {"pretrain_asv", "target", "all samples pretrain_asv", "all samples refit"}


LEFT = {"pretrain_asv": "4 of 12 steps of pretrain_asv, 12 of 24 steps of optim",
        "refit": "10 of 24 steps of optim"}


@pytest.mark.parametrize("stage", LEFT)
def test_a_run_stopped_while_it_learns_from_all_goes_on_exactly(files, runs, tmp_path, monkeypatch, stage):
    config, save = config_of(files, tmp_path/"run", save_steps=2), Loop.save

    def stop(loop):
        save(loop)
        if loop.stage.name == f"all samples {stage}" and loop.state.step == 2: raise RuntimeError("killed")
    monkeypatch.setattr(Loop, "save", stop)
    with pytest.raises(RuntimeError, match="killed"): train_run(config, say=quiet)
    assert (tmp_path/"run/scores.json").is_file() and not (tmp_path/"run/bundle").exists()
    monkeypatch.setattr(Loop, "save", save)
    said = []
    train_run(replace(config, run=replace(config.run, resume=True)), say=said.append)
    assert any(f"Left to train: {LEFT[stage]}" in o for o in said)
    assert same(weights(tmp_path/"run"), weights(runs[1]))
    for name in ("predictions.tsv", "scores.json", "bundle/codecs.json"):
        assert (tmp_path/"run"/name).read_bytes() == (runs[1]/name).read_bytes()


def test_without_test_samples_and_from_a_bundle(files, tmp_path):
    first = pretrain_run(config_of(files, tmp_path/"first", "", dict(groups="")), say=quiet)
    said = []
    bundle = load_bundle(train_run(config_of(files, tmp_path/"run", data=dict(test=0.), start=str(first),
                                             transductive=True), say=said.append))
    assert "No sample was left to score a model fitted on 48 samples" in bundle.about["fitted"]
    assert bundle.about["samples"] == 60 and not (tmp_path/"run/scores.json").exists()
    assert any("Training: 2 x 12 steps of optim;" in o for o in said)
    assert {o["stage"] for o in read_log(tmp_path/"run/metrics.jsonl")} == {"target", "all samples refit"}
    start, now = load_bundle(first).model.state_dict(), bundle.model.state_dict()
    assert all(torch.equal(start[k], now[k]) for k in start if k.startswith("encoder."))


def test_a_transductive_run_pretrains_once(files, tmp_path):
    said = []
    train_run(config_of(files, tmp_path/"run", transductive=True), say=said.append)
    assert any("Training: 1 x 6 steps of pretrain_asv, 2 x 12 steps of optim" in o for o in said)
    stages = {o["stage"] for o in read_log(tmp_path/"run/metrics.jsonl")}
    assert stages == {"pretrain_asv", "target", "all samples refit"}


def test_a_pretraining_that_follows_validation_is_refused_before_the_run(files, tmp_path):
    config = config_of(files, tmp_path/"run")
    config = replace(config, pretrain_asv=replace(config.pretrain_asv, schedule="plateau"))
    with pytest.raises(AamError, match="'plateau' of 'pretrain_asv' .*refit=0"): train_run(config, say=quiet)
    assert not (tmp_path/"run").exists()
    for how in (dict(refit=0), dict(start="bundle")):
        check_whole(replace(config, run=replace(config.run, **how)))


def test_a_notebook_gets_the_model_of_all_samples(files, tmp_path):
    made = train(STUDY, "age", groups="subject", say=quiet, out=tmp_path/"run", **SMALL)
    assert made.bundle.taught_by(STUDY.ids).all() and "stack" in made.scores
    assert made.scores == json.loads((tmp_path/"run/scores.json").read_text())
    assert "fitted on all 60" in made._repr_html_() and len(made.predictions) < 30
