"Models that are fitted on all samples, for as many steps as validated fits found best."
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.data.split_lists import split_for
from aam_nb.evaluation import baselines
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.training import target_stage
from aam_nb.training.bench import Bench
from aam_nb.training.encoder_stage import pretrain_asvs
from aam_nb.training.loop import Loop
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.stage import Fit
from aam_nb.training.target_stage import codecs, enough_steps, fit_all, fit_target, middle_fit

STUDY = simulate(samples=48, asvs=40, groups=12, length=36, seed=1)
SMALL = {"model": dict(width=16, sample_width=16, head_width=16, layers=1, identity=8),
         "data": dict(target=["age", "site"]), "run": dict(threads=1, trackers=[]),
         "pretrain_asv": dict(steps=10, batch=40), "optim": dict(steps=40, batch=16, every=5, lr=2e-2)}
RUN = dict(folds=3, inner=2, threads=1, watch=0., trackers=())


def quiet(text): pass


@pytest.fixture(autouse=True)
def small_forest(monkeypatch):
    "A forest of 500 trees would take most of the time."
    monkeypatch.setattr(baselines.forest, "__defaults__", (5,))


def bench_of(**more):
    "A bench, a pretrained model, and the rows of a split."
    config = config_from(more, base=config_from(SMALL))
    bench = Bench(config=config, store=build_store(STUDY), accelerator=make_accelerator(config.run),
                  metadata=STUDY.metadata)
    split = split_for(STUDY.ids, valid=.25, test=.25, groups=STUDY.metadata.subject, strata=None, seed=1)
    train, valid = (STUDY.positions(o) for o in (split.train, split.valid))
    return bench, pretrain_asvs(bench, train), train, valid


def equal(a, b):
    "Whether two models have the same weights to the bit."
    a, b = (o.model.state_dict() for o in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


KINDS = {"usual": {}, "one target": dict(data=dict(target=["site"])), "no average": dict(optim=dict(ema=0.)),
         "encoder trains": dict(optim=dict(freeze=False, chunk=16)),
         "patience": dict(optim=dict(patience=2)), "one cycle": dict(optim=dict(schedule="onecycle")),
         "plateau": dict(optim=dict(schedule="plateau", drop_after=0, drop=.2)),
         "linear path": dict(model=dict(linear="asvs", components=4)),
         "covariate": dict(data=dict(target=["age"], covariates=["site"]))}


SCORES = (.9, .8, .85, .6, .7, .65, .9, 1.) # Of eight validations: the fourth is the best one


def scripted(bench, made, train, valid):
    "A validation whose scores are known; the model is asked all the same."
    scores = iter(SCORES)

    def validate():
        made.outputs(valid)
        return dict(loss=next(scores))
    return validate


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_same_samples_it_is_the_validated_fit_at_its_best_step(kind, monkeypatch):
    monkeypatch.setattr(target_stage, "_validation", scripted)
    bench, start, train, valid = bench_of(**KINDS[kind])
    learned = codecs(bench, train)
    first = fit_target(bench, start, *learned, train, valid)
    again = fit_all(bench, start, *learned, train, first.fit)
    assert first.fit.best_step == again.fit.steps == 20
    assert again.fit.best_score is None and equal(first, again)
    rates = [o["lr"] for o in first.fit.history if o["step"] <= first.fit.best_step]
    assert [o["lr"] for o in again.fit.history] == rates
    both = np.r_[train, valid]
    whole = fit_all(bench, start, *learned, both, first.fit)
    assert whole.fit.steps == round(20*len(both)/len(train)) and whole.fit.samples == len(both)
    assert not equal(first, whole) and len(whole.known) >= len(first.known)


def test_a_refit_that_was_stopped_goes_on_exactly(tmp_path, monkeypatch):
    bench, start, train, valid = bench_of()
    learned, like = codecs(bench, train), Fit(best_step=23, best_score=.1, steps=40, seconds=1., history=[])
    wanted = fit_all(bench, start, *learned, train, like)
    config = replace(bench.config, run=replace(bench.config.run, save_steps=7, resume=True))
    bench = replace(bench, config=config, folder=tmp_path, part="all samples ")
    save, saved = Loop.save, []

    def stop(loop):
        save(loop)
        saved.append(loop.state.step)
        if loop.state.step == 14: raise RuntimeError("killed")
    monkeypatch.setattr(Loop, "save", stop)
    with pytest.raises(RuntimeError, match="killed"): fit_all(bench, start, *learned, train, like)
    assert [o.name for o in (tmp_path/"checkpoints").iterdir()] == ["all_samples_refit"]
    found = fit_all(bench, start, *learned, train, like)
    assert saved == [7, 14, 21, 23] and equal(found, wanted)
    assert fit_all(bench, start, *learned, train, like).fit.steps == 23 and len(saved) == 4


def test_steps_grow_with_the_samples_to_the_end_of_the_schedule():
    like = Fit(best_step=40, best_score=1., steps=400, seconds=1., history=[], samples=60)
    assert [enough_steps(like, o, 400) for o in (60, 90, 100, 600, 6000)] == [40, 60, 67, 400, 400]
    assert enough_steps(replace(like, samples=0), 90, 400) == 40     # A fit of an earlier checkpoint


def test_the_middle_fit_is_one_of_those_made():
    def fits(*steps): return [Fit(best_step=o, best_score=1., steps=9, seconds=1., history=[]) for o in steps]
    for steps in ([7], [5, 9], [3, 1, 2], [40, 10, 30, 20], [2, 2, 9]):
        assert middle_fit(fits(*steps)).best_step == np.sort(steps)[(len(steps) - 1)//2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(STUDY, folder)
    return study_files(folder)


def config_of(files, out, target="age", **run):
    given = dict(data=dict(**files, target=target, groups="subject"), optim=dict(steps=10),
                 run=RUN | dict(out=str(out)) | run)
    return config_from(given, base=config_from(SMALL))


def arrays(out): return [dict(np.load(o)) for o in sorted((out/"folds").glob("*.npz"))]


def test_refitted_models_predict_and_inner_ones_calibrate(files, tmp_path):
    said = []
    for n in (0, 2): evaluate_run(config_of(files, tmp_path/f"{n}", refit=n), say=said.append)
    plans = [o for o in said if "outer folds" in o]
    assert "2 models each. Training: 3 x 10 steps of pretrain_asv, 6 x 10 steps of optim" in plans[0]
    assert "2 models each and 2 on all of its training part. " in plans[1] and "12 x 10 steps" in plans[1]
    none, two = arrays(tmp_path/"0"), arrays(tmp_path/"2")
    for a, b in zip(none, two, strict=True):
        assert "refit" not in a and len(b["refit"]) == 2 and b["refit"][0].shape == b["test"][0].shape
        for k in ("test", "oof"): assert np.array_equal(a[k], b[k])
        assert not np.array_equal(*b["refit"])
    a, b = (pd.read_csv(tmp_path/o/"predictions.tsv", sep="\t", index_col=0) for o in "02")
    assert list(a.index) == list(b.index) and not np.allclose(a["stack"], b["stack"])
    folds = pd.read_csv(tmp_path/"2/folds.tsv", sep="\t", index_col=0)
    for frame, found in ((a, none), (b, two)): # The codec is linear in the target
        mean = {k + 1: np.concatenate([o["test"], *([o["refit"]] if "refit" in o else [])]).mean(0)[:, 0]
                for k, o in enumerate(found)}
        for k, wanted in mean.items():
            ids = folds.index[folds.fold == k] if "fold" in folds else frame.index[frame.fold == k]
            got = frame["net"].loc[[i for i in STUDY.ids if i in set(ids)]]
            assert np.corrcoef(got, wanted)[0, 1] > 1 - 1e-9


def test_folds_of_an_earlier_version_are_fitted_again_on_all(files, tmp_path, capsys):
    config = config_of(files, tmp_path/"run", refit=1)
    evaluate_run(config, say=quiet)
    wanted = (tmp_path/"run/predictions.tsv").read_bytes()
    path = tmp_path/"run/folds/as_it_comes_2.npz"
    old = dict(np.load(path))
    np.savez(path, **{k: old[k] for k in ("test", "oof", "seconds")})
    (tmp_path/"run/finished.json").unlink()
    said = []
    evaluate_run(replace(config, run=replace(config.run, resume=True)), say=said.append)
    assert "as_it_comes_2.npz lacks the models that" in capsys.readouterr().err
    left = "2 of 3 kept from before. Left to train: 1 x 10 steps of pretrain_asv, 3 x 10 steps of optim"
    assert any(left in o for o in said)
    assert np.array_equal(dict(np.load(path))["refit"], old["refit"])
    assert (tmp_path/"run/predictions.tsv").read_bytes() == wanted
    assert json.loads((tmp_path/"run/evaluation.json").read_text())["seconds"]["stack"] > 0
