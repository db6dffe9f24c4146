"""What the tests of defects share.

The program that this one follows has defects, found by running or reading it. They are numbered A1 and up
(what could not be done at all) and B1 and up (what came out wrong). Each has a test in `test_defects_*.py`
that would catch it here. Some cannot occur here as they were, because the part is not there. What took its
place is tested:

- A7, A9, B4, B17, B26, a save that hangs, settings lost behind a wrapper, and pairs and metrics of several
  processes: a run has one process and wraps nothing.
- A10, B22, accumulated steps whose tail is not counted, not clipped and divided by the wrong number: a batch
  of any size is one step, in little memory.
- B6, a schedule that is stepped twice: the rate is a function of the step, and nothing is stepped.
- B20, an attention kernel that the mask forbids: kernels are no option; PyTorch picks one for the mask it is
  given (no test).
- B24, histograms that are logged when they are gone: there are none; the norm of the gradient is taken before
  the step.
"""
from dataclasses import replace

import numpy as np
import torch

from aam_nb.core import draw_key
from aam_nb.model.aam import AamModel
from aam_nb.sections import ModelConfig, RunConfig
from aam_nb.training.parallel import make_accelerator
from aam_nb.types import Batch, Column, Covariates

NAN = float("nan")
NUMBER, KIND = Column(name="y", task="regression"), Column(name="kind", task="classification", outputs=3)
TOLD = Covariates(chains=(("diet",), ("country", "city")), sizes=(3, 2, 5), numbers=("bmi",))
FUSIONS = ("concat", "add", "gated", "cross", "perceiver")
CPU = make_accelerator(RunConfig(device="cpu"))


def quiet(text): pass


def model_of(columns=(NUMBER,), metrics=(), covariates=None, counts=False, seed=0, **sizes):
    "A small model without dropout, its weights from a seed."
    small = dict(patch=4, width=16, layers=1, heads=2, identity=0, sample_width=16, sample_layers=1,
                 head_width=8, head_dropout=0., latents=4, latent_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AamModel(ModelConfig(**small | sizes), bases=20, columns=columns, metrics=metrics,
                        covariates=covariates, counts=counts)


def batch_of(lengths=(5, 3, 7, 4, 6, 2), targets=1, told=False, seed=0):
    "Samples of as many ASVs as asked for, out of twelve."
    rng = np.random.default_rng(seed)
    b = len(lengths)
    asv = np.concatenate([np.sort(rng.permutation(12)[:n]) for n in lengths])
    covariates = {}
    if told:
        codes = np.stack([rng.integers(2, o + 2, b) for o in TOLD.sizes], 1)
        covariates["category"] = torch.from_numpy(codes)
        covariates["number"] = torch.from_numpy(rng.normal(size=(b, 1))).float()
    tokens = torch.from_numpy(np.random.default_rng(7).integers(1, 5, (12, 20)).astype("uint8"))
    return Batch(tokens=tokens, rows=torch.arange(12), identity=torch.zeros(12, 0), asv=torch.from_numpy(asv),
                 counts=torch.from_numpy(rng.integers(1, 300, len(asv))).float(),
                 offsets=torch.from_numpy(np.r_[0, np.cumsum(lengths)]), index=torch.arange(b),
                 target=torch.from_numpy(rng.normal(size=(b, targets))).float(),
                 key=draw_key("defects", seed), **covariates)


def taken(batch, order):
    "Samples of a batch in another order, or only some of them."
    pairs = torch.cat([torch.arange(batch.offsets[i], batch.offsets[i + 1]) for i in order])
    rows = torch.as_tensor(order)
    held = {k: getattr(batch, k)[rows] for k in ("index", "target", "category", "number", "weight")
            if getattr(batch, k) is not None}
    lengths = batch.offsets.diff()[rows]
    return replace(batch, asv=batch.asv[pairs], counts=batch.counts[pairs],
                   offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]), **held)


def said(model, batch):
    "What a model in evaluation mode says of a batch."
    with torch.no_grad(): return model.eval()(batch)
