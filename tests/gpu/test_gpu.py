"""What must hold on a GPU: the same losses as on a CPU, fused attention, compiled models, whole runs.

    pytest -m gpu
"""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.data.simulate import simulate, write_study
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.data.table import read_table
from aam_nb.model.layers import SHORT, Transformer
from aam_nb.recipe import load_config
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.train import train_run
from aam_nb.sections import RunConfig
from aam_nb.training.bench import Bench
from aam_nb.training.compiled import compiled
from aam_nb.training.encoder_stage import asv_stage
from aam_nb.training.loop import fit
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.sample_stage import sample_stage

pytestmark = pytest.mark.gpu

SMALL = {"model": {"width": 32, "layers": 2, "sample_width": 32, "head_width": 16, "identity": 16},
         "pretrain_asv": {"steps": 20, "batch": 32},
         "optim": {"steps": 30, "batch": 8, "every": 10},
         "run": {"folds": 3, "inner": 2, "watch": 0.}}


@pytest.fixture(scope="module")
def study(): return simulate(samples=60, asvs=120, groups=15, length=150, seed=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory, study):
    folder = tmp_path_factory.mktemp("study")
    write_study(study, folder)
    return folder


def losses(study, stage, device, precision, steps=8, fused=False):
    "The loss of the first steps of a stage of recipe small, its encoder training."
    config = load_config("small")
    short = dict(steps=steps, every=1, warmup=0)
    config = replace(config, run=RunConfig(device=device, precision=precision, threads=1),
                     pretrain_asv=replace(config.pretrain_asv, **short),
                     pretrain_sample=replace(config.pretrain_sample, freeze=False, **short))
    bench = Bench(config=config, store=build_store(study), accelerator=make_accelerator(config.run))
    rows = np.arange(40)
    model, objective, source = asv_stage(bench, rows)
    optim = config.pretrain_asv
    if stage == "samples":
        objective, source = sample_stage(bench, model, rows)
        optim = config.pretrain_sample
    with compiled(objective.model, fused):
        history = fit(objective, source, optim, bench.accelerator).history
    return np.array([sum(v for k, v in o.items() if k in ("tree", "bases", "distance")) for o in history])


@pytest.mark.parametrize("stage", ["asvs", "samples"])
@pytest.mark.parametrize("precision, near", [("fp32", 1e-3), ("tf32", 1e-2), ("bf16", 5e-2),
                                              ("fp16", 5e-2)])
def test_the_losses_of_the_first_steps_are_those_of_a_cpu(study, stage, precision, near):
    wanted, found = losses(study, stage, "cpu", "fp32"), losses(study, stage, "cuda", precision)
    print(stage, precision, "largest relative difference", np.abs(found/wanted - 1).max())
    assert found == pytest.approx(wanted, rel=near)
    assert found[0] == pytest.approx(wanted[0], rel=min(near, 1e-2))


@pytest.mark.parametrize("stage", ["asvs", "samples"])
@pytest.mark.parametrize("precision, near", [("fp32", 1e-3), ("tf32", 1e-2), ("bf16", 2e-2), ("fp16", 2e-2)])
def test_compiled_layers_have_the_losses_of_plain_ones(study, stage, precision, near):
    torch._dynamo.reset()
    counters.clear()
    wanted = losses(study, stage, "cuda", precision)
    found = losses(study, stage, "cuda", precision, fused=True)
    print(stage, precision, "compilations", counters["stats"]["unique_graphs"])
    assert 0 < counters["stats"]["unique_graphs"] <= 16
    assert found == pytest.approx(wanted, rel=near)


def test_fp16_has_a_scale_and_others_have_none():
    assert make_accelerator(RunConfig(precision="fp16")).scaler.is_enabled()
    assert make_accelerator(RunConfig(precision="bf16")).scaler is None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_fused(masked, dtype):
    "With plain attention forbidden, forward and backward pass still run, on short and on long rows."
    net = Transformer(64, 4, 2, 2).cuda()
    for places in (SHORT//2, 4*SHORT):
        x = torch.randn(16, places, 64, device="cuda", requires_grad=True)
        mask = torch.rand(16, places, device="cuda") < .9 if masked else None
        if masked: mask[:, 0] = True
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32): net(x, mask).sum().backward()
        assert x.grad.isfinite().all()


def test_auto_chooses_bf16_on_this_gpu():
    accelerator = make_accelerator(RunConfig())
    assert accelerator.device.type == "cuda" and accelerator.mixed_precision == "bf16"


def test_a_compiled_encoder_gives_what_the_plain_one_gives(study):
    config = load_config("small")
    bench = Bench(config=config, store=build_store(study), accelerator=make_accelerator(config.run))
    model = asv_stage(bench, np.arange(40))[0].eval()
    tokens = torch.from_numpy(np.array(bench.store.tokens[:64])).cuda()
    compiled = torch.compile(model.encoder, fullgraph=True)
    with torch.no_grad(): assert torch.allclose(compiled(tokens), model.encoder(tokens), rtol=1e-3, atol=1e-4)


def a_run(files, out, **run):
    data = dict(table=str(files/"table.biom"), metadata=str(files/"metadata.tsv"),
                tree=str(files/"tree.nwk"), target="age", groups="subject")
    given = {"data": data, "run": {"out": str(out), "device": "cuda", **run}}
    return config_from(given, base=config_from(SMALL))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bundle_trained_here_predicts_on_a_cpu(files, tmp_path, precision):
    "The predictions of the held-out samples, written by the run, are those of its bundle on the CPU."
    folder = train_run(a_run(files, tmp_path/"run", precision=precision))
    bundle = load_bundle(folder)
    assert next(bundle.model.parameters()).device.type == "cpu"
    written = pd.read_csv(tmp_path/"run"/"predictions.tsv", sep="\t", dtype={0: str}).set_index("sample_id")
    here = predict_table(bundle, read_table(files/"table.biom")).rows
    both = written.index.intersection(here.index)
    assert len(both) > 5
    a, b = written.loc[both, "prediction"].astype(float), here.loc[both, "prediction"].astype(float)
    assert np.abs(a - b).max() < (1e-3 if precision == "fp32" else .05)*b.std()


def test_an_evaluation_scores_as_on_a_cpu(files, tmp_path):
    "Mean absolute errors, in months; steps are picked by scores that differ in their last digits."
    mae = {}
    for device in ("cpu", "cuda"):
        evaluate_run(a_run(files, tmp_path/device, device=device, precision="fp32"))
        assert (tmp_path/device/"report.html").is_file()
        scores = pd.read_csv(tmp_path/device/"scores.tsv", sep="\t")
        mae[device] = scores[scores.score == "mae"].set_index("method")["value"]
    print(mae)
    assert mae["cuda"].aam == pytest.approx(mae["cpu"].aam, abs=.3)
    assert mae["cuda"].forest == pytest.approx(mae["cpu"].forest, abs=1e-6)


def test_two_runs_are_alike(study):
    "Sums on a GPU have no fixed order, so two runs are alike but not the same to the bit."
    a, b = (losses(study, "samples", "cuda", "fp32") for _ in range(2))
    print("two runs of the same steps differ by", np.abs(a/b - 1).max())
    assert a == pytest.approx(b, rel=1e-3)
