"""A tree for studies without one: each ASV at the reference tip whose window has the nearest vector. How well
UniFrac along that tree agrees with UniFrac along the study's own: rank correlation over pairs of samples.

    python benchmarks/placement.py qiime-default-reference-0.1.3.tar.gz   # studies are under AAM_DATA
    python benchmarks/placement.py REFERENCE ecam_infant --tips 5000 --tips 20000

`6-mers` places by the nearest 6-mer profile. The last columns are distances that need no tree (Jaccard
beside unweighted, Bray-Curtis beside weighted UniFrac), which a placed tree must beat to be worth anything.
"""
import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from reference import DATA, profiles
from scipy.stats import spearmanr

from aam_nb.batches.windows import Windows
from aam_nb.core import keyed_rng
from aam_nb.data.distances import sample_distances
from aam_nb.data.reference import read_reference
from aam_nb.data.table import read_table
from aam_nb.data.tokens import tokenize
from aam_nb.data.tree import keep_tips, read_tree, shear
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.shipped import find_bundle

METRICS = {"unweighted": "jaccard", "weighted": "braycurtis"}


def agree(one, other):
    "Rank correlation over pairs of samples."
    pairs = np.triu_indices(len(one), 1)
    return spearmanr(one[pairs], other[pairs])[0]


def nearest(vectors, tips):
    "The nearest of some vectors to each of others."
    return np.concatenate([torch.cdist(o, tips).argmin(1).numpy() for o in vectors.split(256)])


@torch.no_grad()
def embed(bundle, tokens):
    "Vectors of tokens."
    return torch.cat([bundle.model.encode(o) for o in torch.from_numpy(tokens).split(256)])


def placed(windows, rows, found):
    "The tree of the tips that were found, and the tip of each ASV in it."
    tips = windows.tips["V4"][rows[found]]
    keep = np.zeros(len(windows.tree.tips), bool)
    keep[tips] = True
    tree, where = keep_tips(windows.tree, keep)
    return tree, where[tips]


def study(name, most=400):
    "Reads of at most so many samples, tokens, and distances along the study's own tree."
    table = read_table(DATA/name/"table.biom")
    counts = table.counts[np.sort(keyed_rng("samples", name).permutation(len(table.sample_ids))[:most])]
    has = np.asarray(counts.sum(0)).ravel() > 0
    sequences, counts = table.sequences[has], counts[:, has]
    own = shear(read_tree(DATA/name/"tree.nwk"), sequences)
    return counts, tokenize(sequences), {o: sample_distances(counts, o, *own) for o in METRICS}


def rows_of(name, windows, bundle, sizes):
    "A line for each number of tips."
    counts, tokens, true = study(name)
    base = [agree(true[k], sample_distances(counts, o)) for k, o in METRICS.items()]
    z, own = embed(bundle, tokens), torch.from_numpy(profiles(tokens))
    for n in sizes:
        rows = keyed_rng("tips", n).permutation(len(windows.tips["V4"]))[:n]
        tips = windows.tokens["V4", "forward"][rows, :tokens.shape[1]]
        ways = [nearest(z, embed(bundle, tips)), nearest(own, torch.from_numpy(profiles(tips)))]
        trees = [placed(windows, rows, o) for o in ways]
        scores = [agree(true[k], sample_distances(counts, k, *o)) for o in trees for k in METRICS]
        used = len(np.unique(trees[0][1]))
        cells = [name, f"{len(rows):,}", f"{used:,} of {len(z):,}", *(f"{o:.3f}" for o in [*scores, *base])]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("reference", type=Path)
    ask.add_argument("studies", nargs="*", default=["ecam_infant", "cfs87", "ibd_crohns_2538"])
    ask.add_argument("--tips", type=int, action="append")
    ask.add_argument("--bundle", default="reference")
    given = ask.parse_args()
    torch.set_num_threads(1)
    windows, bundle = Windows(read_reference(given.reference)), load_bundle(find_bundle(given.bundle))
    print("| study | tips to place at | tips used | unweighted | weighted | unweighted, 6-mers | "
          "weighted, 6-mers | Jaccard | Bray-Curtis |\n|" + "---|"*9)
    for name in given.studies:
        for o in rows_of(name, windows, bundle, given.tips or [5000, 20000]): print(o, flush=True)
