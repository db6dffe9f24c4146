"""Training steps on a GPU beside one CPU thread, in the same run: fp32, tf32, bf16, bf16 compiled, and bf16
with all ASVs of a batch in one chunk.

    python benchmarks/gpu.py   # recipe aam on the GPU alone: its steps take minutes on one thread

Two stages, each with a training encoder: ASV pretraining (ASVs/s), and a target (samples/s). The study is
simulated: 400 samples, 3,000 ASVs of 150 bases. Ready-made batches; the time of making them is not counted.
"""
import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from aam_nb.batches.build import build_store
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.data.simulate import simulate
from aam_nb.model.aam import AamModel
from aam_nb.recipe import load_config
from aam_nb.sections import RunConfig
from aam_nb.training.bench import Bench
from aam_nb.training.encoder_stage import asv_stage
from aam_nb.training.objectives import SampleObjective
from aam_nb.training.parallel import make_accelerator
from aam_nb.types import Column

WAYS = {"cpu, 1 thread": ("cpu", "fp32", "highest"), "fp32": ("cuda", "fp32", "highest"),
        "tf32": ("cuda", "fp32", "high"), "bf16": ("cuda", "bf16", "highest"),
        "bf16, compiled": ("cuda", "bf16", "highest"), "bf16, one chunk": ("cuda", "bf16", "highest")}


def encoder_stage(config, store, accelerator):
    "Objective, and batches with what they hold, of ASV pretraining."
    bench = Bench(config=config, store=store, accelerator=accelerator)
    _, objective, source = asv_stage(bench, np.arange(400))
    objective.prepare(accelerator, config.pretrain_asv)
    return objective, [source[i].to(accelerator.device) for i in range(3)], config.pretrain_asv.batch


def target_stage(config, store, accelerator):
    "The same of a target whose encoder trains."
    model = AamModel(config.model, store.tokens.shape[1], (Column(name="age", task="regression"),))
    objective = SampleObjective(model, config.loss)
    optim = replace(config.optim, freeze=False)
    objective.prepare(accelerator, optim)
    age = np.random.default_rng(0).normal(size=len(store.sample_ids)).astype(np.float32)
    view = View(augment=config.augment, identity=config.model.identity)
    source = SampleBatches(SampleDataset(store, None, age), view, batch=optim.batch, steps=3)
    return objective, [source[i].to(accelerator.device) for i in range(3)], optim.batch


def rate(objective, batches, size, cuda, least=3.):
    "Things a second, after one round that is not counted."
    def sync(): torch.cuda.synchronize() if cuda else None
    optimizer = torch.optim.AdamW(objective.model.parameters(), fused=cuda)
    def one(batch):
        optimizer.zero_grad()
        objective.train_step(batch)
        optimizer.step()
    for o in batches: one(o)
    sync()
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < least:
        one(batches[steps % len(batches)])
        steps += 1
        sync()
    return steps*size/(time.perf_counter() - begun)


def measured(make, config, store, way):
    "Rate and peak memory of one way."
    device, precision, matmul = WAYS[way]
    torch.set_float32_matmul_precision(matmul)
    config = replace(config, run=RunConfig(device=device, precision=precision, threads=1))
    objective, batches, size = make(config, store, make_accelerator(config.run))
    if "compiled" in way: objective.model.encoder.compile(dynamic=True)
    if "one chunk" in way: objective.chunk = 10**6
    if device == "cuda": torch.cuda.reset_peak_memory_stats()
    found = rate(objective, batches, size, device == "cuda")
    return found, torch.cuda.max_memory_allocated()/1e9 if device == "cuda" else np.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="small,aam")
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    store = build_store(simulate(samples=400, asvs=3000, groups=100, length=150, seed=1))
    for name in args.recipes.split(","):
        for make, unit in ((encoder_stage, "ASVs"), (target_stage, "samples")):
            config, base = load_config(name), None
            if make is encoder_stage and not config.pretrain_asv.steps: continue
            for way in (o for o in WAYS if name == "small" or WAYS[o][0] == "cuda"):
                found, memory = measured(make, config, store, way)
                base = base or found
                print(f"{name:6} {make.__name__:14} {way:15} {found:10,.1f} {unit}/s  {found/base:7.1f}x"
                      f"  {memory:6.2f} GB", flush=True)


if __name__ == "__main__": main()
