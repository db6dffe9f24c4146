"""Samples a second in training with one process and with two, one thread each, and what the talking costs.

    python benchmarks/scaling.py            # about 5 minutes; needs two free cores
    python benchmarks/scaling.py --steps 10

Recipes small (frozen encoder) and aam (the encoder trains) on ecam_infant, ready-made batches, so that only
the steps are timed. The numbers of processes take turns in one run, and the best round of each counts.
`talking` is the share of a step that the first process spends in messages, waiting for the other included.
"""
import argparse
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from dedup import ecam

from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import embed_chunks
from aam_nb.recipe import load_config
from aam_nb.sections import RunConfig
from aam_nb.training.loop import Loop
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.ranks import several
from aam_nb.types import Column

ROOT = Path(__file__).resolve().parent.parent
STORE, AGE = ecam(Path(os.environ.get("AAM_DATA", ROOT.parent/"shared"/"data")))
CPU = make_accelerator(RunConfig(device="cpu", threads=1))


def job(name, ranks, steps):
    "An objective and a source of batches, as this process holds them."
    recipe, _, stage = name.partition(" ")
    config, share = load_config(recipe), dict(rank=ranks.rank, world=ranks.world, steps=steps + 2)
    torch.manual_seed(0)
    bases, age = STORE.tokens.shape[1], (Column(name="age", task="regression"),)
    if stage == "asvs":
        view = View(patch=config.model.patch, mask=config.loss.mask, augment=config.augment)
        source = AsvBatches(STORE, view=view, batch=config.pretrain_asv.batch, **share)
        return AsvObjective(AamModel(config.model, bases), config.loss), source, config.pretrain_asv
    model, table, tokens = AamModel(config.model, bases, age), None, torch.tensor(np.array(STORE.tokens))
    if config.optim.freeze: table = embed_chunks(model.freeze_encoder(), tokens, 256)
    objective = SampleObjective(model, config.loss, embeddings=table, mixup=config.augment.mixup)
    view = View(augment=config.augment, identity=config.model.identity)
    data = SampleDataset(STORE, None, AGE.astype(np.float32))
    return objective, SampleBatches(data, view, batch=config.optim.batch, **share), config.optim


class Clock:
    "Seconds spent in messages."
    def __init__(self):
        self.seconds = 0.
        for name in ("all_gather", "all_reduce", "broadcast"):
            setattr(dist, name, self.timed(getattr(dist, name)))

    def timed(self, f):
        def call(*args, **more):
            begun = time.perf_counter()
            try: return f(*args, **more)
            finally: self.seconds += time.perf_counter() - begun
        return call


def timed(name, ranks, steps):
    "Seconds of some steps after two that warm up, and of the messages in them."
    torch.set_num_threads(1)
    objective, source, optim = job(name, ranks, steps)
    batches, clock = [source[i] for i in range(steps + 2)], Clock()
    loop = Loop(objective, replace(optim, steps=steps + 2), CPU, ranks=ranks)
    loop.model.train()
    for o in batches[:2]: loop.step(o)
    ranks.wait()
    begun, clock.seconds = time.perf_counter(), 0.
    for o in batches[2:]:
        loop.step(o)
        ranks.agreed(False)
    return [time.perf_counter() - begun, clock.seconds, optim.batch*steps]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=0, help="0: as many as take a few seconds")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}")
    print("job            processes   in a second   speed-up   talking")
    for name, usual in {"small": 60, "small asvs": 10, "aam": 4, "aam asvs": 4}.items():
        steps, found = args.steps or usual, {1: [], 2: []}
        for world in (1, 2)*args.rounds:
            work = partial(timed, name, steps=steps)
            found[world].append(several(work, world, 1200)[0])
        best = {world: min(rounds) for world, rounds in found.items()}
        for world, (seconds, talking, n) in best.items():
            gain = best[1][0]/seconds
            print(f"{name:14} {world:9} {n/seconds:13.1f} {gain:9.2f}x {talking/seconds:8.0%}", flush=True)


if __name__ == "__main__": main()
