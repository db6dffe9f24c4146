"The loop: it learns, keeps the best weights, clips, stops early, and says what cannot work."
import time
from dataclasses import replace

import pytest
import torch
from toy_batches import ASVS, NAN, QUICK, Toy, cpu, fresh, grads, pairs, same

from aam_nb.core import AamError
from aam_nb.model.passes import embed_chunks, fit_constants
from aam_nb.sections import LossConfig, RunConfig
from aam_nb.training.checkpoint import read_checkpoint
from aam_nb.training.loop import Loop, Stage, fit
from aam_nb.training.measure import measure_asvs, measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.parallel import launched, make_accelerator, pick_device
from aam_nb.training.log import read_log
from aam_nb.training.track import RunLog


def weights(model): return dict(model.named_parameters())


def test_it_learns():
    model = fresh()
    model.encoder.fit_constants(ASVS)
    model.freeze_encoder()
    objective = SampleObjective(model, LossConfig(), embeddings=embed_chunks(model, ASVS, 5), mixup=.4)
    fit_constants(model, [Toy()[i] for i in range(4)], objective.embeddings)
    held = [Toy(size=32, seed=9)[i] for i in range(3)]
    config = replace(QUICK, steps=80, lr=1e-2)
    found = fit(objective, Toy(80, size=32), config, cpu(), lambda: measure_samples(objective, held))
    assert found.best_score < .3*float(torch.cat([b.target for b in held]).var())


def test_asv_training_brings_distances_near_the_tree():
    objective = AsvObjective(fresh(), LossConfig())
    before = measure_asvs(objective, [pairs()])
    fit(objective, [pairs(i) for i in range(60)], replace(QUICK, steps=60, ema=0.), cpu())
    after = measure_asvs(objective, [pairs()])
    assert after["tree_spearman"] > max(.8, before["tree_spearman"]) and after["bases"] < before["bases"]


def test_b29_the_best_weights_are_kept_not_the_last():
    objective, visited = SampleObjective(fresh(), LossConfig(), chunk=64), []
    held = [Toy(seed=9)[i] for i in range(3)]

    def validate():
        now = {n: p.detach().clone() for n, p in weights(objective.model).items()}
        visited.append((measure_samples(objective, held)["loss"], now))
        return dict(score=[.9, .3, .5, .7][len(visited) - 1])
    found = fit(objective, Toy(), QUICK, cpu(), validate, Stage(monitor="score"))
    assert (found.best_step, found.best_score, found.steps) == (20, .3, 40)
    assert same(weights(objective.model), visited[1][1]) and not objective.model.training
    assert [o["step"] for o in found.history] == [10, 20, 30, 40] and found.history[1]["valid_score"] == .3


def test_large_scores_may_be_good_and_equal_is_not_better():
    stage = Stage(monitor="auc", mode="max")
    run = lambda look: fit(SampleObjective(fresh(), LossConfig()), Toy(), QUICK, cpu(), look, stage)
    top = run(lambda: dict(auc=.5))
    assert top.best_step == 10
    rising = iter([.5, .7, .6, .7])
    top = run(lambda: dict(auc=next(rising)))
    assert (top.best_step, top.best_score) == (20, .7)


def test_without_validation_the_averaged_weights_are_kept():
    objective = SampleObjective(fresh(), LossConfig())
    loop = Loop(objective, QUICK, cpu())
    loop.run(Toy(), None)
    assert loop.finish(False).best_score is None and same(loop.ema.average, weights(objective.model))


def test_validation_sees_the_averaged_weights_in_evaluation_mode_and_training_goes_on_with_its_own():
    looks, name = [], "heads.target.linear.weight"

    def run(validate):
        objective = SampleObjective(fresh(dropout=.1), LossConfig())
        loop = Loop(objective, QUICK, cpu())

        def look():
            now = weights(objective.model)[name].clone()
            looks.append((objective.model.training, now, loop.ema.average[name].clone()))
            return dict(loss=1.)
        loop.run(Toy(), look if validate else None)
        return weights(objective.model)
    assert same(run(True), run(False))                         # looking changes nothing
    assert len(looks) == 4 and all(not mode and torch.equal(a, b) for mode, a, b in looks)


def test_patience_stops_early():
    scores = iter([.5, .4, .45, .42, .41, .1])
    found = fit(SampleObjective(fresh(), LossConfig()), Toy(60), replace(QUICK, steps=60, patience=2), cpu(),
                lambda: dict(loss=next(scores)))
    assert (found.steps, found.best_step, found.best_score) == (40, 20, .4)


def test_b22_every_step_is_clipped_also_the_last():
    objective, norms = SampleObjective(fresh(), LossConfig(), chunk=5), []
    loop = Loop(objective, replace(QUICK, clip=.05, steps=12), cpu())
    for i in range(12):
        loop.step(Toy()[i])
        norms.append(torch.stack([g.norm() for g in grads(objective.model).values()]).norm())
    loop.flush()
    assert max(norms) <= .05*1.001 and min(loop.sums["norm"]) > .05    # before clipping they were larger


def test_b5_the_first_step_moves_by_the_first_rate():
    objective = SampleObjective(fresh(), LossConfig())
    config = replace(QUICK, warmup=.5, weight_decay=0., ema=0.)
    before = {n: p.detach().clone() for n, p in weights(objective.model).items()}
    loop = Loop(objective, config, cpu())
    loop.step(Toy()[0])
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in weights(objective.model).items()}
    most = max(v for n, v in moved.items() if not n.startswith("encoder."))
    assert most == pytest.approx(5e-3/20, rel=.02)             # Adam's first step has the size of the rate


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    fit(SampleObjective(fresh(), LossConfig(), mixup=.4), Toy(), replace(QUICK, steps=10), cpu())
    assert torch.equal(torch.rand(2), want)


def test_a_loss_that_is_not_finite_names_the_step_and_spoils_no_checkpoint(tmp_path):
    class Ruined(Toy):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return replace(batch, target=batch.target*float("inf")) if step == 23 else batch
    with pytest.raises(AamError, match=r"'target' diverged at step 24 of 40 \(loss inf.*lr=0.0005"):
        stage = Stage(folder=tmp_path, save_seconds=0.)
        fit(SampleObjective(fresh(), LossConfig()), Ruined(), QUICK, cpu(), stage=stage)
    written, tensors = read_checkpoint(tmp_path/"last")
    assert written["state"]["step"] <= 23 and all(bool(v.isfinite().all()) for v in tensors["model"].values())


def test_what_cannot_work_is_said():
    o = SampleObjective(fresh(), LossConfig())
    with pytest.raises(AamError, match="found 5, wanted 40"): fit(o, Toy(5), QUICK, cpu())
    with pytest.raises(AamError, match="gave rmse; the score that picks the weights of 'target' is 'loss'"):
        fit(o, Toy(), QUICK, cpu(), lambda: dict(rmse=1.))
    with pytest.raises(AamError, match="never a number"): fit(o, Toy(), QUICK, cpu(), lambda: dict(loss=NAN))
    with pytest.raises(AamError, match="nothing to learn"):
        fit(AsvObjective(fresh(), LossConfig(bases=0.)), [replace(pairs(), distance=None)]*40, QUICK, cpu())
    before = dict(o.model.state_dict())
    found = fit(o, Toy(), replace(QUICK, steps=0), cpu())
    assert found.steps == 0 and same(before, o.model.state_dict())


def test_another_loader_may_make_the_batches():
    used, models = [], [fresh(), fresh()]

    def ahead(source, start):
        for i in range(start, len(source)):
            yield source[i]
            used.append(i)
    for m, how in zip(models, (None, ahead), strict=True):
        fit(SampleObjective(m, LossConfig()), Toy(), QUICK, cpu(), loader=how)
    assert same(models[0].state_dict(), models[1].state_dict()) and used == list(range(39))


# ---- log, devices

def test_the_loop_writes_its_numbers(tmp_path):
    log = RunLog(tmp_path, show=False)
    look = lambda: dict(loss=1., auc=NAN)
    fit(SampleObjective(fresh(), LossConfig()), Toy(), QUICK, cpu(), look, Stage(log=log))
    log.close()
    records = read_log(tmp_path/"metrics.jsonl")
    assert [o["step"] for o in records] == [10, 20, 30, 40] and records[0]["valid_auc"] is None
    assert {"stage", "seconds", "lr", "norm", "loss", "target", "valid_loss"} <= set(records[0])


def test_long_stages_say_how_long(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    config, stage = replace(QUICK, steps=100_000), Stage(log=RunLog(show=True))
    loop = Loop(SampleObjective(fresh(), LossConfig()), config, cpu(), stage)
    loop.state.step, loop.pace.warm = 12, time.perf_counter() - 1.
    loop.announce()
    said = capsys.readouterr().err
    assert "target: 99,988 of 100,000 steps to go, about 2 h 4" in said and "validation not counted" in said
    loop.pace.checks, loop.pace.spent = 1, .5
    loop.announce()
    assert "about 2 h" in (said := capsys.readouterr().err) and "not counted" not in said
    loop.optim, loop.pace.checks, loop.pace.spent = replace(QUICK, steps=40), 0, 0.
    loop.announce()
    assert capsys.readouterr().err == ""                       # seconds are not worth a sentence


def test_devices(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AamError, match="2 processes were launched"): make_accelerator(RunConfig())
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == 1
    if not torch.cuda.is_available():
        with pytest.raises(AamError, match="no cuda device"): pick_device("cuda")
    threads = torch.get_num_threads()
    make_accelerator(RunConfig(device="cpu", threads=1))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_bf16_runs_near_float32_and_weights_stay_float32():
    held = [Toy(seed=9)[0]]

    def score(precision):
        objective = SampleObjective(fresh(head_dropout=0.), LossConfig(distance=.5), chunk=5)
        machine = make_accelerator(RunConfig(device="cpu", precision=precision))
        found = fit(objective, Toy(), QUICK, machine, lambda: measure_samples(objective, held))
        assert {p.dtype for p in objective.model.parameters()} == {torch.float32}
        return found.best_score
    full, half = score("fp32"), score("bf16")
    cpu()
    assert half == pytest.approx(full, rel=.15) and half != full
