"Defects of the program that this one follows (`defect_cases`): losses, steps and figures."
from dataclasses import replace

from defect_cases import CPU, KIND, NAN, NUMBER, TOLD, batch_of, model_of, said
import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.targets import Targets
from aam_nb.data.tokens import MASK
from aam_nb.model.fusion import OutputScale
from aam_nb.model.heads import SampleDistanceHead
from aam_nb.sections import LossConfig, OptimConfig, RunConfig
from aam_nb.training.loop import fit
from aam_nb.training.losses import count_loss, distance_loss, sample_losses, target_loss
from aam_nb.training.measure import measure_asvs, measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.optim import make_optimizer, rate, set_rate
from aam_nb.training.parallel import launched, make_accelerator
from aam_nb.types import AsvBatch, Outputs


def test_A7_A9_B4_B17_B26_processes_that_cannot_meet_are_refused(monkeypatch):
    "That those which meet equal one process is in test_several_runs."
    monkeypatch.setenv("WORLD_SIZE", "2")
    for start in (launched, lambda: make_accelerator(RunConfig())):
        with pytest.raises(AamError, match="2 processes"): start()


def test_A9_pretraining_has_figures_of_its_distances():
    batch = batch_of()
    d = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    d = (d + d.mT)/2*(1 - torch.eye(6))
    names = ("unweighted", "aitchison")
    found = measure_samples(SampleObjective(model_of(columns=(), metrics=names), LossConfig(distance=1.)),
                            [replace(batch, distance=d)])
    assert {f"{a}_{b}" for a in names for b in ("spearman", "stress", "mantel")} <= set(found)


def test_A10_B22_every_step_is_whole():
    "Any number of samples is a step: the encoder's gradient in chunks equals that of one pass."
    batch, want = batch_of(), None
    for chunk in (12, 5, 11, 1):
        model = model_of()
        SampleObjective(model, LossConfig(), chunk=chunk).train_step(batch)
        got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        want = want or got
        for n in want: torch.testing.assert_close(got[n], want[n], atol=1e-6, rtol=1e-4)
    assert "encoder.stem.weight" in want


def test_A12_each_column_has_its_own_outputs_loss_and_gradient():
    metadata = pd.DataFrame({"ph": [4., 5, 6, 7], "depth": [1., 9, 2, 30], "kind": list("abab")})
    config = config_from({"data": dict(target="ph, depth, kind"),
                          "target": dict(loss="mse, depth=quantile", transform="zscore, depth=log1p_zscore")})
    columns = Targets.fit(metadata, config).columns
    wanted = [("ph", "regression", 1, "mse"), ("depth", "regression", 3, "quantile"),
              ("kind", "classification", 2, "mse")]
    assert [(o.name, o.task, o.outputs, o.loss) for o in columns] == wanted
    outputs = torch.randn(4, 6, requires_grad=True, generator=torch.Generator().manual_seed(0))
    target = torch.tensor(Targets.fit(metadata, config).encode(metadata))
    for name, own in (("ph", [0]), ("depth", [1, 2, 3]), ("kind", [4, 5])):
        grad, = torch.autograd.grad(target_loss(outputs, target, columns)[name].mean, outputs,
                                    retain_graph=True)
        assert grad.abs().sum(0).nonzero().flatten().tolist() == own


def test_B1_hidden_bases_are_judged_by_the_rule_that_trains_them():
    model = model_of()
    batch = batch_of()
    masked = batch.tokens.clone()
    masked[:, 4:8] = MASK
    pairs = AsvBatch(tokens=batch.tokens, masked=masked, rows=batch.rows,
                     distance=torch.cdist(batch.tokens.float(), batch.tokens.float()))
    for objective, one in ((AsvObjective(model, LossConfig()), pairs),
                           (SampleObjective(model, LossConfig()), replace(batch, masked=masked))):
        want = objective.train_step(one)
        got = (measure_asvs if one is pairs else measure_samples)(objective, [one])
        assert "bases" in want
        for k, v in want.items(): assert got[k] == pytest.approx(float(v), rel=1e-5), k
    seen = replace(pairs, masked=torch.where(torch.arange(20) < 12, batch.tokens, masked),
                   tokens=torch.where(torch.arange(20) < 12, 1, batch.tokens))
    # what is in sight is not asked for
    assert "bases" not in measure_asvs(AsvObjective(model, LossConfig()), [replace(seen, masked=seen.tokens)])


def test_B5_B6_the_rate_is_a_function_of_the_step():
    for steps, warmup in ((1, 1.), (7, 1.), (200, .05), (200, 0.), (3, .99)):
        c = OptimConfig(steps=steps, warmup=warmup, lr=.1)
        rates = [rate(s, c) for s in range(steps + 50)]
        top = rates.index(max(rates))
        assert max(rates) == 1 and 0 < rates[0] <= 1 and rates[steps:] == [0.]*50
        assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
        # the first step is a small one
        assert not round(warmup*steps) or rates[0] == pytest.approx(1/round(warmup*steps))
        opt = make_optimizer(model_of().named_parameters(), c)
        assert [set_rate(opt, s, c) for s in (0, 0, steps//2)] == [.1*rate(s, c) for s in (0, 0, steps//2)]


def test_B19_nothing_that_starts_at_one_is_pulled_to_zero():
    model = model_of(covariates=TOLD, fusion="gated", scale_by=("diet",), metrics=("unweighted",))
    c = OptimConfig(weight_decay=1., lr=.1, steps=10, warmup=0.)
    opt = make_optimizer(model.named_parameters(), c)
    batch = batch_of(told=True)
    scale = next(o for o in model.modules() if isinstance(o, OutputScale))
    first = [o.clone() for o in scale.factors(batch.category)]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters(): p.grad = torch.zeros_like(p)
    for s in range(5):
        set_rate(opt, s, c)
        opt.step()
    for a, b in zip(scale.factors(batch.category), first, strict=True): assert torch.equal(a, b)
    pulled = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert pulled and not [n for n in pulled if before[n].ndim < 2] and "encoder.position" not in pulled


def test_B23_losses_of_bf16_outputs_are_taken_in_float32():
    target = torch.tensor([[1., 0], [2, 1], [NAN, 2], [0, NAN], [3, 1], [1, 0]])
    batch = replace(batch_of(targets=2), target=target)
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    far = [sample_losses(Outputs(summary=outputs, target=o), batch, LossConfig(), (NUMBER, KIND)).total
           for o in (outputs, outputs.bfloat16())]
    assert far[1].dtype == torch.float32 and float(far[1]) == pytest.approx(float(far[0]), rel=.02)
    rounded = sample_losses(Outputs(summary=outputs, target=outputs.bfloat16().float()), batch, LossConfig(),
                            (NUMBER, KIND)).total
    # only the outputs are coarse, not the loss
    assert float(far[1]) == pytest.approx(float(rounded), rel=1e-6)


def test_B24_the_norm_of_the_gradient_is_logged():
    found = fit(SampleObjective(model_of(), LossConfig()), [batch_of(seed=i) for i in range(4)],
                OptimConfig(steps=4, every=2), CPU)
    assert len(found.history) == 2 and all(o["norm"] > 0 for o in found.history)


def test_B25_each_objective_is_judged_under_its_own_name():
    batch = batch_of(targets=2)
    batch = replace(batch, target=torch.stack([batch.target[:, 0], torch.arange(6.) % 3], 1),
                    hidden=torch.arange(27) % 3 == 0)
    model = model_of(columns=(NUMBER, KIND), counts=True)
    found = measure_samples(SampleObjective(model, LossConfig(counts=1.)), [batch])
    out = said(model, batch)
    assert {"target:y", "target:kind", "counts", "y:r2", "kind:auc"} <= set(found)
    counts = count_loss(out.counts, batch.counts[batch.hidden], batch.sample[batch.hidden]).mean
    want = dict(counts=counts, mae=(out.target[:, 0] - batch.target[:, 0]).abs().mean())
    assert (found["counts"], found["y:mae"]) == pytest.approx([float(o) for o in want.values()], rel=1e-5)


def test_B27_faith_pd_does_not_drown_the_rest():
    "Whatever the unit of a distance, its loss begins near that of any other."
    torch.manual_seed(0)
    x, observed = torch.randn(32, 16), torch.rand(32, 32)
    begins = []
    observed = (observed + observed.T)*(1 - torch.eye(32))
    for unit in (1e-3, 1., 1e4):
        torch.manual_seed(1)
        head = SampleDistanceHead(16, 16, False)
        with torch.no_grad(): head.initialise(head.apart(x), observed*unit)
        begins.append(distance_loss(head(x), observed*unit, head.unit).mean.item())
    assert begins == pytest.approx([begins[0]]*3, rel=1e-3) and .1 < begins[0] < 10


def test_B29_the_best_weights_are_kept():
    model, scores, kept = model_of(), iter([.5, .1, .9, .7]), []
    def validate():
        kept.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return dict(loss=next(scores))
    found = fit(SampleObjective(model, LossConfig()), [batch_of(seed=i) for i in range(8)],
                OptimConfig(steps=8, every=2, lr=.01), CPU, validate)
    assert (found.best_step, found.steps) == (4, 8)
    assert all(torch.equal(p, kept[1][n]) for n, p in model.named_parameters())
    assert not torch.equal(kept[1]["sample.gain"], kept[3]["sample.gain"])


def test_B30_all_pairs_of_any_number_of_samples_count():
    for b in (2, 3, 5):
        torch.manual_seed(b)
        d, said = torch.rand(b, b), torch.rand(b, b)
        i, j = np.triu_indices(b, 1)
        d, said = (d + d.T)/2, (said + said.T)/2
        wanted = float(((said - d)[i, j]**2).mean())
        assert float(distance_loss(said, d).mean) == pytest.approx(wanted, rel=1e-5)
    assert measure_samples(SampleObjective(model_of(), LossConfig()), [batch_of((4, 2, 3))])["loss"] > 0
