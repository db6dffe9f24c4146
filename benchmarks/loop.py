"""What the loop costs beside the steps it runs: recipe small on frozen embeddings, ecam_infant, same run.

    python benchmarks/loop.py   # half a minute; processor time, so a busy machine disturbs it little

Bare: gradients of ready-made batches. Loop: the same with rate, clipping, AdamW, averaging and bookkeeping,
as `fit` runs them.
"""
import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dedup import ecam

from aam_nb.recipe import load_config
from aam_nb.sections import RunConfig
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import embed_chunks
from aam_nb.training.loop import fit
from aam_nb.training.objectives import SampleObjective
from aam_nb.training.parallel import make_accelerator
from aam_nb.types import Column
from aam_nb.runs.speed import measured

ROOT = Path(__file__).resolve().parent.parent


def took(f):
    "Processor seconds of a call."
    begun = time.process_time()
    f()
    return time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = load_config("small")
    optim = replace(cfg.optim, steps=args.steps)
    accelerator = make_accelerator(RunConfig(device="cpu"))
    store, age = ecam(Path(os.environ.get("AAM_DATA", ROOT.parent/"shared"/"data")))
    model = AamModel(cfg.model, store.tokens.shape[1],
                     (Column(name="age", task="regression"),)).freeze_encoder()
    table = embed_chunks(model, torch.from_numpy(np.array(store.tokens)), 256)
    objective = SampleObjective(model, cfg.loss, embeddings=table, mixup=cfg.augment.mixup)
    view = View(augment=cfg.augment, identity=cfg.model.identity)
    source = SampleBatches(SampleDataset(store, None, age.astype(np.float32)), view, batch=optim.batch,
                           steps=optim.steps)
    batches = []
    making = took(lambda: batches.extend(source[i] for i in range(args.steps)))
    fit(objective, batches, replace(optim, steps=10), accelerator)             # what only the first step pays
    bare, whole = [], []
    for _ in range(3):
        bare.append(took(lambda: [objective.train_step(b) for b in batches]))
        model.zero_grad()
        whole.append(took(lambda: fit(objective, batches, optim, accelerator)))
    bare, whole = (min(o)/args.steps*1e3 for o in (bare, whole))
    print(f"gradients {bare:.2f} ms a step; with the loop {whole:.2f} ms ({whole/bare:.2f}x); making the "
          f"batch {making/args.steps*1e3:.2f} ms")
    measured("a step with the loop beside its gradients", whole, bare, "ms", less=True)


if __name__ == "__main__": main()
