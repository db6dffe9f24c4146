"""Weights of single ASVs that are shrunk to those of their relatives, beside weights that are on their own.

    python benchmarks/clades.py month delivery age country cfs ibd > benchmarks/results/clades.md

A ridge or logistic regression on log ratios of ASVs, whose kernel is (1-a) of that of the log ratios and a of
that of their sums: over the branches of the tree (weights that wander along the tree), over neighbours in the
vectors of the shipped encoder, or, beside them, of log abundances at branches, which is another model. Scores
are of inner folds of the first two outer folds alone, each with its best penalty, by itself and as the mean
with the nets of `net.py run now`, where these were kept (--out). No reported fold is looked at.
"""
import argparse
from pathlib import Path

import net
import numpy as np
from scipy.special import log_softmax

SHARES, SEED = (0., .1, .25, .5, .75, 1.), 42


def along_tree(study, reads, mean):
    "Sums of log ratios below each branch, times the root of its length."
    from aam_nb.data.tree import branch_abundance
    ones = np.ones((1, reads.shape[1]))
    below = branch_abundance(study.tree, study.tip, type(reads)(ones))
    return (branch_abundance(study.tree, study.tip, reads) - mean[:, None]*below)*np.sqrt(study.tree.length)


def near(store, reads, mean, width=512):
    "Sums of log ratios over neighbours in the shipped encoder's space, by random Fourier features."
    from aam_nb.inference.bundle import load_bundle
    from aam_nb.inference.shipped import find_bundle
    from aam_nb.training.outputs import embed_asvs
    rng = np.random.default_rng(0)
    e = embed_asvs(load_bundle(find_bundle("reference")).model, store.tokens).numpy().astype(float)
    some = e[rng.permutation(len(e))[:500]]
    reach = np.median(np.linalg.norm(some[:, None] - some, axis=2))/4
    angles = e @ rng.normal(size=(e.shape[1], width))/reach + rng.uniform(0, 2*np.pi, width)
    waves = np.sqrt(2/width)*np.cos(angles)
    return reads @ waves - mean[:, None]*waves.sum(0)


def kernels(ready):
    "Inner products of samples, by what they are of; each with a mean squared length of 1."
    from aam_nb.stack.features import branch_gram, clr_gram, loud
    counts = ready.study.table.counts
    reads = loud(counts)
    mean = np.asarray(reads.mean(1)).ravel()
    sums = dict(tree=along_tree(ready.study, reads, mean), vectors=near(ready.bench.store, reads, mean))
    grams = dict(asvs=clr_gram(counts), branches=branch_gram(ready.study))
    grams |= {k: v @ v.T for k, v in sums.items()}
    return {k: scaled(v) for k, v in grams.items()}


def scaled(gram):
    "A kernel with a mean squared length of 1 about its centre."
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    return gram/np.trace(centred)*len(gram)


def outputs(gram, y, train, classes):
    "Numbers, or logarithms of probabilities, of all samples for each penalty: [n, outputs, penalties]."
    from aam_nb.stack.features import coordinates
    from aam_nb.stack.penalised import grid, logistic, ridge
    z, squares = coordinates(gram, train)
    at = (grid[::2] if classes else grid)*squares.sum()/len(train)
    if not classes: return ridge(z, squares, y, train, at)[:, None]
    return np.log(np.maximum(logistic(z, y.astype(int), classes, train, at), 1e-9))


def losses(out, y, classes):
    "Squared errors, or log losses, of samples."
    if not classes: return (out[:, 0] - y)**2
    return -log_softmax(out, axis=1)[np.arange(len(y)), y.astype(int)]


def task_folds(ready, task, out):
    "For each of two outer folds: truth, number of classes, inner rows, and what the nets said, if kept."
    from aam_nb.data.targets import Targets
    path = out/f"net-now-{task}-{SEED}.npz"
    saved = net.kept(path, dict) if path.exists() else {}
    for k in (1, 2):
        train = ready.study.positions(ready.parts.outer[k - 1][0])
        codecs = Targets.fit(ready.bench.metadata, ready.bench.config, train=train)
        said = np.full((len(ready.study.ids), codecs.outputs), np.nan)
        if saved: said[train] = saved[f"net oof {k}"]
        inner = [tuple(map(ready.study.positions, o)) for o in ready.parts.inner[k - 1]]
        yield codecs.encode(ready.bench.metadata)[:, 0], len(codecs.codecs[0].classes), inner, said


def scores(gram, folds):
    "R2 or log loss over the inner folds, of the regression alone and of its mean with the net."
    found = []
    for y, classes, inner, said in folds:
        alone, both, spread = 0, 0, 0
        for train, valid in inner:
            out = outputs(gram, y, train, classes)[valid]
            alone = alone + losses(out, y[valid][:, None] if not classes else y[valid], classes).sum(0)
            mixed = (out + said[valid][:, :, None])/2
            both = both + losses(mixed, y[valid][:, None] if not classes else y[valid], classes).sum(0)
            spread += ((y[valid] - y[train].mean())**2).sum() if not classes else len(valid)
        pair = np.array([np.min(alone), np.min(both)])/spread
        found.append(pair if classes else 1 - pair)
    return np.mean(found, axis=0)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tasks", nargs="+", choices=list(net.TASKS))
    p.add_argument("--out", type=Path, default=net.ROOT/"runs/net")
    args = p.parse_args()
    print("| task | sums over | " + " | ".join(f"a = {o:g}" for o in SHARES) + " |")
    print("|---|---|" + "---|"*len(SHARES))
    for task in args.tasks:
        ready = net.prepared(task, SEED, (), args.out)
        folds, made = list(task_folds(ready, task, args.out)), kernels(ready)
        for what in ("tree", "vectors", "branches"):
            each = [scores((1 - o)*made["asvs"] + o*made[what], folds) for o in SHARES]
            cells = " | ".join(f"{a:.3f}, {b:.3f}" for a, b in each)
            print(f"| {task} | {what} | {cells} |", flush=True)


if __name__ == "__main__": main()
