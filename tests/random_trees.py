"Random Newick texts, shared by the tests of trees and distances."
import io

import numpy as np


class Noise:
    "What Newick allows beside the bare tree, drawn at random; nothing where `noise` is False."
    def __init__(self, rng, noise): self.rng, self.noise = rng, noise

    def name(self, o):
        if not self.noise: return o
        return [o, f"'{o} (x), it''s [1]; a:b'", f"'{o}_q'", f" {o}\n"][self.rng.integers(4)]

    def label(self): return ["", "", "95", "'k__x; (y)'"][self.rng.integers(4)] if self.noise else ""

    def comment(self):
        return ["", "", "[&R]", "[a [nested] (one), it's]"][self.rng.integers(4)] if self.noise else ""


def random_length(rng):
    "A branch length with its colon, at times 0."
    ways = [f":{rng.exponential():.4g}", ":0", ":0.0", f":{rng.uniform(.1, 1):e}"]
    return ways[rng.choice(4, p=[.6, .1, .1, .2])]


def take(rng, parts):
    "A random part, taken out in constant time: the last one fills the gap."
    i = rng.integers(len(parts))
    parts[i], parts[-1] = parts[-1], parts[i]
    return parts.pop()


def random_newick(rng, n, noise=False):
    """A text with `n` tips: polytomies, branches of length 0, forks with one child, sometimes a stem.

    With `noise`, all that Newick allows. One tip has a length above 0, or it is no tree with distances."""
    some = Noise(rng, noise)
    names = [some.name(f"t{i}") for i in range(n)]
    parts = [o + some.comment() + (random_length(rng) if i else ":.5") for i, o in enumerate(names)]
    while len(parts) > 1:
        mine = [take(rng, parts) for _ in range(min(len(parts), int(rng.integers(2, 5))))]
        new = some.comment() + "(" + ",".join(mine) + ")" + some.label() + random_length(rng)
        if rng.random() < .15: new = f"({new}){some.label()}{random_length(rng)}"
        parts.append(new)
    if rng.random() < .3: return parts[0] + ";\n"
    head, _, _ = parts[0].rpartition(":")
    return (head if n > 1 else f"({parts[0]})") + ";"


def scikit_bio(text):
    "The same tree as scikit-bio reads it."
    from skbio import TreeNode
    return TreeNode.read(io.StringIO(text), convert_underscores=False)


def caterpillar(n):
    "A text as deep as it can be."
    return "("*(n-1) + "t0:1" + "".join(f",t{i}:1):1" for i in range(1, n)) + ";"


def random_counts(rng, samples, asvs):
    "Reads with many zeros; the last sample has one ASV, and at times the one before it has nothing."
    counts = rng.integers(1, 1000, (samples, asvs))*(rng.random((samples, asvs)) < rng.uniform(.1, .9))
    counts[-1] = 0
    counts[-1, rng.integers(asvs)] = 7
    if samples > 3 and rng.random() < .5: counts[-2] = 0
    return counts.astype(np.int32)
