"The whole model: what may not change its predictions."
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_cases import (
    BASES, asvs, batch_of, column, config, each_kind, gradients, model_for, random_samples, same)

from aam_nb.core import AamError
from aam_nb.data.tokens import MASK
from aam_nb.model.aam import AamModel
from aam_nb.model.layers import SelfAttention
from aam_nb.model.passes import embed_chunks, fit_constants
from aam_nb.model.sample_encoder import groups_of_pairs, shares


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@each_kind
def test_a_sample_is_a_set_of_shares(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(30, (24, 22, 18))
    samples = random_samples(5, 30)
    out = model(batch_of(samples, tokens))
    rng = np.random.default_rng(1)
    turned = [dict(rng.permutation(list(s.items())).tolist()) for s in samples]
    same(model(batch_of(turned, tokens)), out)  # order of a sample's ASVs
    def threefold(sample): return {a: 3*c for a, c in sample.items()}
    deeper = [threefold(s) for s in samples]
    same(model(batch_of(deeper, tokens)), out)  # depth is not an input
    order = [3, 0, 4, 2, 1]
    moved = model(batch_of([samples[i] for i in order], tokens))
    torch.testing.assert_close(moved.target, out.target[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.distance, out.distance[:, order][:, :, order], rtol=1e-5, atol=1e-5)


@each_kind
def test_zero_counts_and_absent_asvs_change_nothing(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(30)
    samples = random_samples(4, 20)
    with_zeros = [{**dict.fromkeys(range(20, 30), 0), **s} for s in samples]
    same(model(batch_of(with_zeros, tokens)), model(batch_of(samples, tokens)))


@each_kind
def test_batch_mates_change_nothing(sample, readout, patch):
    model, tokens = model_for(sample, readout, patch), asvs(40, (24, 20))
    samples = random_samples(9, 40)
    fit_constants(model, [batch_of(samples, tokens)])
    for mode in (False, True):  # in training too: no statistics span samples
        model.train(mode)
        model.heads["target"].eval()
        out = model(batch_of(samples, tokens))
        for i in (0, 4, 8):
            alone = model(batch_of(samples[i:i+1], tokens))
            # normalising magnifies rounding
            torch.testing.assert_close(alone.summary, out.summary[i:i+1], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(alone.target, out.target[i:i+1], rtol=1e-5, atol=1e-5)


def test_order_of_the_distinct_asvs_changes_nothing():
    model, tokens = model_for(), asvs(20)
    batch = batch_of(random_samples(4, 20), tokens)
    order = torch.randperm(len(batch.rows))
    turned = replace(batch, tokens=batch.tokens[order], rows=batch.rows[order],
                     identity=batch.identity[order], asv=order.argsort()[batch.asv])
    same(model(turned), model(batch))


def test_identity_tells_equal_embeddings_apart():
    model, tokens = model_for(), asvs(10)
    batch = batch_of(random_samples(3, 10), tokens)
    hidden = replace(batch, identity=torch.zeros_like(batch.identity))
    assert (model(batch).target - model(hidden).target).abs().max() > 1e-3
    with pytest.raises(AamError, match="width 3; this model wants 8"):
        model(replace(batch, identity=batch.identity[:, :3]))
    plain = model_for(identity=0)
    plain(replace(batch, identity=batch.identity[:, :0]))


@pytest.mark.parametrize("sample", ["pool", "attention"])
def test_a_sample_without_reads_is_finite_and_moves_nobody(sample):
    model, tokens = model_for(sample), asvs(10)
    samples = random_samples(3, 10)
    out = model(batch_of([samples[0], {}, *samples[1:]], tokens))
    assert out.target.isfinite().all()
    torch.testing.assert_close(out.target[[0, 2, 3]], model(batch_of(samples, tokens)).target, rtol=1e-5,
                               atol=1e-5)
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
    def drawn(n): return {int(a): int(rng.integers(1, 99)) for a in rng.choice(60, n, replace=False)}
    samples = [drawn(n) for n in sizes]
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


def test_masked_bases():
    model, tokens = model_for(), asvs(4)
    masked = tokens.clone()
    masked[0, 6:12] = MASK
    masked[2, :6] = MASK
    masked[2, 18:] = MASK
    logits, places = model.masked_bases(masked)
    assert places.tolist() == [[False, True, False, False], [False]*4, [True, False, False, True], [False]*4]
    assert logits.shape == (3, 6, 4)
    torch.testing.assert_close(logits[2], model.heads["bases"](model.encoder.states(masked[2:3])[:, 3])[0])
    logits, places = model.masked_bases(tokens)
    assert logits.shape == (0, 6, 4) and not places.any()
    # half a patch is not a masked patch
    part = tokens.clone()
    part[0, 6:9] = MASK
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
    model.encoder.fit_constants(tokens)
    fit_constants(model, [batch])
    again = AamModel(model.config, BASES, column(), ("unweighted",)).eval()
    again.load_state_dict(model.state_dict())
    same(again(batch), model(batch), eps=0)


def test_outputs_and_heads_are_checked():
    with pytest.raises(AamError, match="0 outputs"): AamModel(config(), BASES, column("classification", 0))
    with pytest.raises(AamError, match="samples 'wieghted'.*Did you mean 'weighted'"):
        AamModel(config(), BASES, metrics=("wieghted",))
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
