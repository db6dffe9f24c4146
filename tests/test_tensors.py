"The model from plain tensors: the same as from a batch, recorded as a graph, and its gradient for each read."
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_cases import BASES, asvs, awake, batch_of, config, each_kind, model_for, random_samples
from torch import nn
from torch.export import Dim

from aam_nb.model.aam import AamModel
from aam_nb.types import Column, Covariates, sample_of_pairs

COVARIATES = Covariates(chains=(("diet",), ("country", "city")), sizes=(2, 2, 3), numbers=("age",))
TARGETS = (Column(name="age", task="regression", loss="quantile", outputs=3, levels=(.1, .5, .9)),
           Column(name="site", task="classification", outputs=2))
NAMES = ("tokens", "asv", "counts", "offsets", "identity", "category", "number", "place")
SIZES = {o: (0,) for o in NAMES}  # Axes whose size is free


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def full_model(**given):
    "A model with all that a prediction may need, of any sample encoder."
    c = config(scale_by="diet", linear="asvs", components=4, **given)
    model = AamModel(c, BASES, TARGETS, metrics=("unweighted",), covariates=COVARIATES, known=12)
    model.linear.parts["asvs"].loadings.normal_()
    return awake(model).eval()


def full_batch(samples=4, u=12, lengths=(BASES,), seed=0):
    "A batch for it."
    batch = batch_of(random_samples(samples, u, seed), asvs(u, lengths, seed), seed=seed)
    rng = np.random.default_rng(seed)
    category = torch.from_numpy(np.stack([rng.integers(0, 4, samples) for _ in range(3)], 1))
    number = torch.from_numpy(np.where(rng.random((samples, 1)) < .3, np.nan, 1.).astype(np.float32))
    return replace(batch, category=category, number=number, place=batch.rows % 12)


def plain(batch): return tuple(getattr(batch, o) for o in NAMES)


class Predictions(nn.Module):
    "The target alone, from tensors."
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, asv, counts, offsets, identity, category=None, number=None, place=None):
        known = category, number, place
        return self.model.predict_tensors(tokens, asv, counts, offsets, identity, *known).target


def free_sizes(names):
    "Every number of samples, ASVs and pairs is free; the width of sequences is not."
    return {o: dict.fromkeys(SIZES[o], Dim.DYNAMIC) for o in names}


def recorded(model, batch, names=NAMES):
    "The graph of a model's predictions. PyTorch records graphs for 2 samples and more."
    given = {o: getattr(batch, o) for o in names}
    sizes = free_sizes(names)
    return torch.export.export(Predictions(model), (), kwargs=given, dynamic_shapes=sizes).module()


@each_kind
def test_tensors_give_what_a_batch_gives_to_the_bit(sample, readout, patch):
    for batch in (full_batch(), full_batch(lengths=(24, 9, 17)), full_batch(samples=1, seed=3)):
        model = full_model(sample=sample, readout=readout, patch=patch)
        a, b = model(batch), model.predict_tensors(*plain(batch))
        for o in ("summary", "target", "distance", "unit"):
            assert torch.equal(getattr(a, o), getattr(b, o)), o
        assert a.counts is None and b.counts is None


@pytest.mark.parametrize("fusion", ["add", "gated", "cross", "perceiver"])
def test_tensors_give_what_a_batch_gives_for_each_fusion(fusion):
    model, batch = full_model(fusion=fusion), full_batch()
    assert torch.equal(model(batch).target, model.predict_tensors(*plain(batch)).target)


@pytest.mark.parametrize("lengths", [[], [3], [0], [2, 0, 3], [0, 0, 4], [4, 0, 0], [0, 0]])
def test_the_sample_of_each_pair_equals_a_repeat(lengths):
    lengths = torch.tensor(lengths, dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    found = sample_of_pairs(offsets, int(lengths.sum()))
    assert torch.equal(found, torch.arange(len(lengths)).repeat_interleave(lengths))
    assert found.dtype == torch.int64


@pytest.mark.slow
@pytest.mark.parametrize("readout,patch,fusion", [("flat", 6, "concat"), ("attention", 5, "cross")])
def test_a_graph_fits_other_numbers_of_samples_asvs_and_pairs(readout, patch, fusion):
    model = full_model(readout=readout, patch=patch, fusion=fusion)
    graph = recorded(model, full_batch(samples=4, u=12))
    for samples, u, lengths in ((4, 12, (BASES,)), (2, 5, (24, 9)), (9, 30, (11, 24, 6))):
        batch = full_batch(samples, u, lengths, seed=samples)
        given = {o: getattr(batch, o) for o in NAMES}
        torch.testing.assert_close(graph(**given), model(batch).target, rtol=1e-4, atol=1e-5)


def test_a_graph_needs_no_covariates():
    model = model_for(task="classification", outputs=3, layers=1)
    names = NAMES[:5]
    graph = recorded(model, batch_of(random_samples(3, 8), asvs(8)), names)
    batch = batch_of([{0: 4, 5: 1}, {}, {2: 3, 7: 9, 1: 1}, {}], asvs(9))  # Two samples have no reads
    found = graph(**{o: getattr(batch, o) for o in names})
    assert found.shape == (4, 3)
    torch.testing.assert_close(found, model(batch).target, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_says_what_the_model_says(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, names = model_for(task="classification", outputs=3), NAMES[:5]
    batch = batch_of(random_samples(4, 12), asvs(12))
    given = {o: getattr(batch, o) for o in names}
    sizes = free_sizes(names)
    made = torch.onnx.export(Predictions(model), (), kwargs=given, dynamic_shapes=sizes, verbose=False)
    made.save(tmp_path/"model.onnx")
    session = runtime.InferenceSession(tmp_path/"model.onnx")
    for samples, u, lengths in ((4, 12, (BASES,)), (9, 30, (11, 24, 6)), (1, 3, (7,))):
        other = batch_of(random_samples(samples, u), asvs(u, lengths))
        found, = session.run(None, {o: getattr(other, o).numpy() for o in names})
        np.testing.assert_allclose(found, model(other).target.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample", ["pool", "attention", "both"])
def test_each_read_has_a_gradient(sample):
    model, batch = model_for(sample=sample), batch_of(random_samples(3, 10), asvs(10))
    counts = batch.counts.double().requires_grad_()
    model, identity = model.double(), batch.identity.double()
    def predicted(counts):
        return model.predict_tensors(batch.tokens, batch.asv, counts, batch.offsets, identity).target
    grad, = torch.autograd.grad(predicted(counts)[1, 0], counts)
    own = batch.sample == 1
    assert (grad[own] != 0).all() and (grad[~own] == 0).all()
    step = torch.zeros_like(counts)
    step[own.nonzero()[0]] = 1e-4
    slope = (predicted(counts + step) - predicted(counts - step))[1, 0]/2e-4
    torch.testing.assert_close(slope, grad[own.nonzero()[0, 0]], rtol=1e-4, atol=1e-9)
