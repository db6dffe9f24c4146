"""What it is worth to encode each distinct ASV of a batch once: a training step beside the plain path,
ecam_infant, same run.

    python benchmarks/dedup.py                # recipe small with a training encoder, batches of 8 and 32
    python benchmarks/dedup.py --recipe aam   # one token a base, width 128; an hour

The plain path encodes the ASVs of each sample anew, as AAM does; both paths use the same model, chunks and
losses.
"""
import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aam_nb.recipe import load_config
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.data.metadata import read_metadata
from aam_nb.batches.build import build_store
from aam_nb.data.table import read_table
from aam_nb.data.study import make_study
from aam_nb.data.tree import read_tree
from aam_nb.model.aam import AamModel
from aam_nb.training.objectives import SampleObjective
from aam_nb.types import Column
from aam_nb.runs.speed import measured

ROOT = Path(__file__).resolve().parent.parent


def ecam(data):
    "The infants of ecam_infant and their age in months, standardised."
    if not (data/"ecam_infant").is_dir(): sys.exit(f"No study in {data/'ecam_infant'}. Set AAM_DATA.")
    study = make_study(read_table(data/"ecam_infant"/"table.biom"),
                       read_metadata(data/"ecam_infant"/"metadata.tsv"),
                       read_tree(data/"ecam_infant"/"tree.nwk"), missing="drop", where="is_infant == 1")
    age = study.metadata["month_of_life"].to_numpy(float)
    return build_store(study), (age - np.nanmean(age))/np.nanstd(age)


def plain(batch):
    "The same samples, with every ASV of every sample encoded for itself."
    return replace(batch, tokens=batch.tokens[batch.asv], rows=batch.rows[batch.asv],
                   identity=batch.identity[batch.asv],
                   asv=torch.arange(len(batch.asv)))


def timed(objective, batch):
    "Seconds of one step on the clock and of the processor, and its gradient."
    objective.model.zero_grad()
    clock, cpu = time.perf_counter(), time.process_time()
    objective.train_step(batch)
    took = time.perf_counter() - clock, time.process_time() - cpu
    return *took, torch.cat([p.grad.flatten() for p in objective.model.parameters() if p.grad is not None])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small", help="sizes and kinds of the model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=3, help="batches of each size")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = load_config(args.recipe)
    chunk = cfg.optim.chunk or 64 # 0 leaves it to the device; on a CPU that is 64
    store, age = ecam(ROOT/os.environ.get("AAM_DATA", "../shared/data"))
    print(f"{store}; recipe {args.recipe}, {args.threads} threads, chunks of {chunk}; processor "
          "time in brackets")
    for size in (8, 32):
        model = AamModel(replace(cfg.model, dropout=0., head_dropout=0.), store.tokens.shape[1],
                         columns=(Column(name="age", task="regression"),)).train()
        objective = SampleObjective(model, cfg.loss, chunk=chunk)
        rows, known = [], SampleDataset(store, rows=np.isfinite(age), target=age)
        for batch in SampleBatches(known, View(identity=cfg.model.identity), batch=size, steps=args.steps):
            (once, cpu, grad), (anew, cpu2, want) = timed(objective, batch), timed(objective, plain(batch))
            off = float((grad - want).norm()/want.norm())
            rows.append((len(batch.rows), len(batch.asv), once, anew, cpu, cpu2, off))
        u, n, once, anew, cpu, cpu2, off = np.array(rows).T
        print(f"batch {size:2}: {n.mean():5.0f} ASVs, {u.mean():4.0f} distinct ({(n/u).mean():.2f}x); once "
              f"{once.min():6.2f} s ({cpu.min():.2f}), "
              f"plain {anew.min():6.2f} s ({cpu2.min():.2f}): ratio {np.median(anew/once):.2f} "
              f"({np.median(cpu2/cpu):.2f}); "
              f"gradients differ by {off.max():.0e}")
        measured(f"each ASV once, batch {size}", cpu.min(), cpu2.min(), "s", less=True)


if __name__ == "__main__": main()
