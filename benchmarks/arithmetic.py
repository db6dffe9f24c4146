"""How much of this machine's matrix-product rate a training step uses, both measured in the same run.

    python benchmarks/arithmetic.py   # width 64 (recipe small, its encoder training) and 128 (recipe aam)
    python benchmarks/arithmetic.py --threads 1

The matrix products of the step are counted: forward, backward and the encoder's second forward pass. Not
counted are normalisation, activations, softmax, gathering and the optimizer, which take time all the same.
The samples are those of ecam_infant.
"""
import argparse
import os
import time
from dataclasses import replace

import numpy as np
import torch
from dedup import ROOT, ecam
from torch.utils import flop_counter

from aam_nb.recipe import load_config
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.model import layers
from aam_nb.model.aam import AamModel
from aam_nb.training.objectives import SampleObjective
from aam_nb.training.optim import make_optimizer
from aam_nb.types import Column
from aam_nb.runs.speed import measured

AIM = .5 # Of the matrix-product rate, at width 128


def fused(q, k, v, *_, **__):
    "Operations of PyTorch's fused attention on a CPU; PyTorch counts the fused kernel on GPUs only."
    return flop_counter.sdpa_flop_count(q, k, v)


def fused_backward(grad, q, k, v, *_, **__):
    "Operations of its backward pass."
    return flop_counter.sdpa_backward_flop_count(grad, q, k, v)


FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused,
         torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_backward}


def timed(f, *args):
    "Seconds on the clock and of the processor."
    clock, cpu = time.perf_counter(), time.process_time()
    f(*args)
    return time.perf_counter() - clock, time.process_time() - cpu


def products(n=1024, repeats=10):
    "FLOP/s of a plain product of two n x n matrices, by the clock and by processor time."
    a, b = torch.randn(n, n), torch.randn(n, n)
    return np.max([2*n**3/np.array(timed(torch.mm, a, b)) for _ in range(repeats)], axis=0)


def attention(places, width=64, heads=4, tokens=6400):
    """Time of an attention layer with the fused kernel over that with plain products, forward and
    backward, by the clock."""
    layer = layers.SelfAttention(width, heads)
    x = torch.randn(tokens//places, places, width, requires_grad=True)
    usual, least = layers.SHORT, {}
    for layers.SHORT in (0, places)*15:
        took = timed(lambda: layer(x).backward(x.detach()))[0]
        least[layers.SHORT] = min(took, least.get(layers.SHORT, took))
    layers.SHORT = usual
    return least[0]/least[places]


def step(objective, optimizer, batch):
    "One training step."
    optimizer.zero_grad()
    objective.train_step(batch)
    torch.nn.utils.clip_grad_norm_(objective.model.parameters(), 1.)
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    store, age = ecam(ROOT/os.environ.get("AAM_DATA", "../shared/data"))
    print(f"{store}, {args.threads} threads; by processor time in brackets")
    print("  attention layer, time with the fused kernel over that with plain products: " +
          ", ".join(f"{attention(o):.2f} in rows of {o}" for o in (25, 50, 150)))
    for recipe, size, chunk in (("small", 32, 64), ("small", 32, 256), ("aam", 8, 16), ("aam", 8, 32)):
        cfg = load_config(recipe)
        metrics = cfg.distances
        model = AamModel(replace(cfg.model, dropout=0.), store.tokens.shape[1],
                         (Column(name="age", task="regression"),), metrics).train()
        objective = SampleObjective(model, cfg.loss, chunk=chunk)
        optimizer = make_optimizer(model.named_parameters(), cfg.optim)
        view = View(metrics=metrics, identity=cfg.model.identity, mask=cfg.loss.mask if metrics else 0.,
                    patch=cfg.model.patch)
        source = SampleBatches(SampleDataset(store, rows=np.isfinite(age), target=age), view, batch=size,
                               steps=args.steps)
        step(objective, optimizer, source[0])
        shares, asvs = [], []
        for batch in source:
            with flop_counter.FlopCounterMode(display=False, custom_mapping=FUSED) as count:
                step(objective, optimizer, batch)
            before = products()
            took = np.array(timed(step, objective, optimizer, batch))
            peak = np.maximum(before, products())
            shares.append(count.get_total_flops()/took/peak)
            asvs.append(len(batch.rows))
        by_clock, by_cpu = np.median(shares, axis=0)
        aim = f"  (aim: {AIM})" if recipe == "aam" else ""
        print(f"  {recipe:5} width {cfg.model.width:3}, batch {size:2}, {np.mean(asvs):4.0f} distinct ASVs "
              f"in chunks of {chunk:3}: {took[0]:6.2f} s a step, "
              f"{count.get_total_flops()/1e9:6.0f} GFLOP, {peak[0]/1e9:.0f} GFLOP/s for plain products: "
              f"share {by_clock:.2f} ({by_cpu:.2f}){aim}", flush=True)
        measured(f"share of plain products, {recipe}, chunk {chunk}", by_cpu, AIM, "of 1")


if __name__ == "__main__": main()
