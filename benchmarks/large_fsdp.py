"""Parameters and expected memory of recipe large_fsdp.

    python benchmarks/large_fsdp.py > benchmarks/results/large_fsdp.md

Computed, not measured: what a GPU holds for weights, gradients, moments, averages and the way back.
"""
import torch

from aam_nb.model.aam import AamModel
from aam_nb.recipe import load_config
from aam_nb.types import Column

BASES, TARGET = 150, (Column(name="target", task="regression"),)


def model_of(config):
    "The recipe's model for one numeric target, shapes only."
    with torch.device("meta"): return AamModel(config.model, BASES, TARGET, ("unweighted",))


def memory(model, config, world):
    "Bytes on each of some GPUs, by what holds them. 32 bits a number."
    c, total = config.model, sum(p.numel() for p in model.parameters())
    blocks = [sum(p.numel() for p in o.parameters()) for o in model.encoder.body.blocks]
    rest = total - sum(blocks)
    kept = model.encoder.places*c.width*(c.layers + 8 + 2*c.feedforward) # Blocks are computed again
    numbers = {"shares (weight, gradient, 2 moments, average)": 5*total/world,
               "collected (rest and 2 blocks, with gradients)": 2*(rest + 2*max(blocks)),
               "way back of a chunk of ASVs": kept*config.pretrain_asv.chunk}
    return {k: 4*v for k, v in numbers.items()}


def report():
    "The table as Markdown."
    config = load_config("large_fsdp")
    model = model_of(config)
    size = sum(p.numel() for p in model.parameters())
    lines = ["# Recipe large_fsdp", "", f"{size:,} parameters, for sequences of {BASES} bases. GB on each "
             "GPU, computed by `python benchmarks/large_fsdp.py`; not measured.", "",
             "| GPUs | shares | collected | way back | in all |", "|---|---|---|---|---|"]
    for world in (1, 2, 4, 8):
        found = [v/1e9 for v in memory(model, config, world).values()]
        lines.append(f"| {world} | " + " | ".join(f"{o:.2f}" for o in [*found, sum(found)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__": print(report())
