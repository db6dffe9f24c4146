"What the tests of losses share: distances, columns, labels with holes, hidden reads and hidden bases."
import numpy as np
import torch

from aam_nb.data.tokens import MASK, OTHER, PAD
from aam_nb.sections import REGRESSIONS
from aam_nb.types import Column

NAN = float("nan")
LEVELS = (.1, .5, .95)


def seeded(seed):
    "A generator of its own."
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0, dtype=torch.float32):
    "Normal numbers that are always the same."
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def distances(n, seed=0, dtype=torch.float32):
    "Distances between random points."
    x = rand(n, 5, seed=seed, dtype=dtype)
    return torch.cdist(x, x)


def column(loss="mse", name="y"):
    "A column with this loss; any other word makes it one of four classes."
    if loss not in REGRESSIONS: return Column(name=name, task="classification", outputs=4)
    levels = LEVELS if loss == "quantile" else ()
    return Column(name=name, task="regression", outputs=len(levels) or 1, loss=loss, levels=levels,
                  under=1.7, over=.6)


def labels(n, columns, seed=0, missing=.3):
    "Outputs [n, K], targets [n, t], some of them missing, and weights [n, t], some of them 0."
    g = seeded(seed)
    number = lambda i: 2*rand(n, seed=seed + i, dtype=torch.float64)
    kind = lambda: torch.randint(0, 4, (n,), generator=g).double()
    y = torch.stack([kind() if o.task == "classification" else number(i) for i, o in enumerate(columns)], 1)
    y[torch.rand(y.shape, generator=g) < missing] = NAN
    w = 3*torch.rand(y.shape, generator=g, dtype=torch.float64)
    w[torch.rand(w.shape, generator=g) < .1] = 0.
    return rand(n, sum(o.outputs for o in columns), seed=seed + 9, dtype=torch.float64), y, w


def mixing(n, seed=2):
    "Partners and shares."
    g = seeded(seed)
    return torch.randperm(n, generator=g), torch.rand(n, generator=g)


def hidden_reads(seed=0, samples=6, most=9, dtype=torch.float64):
    "Logits, reads and sample of the hidden pairs of some samples, in a shuffled order."
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most, samples)
    sample = np.repeat(rng.permutation(3*samples)[:samples], sizes)
    order = rng.permutation(len(sample))
    reads = rng.negative_binomial(.4, .01, len(sample))
    reads[np.unique(sample, return_index=True)[1]] += 1
    logits = torch.from_numpy(3*rng.standard_normal(len(sample))).to(dtype)
    return logits, torch.from_numpy(reads[order]).to(dtype), torch.from_numpy(sample[order])


def masked_batch(u=5, p=4, patch=3):
    "Tokens, the view with hidden patches, where those are, and logits."
    g = seeded(0)
    tokens = torch.randint(1, 5, (u, p*patch), generator=g).to(torch.uint8)
    tokens[1, 4] = OTHER
    tokens[2, 9:] = PAD
    places = torch.rand(u, p, generator=g) < .5
    places[2, 3] = False
    masked = tokens.masked_fill(places.repeat_interleave(patch, 1), MASK)
    return tokens, masked, places, torch.randn(int(places.sum()), patch, 4, generator=g)
