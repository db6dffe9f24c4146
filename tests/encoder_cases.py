"Samples and settings that tests of the sample level share."
import model_cases
import numpy as np
import pytest
import torch

from aam_nb.types import Batch

SAMPLES = ("pool", "attention", "both")
HOWS = ("log", "clr", "presence")
KINDS = [(s, h, d) for s in SAMPLES for h in HOWS for d in (False, True)]
each_kind = pytest.mark.parametrize("sample,how,depth", KINDS)
D = 12


def config(**given):
    "A small model's settings."
    return model_cases.config(**(dict(sample_layers=1, components=4) | given))


def batch_of(samples, u):
    "A batch from [{ASV: reads}, ...] over `u` distinct ASVs."
    asv, counts, offsets = model_cases.ragged(samples)
    n = len(samples)
    return Batch(tokens=torch.ones(u, 6, dtype=torch.uint8), rows=torch.arange(u), identity=torch.zeros(u, 0),
                 asv=asv, counts=counts, offsets=offsets, index=torch.arange(n), target=torch.zeros(n, 0))


def random_samples(n, u, seed=0, most=500):
    "Reads of `n` samples, each a dictionary of some of `u` ASVs."
    rng = np.random.default_rng(seed)
    def sample():
        held = rng.choice(u, rng.integers(1, u), replace=False)
        return {int(a): int(rng.integers(1, most)) for a in held}
    return [sample() for _ in range(n)]


def awake(module):
    "A module in evaluation mode with everything moved from its initial value."
    return model_cases.awake(module).eval()


def dense(batch):
    "Reads as samples x ASVs."
    out = np.zeros((batch.size, len(batch.rows)))
    np.add.at(out, (batch.sample.numpy(), batch.asv.numpy()), batch.counts.numpy())
    return out
