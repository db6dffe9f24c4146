"Defects of the program that this one follows (`defect_cases`): how samples become batches."
from dataclasses import replace

from defect_cases import FUSIONS, TOLD, batch_of, model_of
import numpy as np
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.data.simulate import simulate
from aam_nb.sections import AugmentConfig, LossConfig
from aam_nb.training.measure import measure_samples
from aam_nb.training.objectives import SampleObjective


@pytest.fixture(scope="module")
def store():
    "Samples that are alike in nothing but their tree."
    return build_store(simulate(samples=20, asvs=30, groups=10, length=40, seed=3))


def test_A6_fewer_samples_than_a_batch_are_a_batch(store):
    few = SampleDataset(store, np.arange(3), np.arange(20.))
    assert [o.size for o in PlainBatches(few, batch=64)] == [3]
    assert [SampleBatches(few, batch=64, steps=4)[i].size for i in range(4)] == [3]*4
    # and one sample is enough for a loss
    found = measure_samples(SampleObjective(model_of(), LossConfig()), [batch_of((3,))])
    assert np.isfinite(found["loss"])


def test_B4_B18_processes_share_a_batch_and_keep_all_pairs(store):
    view = View(seed=1, metrics=("unweighted", "aitchison"))
    source = lambda **k: SampleBatches(SampleDataset(store), view, batch=8, steps=3, **k)
    whole, parts = source()[1], [source(rank=r, world=3)[1] for r in range(3)]
    assert [o.size for o in parts] == [2, 3, 3]
    assert torch.equal(torch.cat([o.index for o in parts]), whole.index)
    torch.testing.assert_close(torch.cat([o.distance for o in parts], 1), whole.distance)
    assert whole.distance.shape == (2, 8, 8) and not whole.distance.isnan().any()


def test_B22_what_a_loss_weighs_moves_with_its_batch():
    held = dict(weight=torch.ones(6, 1), distance=torch.zeros(1, 6, 6),
                hidden=torch.ones(27, dtype=torch.bool), place=torch.arange(12))
    moved = replace(batch_of(told=True), **held).to("meta")
    for k in ("weight", "category", "number", "hidden", "place", "distance", "target"):
        assert getattr(moved, k).device.type == "meta", k


@pytest.mark.parametrize("fusion", FUSIONS)
def test_B28_what_is_missing_or_unknown_is_met_and_learned_in_training(fusion, store):
    rng = np.random.default_rng(0)
    category = np.stack([rng.integers(2, o + 2, 20) for o in TOLD.sizes], 1)
    number = rng.normal(size=(20, 1)).astype(np.float32)
    dataset = SampleDataset(store, None, rng.normal(size=20), covariates=(category, number))
    source = SampleBatches(dataset, View(augment=AugmentConfig(covariate_dropout=.4)), batch=20, steps=20)
    seen = torch.cat([source[i].category for i in range(20)])
    numbers = torch.cat([source[i].number for i in range(20)])
    assert all({0, 1} < set(seen[:, j].tolist()) for j in range(3))
    assert .1 < float(numbers.isnan().float().mean()) < .7
    batch = batch_of(told=True)
    learned = []
    for code in (0, 1):
        model = model_of(covariates=TOLD, fusion=fusion, scale_by=("diet",))
        diet = torch.full((6, 1), code)
        category = torch.cat([diet, batch.category[:, 1:]], 1)
        SampleObjective(model, LossConfig()).train_step(replace(batch, category=category))
        tables = [o.weight.grad for o in model.modules() if isinstance(o, torch.nn.Embedding)
                  and o.num_embeddings == 5]
        learned.append([o.abs().sum(1).nonzero().flatten().tolist() for o in tables])
    # in the tokens and in the scale of the outputs, each in a row of its own
    assert learned == [[[0], [0]], [[1], [1]]]
