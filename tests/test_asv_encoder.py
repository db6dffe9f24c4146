"From bases to ASVs: patches, readouts, padding, and the constants of the encoder."
from dataclasses import replace

import pytest
import torch
from encoder_cases import awake, config
from model_cases import BASES, asvs, model_for
from torch.nn import functional as F

from aam_nb.config import Config
from aam_nb.core import AamError
from aam_nb.data.tokens import MASK, OTHER, PAD, VOCAB
from aam_nb.model.asv_encoder import AsvEncoder, patches
from aam_nb.model.sample_encoder import sample_encoder
from aam_nb.sections import SIZES, ModelConfig


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def test_patches():
    tokens = asvs(3, (24, 23, 19))
    cut, mask = patches(tokens, 6, 4)
    assert mask is None and cut.shape == (3, 4, 6)  # all have four patches: no mask
    assert patches(asvs(2, (24, 18)), 6, 4)[1].tolist() == [[True]*4, [True]*3 + [False]]
    assert patches(asvs(2, (12,)), 6, 4)[0].shape == (2, 2, 6)  # padding common to all is dropped
    assert patches(asvs(2, (5, 7)), 1, 24)[1].sum(1).tolist() == [5, 7]
    with pytest.raises(AamError, match="24 bases is longer than the 18"): patches(tokens, 6, 3)
    # more padding than the model reads is fine
    assert patches(F.pad(tokens, (0, 50)), 6, 4)[0].shape == (3, 4, 6)


@pytest.mark.parametrize("readout", ["flat", "attention"])
@pytest.mark.parametrize("patch", [1, 4, 6, 7])
def test_embedding_does_not_depend_on_padding_or_chunks(readout, patch):
    encoder = awake(AsvEncoder(config(patch=patch, readout=readout), BASES)).eval()
    lengths = (24, 23, 19, 18, 7, 1)
    tokens = asvs(12, lengths)
    together = encoder(tokens)
    alone = torch.cat([encoder(tokens[i:i+1, :lengths[i % 6]]) for i in range(12)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(F.pad(tokens, (0, 9))), together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([encoder(o) for o in tokens.split(5)]), together, rtol=1e-5,
                               atol=1e-5)
    torch.testing.assert_close(encoder(tokens.flip(0)), together.flip(0), rtol=1e-5, atol=1e-5)
    assert encoder.states(tokens).shape == (12, -(-24//patch), 16)


def test_stem_adds_a_vector_for_each_base_at_its_place():
    encoder = AsvEncoder(config(patch=3), 6)
    tokens = torch.tensor([[1, 4, OTHER, 2, MASK, PAD]], dtype=torch.uint8)
    seen = []
    encoder.body.forward = lambda x, mask: seen.append(x) or x
    encoder.states(tokens)
    table = encoder.stem.weight.T.view(3, VOCAB, 16)
    for p in range(2):
        want = encoder.stem.bias + encoder.position[p] + sum(table[j, int(tokens[0, 3*p + j])]
                                                             for j in range(3))
        torch.testing.assert_close(seen[0][0, p], want)


def test_unknown_base_is_not_padding_and_order_of_bases_matters():
    encoder = awake(AsvEncoder(config(), BASES)).eval()
    tokens = asvs(1)
    other, shorter, turned = tokens.clone(), tokens.clone(), tokens.flip(1)
    other[0, -6:] = OTHER
    shorter[0, -6:] = PAD
    for a, b in ((other, tokens), (shorter, tokens), (other, shorter), (turned, tokens)):
        assert (encoder(a) - encoder(b)).abs().max() > 1e-3


def test_calibrate_encoder():
    model = model_for()
    tokens = asvs(50)
    tree = model.tree_distance(model.encode(tokens))
    z = model.encoder.fit_constants(tokens, chunk=7)(tokens)
    torch.testing.assert_close(z.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    assert float(z.detach().square().sum(1).mean().sqrt()) == pytest.approx(4, rel=1e-4)  # sqrt(width)
    # twice is once
    torch.testing.assert_close(model.encoder.fit_constants(tokens)(tokens), z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.tree_distance(z), tree, rtol=1e-3, atol=1e-3)  # the tree head still fits
    assert model.encoder.fit_constants(asvs(1)).scale.isfinite()
    model.train()
    model.encoder.fit_constants(tokens)
    assert model.encoder.training


@pytest.mark.parametrize("readout", ["flat", "attention"])
@pytest.mark.parametrize("patch", [1, 6, 7])
def test_mixed_lengths_to_500_equal_one_sequence_at_a_time(readout, patch):
    lengths = [500, 1, 7, 99, 150, 251, 253, 400, 499, 6]
    for p in (6, 7): assert any(o % p for o in lengths)
    tokens = torch.randint(1, 5, (len(lengths), 500), dtype=torch.uint8)
    for row, n in zip(tokens, lengths, strict=True): row[n:] = PAD
    model = awake(AsvEncoder(config(readout=readout, patch=patch, layers=1), 500))
    with torch.no_grad():
        got = model(tokens)
        alone = torch.cat([model(tokens[i:i+1, :n]) for i, n in enumerate(lengths)])
        wide = model(F.pad(tokens, (0, 11), value=PAD))
    torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, wide, rtol=1e-5, atol=1e-6)
    assert torch.cdist(got, got).add(torch.eye(len(got))*9).min() > 1e-3 # No two lengths read alike


@pytest.mark.parametrize("readout", ["flat", "attention"])
def test_the_last_base_of_an_uneven_length_is_read(readout):
    tokens = torch.randint(1, 5, (1, 13), dtype=torch.uint8).repeat(2, 1)
    tokens[1, -1] = 5 - tokens[1, -1]
    a, b = awake(AsvEncoder(config(readout=readout), 13))(tokens)
    assert not torch.allclose(a, b)


def test_a_readout_by_attention_does_not_grow_with_the_length():
    "Its parameters grow by the places alone; a flat readout's by width x width a place."
    def size(readout, bases):
        return sum(p.numel() for p in AsvEncoder(config(readout=readout), bases).parameters())
    assert size("attention", 480) - size("attention", 240) == 40*16
    assert size("flat", 480) - size("flat", 240) == 40*(16 + 16*16)


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_are_whole_configurations(name):
    c = Config(model=ModelConfig(**SIZES[name])).model
    with torch.device("meta"):
        model, sample = AsvEncoder(c, 150), sample_encoder(replace(c, sample="both"), c.width + c.identity)
    assert sum(p.numel() for p in model.parameters()) > 0 and sample.width == 4*c.sample_width
