"""An encoder of a reference gets centre and scale from the ASVs of the training samples, and from no others;
an encoder that was taught in a study keeps its own."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.batches.cache import Cache
from aam_nb.batches.samples import asvs_in
from aam_nb.config import config_from
from aam_nb.data.simulate import simulate
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.inference.shipped import find_bundle
from aam_nb.runs.train import train_run
from aam_nb.training.bench import Bench, frozen_embeddings
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.ranks import several
from aam_nb.training.sample_stage import pretrained
from aam_nb.types import strings


@pytest.fixture(scope="module")
def study(): return simulate(samples=40, asvs=60, groups=10, length=100, seed=6)


@pytest.fixture(scope="module")
def bench(study):
    config = config_from({"run": dict(start="reference")})
    return Bench(config=config, store=build_store(study), accelerator=make_accelerator(config.run),
                 metadata=study.metadata, start=load_bundle(find_bundle("reference")).model, reference=True)


def constants(model): return [*model.encoder.centre.tolist(), float(model.encoder.scale)]


def test_vectors_of_training_asvs_are_centred_and_scaled_and_the_shipped_encoder_stays(bench):
    before, rows = constants(bench.start), np.arange(24)
    model = pretrained(bench, rows)
    z = model.encode(torch.from_numpy(bench.store.tokens[asvs_in(bench.store, rows)])).detach()
    assert z.mean(0).abs().max() < 1e-3 and abs(float(z.square().sum(1).mean())/64 - 1) < 1e-3
    assert constants(bench.start) == before != constants(model)
    for k, v in model.state_dict().items():
        if k not in ("encoder.centre", "encoder.scale"): assert torch.equal(v, bench.start.state_dict()[k])


def test_asvs_of_test_samples_alone_change_nothing(study, bench):
    few = simulate(samples=40, asvs=400, groups=10, length=100, seed=6)
    one = replace(bench, store=build_store(few))
    rows = np.arange(6)
    spare = np.setdiff1d(np.arange(len(one.store.tokens)), asvs_in(one.store, rows))
    assert len(spare) > 20
    letters = {o: i for i, o in enumerate(one.store.sequences)}
    names = [letters[o] for o in few.table.sequences]
    turned = strings([o[::-1] if at in spare else o
                      for o, at in zip(few.table.sequences, names, strict=True)])
    other = replace(few, table=replace(few.table, sequences=turned), tree=None, tip=None)
    two = replace(bench, store=build_store(other))
    assert constants(pretrained(one, rows)) == constants(pretrained(two, rows))
    assert constants(pretrained(one, np.arange(40))) != constants(pretrained(two, np.arange(40)))


def test_cache_and_processes_change_no_bit(bench, tmp_path):
    rows = np.arange(24)
    wanted = constants(pretrained(bench, rows))
    cached = replace(bench, cache=Cache(tmp_path))
    for _ in range(2): assert constants(pretrained(cached, rows)) == wanted
    shared = several(lambda ranks: constants(pretrained(replace(bench, ranks=ranks), rows)))
    assert shared == [wanted, wanted]
    vectors = [frozen_embeddings(o, pretrained(o, rows), o.config.optim) for o in (bench, cached)]
    assert torch.equal(*vectors)
    frozen_embeddings(cached, pretrained(cached, np.arange(12)), cached.config.optim)
    kept = [o.name for o in Cache(tmp_path).entries()]
    assert kept == ["embeddings", "embeddings", "read_outs"], "sequences are read once for all folds"


def test_an_encoder_that_was_taught_in_a_study_keeps_its_own(bench):
    assert pretrained(replace(bench, reference=False), np.arange(24)) is bench.start


def test_a_bundle_keeps_them_and_predicts_as_its_run_did(study, tmp_path):
    config = config_from({"data": dict(target=["age"], groups="subject"),
                          "optim": dict(steps=6, batch=8, every=3),
                          "run": dict(start="reference", out=str(tmp_path/"run"), refit=0)})
    bundle = load_bundle(train_run(config, lambda text: None, study))
    store = build_store(study)
    z = bundle.model.encode(torch.from_numpy(store.tokens[np.isin(store.keys[:], bundle.known)])).detach()
    assert z.mean(0).abs().max() < 1e-3, "of the ASVs that trained"
    told = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t", index_col="sample_id")
    found = predict_table(bundle, study.table, list(told.index)).rows
    column = next(o for o in found.columns if o in told.columns and o not in ("part", "true"))
    np.testing.assert_allclose(found[column].astype(float), told[column].astype(float), rtol=1e-5)
    assert any("centred and scaled on the ASVs" in o for o in bundle.about["notes"])
