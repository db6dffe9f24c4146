"Random Newick texts, shared by the tests of trees and distances."
import io

import numpy as np


def random_newick(rng, n, noise=False):
    "A text with `n` tips: polytomies, branches of length 0, forks with one child, sometimes a stem. With `noise`, all that Newick allows."
    names = [f"t{i}" for i in range(n)]
    if noise: names = [[o, f"'{o} (x), it''s [1]; a:b'", f"'{o}_q'", f" {o}\n"][rng.integers(4)] for o in names]
    length = lambda: [f":{rng.exponential():.4g}", ":0", ":0.0", f":{rng.uniform(.1, 1):e}"][rng.choice(4, p=[.6, .1, .1, .2])]
    label = lambda: ["", "", "95", "'k__x; (y)'"][rng.integers(4)] if noise else ""
    comment = lambda: ["", "", "[&R]", "[a [nested] (one), it's]"][rng.integers(4)] if noise else ""
    parts = [o + comment() + (length() if i else ":.5") for i, o in enumerate(names)] # One has a length above 0, or it is no tree with distances
    def take(): # In constant time: the last one fills the gap
        i = rng.integers(len(parts)); parts[i], parts[-1] = parts[-1], parts[i]
        return parts.pop()
    while len(parts) > 1:
        mine = [take() for _ in range(min(len(parts), int(rng.integers(2, 5))))]
        new = comment() + "(" + ",".join(mine) + ")" + label() + length()
        if rng.random() < .15: new = f"({new}){label()}{length()}"
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
    "Reads with many zeros; the last samples are one ASV alone and, at times, nothing."
    counts = rng.integers(1, 1000, (samples, asvs))*(rng.random((samples, asvs)) < rng.uniform(.1, .9))
    counts[-1] = 0; counts[-1, rng.integers(asvs)] = 7
    if samples > 3 and rng.random() < .5: counts[-2] = 0
    return counts.astype(np.int32)
