"Layers, against PyTorch's own."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import awake
from torch import nn
from torch.nn import functional as F

from aam_nb.core import AamError
from aam_nb.model.layers import (
    SHORT, AttentionPool, Block, CrossAttention, Standardise, Transformer, attend, length_groups,
    pair_distances)


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@pytest.mark.parametrize("s", [5, SHORT, SHORT + 3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_sdpa(s, masked):
    q, k, v = (torch.randn(3, 2, s, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.arange(s) < torch.tensor([s, 2, s//2])[:, None] if masked else None
    dense = None if mask is None else mask[:, None, None].expand(3, 2, s, s)
    weight = torch.randn(3, 2, s, 8, dtype=torch.float64)
    ours = torch.autograd.grad((attend(q, k, v, mask)*weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((F.scaled_dot_product_attention(q, k, v, attn_mask=dense)*weight).sum(),
                                 (q, k, v))
    for a, b in zip(ours, theirs, strict=True): torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
def test_block_equals_torch_encoder_layer(masked):
    ours = Block(16, 4, 3).double()
    theirs = nn.TransformerEncoderLayer(16, 4, 48, 0., "gelu", batch_first=True, norm_first=True).double()
    a, t = ours.attention, theirs.self_attn
    with torch.no_grad():
        for x, y in ((t.in_proj_weight, a.qkv.weight), (t.in_proj_bias, a.qkv.bias)): x.copy_(y)
        for x, y in ((t.out_proj, a.out), (theirs.linear1, ours.up), (theirs.linear2, ours.down),
                     (theirs.norm1, ours.norm1), (theirs.norm2, ours.norm2)):
            x.load_state_dict(y.state_dict())
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 2, 5])[:, None] if masked else torch.ones(3, 7, dtype=bool)
    got = ours(x, mask if masked else None)
    torch.testing.assert_close(got[mask], theirs(x, src_key_padding_mask=~mask)[mask])


def test_dropout_acts_in_training_only():
    body = Transformer(16, 4, 2, 2, dropout=.5)
    x = torch.randn(2, 5, 16)
    assert not torch.equal(body(x), body(x))
    body.eval()
    assert torch.equal(body(x), body(x))


def test_attention_pool_ignores_padding():
    pool = awake(AttentionPool(8))
    x = torch.randn(2, 6, 8)
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    changed = x.clone()
    changed[1, 3:] = 1e6
    torch.testing.assert_close(pool(changed, mask), pool(x, mask))
    torch.testing.assert_close(pool(x, mask)[1:], pool(x[1:, :3]))


def test_pair_distances():
    z = torch.randn(20, 8, dtype=torch.float64)
    torch.testing.assert_close(pair_distances(z, eps=1e-14), torch.cdist(z, z), rtol=1e-6, atol=1e-6)
    far = z.float() + 300
    torch.testing.assert_close(pair_distances(far), torch.cdist(far.double(), far.double()).float(),
                               rtol=1e-4, atol=1e-4)
    assert torch.autograd.gradcheck(pair_distances, z[:5].clone().requires_grad_())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_pair_distances_keep_their_digits_under_autocast(half):
    "Distances of 1e-3, also those of a hundred in float32, whose square is beyond fp16, and their gradients."
    z = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    for x in (z*10, 1 + z*1e-3, torch.cat([z, z])):
        x = x.requires_grad_()
        with torch.autocast("cpu", half): found = pair_distances(x)
        torch.testing.assert_close(found, pair_distances(x.detach()), rtol=1e-6, atol=1e-6)
        assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()
    with torch.autocast("cpu", half): assert pair_distances((z*10).to(half)).dtype == torch.float32


def test_pair_distances_of_equal_vectors_have_finite_gradient():
    z = torch.randn(1, 8).expand(5, 8).clone().requires_grad_()
    d = pair_distances(z)
    d.sum().backward()
    assert (d == 0).all() and z.grad.isfinite().all()


def test_standardise():
    x = torch.randn(100, 3)*torch.tensor([1., 50, 0]) + torch.tensor([0., 7, 2])
    s = Standardise(3)
    torch.testing.assert_close(s(x), x)
    s.fit(x)
    torch.testing.assert_close(s(x).mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(s(x[:1]), s(x)[:1])
    assert s(x + torch.tensor([0, 0, 1e-3])).abs().max() < 10  # a constant feature is not blown up
    again = Standardise(3)
    again.load_state_dict(s.state_dict())
    assert torch.equal(again(x), s(x))
    with pytest.raises(AamError, match="2 samples"): s.fit(x[:1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1024), max_size=60), st.sampled_from([.05, .15, .5]))
def test_length_groups(lengths, waste):
    groups = length_groups(lengths, waste, places=4096)
    assert sorted(sum(groups, [])) == [i for i, o in enumerate(lengths) if o]
    for g in groups:
        held, wide = sum(lengths[i] for i in g), max(lengths[i] for i in g)*len(g)
        assert wide <= 4096 and held >= (1 - waste)*wide - 1e-6 or len(g) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_equals_torchs(masked):
    ours = CrossAttention(width=10, d_key=6, inner=10, heads=2).double()
    theirs = torch.nn.MultiheadAttention(10, 2, kdim=6, vdim=6, batch_first=True).double()
    with torch.no_grad():
        k, v = ours.kv.weight.chunk(2)
        theirs.q_proj_weight.copy_(ours.q.weight)
        theirs.k_proj_weight.copy_(k)
        theirs.v_proj_weight.copy_(v)
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, other = torch.randn(3, 4, 10, dtype=torch.float64), torch.randn(3, 7, 6, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 2, 5])[:, None] if masked else None
    want = theirs(x, other, other, key_padding_mask=None if mask is None else ~mask, need_weights=False)[0]
    torch.testing.assert_close(ours(x, other, mask), want)
