"A sample encoder from outside the package: one record, used by its name, from training to predictions."
import numpy as np
import pytest
import torch
from torch import nn

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.table import read_table
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.model.layers import Standardise
from aam_nb.model.sample_encoder import SampleEncoder, SampleEncoderKind, shares
from aam_nb.recipe import load_config
from aam_nb.registry import registered, sample_encoders
from aam_nb.runs.train import train_run

SHORT = ["pretrain_asv.steps=0", "optim.steps=20", "optim.batch=16", "model.width=16", "model.layers=1",
         "model.identity=16", "model.sample_width=18", "run.threads=1"]


class Loudest(SampleEncoder):
    "The mean ASV of a sample, and the share of its most abundant ASV."
    def __init__(self, config, d_in):
        super().__init__()
        self.asv, self.width = nn.Linear(d_in, config.sample_width), config.sample_width + 1
        self.standard = Standardise(self.width)

    def features(self, asv, reads):
        R = shares(reads)
        return torch.cat([R @ self.asv(asv).tanh(), R.amax(1, keepdim=True)], 1)


LOUDEST = SampleEncoderKind(name="loudest", make=Loudest)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "The folder of a small simulated study."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=8), folder)
    return folder


def configured(study, out, *words):
    "A short training on that study, with some overrides."
    files = dict(table="table.biom", metadata="metadata.tsv", tree="tree.nwk")
    given = [f"data.{k}={study}/{v}" for k, v in files.items()]
    wanted = ["data.target=age", "data.groups=subject", f"run.out={out}"]
    return load_config(None, (*given, *wanted, *SHORT, *words))


def trained(study, out, *words):
    "The bundle of a training with the encoder."
    return train_run(configured(study, out, "model.sample=loudest", *words), say=lambda text: None)


@pytest.mark.parametrize("depth", ["false", "true"])
def test_an_encoder_learns_and_its_bundle_predicts_again(study, tmp_path, depth):
    table = read_table(study/"table.biom")
    with registered(sample_encoders, LOUDEST):
        path = trained(study, tmp_path/"run", f"model.depth={depth}")
        bundle, again = load_bundle(path), load_bundle(path)
        first, second = predict_table(bundle, table), predict_table(again, table)
    inner = bundle.model.sample.encoder if depth == "true" else bundle.model.sample
    assert isinstance(inner, Loudest) and bundle.model.config.sample == "loudest"
    assert bundle.model.sample.width == 19 + (depth == "true")
    assert not torch.equal(inner.standard.spread, torch.ones(19))  # Its constants were fitted
    assert first.rows.prediction.notna().all() and len(first.rows) == 40
    np.testing.assert_array_equal(first.rows.prediction, second.rows.prediction)
    assert first.rows.prediction.std() > 0


def test_its_weights_have_learned(study, tmp_path):
    with registered(sample_encoders, LOUDEST):
        runs = [trained(study, tmp_path/str(n), f"optim.steps={n}") for n in (1, 20)]
        early, late = (load_bundle(o).model.sample.asv.weight for o in runs)
    assert (early - late).abs().max() > 1e-4


def test_an_encoder_that_nobody_registered_is_refused(study, tmp_path):
    with pytest.raises(AamError, match="model.sample names 'loudest'; wanted .* of pool, attention, both"):
        configured(study, tmp_path, "model.sample=loudest")
    with registered(sample_encoders, LOUDEST): path = trained(study, tmp_path/"run", "optim.steps=1")
    with pytest.raises(AamError, match="loudest"): load_bundle(path)
    with pytest.raises(AamError, match="named 'pool' already"):
        sample_encoders.add(SampleEncoderKind(name="pool", make=Loudest))


def test_heads_share_a_width_only_where_the_record_says_so(study, tmp_path):
    with registered(sample_encoders, LOUDEST):
        assert configured(study, tmp_path, "model.sample=loudest").model.sample_width == 18
    for name in ("attention", "both"):
        with pytest.raises(AamError, match="sample_width is 18; wanted a multiple of model.heads"):
            configured(study, tmp_path, f"model.sample={name}")
    assert configured(study, tmp_path, "model.sample=pool").model.sample == "pool"


def test_an_encoder_without_features_says_so():
    class Empty(SampleEncoder): pass
    with pytest.raises(NotImplementedError, match="Empty has no"): Empty().features(None, None)
