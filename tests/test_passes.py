"Two passes equal one, and the constants of the sample level."
from copy import deepcopy

import pytest
import torch
from model_cases import asvs, batch_of, each_kind, gradients, model_for, random_samples, same_gradients

from aam_nb.core import draw_key
from aam_nb.model.passes import backward_chunks, embed_chunks, fit_constants


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@each_kind
def test_deduplicated_gradient_equals_plain_path(sample, readout, patch):
    "Each sample encodes its own ASVs, and gradients add up: the same as encoding each distinct ASV once."
    model, tokens = model_for(sample, readout, patch, metric=None), asvs(25, (24, 21))
    samples = random_samples(6, 25)
    batch = batch_of(samples, tokens)
    weight = torch.randn(6, 1)
    (model(batch).target*weight).sum().backward()
    once = gradients(model)
    model.zero_grad()
    for i in range(6): (model(batch_of(samples[i:i+1], tokens)).target*weight[i]).sum().backward()
    same_gradients(once, gradients(model))


def plain_with_draws(model, tokens, chunk, key):
    "All chunks with their graph at once, drawing dropout as the two passes do."
    out = []
    for i, part in enumerate(tokens.split(chunk)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_key(key, "encoder", i))
            out.append(model.encode(part))
    return torch.cat(out)


@each_kind
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_two_passes_equal_plain_path_with_dropout(sample, readout, patch, chunk):
    model, tokens = model_for(sample, readout, patch, dropout=.2).train(), asvs(25, (24, 21))
    batch = batch_of(random_samples(6, 25), tokens)

    def loss(asv):
        torch.manual_seed(5)
        out = model(batch, asv=asv)
        return (out.target - batch.target).square().mean() + (out.distance - batch.distance).square().mean()

    plain = loss(plain_with_draws(model, batch.tokens, chunk, 3))
    plain.backward()
    want = gradients(model)
    model.zero_grad()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    z = embed_chunks(model, batch.tokens, chunk, key=3).requires_grad_()
    assert torch.equal(torch.get_rng_state(), before)  # the draws outside are left alone
    two = loss(z)
    two.backward()
    state = torch.get_rng_state()
    backward_chunks(model, batch.tokens, z.grad, chunk, key=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(two, plain)
    same_gradients(gradients(model), want)
    if chunk == 7:
        model.zero_grad()
        # other draws, another gradient: dropout is really on
        backward_chunks(model, batch.tokens, z.grad, chunk, key=4)
        assert (model.encoder.stem.weight.grad - want["encoder.stem.weight"]).abs().max() > 1e-4


def test_embed_chunks_gives_no_graph_and_equals_encode():
    model, tokens = model_for(dropout=.2), asvs(11, (24, 13))
    z = embed_chunks(model, tokens, 4)
    assert not z.requires_grad
    torch.testing.assert_close(z, model.encode(tokens), rtol=1e-5, atol=1e-5)


def test_calibrate_standardises_training_samples_and_sets_the_scale():
    model, tokens = model_for().train(), asvs(40)
    batches = [batch_of(random_samples(8, 40, seed=i), tokens) for i in range(3)]
    fit_constants(model, batches)
    assert model.training
    model.eval()
    seen = torch.cat([model.sample.standard(model.sample.features(model.joined(model.encode(o.tokens),
                                                                               o.identity), o.reads))
                      for o in batches])
    torch.testing.assert_close(seen.mean(0), torch.zeros(64), atol=1e-3, rtol=0)
    off = ~torch.eye(8, dtype=torch.bool)
    predicted = torch.cat([model(o).distance[0, off] for o in batches])
    observed = torch.cat([o.distance[0, off] for o in batches])
    assert float(predicted.detach().median()) == pytest.approx(float(observed.median()), abs=.02)
    table = embed_chunks(model, tokens)
    other = fit_constants(deepcopy(model), batches, embeddings=table)
    torch.testing.assert_close(other.sample.standard.centre, model.sample.standard.centre, rtol=1e-4,
                               atol=1e-4)
