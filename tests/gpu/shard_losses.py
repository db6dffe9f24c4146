"""The losses of the first steps of two stages, with or without shards; test_shards.py starts it.

    torchrun --standalone --nproc_per_node 1 tests/gpu/shard_losses.py OUT.json SETTINGS.json
"""
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aam_nb.batches.build import build_store
from aam_nb.data.simulate import simulate
from aam_nb.recipe import load_config
from aam_nb.sections import RunConfig
from aam_nb.training.bench import Bench
from aam_nb.training.encoder_stage import asv_stage
from aam_nb.training.loop import fit, Stage
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.ranks import ranks_of
from aam_nb.training.sample_stage import sample_stage


def stages(run, folder, device="cuda", steps=8):
    "The losses of both stages, what Accelerate made of the run, and the peak of memory."
    config = load_config("small")
    short = dict(steps=steps, every=1, warmup=0, ema=.9)
    config = replace(config, run=RunConfig(device=device, threads=1, **run),
                     model=replace(config.model, sample="attention"),
                     pretrain_asv=replace(config.pretrain_asv, **short),
                     pretrain_sample=replace(config.pretrain_sample, freeze=False, **short))
    study = simulate(samples=60, asvs=120, groups=15, length=150, seed=8)
    accelerator = make_accelerator(config.run)
    ranks = ranks_of(accelerator)
    bench = Bench(config=config, store=build_store(study), accelerator=accelerator, ranks=ranks)
    rows, found = np.arange(40), {}
    model, objective, source = asv_stage(bench, rows)
    stage = Stage(folder=Path(folder)/"asvs", resume=True, save_steps=4)
    for _ in range(2): # The second one goes on from the end of the first
        done = fit(objective, source, config.pretrain_asv, accelerator, None, stage, ranks=ranks)
    found["asvs"] = [o["loss"] for o in done.history]
    objective, source = sample_stage(bench, model, rows)
    done = fit(objective, source, config.pretrain_sample, accelerator, None, Stage(), ranks=ranks)
    found["samples"] = [o["loss"] for o in done.history]
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return dict(found, way=accelerator.distributed_type.value, kind=type(model).__name__, memory=memory,
                files=sorted(o.name for o in (Path(folder)/"asvs/last").iterdir()),
                device=str(next(model.parameters()).device))


if __name__ == "__main__":
    out, settings = map(Path, sys.argv[1:3])
    found = stages(json.loads(settings.read_text()), out.parent)
    out.write_text(json.dumps(found))
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
