"Attention weights on request, at every level: equal to what the fast way uses, and gone when not asked for."
from dataclasses import replace

import pytest
import torch
from model_cases import BASES, asvs, awake, batch_of, config, random_samples
from torch.nn import functional as F

from aam_nb.model.aam import AamModel
from aam_nb.model.layers import SHORT, Attends, attend, attention_kept
from aam_nb.model.sample_encoder import groups_of_pairs, pairs_with_reads
from aam_nb.types import Column, Covariates

LENGTHS = (24, 9, 17)
TARGET = (Column(name="age", task="regression"),)
BASES_TO_BASES = {"encoder.layers.0", "encoder.layers.1"}
CASES = {  # Settings, and the names beside those of the bases
    "pool": (dict(sample="pool", readout="flat"), {"sample"}),
    "attention": (dict(sample="attention", readout="attention"),
                  {"encoder.readout", "sample.layers.0", "sample.layers.1", "sample.pool"}),
    "both": (dict(sample="both", depth=True),
             {"sample.encoder.pool", "sample.encoder.attention.layers.0", "sample.encoder.attention.layers.1",
              "sample.encoder.attention.pool"}),
    "cross": (dict(fusion="cross"), {"sample", "fusion.ask"}),
    "perceiver": (dict(fusion="perceiver", latents=3, latent_layers=2),
                  {"sample", "fusion.ask", "fusion.layers.0", "fusion.layers.1"}),
}


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def model_and_batch(fusion="concat", **given):
    "A model of two layers at each level, and a batch of samples and ASVs of unlike length."
    covariates = Covariates(chains=(("diet",),), sizes=(2,), numbers=("bmi",))
    c = config(fusion=fusion, sample_layers=2, **given)
    model = awake(AamModel(c, BASES, TARGET, covariates=covariates)).eval()
    batch = batch_of(random_samples(5, 14), asvs(14, LENGTHS))
    return model, replace(batch, category=torch.randint(0, 4, (5, 1)), number=torch.randn(5, 1))


@pytest.mark.parametrize("s", [7, SHORT + 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("asking", [None, 1])
def test_weights_equal_what_pytorchs_attention_uses(s, masked, asking):
    q, k, v = torch.randn(3, 4, 2, s, 8).unbind(0)
    q, kept = q[:, :, :asking], []
    mask = torch.arange(s) < torch.randint(1, s + 1, (4, 1)) if masked else None
    found = attend(q, k, v, mask, kept)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
    weights, = kept
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights @ v, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(q.shape[:3]), rtol=1e-5, atol=1e-6)
    if masked: assert (weights.masked_select(~mask[:, None, None].expand_as(weights)) == 0).all()


@pytest.mark.parametrize("case", CASES)
def test_every_level_keeps_its_weights_and_the_prediction(case):
    given, names = CASES[case]
    model, batch = model_and_batch(**given)
    before = model(batch).target
    with attention_kept(model) as kept: during = model(batch).target
    after = model(batch).target
    assert set(kept) == names | BASES_TO_BASES and all(kept.values())
    for weights in sum(kept.values(), []):
        assert weights.dim() == 4 and (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(during, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(before, after)
    assert all(o.kept is None for o in model.modules() if isinstance(o, Attends))


def test_weights_are_of_the_rows_that_the_names_say():
    model, batch = model_and_batch(sample="attention", readout="attention")
    with attention_kept(model) as kept, torch.no_grad(): model(batch)
    u, patches = len(batch.rows), 4
    assert kept["encoder.layers.0"][0].shape == (u, 2, patches, patches)
    assert kept["encoder.readout"][0].shape == (u, 1, 1, patches)
    length = (batch.tokens != 0).sum(1)
    beyond = torch.arange(patches) >= -(-length//6)[:, None]
    assert (kept["encoder.readout"][0][:, 0, 0][beyond] == 0).all()
    _, sample, _ = pairs_with_reads(batch.reads)
    groups = groups_of_pairs(torch.bincount(sample, minlength=batch.size))
    for name in ("sample.layers.0", "sample.layers.1", "sample.pool"):
        assert [o.shape[0] for o in kept[name]] == [len(samples) for samples, _, _ in groups]
        assert [o.shape[-1] for o in kept[name]] == [pairs.shape[1] for _, pairs, _ in groups]


def test_the_attention_pool_keeps_the_mean_that_it_takes():
    model, batch = model_and_batch()
    pool = model.sample
    u = len(batch.rows)
    h, score, R = torch.randn(u, 16), torch.randn(u, 2), torch.rand(5, u)*(torch.rand(5, u) < .6)
    with attention_kept(model) as kept, torch.no_grad(): found = pool.attention_pool(h, score, R)
    weights, = kept["sample"]
    mean = torch.einsum("bhqu,uhe->bhqe", weights, h.unflatten(1, (2, 8)))
    torch.testing.assert_close(mean.flatten(1), found, rtol=1e-5, atol=1e-6)
    assert (weights[(R == 0)[:, None, None].expand_as(weights)] == 0).all()


def test_weights_have_gradients_and_an_error_ends_the_keeping():
    model, batch = model_and_batch(sample="attention")
    with attention_kept(model) as kept:
        target = model(batch).target
        weights = kept["sample.layers.0"]
        grads = torch.autograd.grad(target.sum(), weights)
    assert all((o != 0).any() for o in grads)
    with pytest.raises(KeyError), attention_kept(model): raise KeyError
    assert all(o.kept is None for o in model.modules() if isinstance(o, Attends))


def test_state_and_weights_know_nothing_of_the_keeping():
    model, _ = model_and_batch()
    with attention_kept(model): names = list(model.state_dict())
    assert names == list(model.state_dict()) and not [o for o in names if "kept" in o]
