"Defects of the program that this one follows (`defect_cases`): what a model makes of a batch."
from dataclasses import replace

from defect_cases import CPU, FUSIONS, KIND, NAN, NUMBER, TOLD, batch_of, model_of, said, taken
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from aam_nb.data.codec import TargetCodec
from aam_nb.data.targets import Targets
from aam_nb.inference.predict import decoded
from aam_nb.model.passes import backward_chunks, embed_chunks
from aam_nb.model.heads import SampleDistanceHead, linked
from aam_nb.sections import LossConfig, OptimConfig
from aam_nb.training.loop import fit
from aam_nb.training.losses import count_loss, distance_loss, sample_losses
from aam_nb.training.measure import measure_samples
from aam_nb.training.objectives import SampleObjective
from aam_nb.types import Column, Covariates


@pytest.mark.parametrize("fusion", FUSIONS)
def test_A8_validation_sees_the_covariates(fusion):
    "Also right after training, in the very loop that trained, and through `fit`."
    model = model_of(covariates=TOLD, fusion=fusion)
    batch = batch_of(told=True)
    objective = SampleObjective(model, LossConfig())
    look = lambda b: measure_samples(objective, [b])["loss"]
    fit(objective, [batch]*5, OptimConfig(steps=5, lr=1e-2, every=5), CPU, lambda: dict(loss=look(batch)))
    other = replace(batch, category=torch.roll(batch.category, 1, 0), number=-batch.number)
    assert look(batch) != pytest.approx(look(other), rel=1e-6)
    want = float(F.mse_loss(said(model, batch).target, batch.target))
    assert look(batch) == pytest.approx(want, rel=1e-5)


def test_B2_hidden_reads_are_shares_and_their_depth_is_no_matter():
    reads, sample = torch.tensor([400., 100, 500, 7, 3]), torch.tensor([0, 0, 0, 1, 1])
    # the right shares cost nothing, at any depth
    assert float(count_loss(reads.log() + sample, reads, sample).mean) == pytest.approx(0, abs=1e-6)
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0))
    found = [float(count_loss(logits, k*reads, sample).mean) for k in (1, 1000)]
    assert found[0] == pytest.approx(found[1], rel=1e-5) and 0 < found[0] < 5


@pytest.mark.parametrize("width", [16, 768])
@pytest.mark.parametrize("bounded", [True, False])
def test_B3_predicted_distances_begin_at_the_observed_and_can_move(width, bounded):
    torch.manual_seed(0)
    head = SampleDistanceHead(width, width, bounded)
    x = torch.randn(24, width)*width**.5
    observed = torch.rand(24, 24)*(.3 if bounded else 300) + (.5 if bounded else 10)
    off = ~torch.eye(24, dtype=torch.bool)
    with torch.no_grad(): head.initialise(head.apart(x), observed.masked_fill(~off, 0))
    said = head(x).detach()[off]
    assert float(said.median()) == pytest.approx(float(observed[off].median()), rel=.1)
    assert not bounded or float(said.max()) < .99  # no saturated link
    near = torch.cat([x, x[:1] + 1e-4, x[:1]]).requires_grad_()
    d = head(near)
    # alike to the last digit, and still finite
    distance_loss(d, torch.full((26, 26), .5), head.unit).mean.backward()
    assert near.grad.isfinite().all() and float(near.grad[24].norm()) > 0


@pytest.mark.parametrize("covariates", [TOLD, Covariates(chains=(("diet",),), sizes=(3,))],
                         ids=["several", "one"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_B7_every_part_of_a_fusion_learns(fusion, covariates):
    "Attention over a single key would give its queries and keys no gradient, also for a single covariate."
    model = model_of(covariates=covariates, fusion=fusion).train()
    batch = batch_of(told=True)
    rng = torch.Generator().manual_seed(0)
    if covariates is TOLD: batch.number[2] = NAN
    else: batch = replace(batch, category=batch.category[:, :1], number=None)
    with torch.no_grad():
        # away from exact zeros
        for p in model.fusion.parameters(): p.add_(.05*torch.randn(p.shape, generator=rng))
    sample_losses(model(batch), batch, LossConfig(), model.columns).total.backward()
    still = [n for n, p in model.fusion.named_parameters() if p.grad is None
             or not float(p.grad.norm()) > 1e-7]
    assert not still and [n for n, _ in model.fusion.named_parameters()]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("sample", ["pool", "attention", "both"])
def test_B8_a_sample_does_not_feel_the_size_of_its_batch_mates(fusion, sample):
    model = model_of(columns=(NUMBER, KIND), covariates=TOLD, fusion=fusion, sample=sample)
    batch = batch_of((9, 10, 8, 10), targets=2, told=True)
    whole = said(model, batch).target
    for i in range(4):
        torch.testing.assert_close(said(model, taken(batch, [i])).target, whole[i:i + 1], atol=1e-5,
                                   rtol=1e-5)


def test_B9_a_frozen_encoder_is_still():
    model = model_of(dropout=.5, layers=2).freeze_encoder().train()
    batch = batch_of()
    assert model.training and torch.equal(model.encode(batch.tokens), model.encode(batch.tokens))
    SampleObjective(model, LossConfig()).train_step(batch)
    assert not [n for n, p in model.named_parameters() if n.startswith("encoder.") and p.grad is not None]


@pytest.mark.parametrize("fusion", ["concat", "perceiver"])
@pytest.mark.parametrize("sample", ["pool", "attention", "both"])
def test_B10_the_order_of_asvs_and_samples_is_no_matter(fusion, sample):
    model = model_of(covariates=TOLD, fusion=fusion, sample=sample)
    batch = batch_of(told=True)
    want = said(model, batch).target
    # another table: its ASVs stand elsewhere
    rng = np.random.default_rng(1)
    rows = torch.from_numpy(rng.permutation(12))
    where = rows.argsort()
    other = replace(batch, tokens=batch.tokens[rows], rows=batch.rows[rows], asv=where[batch.asv])
    mixed = [torch.from_numpy(rng.permutation(int(n))) for n in batch.offsets.diff()]
    order = torch.cat([start + o for start, o in zip(batch.offsets[:-1], mixed, strict=True)])
    other = replace(other, asv=other.asv[order], counts=other.counts[order])
    torch.testing.assert_close(said(model, other).target, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said(model, taken(batch, [4, 0, 5, 2, 1, 3])).target, want[[4, 0, 5, 2, 1, 3]],
                               atol=1e-5, rtol=1e-5)


def test_B16_the_median_is_the_level_of_one_half_and_quantiles_do_not_cross():
    for levels in ((.05, .1, .5), (.5, .9, .95), (.2, .5, .6)):
        column = Column(name="y", task="regression", outputs=3, loss="quantile", levels=levels)
        i = levels.index(.5)
        codec = TargetCodec.fit(pd.Series([1., 2, 3, 4], name="y"), "regression", transform="none",
                                loss="quantile", levels=levels)
        rising = linked(torch.randn(50, 4, generator=torch.Generator().manual_seed(0))*5,
                        (column, NUMBER))[:, :3]
        assert (rising.diff(dim=1) >= 0).all()
        np.testing.assert_allclose(codec.decode(rising.numpy()), rising[:, i], rtol=1e-6)
        frame = decoded(Targets((codec,)), rising.numpy(), np.array([f"S{j}" for j in range(50)]))
        # all are told, not the middle one alone
        np.testing.assert_allclose(frame[[f"q{o:g}" for o in levels]], rising, rtol=1e-6)


def test_B21_the_second_pass_draws_what_the_first_drew():
    model, batch, seen = model_of(dropout=.5).train(), batch_of(), []
    encode = model.encode
    def noted(tokens):
        seen.append(encode(tokens))
        return seen[-1]
    model.encode = noted
    z = embed_chunks(model, batch.tokens, 5, key=3)
    first, seen[:] = list(seen), []
    torch.manual_seed(99)
    backward_chunks(model, batch.tokens, torch.ones_like(z), 5, key=3)
    assert len(seen) == 3 and all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))
    assert not torch.equal(embed_chunks(model, batch.tokens, 5, key=4), z)
