"fp16: scaled gradients change nothing where they fit, and a step whose gradients overflow never was."
import warnings
from dataclasses import replace

import pytest
import torch
from toy_batches import QUICK, Toy, cpu, fresh, pairs, same

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.sections import LossConfig, RunConfig
from aam_nb.training.checkpoint import optimizer_tensors, read_checkpoint
from aam_nb.training.loop import Loop, Stage, fit
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.precision import pick_precision, set_products


PLAIN = cpu()


class Scaled:
    "What Accelerate gives for fp16 on a GPU, on the CPU: a scaler, and autocast where asked for."
    mixed_precision = "fp16"
    def __init__(self, init, half):
        self.plain, self.half = PLAIN, half
        self.scaler = torch.amp.GradScaler("cpu", init_scale=init, growth_interval=7)

    def __getattr__(self, name): return getattr(self.plain, name)
    def backward(self, loss): self.scaler.scale(loss).backward()
    def autocast(self): return torch.autocast("cpu", torch.float16, enabled=self.half)


def scaled(init, half=False): return Scaled(init, half)


def objective(kind):
    if kind == "asvs": return AsvObjective(fresh(), LossConfig())
    return SampleObjective(fresh(), LossConfig(distance=.5), mixup=.4)


def batches(kind): return [pairs(i) for i in range(40)] if kind == "asvs" else Toy()


@pytest.mark.parametrize("kind", ["asvs", "samples"])
def test_a_scale_that_fits_changes_nothing(kind):
    "A power of two moves the exponent of every gradient and no digit; clipping sees the true norm."
    ends = []
    for accelerator in (cpu(), scaled(2.**10)):
        learner = objective(kind)
        found = fit(learner, batches(kind), replace(QUICK, clip=.5), accelerator)
        ends.append((learner.model.state_dict(), [o["norm"] for o in found.history]))
    for k, v in ends[0][0].items(): torch.testing.assert_close(ends[1][0][k], v, rtol=1e-5, atol=1e-6)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-5)


def test_a_step_that_overflows_is_left_out_of_weights_moments_and_average():
    loop, source = Loop(objective("samples"), QUICK, scaled(2.**126)), Toy()
    before = {k: v.clone() for k, v in loop.model.state_dict().items()}
    loop.step(source[0])
    assert same(loop.model.state_dict(), before) and loop.ema.updates == 0 and loop.state.step == 1
    assert all(not v.any() for k, v in optimizer_tensors(loop.optimizer).items())
    loop.flush()                                            # its norm is not a number, and that is no error
    taken = 0
    for i in range(1, 40):
        was = loop.scaler.get_scale()
        loop.step(source[i])
        taken += loop.scaler.get_scale() >= was
    assert 0 < taken < 39 and loop.ema.updates == taken
    assert {int(v) for k, v in optimizer_tensors(loop.optimizer).items() if k.startswith("step/")} == {taken}


@pytest.mark.parametrize("kind", ["asvs", "samples"])
def test_half_precision_learns_and_goes_on_bit_for_bit(tmp_path, kind):
    "The scale begins far too high, so that some steps are left out before and after the interruption."
    def life(stage, stop=None):
        learner, accelerator = objective(kind), scaled(2.**30, half=True)
        def loader(source, start):
            for i in range(start, 40):
                if i == stop: raise KeyboardInterrupt
                yield source[i]
        found = fit(learner, batches(kind), QUICK, accelerator, None, stage, loader)
        return found, learner.model.state_dict(), accelerator.scaler.state_dict()
    whole, wanted, scale = life(Stage())
    stage = Stage(folder=tmp_path, save_seconds=0.)
    with pytest.raises(KeyboardInterrupt): life(stage, stop=9)
    kept = read_checkpoint(tmp_path/"last")[0]["state"]["scaler"]
    assert 1 < kept["scale"] < 2.**30
    _, found, again = life(replace(stage, resume=True))
    assert same(found, wanted) and again == scale
    losses = [o["loss"] for o in whole.history]
    assert losses[-1] < losses[0]


def test_gradients_that_never_are_numbers_end_the_training():
    loop = Loop(objective("samples"), QUICK, scaled(2.**3))
    loop.scaler.scale(torch.ones(()))
    for p in loop.trained.values(): p.register_hook(lambda g: g*torch.inf)
    with pytest.raises(AamError, match="overflow fp16 even at a scale of 1.*run.precision=bf16"):
        for i in range(40): loop.step(Toy()[i])


def test_only_fp16_has_a_scaler():
    for precision in ("fp32", "bf16", "auto"):
        assert make_accelerator(RunConfig(device="cpu", precision=precision)).scaler is None


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_precisions_of_gpus_are_refused_on_a_cpu(precision):
    run = config_from({"run": {"precision": precision, "device": "cpu"}}).run
    with pytest.raises(AamError, match=f"{precision} is for NVIDIA GPUs, and this is a cpu. Use"):
        make_accelerator(run)


def test_a_gpu_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    for o in ("bf16", "tf32"):
        with pytest.raises(AamError, match=f"has no {o} arithmetic"): pick_precision(o, "cuda")
    assert pick_precision("auto", "cuda") == "no" and pick_precision("fp16", "cuda") == "fp16"
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    assert pick_precision("tf32", "cuda") == "no"


def test_tf32_is_switched_on_and_off_for_all_readers_without_a_warning():
    "PyTorch cannot read its older names where only the newer were set, and compiled layers read them."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision, one, other in (("tf32", "tf32", "high"), ("fp32", "ieee", "highest")):
            set_products(precision)
            assert torch.backends.cuda.matmul.fp32_precision == one
            assert torch.get_float32_matmul_precision() == other
            assert torch.backends.cuda.matmul.allow_tf32 == (one == "tf32")
