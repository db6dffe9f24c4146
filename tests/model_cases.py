"Small models and batches that several files of tests share."
import numpy as np
import pytest
import torch

from aam_nb.data.tokens import PAD
from aam_nb.model.aam import AamModel
from aam_nb.sections import ModelConfig
from aam_nb.types import Batch, Column

BASES = 24
KINDS = [("pool", "flat", 6), ("attention", "flat", 6),
         ("pool", "attention", 1), ("attention", "attention", 1)]
SMALL = dict(patch=6, width=16, layers=2, heads=2, feedforward=2, identity=8, sample_width=16, head_width=8)
each_kind = pytest.mark.parametrize("sample,readout,patch", KINDS)


def config(**given):
    "A small model's settings."
    return ModelConfig(**(SMALL | given))


def asvs(n, lengths=(BASES,), seed=0):
    "Random sequences; lengths repeat over the rows."
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(1, 5, (n, BASES)).astype(np.uint8))
    for i in range(n): tokens[i, lengths[i % len(lengths)]:] = PAD
    return tokens


def random_samples(n, u, seed=0):
    "Reads of `n` samples, each a dictionary of some of `u` ASVs."
    rng = np.random.default_rng(seed)
    def sample():
        held = rng.choice(u, rng.integers(1, u), replace=False)
        return {int(a): int(rng.integers(1, 500)) for a in held}
    return [sample() for _ in range(n)]


def ragged(samples):
    "Keys, reads and offsets of [{ASV: reads}, ...], side by side."
    asv = [a for s in samples for a in s]
    counts = [float(c) for s in samples for c in s.values()]
    offsets = torch.tensor([0] + [len(s) for s in samples]).cumsum(0)
    return torch.tensor(asv, dtype=torch.int64), torch.tensor(counts), offsets


def batch_of(samples, tokens, identity=8, seed=0):
    "A batch from [{row of the store: reads}, ...] with every row of `tokens` as the store."
    asv, counts, offsets = ragged(samples)
    rows, asv = asv.unique(return_inverse=True)
    rng, n = np.random.default_rng(seed), len(samples)
    signs = torch.from_numpy(rng.choice([-1, 1], (len(tokens), identity)).astype(np.float32))
    distance = torch.triu(torch.from_numpy(rng.uniform(.2, .9, (n, n)).astype(np.float32)), 1)
    target = torch.from_numpy(rng.normal(size=(n, 1)).astype(np.float32))
    return Batch(tokens=tokens[rows], rows=rows, identity=signs[rows], asv=asv, counts=counts,
                 offsets=offsets, index=torch.arange(n), target=target,
                 distance=(distance + distance.T)[None])


def awake(model):
    "Move everything that starts at zero or at one, so that no path hides behind its initial value."
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p)*.1)
    return model


def column(task="regression", outputs=1):
    "One target, or none."
    return (Column(name="target", task=task, outputs=outputs),) if task else ()


def model_for(sample="pool", readout="flat", patch=6, task="regression", outputs=1, metric="unweighted",
              **given):
    "A small model in evaluation mode."
    c = config(sample=sample, readout=readout, patch=patch, **given)
    return awake(AamModel(c, BASES, column(task, outputs), metrics=(metric,) if metric else ())).eval()


def same(a, b, eps=1e-5):
    "Whether two outputs agree."
    for k in ("summary", "target", "distance"):
        x, y = getattr(a, k), getattr(b, k)
        assert (x is None) == (y is None)
        if x is not None: torch.testing.assert_close(x, y, rtol=eps, atol=eps)


def gradients(model):
    "The gradients there are, by name."
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def same_gradients(a, b, eps=1e-5):
    "Whether two sets of gradients agree."
    assert a.keys() == b.keys() and len(a) > 10
    for k in a: assert (a[k] - b[k]).abs().max() <= eps*max(1., float(b[k].abs().max())), k
