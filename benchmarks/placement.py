"""A tree for studies without one: each ASV beside the gene of a reference that shares most of its words. How
well UniFrac along that tree agrees with UniFrac along the study's own: rank correlation over sample pairs.

    python benchmarks/placement.py                     # studies under AAM_DATA, the tips of the package
    python benchmarks/placement.py cfs87 --reference REFERENCE --tips 5000 --tips 20000
    python benchmarks/placement.py --reference REFERENCE --ship # makes those tips

REFERENCE is qiime-default-reference-0.1.3.tar.gz (`pip download --no-deps --no-binary :all:`), or its folder.

The last columns are distances that need no tree (Jaccard beside unweighted, Bray-Curtis beside weighted
UniFrac), which a placed tree must beat to be worth anything. Kept in benchmarks/results/placement.md.
"""
import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from reference import DATA, STUDIES
from scipy.stats import spearmanr

from aam_nb.core import keyed_rng
from aam_nb.data.distances import sample_distances
from aam_nb.data.placed import NEAR, nearest_tips, placed_tree
from aam_nb.data.reference import read_reference
from aam_nb.data.table import read_table
from aam_nb.data.tip_set import find_tips, read_tips, SHIPPED, some_tips, write_tips
from aam_nb.data.tree import read_tree, shear

METRICS = {"unweighted": "jaccard", "weighted": "braycurtis"}


def agree(one, other):
    "Rank correlation over pairs of samples."
    pairs = np.triu_indices(len(one), 1)
    return spearmanr(one[pairs], other[pairs])[0]


def study(name, most=400):
    "Reads of at most so many samples, their ASVs, and distances along the study's own tree."
    table = read_table(DATA/name/"table.biom")
    counts = table.counts[np.sort(keyed_rng("samples", name).permutation(len(table.sample_ids))[:most])]
    has = np.asarray(counts.sum(0)).ravel() > 0
    sequences, counts = table.sequences[has], counts[:, has]
    own = shear(read_tree(DATA/name/"tree.nwk"), sequences)
    return counts, sequences, {o: sample_distances(counts, o, *own) for o in METRICS}


def rows_of(name, sets):
    "A line for each set of tips."
    counts, sequences, true = study(name)
    base = [agree(true[k], sample_distances(counts, o)) for k, o in METRICS.items()]
    for tips in sets:
        at, share = nearest_tips(sequences, tips)
        tree = shear(placed_tree(sequences, tips), sequences)
        scores = [agree(true[k], sample_distances(counts, k, *tree)) for k in METRICS]
        near = share >= NEAR
        cells = [name, f"{len(tips.genes):,}", f"{len(np.unique(at[near])):,}",
                 f"{near.sum():,} of {len(near):,}", f"{np.median(share[near]):.0%}"]
        yield f"| {' | '.join([*cells, *(f'{o:.3f}' for o in [*scores, *base])])} |"


def tip_sets(reference, sizes):
    "The tips of the package, or sets that are drawn now."
    if not sizes: return [read_tips(find_tips("reference"))]
    made = read_reference(reference)
    return [some_tips(made, o) for o in sizes]


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("studies", nargs="*", default=STUDIES)
    ask.add_argument("--reference", type=Path)
    ask.add_argument("--tips", type=int, action="append")
    ask.add_argument("--ship", action="store_true")
    given = ask.parse_args()
    if given.ship:
        print(write_tips(SHIPPED/"reference.tips.xz", some_tips(read_reference(given.reference))))
    print("| study | tips | tips used | ASVs near one | words in common, median | unweighted | weighted | "
          "Jaccard | Bray-Curtis |\n|" + "---|"*9)
    sets = tip_sets(given.reference, given.tips)
    for name in given.studies:
        for o in rows_of(name, sets): print(o, flush=True)
