"What the tests of training share: batches with a known signal, small models, and gradients to compare."
import time

import numpy as np
import torch

from aam_nb.core import draw_key, keyed_rng
from aam_nb.data.tokens import MASK
from aam_nb.model.aam import AamModel
from aam_nb.sections import ModelConfig, OptimConfig, RunConfig
from aam_nb.training.parallel import make_accelerator
from aam_nb.types import AsvBatch, Batch, Column

ASVS = torch.from_numpy(keyed_rng("loop tests").integers(1, 5, (14, 12)).astype("uint8"))
NAN = float("nan")
NUMBER = (Column(name="y", task="regression"),)
CLASS = (Column(name="y", task="classification", outputs=2),)
TASKS = {"regression": NUMBER, "classification": CLASS, None: ()}
QUICK = OptimConfig(steps=40, lr=5e-3, every=10, ema=.9, batch=12, chunk=5, freeze=False)


def with_hidden_patch(rng):
    "The ASVs with a patch of three bases hidden in each."
    masked = ASVS.clone()
    masked[np.arange(14), 3*rng.integers(0, 4, 14)] = MASK
    patches = masked.view(14, 4, 3)
    return torch.where((patches == MASK).any(2, keepdim=True), MASK, patches).view(14, 12)


class Toy:
    "Batches by step; the target is the log ratio of the first seven ASVs to the others."
    def __init__(self, steps=40, size=12, seed=0, classes=False, slow=0.):
        self.steps, self.size, self.seed, self.classes, self.slow = steps, size, seed, classes, slow

    def __len__(self): return self.steps

    def __getitem__(self, step):
        time.sleep(self.slow)
        rng = keyed_rng(self.seed, step)
        reads = rng.integers(1, 200, (self.size, 14))*(rng.random((self.size, 14)) < .6)
        reads[:, [0, 13]] += 1
        y = np.log(reads[:, :7].sum(1)/reads[:, 7:].sum(1))
        sample, asv = reads.nonzero()
        many = (reads > 0).sum(1)
        place = (reads > 0)/many[:, None]
        far = np.abs(place[:, None] - place).sum(2)/2
        target = torch.from_numpy((y > 0) if self.classes else y).float()[:, None]
        return Batch(tokens=ASVS, rows=torch.arange(14), identity=torch.zeros(14, 0),
                     index=torch.arange(self.size), asv=torch.from_numpy(asv),
                     counts=torch.from_numpy(reads[sample, asv]).float(),
                     offsets=torch.from_numpy(np.r_[0, many.cumsum()]), target=target,
                     distance=torch.from_numpy(far).float()[None], masked=with_hidden_patch(rng),
                     key=draw_key(self.seed, step))


def pairs(key=1):
    "A batch of ASVs, one of them without a tip."
    masked = ASVS.clone()
    masked[:, 6:9] = MASK
    distance = torch.cdist(ASVS.float(), ASVS.float())**2
    distance[3] = distance[:, 3] = NAN
    return AsvBatch(tokens=ASVS, masked=masked, rows=torch.arange(14), distance=distance, key=key)


def fresh(seed=0, columns=NUMBER, metrics=("unweighted",), counts=False, **sizes):
    "A small model whose weights follow from the seed."
    sizes = dict(patch=3, width=16, identity=0, sample_width=16, head_width=8, head_dropout=.2) | sizes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AamModel(ModelConfig(**sizes), bases=12, columns=columns, metrics=metrics, counts=counts)


def cpu(): return make_accelerator(RunConfig(device="cpu"))


def grads(model): return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def close(a, b, eps=1e-5):
    "Assert that two sets of named tensors are near each other."
    assert a.keys() == b.keys()
    for k in a: assert torch.allclose(a[k], b[k], atol=eps, rtol=1e-3), (k, (a[k] - b[k]).abs().max())


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
