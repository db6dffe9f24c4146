"How much of a prediction is the ridge regression's: learned where neither part trained, kept with the model."
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LinearRegression

from aam_nb.data.simulate import simulate
from aam_nb.inference.bundle import load_bundle
from aam_nb.recipe import load_config
from aam_nb.runs.notebook import train
from aam_nb.runs.parts import choose_split
from aam_nb.runs.prepare import prepare
from aam_nb.runs.ridge_share import best_share, DRAW, learned_share
from aam_nb.runs.with_ridge import fit_both, fit_both_on_all
from aam_nb.stack.features import clr
from aam_nb.training.sample_stage import pretrained
from aam_nb.training.target_stage import codecs

SHORT = ("pretrain_asv.steps=2", "pretrain_sample.steps=0", "model.layers=1", "model.width=16",
         "model.identity=8", "run.trackers=[]", "run.threads=1", "data.independent=true", "data.valid=.4",
         "data.test=.1", "data.stratify=false")
rng = np.random.default_rng(0)


def made_up(values, more=(), targets=("y",)):
    "A small study, and a net fitted to its targets with their regressions; rows that train and validate."
    study = simulate(samples=200, asvs=60, groups=200, length=40, seed=4, noise=1.)
    metadata = study.metadata.assign(**values(study))
    config = load_config("small", (*SHORT, *more), {"data.target": list(targets), "run.seed": 1})
    ready = prepare(config, choose_split, lambda text: None, study=replace(study, metadata=metadata))
    parts = [ready.study.positions(o) for o in (ready.parts.train, ready.parts.valid)]
    start, learned = pretrained(ready.bench, parts[0]), codecs(ready.bench, parts[0])
    return fit_both(ready.bench, start, learned, *parts), parts, start


def of_single_asvs(study):
    "A number that is linear in the log ratios of a few ASVs."
    ratios = clr(study.table.counts)
    return dict(y=ratios[:, ::7] @ np.linspace(-1, 1, len(range(0, ratios.shape[1], 7))))


def of_a_covariate(study):
    "A number that a covariate gives away and no ASV does."
    x = rng.normal(size=study.table.counts.shape[0])
    return dict(x=x, y=3*x)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    return made_up(of_single_asvs, ("optim.steps=4", f"run.out={folder/'run'}"))


def test_where_single_asvs_decide_it_is_the_regressions(single):
    made, (_, valid), _ = single
    assert len(valid) == 80
    assert made.shares["y"] > (.9*80 + .5*DRAW)/(80 + DRAW)


def test_where_a_covariate_decides_it_is_the_nets(tmp_path):
    more = ("data.covariates=x", "optim.steps=150", "augment.mixup=0", f"run.out={tmp_path/'run'}")
    made, _, _ = made_up(of_a_covariate, more)
    assert made.shares["y"] < .15


def test_a_target_without_a_regression_stays_the_nets(tmp_path):
    def values(study):
        "A second target that too few samples have for a regression."
        few = np.where(np.arange(200) < 14, rng.normal(size=200), np.nan)
        return dict(of_single_asvs(study), z=rng.permutation(few))
    more = ("optim.steps=12", f"run.out={tmp_path/'run'}")
    made, (_, valid), _ = made_up(values, more, ("y", "z"))
    assert set(made.shares) == {"y"}
    share = dict(zip(made.targets.names, made.targets.slices, strict=True))
    assert (made.model.ridge.share[share["z"]] == 0).all() and (made.model.ridge.share[share["y"]] > 0).all()
    assert np.ptp(made.outputs(valid)[:, share["z"]]) > 0


def test_the_share_is_that_of_the_outputs(single):
    made, (_, valid), _ = single
    part, share = made.model.ridge, made.shares["y"]
    both = made.outputs(valid)
    found = {}
    for at in (0, 1):
        part.share.fill_(at)
        found[at] = made.outputs(valid)
    part.share.fill_(share)
    np.testing.assert_allclose(both, (1 - share)*found[0] + share*found[1], atol=1e-5)
    y = made.targets.encode(made.bench.metadata)[valid, 0]
    fit = LinearRegression(fit_intercept=False).fit(found[1] - found[0], y - found[0][:, 0])
    wanted = learned_share(float(np.clip(fit.coef_[0], 0, 1)), len(valid), .5)
    assert share == pytest.approx(wanted, abs=1e-4)


def test_a_model_of_all_samples_has_its_siblings_mean(single):
    made, parts, start = single
    other = replace(made, shares=dict(y=.2))
    learned, rows = (made.targets, made.covariates), np.concatenate(parts)
    whole = fit_both_on_all(made.bench, start, learned, rows, [made, other], ("all",))
    assert whole.shares["y"] == pytest.approx((made.shares["y"] + .2)/2)
    np.testing.assert_allclose(whole.model.ridge.share.numpy(), whole.shares["y"], rtol=1e-6)
    again = fit_both_on_all(made.bench, start, learned, rows, [made, other], ("all",))
    np.testing.assert_array_equal(again.outputs(rows), whole.outputs(rows))


@pytest.mark.parametrize("scale", [.5, 3.])
def test_no_other_share_has_less_log_loss(scale):
    net, ridge = rng.normal(scale=scale, size=(2, 300, 4))
    y = (.6*net + .4*ridge + rng.gumbel(size=net.shape)).argmax(1)
    def loss(share): return -log_softmax(net + share*(ridge - net), axis=1)[np.arange(300), y].mean()
    every = np.linspace(0, 1, 1001)
    wanted = every[np.argmin([loss(o) for o in every])]
    assert best_share(net, ridge, y) == pytest.approx(wanted, abs=2e-3)


def test_a_net_that_is_right_keeps_the_say_in_classes():
    y = rng.integers(3, size=200)
    right, wrong = 5*np.eye(3)[y], rng.normal(size=(200, 3))
    assert best_share(right, -right, y) == 0
    assert best_share(-right, right, y) == 1
    assert best_share(right, 3*wrong, y) < .2


def test_a_bundle_says_and_keeps_it(tmp_path):
    study = simulate(samples=60, asvs=60, groups=20, length=40, seed=2)
    short = dict(model=dict(layers=1, width=16, identity=8), run=dict(trackers=[], threads=1, refit=0),
                 pretrain_asv=dict(steps=2), optim=dict(steps=4))
    train(study, "age", "subject", recipe="small", out=tmp_path/"run", say=lambda text: None, **short)
    bundle = load_bundle(tmp_path/"run/bundle")
    share = float(bundle.model.ridge.share[0])
    assert 0 < share < 1 and share != .5
    assert f"{share:.2f}" in bundle.about["ridge shares"]["age"]
    assert "## Ridge shares" in (tmp_path/"run/bundle/README.md").read_text()
