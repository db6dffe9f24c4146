"The command that teaches an encoder on a reference: what it keeps, how it goes on, and what it refuses."
import numpy as np
import pytest
import torch
from reference_folder import study, write_reference
from typer.testing import CliRunner

from aam_nb.batches.windows import Windows
from aam_nb.cli import app
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.reference import LICENCE, read_reference, SOURCE
from aam_nb.inference.bundle import load_bundle
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.reference import kinds, tips_held_back

TINY = dict(width=16, layers=1, heads=2, sample_width=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return write_reference(tmp_path_factory.mktemp("reference")/"genes", study())


def config(folder, out, **run):
    "A small run."
    return config_from({"data": dict(reference=str(folder)), "model": TINY,
                        "pretrain_asv": dict(steps=6, batch=32, every=3),
                        "run": dict(out=str(out), watch=.3, **run)})


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")/"run"
    return pretrain_run(config(folder, out), lambda text: None)


def test_the_bundle_names_source_licence_and_scores_of_every_kind(made, folder):
    bundle, windows = load_bundle(made), Windows(read_reference(folder))
    assert bundle.about["source"] == SOURCE and bundle.about["licence"] == LICENCE
    scores = bundle.about["scores_of_tips_held_back"]
    assert list(scores) == [" ".join(map(str, o)) for o in kinds(windows)] and len(scores) == 18
    assert bundle.about["tips"] + bundle.about["tips_held_back"] == len(windows.tree.tips)
    card = (made/"README.md").read_text()
    assert "V4 forward 150: rank correlation" in card and LICENCE in card and "no sample, no label" in card


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(made, folder, tmp_path):
    same = load_bundle(pretrain_run(config(folder, tmp_path/"same"), lambda text: None)).model.state_dict()
    other = load_bundle(pretrain_run(config(folder, tmp_path/"other", seed=7), lambda text: None)).model
    first = load_bundle(made).model.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in first.items())
    assert not torch.equal(first["encoder.stem.weight"], other.state_dict()["encoder.stem.weight"])


def test_vectors_are_centred_and_of_norm_root_width(made, folder):
    windows, model = Windows(read_reference(folder)), load_bundle(made).model
    tokens = np.concatenate([o[:, :150] for o in windows.tokens.values()])
    z = model.encode(torch.from_numpy(tokens)).detach()
    assert z.mean(0).abs().max() < 1.5 and .5 < z.square().sum(1).mean()/16 < 2


def test_tips_that_are_held_back_follow_from_the_seed(folder):
    one, same, other = (tips_held_back(config(folder, "x", seed=o), 4000) for o in (1, 1, 2))
    assert (one == same).all() and (one != other).any() and abs(one.mean() - .3) < .04
    assert not np.any(tips_held_back(config_from({"run": dict(watch=0.)}), 50))


def test_a_finished_run_is_not_made_again(made, folder):
    said = []
    assert pretrain_run(config(folder, made.parent, resume=True), said.append) == made
    assert "is finished" in said[0]


def test_it_goes_on_from_an_earlier_one_and_says_so(made, folder, tmp_path):
    first = load_bundle(made).model.encoder.stem.weight
    for seed, says in ((42, "an encoder of 6 steps."), (7, "tips that are held back here.")):
        again = config(folder, tmp_path/f"{seed}", start=str(made), seed=seed)
        again = config_from({"pretrain_asv": dict(steps=0)}, again)
        bundle = load_bundle(pretrain_run(again, lambda text: None))
        assert torch.equal(bundle.model.encoder.stem.weight, first)
        assert bundle.about["notes"][-1].endswith(says)


def test_the_command_line(folder, tmp_path):
    words = ["pretrain", "reference", "--reference", folder, "--out", tmp_path/"run", "pretrain_asv.steps=0",
             "pretrain_asv.batch=32", "model.width=16", "model.heads=2", "model.layers=1"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert load_bundle(tmp_path/"run/bundle").model.bases == 256


def test_what_excludes_each_other_is_refused(folder, tmp_path):
    with pytest.raises(AamError, match="data.reference and data.table are both given"):
        config_from({"data": dict(reference="a", table="b")})
    with pytest.raises(AamError, match="another ASV encoder"):
        pretrain_run(config(folder, tmp_path/"run", start="reference"), lambda text: None)
    with pytest.raises(AamError, match="There is no file .*none.tar.gz"):
        pretrain_run(config("none.tar.gz", tmp_path/"run"), lambda text: None)
    assert not (tmp_path/"run").exists()
