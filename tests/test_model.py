"""The model: what may not change it, and outside references for its parts."""
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from aam_nb.core import AamError, draw_key
from aam_nb.data.tokens import MASK, OTHER, PAD, VOCAB
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import backward_chunks, embed_chunks, fit_constants
from aam_nb.model.asv_encoder import AsvEncoder, patches
from aam_nb.model.heads import NucleotideHead, SampleDistanceHead, TargetHead, TreeDistanceHead
from aam_nb.model.layers import (
    SHORT,
    AttentionPool,
    Block,
    SelfAttention,
    Standardise,
    Transformer,
    attend,
    length_groups,
    pair_distances,
)
from aam_nb.model.sample_encoder import groups_of_pairs, shares
from aam_nb.sections import ModelConfig
from aam_nb.types import Batch, Column

BASES = 24
KINDS = [("pool", "flat", 6), ("attention", "flat", 6), ("pool", "attention", 1), ("attention", "attention", 1)]
each_kind = pytest.mark.parametrize("sample,readout,patch", KINDS)


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def config(**given):
    return ModelConfig(**(dict(patch=6, width=16, layers=2, heads=2, feedforward=2, identity=8, sample_width=16, head_width=8)
                          | given))


def asvs(n, lengths=(BASES,), seed=0):
    "Random sequences; lengths repeat over the rows."
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(1, 5, (n, BASES)).astype(np.uint8))
    for i in range(n): tokens[i, lengths[i % len(lengths)]:] = PAD
    return tokens


def batch_of(samples, tokens, identity=8, seed=0):
    "A batch from [{row of the store: reads}, ...] with every row of `tokens` as the store."
    rows = sorted({a for s in samples for a in s})
    at = {a: i for i, a in enumerate(rows)}
    rng = np.random.default_rng(seed)
    signs = torch.from_numpy(rng.choice([-1, 1], (len(tokens), identity)).astype(np.float32))
    n, rows = len(samples), torch.tensor(rows)
    dist = torch.from_numpy(rng.uniform(.2, .9, (n, n)).astype(np.float32))
    return Batch(tokens=tokens[rows], rows=rows, identity=signs[rows], asv=torch.tensor([at[a] for s in samples for a in s]),
                 counts=torch.tensor([float(c) for s in samples for c in s.values()]),
                 offsets=torch.tensor([0] + [len(s) for s in samples]).cumsum(0), index=torch.arange(n),
                 target=torch.from_numpy(rng.normal(size=(n, 1)).astype(np.float32)), distance=(torch.triu(dist, 1) + torch.triu(dist, 1).T)[None])


def random_samples(n, asvs, seed=0):
    rng = np.random.default_rng(seed)
    return [{int(a): int(rng.integers(1, 500)) for a in rng.choice(asvs, rng.integers(1, asvs), replace=False)} for _ in range(n)]


def awake(model):
    "Move everything that starts at zero or at one, so that no path hides behind its initial value."
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p)*.1)
    return model


def column(task="regression", outputs=1):
    "One target, or none."
    return (Column(name="target", task=task, outputs=outputs),) if task else ()


def model_for(sample="pool", readout="flat", patch=6, task="regression", outputs=1, metric="unweighted", **given):
    c = config(sample=sample, readout=readout, patch=patch, **given)
    return awake(AamModel(c, BASES, column(task, outputs), metrics=metric and (metric,) or ())).eval()


def same(a, b, eps=1e-5):
    for k in ("summary", "target", "distance"):
        x, y = getattr(a, k), getattr(b, k)
        assert (x is None) == (y is None)
        if x is not None: torch.testing.assert_close(x, y, rtol=eps, atol=eps)


def gradients(model): return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def same_gradients(a, b, eps=1e-5):
    assert a.keys() == b.keys() and len(a) > 10
    for k in a: assert (a[k] - b[k]).abs().max() <= eps*max(1., float(b[k].abs().max())), k


# --- layers, against PyTorch's own ---

@pytest.mark.parametrize("s", [5, SHORT, SHORT + 3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_sdpa(s, masked):
    q, k, v = (torch.randn(3, 2, s, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.arange(s) < torch.tensor([s, 2, s//2])[:, None] if masked else None
    dense = None if mask is None else mask[:, None, None].expand(3, 2, s, s)
    weight = torch.randn(3, 2, s, 8, dtype=torch.float64)
    ours = torch.autograd.grad((attend(q, k, v, mask)*weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((F.scaled_dot_product_attention(q, k, v, attn_mask=dense)*weight).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True): torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
def test_block_equals_torch_encoder_layer(masked):
    ours = Block(16, 4, 3).double()
    theirs = nn.TransformerEncoderLayer(16, 4, 48, 0., "gelu", batch_first=True, norm_first=True).double()
    a, t = ours.attention, theirs.self_attn
    with torch.no_grad():
        for x, y in ((t.in_proj_weight, a.qkv.weight), (t.in_proj_bias, a.qkv.bias)): x.copy_(y)
        for x, y in ((t.out_proj, a.out), (theirs.linear1, ours.up), (theirs.linear2, ours.down),
                     (theirs.norm1, ours.norm1), (theirs.norm2, ours.norm2)): x.load_state_dict(y.state_dict())
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
    changed = x.clone(); changed[1, 3:] = 1e6
    torch.testing.assert_close(pool(changed, mask), pool(x, mask))
    torch.testing.assert_close(pool(x, mask)[1:], pool(x[1:, :3]))


def test_pair_distances():
    z = torch.randn(20, 8, dtype=torch.float64)
    torch.testing.assert_close(pair_distances(z, eps=1e-14), torch.cdist(z, z), rtol=1e-6, atol=1e-6)
    far = z.float() + 300
    torch.testing.assert_close(pair_distances(far), torch.cdist(far.double(), far.double()).float(), rtol=1e-4, atol=1e-4)
    assert torch.autograd.gradcheck(pair_distances, z[:5].clone().requires_grad_())


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
    again = Standardise(3); again.load_state_dict(s.state_dict())
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


# --- nucleotide level ---

def test_patches():
    tokens = asvs(3, (24, 23, 19))
    cut, mask = patches(tokens, 6, 4)
    assert mask is None and cut.shape == (3, 4, 6)  # all have four patches: no mask
    assert patches(asvs(2, (24, 18)), 6, 4)[1].tolist() == [[True]*4, [True]*3 + [False]]
    assert patches(asvs(2, (12,)), 6, 4)[0].shape == (2, 2, 6)  # padding common to all is dropped
    assert patches(asvs(2, (5, 7)), 1, 24)[1].sum(1).tolist() == [5, 7]
    with pytest.raises(AamError, match="24 bases is longer than the 18"): patches(tokens, 6, 3)
    assert patches(F.pad(tokens, (0, 50)), 6, 4)[0].shape == (3, 4, 6)  # more padding than the model reads is fine


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
    torch.testing.assert_close(torch.cat([encoder(o) for o in tokens.split(5)]), together, rtol=1e-5, atol=1e-5)
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
        want = encoder.stem.bias + encoder.position[p] + sum(table[j, int(tokens[0, 3*p + j])] for j in range(3))
        torch.testing.assert_close(seen[0][0, p], want)


def test_unknown_base_is_not_padding_and_order_of_bases_matters():
    encoder = awake(AsvEncoder(config(), BASES)).eval()
    tokens = asvs(1)
    other, shorter, turned = tokens.clone(), tokens.clone(), tokens.flip(1)
    other[0, -6:] = OTHER; shorter[0, -6:] = PAD
    for a, b in ((other, tokens), (shorter, tokens), (other, shorter), (turned, tokens)):
        assert (encoder(a) - encoder(b)).abs().max() > 1e-3


def test_calibrate_encoder():
    model = model_for()
    tokens = asvs(50)
    tree = model.tree_distance(model.encode(tokens))
    z = model.encoder.fit_constants(tokens, chunk=7)(tokens)
    torch.testing.assert_close(z.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    assert float(z.detach().square().sum(1).mean().sqrt()) == pytest.approx(4, rel=1e-4)  # sqrt(width)
    torch.testing.assert_close(model.encoder.fit_constants(tokens)(tokens), z, rtol=1e-4, atol=1e-4)  # twice is once
    torch.testing.assert_close(model.tree_distance(z), tree, rtol=1e-3, atol=1e-3)  # the tree head still fits
    assert model.encoder.fit_constants(asvs(1)).scale.isfinite()
    model.train(); model.encoder.fit_constants(tokens)
    assert model.encoder.training


# --- sample level ---

@each_kind
def test_a_sample_is_a_set_of_shares(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(30, (24, 22, 18))
    samples = random_samples(5, 30)
    out = model(batch_of(samples, tokens))
    rng = np.random.default_rng(1)
    turned = [dict(rng.permutation(list(s.items())).tolist()) for s in samples]
    same(model(batch_of(turned, tokens)), out)  # order of a sample's ASVs
    deeper = [{a: 3*c for a, c in s.items()} for s in samples]
    same(model(batch_of(deeper, tokens)), out)  # depth is not an input
    order = [3, 0, 4, 2, 1]
    moved = model(batch_of([samples[i] for i in order], tokens))
    torch.testing.assert_close(moved.target, out.target[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.distance, out.distance[:, order][:, :, order], rtol=1e-5, atol=1e-5)


@each_kind
def test_zero_counts_and_absent_asvs_change_nothing(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(30)
    samples = random_samples(4, 20)
    with_zeros = [{**{a: 0 for a in range(20, 30)}, **s} for s in samples]
    same(model(batch_of(with_zeros, tokens)), model(batch_of(samples, tokens)))


@each_kind
def test_batch_mates_change_nothing(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(40, (24, 20))
    samples = random_samples(9, 40)
    fit_constants(model, [batch_of(samples, tokens)])
    for mode in (False, True):  # in training too: no statistics span samples
        model.train(mode); model.heads["target"].eval()
        out = model(batch_of(samples, tokens))
        for i in (0, 4, 8):
            alone = model(batch_of(samples[i:i+1], tokens))
            torch.testing.assert_close(alone.summary, out.summary[i:i+1], rtol=1e-4, atol=1e-4)  # normalising magnifies rounding
            torch.testing.assert_close(alone.target, out.target[i:i+1], rtol=1e-5, atol=1e-5)


def test_order_of_the_distinct_asvs_changes_nothing():
    model, tokens = model_for(), asvs(20)
    batch = batch_of(random_samples(4, 20), tokens)
    order = torch.randperm(len(batch.rows))
    turned = replace(batch, tokens=batch.tokens[order], rows=batch.rows[order], identity=batch.identity[order],
                     asv=order.argsort()[batch.asv])
    same(model(turned), model(batch))


def test_identity_tells_equal_embeddings_apart():
    model, tokens = model_for(), asvs(10)
    batch = batch_of(random_samples(3, 10), tokens)
    hidden = replace(batch, identity=torch.zeros_like(batch.identity))
    assert (model(batch).target - model(hidden).target).abs().max() > 1e-3
    with pytest.raises(AamError, match="width 3; this model wants 8"): model(replace(batch, identity=batch.identity[:, :3]))
    plain = model_for(identity=0)
    plain(replace(batch, identity=batch.identity[:, :0]))


@pytest.mark.parametrize("sample", ["pool", "attention"])
def test_a_sample_without_reads_is_finite_and_moves_nobody(sample):
    model, tokens = model_for(sample), asvs(10)
    samples = random_samples(3, 10)
    out = model(batch_of([samples[0], {}, *samples[1:]], tokens))
    assert out.target.isfinite().all()
    torch.testing.assert_close(out.target[[0, 2, 3]], model(batch_of(samples, tokens)).target, rtol=1e-5, atol=1e-5)
    out.target.sum().backward()
    assert all(g.isfinite().all() for g in gradients(model).values())


def test_shares_equal_a_dense_table():
    samples, tokens = random_samples(4, 12), asvs(12)
    batch = batch_of(samples, tokens)
    want = np.zeros((4, len(batch.rows)))
    for i, s in enumerate(samples):
        for a, c in s.items(): want[i, batch.rows.tolist().index(a)] = c/sum(s.values())
    np.testing.assert_allclose(shares(batch), want, rtol=1e-6)


def test_four_pools_equal_their_formulas():
    model, tokens = model_for(sample="pool"), asvs(12)
    batch, pool = batch_of(random_samples(4, 12), tokens), model.sample
    with torch.no_grad():
        asv = torch.cat([model.encode(batch.tokens), batch.identity], 1)
        got = pool.features(asv, batch).split(16, 1)
        h, R = pool.asv(asv), shares(batch)
        clade, present, score = pool.asks(h).split(pool.sizes, 1)
        for i in range(4):
            here = R[i] > 0
            r, hi = R[i][here], h[here]
            torch.testing.assert_close(got[0][i], torch.log10(r @ clade[here].sigmoid() + 1e-4))
            torch.testing.assert_close(got[1][i], torch.log1p(present[here].sigmoid().sum(0)))
            w = torch.log1p(r/1e-4)
            torch.testing.assert_close(got[2][i], (w[:, None]*hi).sum(0)/w.sum())
            for k in range(2):
                w = (pool.power[k]*r.log() + 3*torch.tanh(score[here, k]/3)).softmax(0)
                torch.testing.assert_close(got[3][i, 8*k:8*k + 8], w @ hi[:, 8*k:8*k + 8])


def test_set_transformer_equals_one_sample_at_a_time():
    model, tokens = model_for(sample="attention", sample_layers=2), asvs(60)
    sizes = (1, 60, 3, 58, 20, 21, 22, 22)
    rng = np.random.default_rng(0)
    samples = [{int(a): int(rng.integers(1, 99)) for a in rng.choice(60, n, replace=False)} for n in sizes]
    batch, enc = batch_of(samples, tokens), model.sample
    groups = groups_of_pairs(batch.offsets.diff())
    assert 1 < len(groups) < 8 and any(m is not None for *_, m in groups)
    asv = torch.cat([model.encode(batch.tokens), batch.identity], 1)
    got = enc.features(asv, batch)
    for i in range(8):
        own = slice(batch.offsets[i], batch.offsets[i + 1])
        c = batch.counts[own]
        x = enc.asv(asv[batch.asv[own]]) + enc.abundance((torch.log10(c/c.sum())/2 + 1)[:, None])
        torch.testing.assert_close(got[i], enc.pool(enc.body(x[None]))[0], rtol=1e-5, atol=1e-5)


# --- heads ---

def test_tree_distance_head():
    z, head = torch.randn(6, 8), TreeDistanceHead()
    head.log_scale.data.fill_(.7)
    torch.testing.assert_close(head(z), torch.cdist(z, z)*np.exp(.7), rtol=1e-4, atol=1e-4)


def test_nucleotide_head_is_linear_in_the_state():
    head, x = NucleotideHead(8, 3), torch.randn(5, 8)
    torch.testing.assert_close(head(x)[2, 1], head.base.weight[4:8] @ x[2] + head.base.bias[4:8])


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("size", [1e-3, 1., 100.])
def test_sample_distance_head_starts_at_the_median(bounded, size):
    head, x = SampleDistanceHead(32, 16, bounded), torch.randn(12, 32)*size
    observed = torch.cdist(x, x)/x.std()/12 if bounded else torch.cdist(x, x)/x.std()
    observed[0, 1] = observed[1, 0] = torch.nan
    head.initialise(head.apart(x), observed)
    pairs = torch.triu(torch.ones(12, 12), 1).bool()
    got, want = head(x).detach()[pairs], observed[pairs & observed.isfinite()]
    assert float(got.median()) == pytest.approx(float(want.median()), rel=.05)
    assert (got > 0).all() and (not bounded or (got < 1).all())
    assert (head(x).diagonal() == 0).all()


def test_sample_distance_head_learns_from_equal_samples():
    head, x = SampleDistanceHead(8, 4, True), torch.randn(1, 8).expand(4, 8).clone().requires_grad_()
    (head(x) - 1).square().sum().backward()
    assert x.grad.isfinite().all() and head.project.weight.grad.isfinite().all()


def test_target_head():
    head, x = TargetHead(8, 4, 3, .3), torch.randn(5, 8)
    assert not torch.equal(head(x), head(x))
    head.eval()
    hidden = F.gelu(x @ head.hidden.weight.T + head.hidden.bias)
    torch.testing.assert_close(head(x), x @ head.linear.weight.T + head.linear.bias + hidden @ head.out.weight.T)


# --- the whole model ---

@each_kind
def test_deduplicated_gradient_equals_plain_path(sample, readout, patch):
    "Each sample encodes its own ASVs, in a batch of one, and gradients add up: the same as encoding each distinct ASV once."
    model, tokens = model_for(sample, readout, patch, metric=None), asvs(25, (24, 21))
    samples = random_samples(6, 25)
    batch = batch_of(samples, tokens)
    weight = torch.randn(6, 1)
    (model(batch).target*weight).sum().backward()
    once = gradients(model); model.zero_grad()
    for i in range(6): (model(batch_of(samples[i:i+1], tokens)).target*weight[i]).sum().backward()
    same_gradients(once, gradients(model))


def plain_with_draws(model, tokens, chunk, key):
    "All chunks with their graph at once, drawing dropout as the two passes do."
    out = []
    for i, part in enumerate(tokens.split(chunk)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_key(key, "encoder", i)); out.append(model.encode(part))
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

    plain = loss(plain_with_draws(model, batch.tokens, chunk, 3)); plain.backward()
    want = gradients(model); model.zero_grad()
    torch.manual_seed(9); before = torch.get_rng_state()
    z = embed_chunks(model, batch.tokens, chunk, key=3).requires_grad_()
    assert torch.equal(torch.get_rng_state(), before)  # the draws outside are left alone
    two = loss(z); two.backward()
    state = torch.get_rng_state()
    backward_chunks(model, batch.tokens, z.grad, chunk, key=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(two, plain)
    same_gradients(gradients(model), want)
    if chunk == 7:
        model.zero_grad()
        backward_chunks(model, batch.tokens, z.grad, chunk, key=4)  # other draws, another gradient: dropout is really on
        assert (model.encoder.stem.weight.grad - want["encoder.stem.weight"]).abs().max() > 1e-4


def test_embed_chunks_gives_no_graph_and_equals_encode():
    model, tokens = model_for(dropout=.2), asvs(11, (24, 13))
    z = embed_chunks(model, tokens, 4)
    assert not z.requires_grad
    torch.testing.assert_close(z, model.encode(tokens), rtol=1e-5, atol=1e-5)


def test_masked_bases():
    model, tokens = model_for(), asvs(4)
    masked = tokens.clone(); masked[0, 6:12] = MASK; masked[2, :6] = MASK; masked[2, 18:] = MASK
    logits, places = model.masked_bases(masked)
    assert places.tolist() == [[False, True, False, False], [False]*4, [True, False, False, True], [False]*4]
    assert logits.shape == (3, 6, 4)
    torch.testing.assert_close(logits[2], model.heads["bases"](model.encoder.states(masked[2:3])[:, 3])[0])
    logits, places = model.masked_bases(tokens)
    assert logits.shape == (0, 6, 4) and not places.any()
    part = tokens.clone(); part[0, 6:9] = MASK  # half a patch is not a masked patch
    assert not model.masked_bases(part)[1].any()


def test_masked_view_never_reaches_the_supervised_head():
    model, tokens = model_for(), asvs(10)
    batch = batch_of(random_samples(3, 10), tokens)
    same(model(replace(batch, masked=torch.full_like(batch.tokens, MASK))), model(batch), eps=0)


def test_mixup_mixes_summaries_before_the_target_head_only():
    model, tokens = model_for(), asvs(10)
    batch = batch_of(random_samples(3, 10), tokens)
    plain, partner, share = model(batch), torch.tensor([1, 2, 0]), torch.tensor([1., .25, 0.])
    mixed = model(batch, mix=(partner, share))
    want = share[:, None]*plain.summary + (1 - share[:, None])*plain.summary[partner]
    torch.testing.assert_close(mixed.target, model.heads["target"](want))
    assert torch.equal(mixed.summary, plain.summary) and torch.equal(mixed.distance, plain.distance)


def test_given_embeddings_replace_the_encoder():
    model, tokens = model_for(), asvs(10)
    batch = batch_of(random_samples(3, 10), tokens)
    table = embed_chunks(model, tokens, 4)
    same(model(batch, asv=table[batch.rows]), model(batch))
    model.encoder.forward = None  # it must not be called
    model(batch, asv=table[batch.rows])


def test_frozen_encoder_stays_still_and_in_evaluation_mode():
    model, tokens = model_for(dropout=.5), asvs(10)
    model.freeze_encoder()
    model = deepcopy(model).train()
    assert model.training and not model.encoder.training and model.sample.training
    batch = batch_of(random_samples(3, 10), tokens)
    assert torch.equal(model.encode(tokens), model.encode(tokens))
    model(batch).target.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.heads["target"].linear.weight.grad is not None
    n = model.count_parameters()
    assert n["trainable"] == sum(p.numel() for k, p in model.named_parameters()
                                 if k.startswith(("sample", "heads.target", "heads.distance")))
    assert n["total"] == n["encoder"] + n["sample"] + n["heads"]


@each_kind
def test_state_dict_holds_all_that_a_prediction_needs(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(20)
    batch = batch_of(random_samples(5, 20), tokens)
    model.encoder.fit_constants(tokens); fit_constants(model, [batch])
    again = AamModel(model.config, BASES, column(), ("unweighted",)).eval()
    again.load_state_dict(model.state_dict())
    same(again(batch), model(batch), eps=0)


def test_calibrate_standardises_training_samples_and_sets_the_scale():
    model, tokens = model_for().train(), asvs(40)
    batches = [batch_of(random_samples(8, 40, seed=i), tokens) for i in range(3)]
    fit_constants(model, batches)
    assert model.training
    model.eval()
    seen = torch.cat([model.sample.standard(model.sample.features(model.joined(model.encode(o.tokens), o.identity), o.reads)) for o in batches])
    torch.testing.assert_close(seen.mean(0), torch.zeros(64), atol=1e-3, rtol=0)
    off = ~torch.eye(8, dtype=torch.bool)
    predicted, observed = (torch.cat([v[0, off] for v in vs]) for vs in ([model(o).distance for o in batches], [o.distance for o in batches]))
    assert float(predicted.detach().median()) == pytest.approx(float(observed.median()), abs=.02)
    table = embed_chunks(model, tokens)
    other = fit_constants(deepcopy(model), batches, embeddings=table)
    torch.testing.assert_close(other.sample.standard.centre, model.sample.standard.centre, rtol=1e-4, atol=1e-4)


def test_outputs_and_heads_are_checked():
    with pytest.raises(AamError, match="0 outputs"): AamModel(config(), BASES, column("classification", 0))
    with pytest.raises(AamError, match="samples 'wieghted'.*Did you mean 'weighted'"): AamModel(config(), BASES, metrics=("wieghted",))
    with pytest.raises(AamError, match="3 heads cannot share a width of 16"): SelfAttention(16, 3)
    model = AamModel(config(), BASES)
    out = model(batch_of(random_samples(2, 5), asvs(5)))
    assert out.target is None and out.distance is None


@each_kind
def test_bf16_autocast_stays_near(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(20)
    batch = batch_of(random_samples(5, 20), tokens)
    want = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16): got = model(batch)
    torch.testing.assert_close(got.target.float(), want.target, rtol=.1, atol=.1)
    torch.testing.assert_close(got.distance.float(), want.distance, rtol=.1, atol=.1)
