"Computing blocks again on the way back: the same gradient to the bit, also with dropout and in chunks."
from functools import partial

import pytest
import torch
from model_cases import asvs, batch_of, gradients, model_for, random_samples

from aam_nb.config import Config, config_from
from aam_nb.core import AamError
from aam_nb.model import layers
from aam_nb.model.layers import set_recompute
from aam_nb.model.passes import backward_chunks, embed_chunks

TOKENS = asvs(9, (24, 18))
BATCH = batch_of(random_samples(6, 9), TOKENS)


def model(recompute):
    "A model with dropout at both levels, in training mode."
    torch.manual_seed(0)
    made = model_for("attention", dropout=.3, layers=3).train()
    assert set_recompute(made, recompute) == 2
    return made


def learned(recompute):
    "The gradients of one batch, and how many numbers autograd kept."
    made, kept = model(recompute), []
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        out = made(BATCH)
        total = out.target.square().sum() + out.distance.square().sum()
    total.backward()
    return gradients(made), sum(kept)


def chunked(recompute):
    "The gradients of the encoder by two passes, in chunks whose dropout has a key."
    made = model(recompute)
    z = embed_chunks(made, TOKENS, 4, key=7)
    backward_chunks(made, TOKENS, z, 4, key=7)
    return gradients(made), z


def test_the_gradient_is_the_same_and_less_is_kept():
    (plain, many), (again, fewer) = learned(False), learned(True)
    assert plain.keys() == again.keys() and len(plain) > 30
    assert all(torch.equal(plain[k], again[k]) for k in plain)
    assert fewer < many/3


def test_the_gradient_of_chunks_is_the_same():
    (plain, z), (again, z_again) = chunked(False), chunked(True)
    assert torch.equal(z, z_again)
    assert all(torch.equal(plain[k], again[k]) for k in plain)


def test_dropout_drawn_anew_would_be_another_gradient(monkeypatch):
    plain = learned(False)[0]
    monkeypatch.setattr(layers, "checkpoint", partial(layers.checkpoint, preserve_rng_state=False))
    found = learned(True)[0]
    assert any(not torch.allclose(found[k], plain[k]) for k in plain)


def test_looking_keeps_nothing_and_is_the_same():
    plain, again = model(False).eval(), model(True).eval()
    with torch.no_grad(): assert torch.equal(plain.encode(TOKENS), again.encode(TOKENS))


def test_asked_for_where_nothing_would_be_computed_again():
    nothing = dict(pretrain_asv=dict(steps=0), run=dict(recompute=True))
    with pytest.raises(AamError, match="no stage trains transformer blocks"): config_from(nothing)
    assert config_from(nothing | dict(model=dict(sample="attention"))).run.recompute
    assert not Config().run.recompute
