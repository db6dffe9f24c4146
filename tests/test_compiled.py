"Compiled layers: the same numbers and names, a bounded number of compilations, refused where they cannot be."
from dataclasses import replace

import pytest
import torch
from toy_batches import QUICK, Toy, cpu, fresh, grads, pairs, same
from torch._dynamo.utils import counters

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.model.layers import Transformer
from aam_nb.sections import LossConfig, RunConfig
from aam_nb.training.checkpoint import read_checkpoint
from aam_nb.training.compiled import LIMIT, check_compile, compiled
from aam_nb.training.loop import Stage, fit
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.parallel import make_accelerator


@pytest.fixture(autouse=True)
def anew():
    "Nothing that other tests compiled counts here."
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs(): return counters["stats"]["unique_graphs"]


def rows(body, shapes):
    "Losses and gradients of a transformer on rows of several shapes, with and without padding."
    found = []
    for rows, places in shapes:
        x = torch.randn(rows, places, 8, generator=torch.Generator().manual_seed(places)).requires_grad_()
        mask = torch.arange(places) <= torch.arange(rows)[:, None]
        for given in (None, mask):
            body.zero_grad()
            out = body(x, given)
            out.square().mean().backward()
            found += [out.detach(), *(p.grad.clone() for p in body.parameters())]
    return found


SHAPES = [(8, 6), (8, 8), (3, 6), (2, 5), (16, 16), (5, 16), (1, 6), (8, 6), (1, 9)]


def test_shapes_share_a_few_compilations():
    "Also where the number of rows happens to equal the width, which PyTorch would take for the same size."
    torch.manual_seed(0)
    body = Transformer(8, 2, 2, 2)
    wanted = rows(body, SHAPES)
    with compiled(body, backend="eager"): found = rows(body, SHAPES)
    for a, b in zip(found, wanted, strict=True): torch.testing.assert_close(a, b)
    assert 2 <= graphs() <= 4                                  # padding or none, one row or several
    with compiled(body, backend="eager"): rows(body, SHAPES)
    assert graphs() <= 4                                       # a second stage compiles nothing


def test_afterwards_nothing_is_left(tmp_path):
    body = Transformer(8, 2, 2, 2)
    names = list(body.state_dict())
    with pytest.raises(KeyError), compiled(body, backend="eager"):
        assert list(body.state_dict()) == names and [n for n, _ in body.named_parameters()] == names
        raise KeyError
    assert not [o for o in body.modules() if "forward" in vars(o)]
    with compiled(body, on=False): assert not [o for o in body.modules() if "forward" in vars(o)]


def test_what_cannot_be_compiled_is_refused(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    with pytest.raises(AamError, match="no C.. compiler.*run.compile=false"):
        make_accelerator(RunConfig(device="cpu", compile=True))
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(AamError, match="no Triton"): check_compile("cuda")


def test_it_is_refused_where_no_layer_would_be_compiled():
    frozen = {"pretrain_asv": {"steps": 0}, "run": {"compile": True}}
    with pytest.raises(AamError, match="no stage trains transformer layers.*'pool'"): config_from(frozen)
    assert config_from(frozen | {"model": {"sample": "attention"}}).run.compile
    assert config_from({"run": {"compile": True}}).run.compile


def stage_of(kind):
    "An objective with dropout, and its batches."
    model = fresh(dropout=.2, sample="both", sample_width=16, heads=2)
    if kind == "asvs": return AsvObjective(model, LossConfig(), chunk=5), [pairs(i) for i in range(40)]
    return SampleObjective(model, LossConfig(distance=.5), mixup=.4, chunk=5), Toy()


def life(kind, on, stage, stop=None):
    "Training in chunks of five ASVs and of what is left, perhaps interrupted."
    learner, source = stage_of(kind)
    def loader(source, start):
        for i in range(start, 40):
            if i == stop: raise KeyboardInterrupt
            yield source[i]
    with compiled(learner.model, on):
        found = fit(learner, source, replace(QUICK, chunk=5, steps=20), cpu(), None, stage, loader)
    return [o["loss"] for o in found.history], learner.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asvs", "samples"])
def test_compiled_gradients_are_plain_ones(kind):
    "The second pass of the encoder repeats the dropout of the first: its draws are those of plain layers."
    found = []
    for on in (False, True):
        learner, source = stage_of(kind)
        with compiled(learner.model, on): learner.train_step(source[0])
        found.append(grads(learner.model))
    most = max(float(o.abs().max()) for o in found[0].values())
    for k, v in found[0].items(): torch.testing.assert_close(found[1][k], v, rtol=1e-4, atol=1e-6*most)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asvs", "samples"])
def test_compiled_training_is_plain_training_and_resumes(tmp_path, kind):
    losses, weights = life(kind, False, Stage())
    found, ends = life(kind, True, Stage())
    assert found == pytest.approx(losses, rel=1e-5)
    once = graphs()
    assert 0 < once <= 16 < LIMIT
    stage = Stage(folder=tmp_path, save_seconds=0.)
    with pytest.raises(KeyboardInterrupt): life(kind, True, stage, stop=9)
    tensors = read_checkpoint(tmp_path/"last")[1]
    assert all("_orig_mod" not in name for part in tensors.values() for name in part)
    assert set(tensors["model"]) == set(weights)
    assert same(life(kind, True, replace(stage, resume=True))[1], ends)
    assert graphs() == once                                    # every life runs what the first one compiled
