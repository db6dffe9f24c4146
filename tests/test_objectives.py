"Objectives: gradients in chunks equal those in one pass, and draws follow from the key."
from dataclasses import replace

import pytest
import torch
from toy_batches import ASVS, TASKS, Toy, close, fresh, grads, pairs, same

from aam_nb.model.passes import embed_chunks
from aam_nb.sections import LossConfig
from aam_nb.training.losses import asv_losses, bases_loss, sample_losses
from aam_nb.training.objectives import AsvObjective, SampleObjective, mixup_pairs


def plain(values): return {k: float(v.detach()) for k, v in values.items()}


@pytest.mark.parametrize("chunk", [1, 5, 7, 13, 14])
def test_b22_gradients_in_chunks_equal_one_pass(chunk):
    "Also where the last chunk is short: nothing is divided by the number of chunks."
    whole, model = fresh(), fresh()
    asv_losses(whole, pairs(), LossConfig()).total.backward()
    AsvObjective(model, LossConfig(), chunk).train_step(pairs())
    close(grads(model), grads(whole))


@pytest.mark.parametrize("task", ["regression", "classification", None])
def test_b22_sample_gradients_in_chunks_equal_one_pass(task):
    batch, loss = Toy(classes=task == "classification")[0], LossConfig(distance=1., bases=0.)
    whole, model = fresh(columns=TASKS[task], head_dropout=0.), fresh(columns=TASKS[task], head_dropout=0.)
    terms = sample_losses(whole(batch), batch, loss, TASKS[task], ("unweighted",))
    terms.total.backward()
    got = SampleObjective(model, loss, chunk=5).train_step(batch)
    close(grads(model), grads(whole))
    assert plain(got) == pytest.approx(plain(terms.values()), rel=1e-5)


def test_hidden_bases_beside_samples_count_each_asv_as_often_as_it_occurs():
    batch, loss = Toy()[0], LossConfig(target=0., distance=1., bases=1.)
    a, b = fresh(columns=(), head_dropout=0.), fresh(columns=(), head_dropout=0.)
    terms = SampleObjective(a, loss, chunk=5).train_step(batch)
    often = batch.asv.bincount(minlength=14)
    logits, places = b.masked_bases(batch.masked.repeat_interleave(often, 0))
    whole = bases_loss(logits, places, batch.tokens.repeat_interleave(often, 0), 3).mean
    whole.backward()
    assert float(terms["bases"]) == pytest.approx(float(whole.detach()), rel=1e-5)
    close({"w": grads(a)["heads.bases.base.weight"]}, {"w": grads(b)["heads.bases.base.weight"]})


def test_b21_the_second_pass_draws_the_same_dropout():
    loss = LossConfig(distance=1.)
    cases = ((lambda m: AsvObjective(m, loss, 5), pairs()),
             (lambda m: SampleObjective(m, loss, mixup=.4, chunk=5), Toy()[0]))
    for make, batch in cases:
        runs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = fresh(dropout=.3).train()
            make(model).train_step(batch)
            runs.append(grads(model))
        assert same(*runs)                                     # draws follow from the key alone
        model = fresh(dropout=.3).train()
        make(model).train_step(replace(batch, key=batch.key + 1))
        assert not same(runs[0], grads(model))


def test_b9_a_frozen_encoder_is_still_and_its_embeddings_give_the_same():
    batch, loss = Toy()[0], LossConfig(distance=1.)
    a, b = fresh(dropout=.5).freeze_encoder().train(), fresh(dropout=.5).freeze_encoder().train()
    one = SampleObjective(a, loss, embeddings=embed_chunks(a, ASVS, 5)).train_step(batch)
    two = SampleObjective(b, loss).train_step(batch)
    assert plain(one) == pytest.approx(plain(two), rel=1e-5)
    close(grads(a), grads(b))
    assert not [n for n in grads(a) if n.startswith("encoder.")]


def test_mixup_partners_are_a_permutation_and_follow_the_key():
    partner, share = mixup_pairs(5, 40, .4)
    assert sorted(partner.tolist()) == list(range(40)) and bool(((share >= 0) & (share <= 1)).all())
    again, other = mixup_pairs(5, 40, .4)[0], mixup_pairs(6, 40, .4)[0]
    assert torch.equal(partner, again) and not torch.equal(partner, other)


def test_a_part_of_a_batch_has_the_partners_that_the_whole_has():
    "Partners are places in the global batch, so they do not depend on how it is divided."
    objective, batch = SampleObjective(fresh(), LossConfig(), mixup=.4), Toy(size=12)[0]
    whole, _ = objective.mixed(batch)
    for start, stop in ((0, 5), (5, 12)):
        offsets = batch.offsets[start:stop + 1] - batch.offsets[start]
        part = replace(batch, offsets=offsets, index=batch.index[start:stop], start=start, total=12)
        both = zip(objective.mixed(part)[0], whole, strict=True)
        assert all(torch.equal(a, b[start:stop]) for a, b in both)
