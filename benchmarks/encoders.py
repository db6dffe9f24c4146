"""What ASV vectors are worth in the same net: those of the shipped encoder, of one pretrained in the study,
of random weights, and principal components of 6-mer profiles. All are frozen.

    python benchmarks/encoders.py month cfs     # under AAM_DATA; prints a table for each task
    python benchmarks/encoders.py ibd --ways reference,study run.folds=5
    python benchmarks/encoders.py month --bundle runs/reference/bundle
    python benchmarks/encoders.py hmp --keep runs/encoders   # goes on with what an earlier call left there

Folds, augmentation, pools, head and draws are the same in every row. What is fitted (pretraining, components,
centre and scale of the vectors) is fitted on the training samples of each fold. `study` learns the study's
tree, `placed_tree` that of `--tree reference`, and `no_tree` hidden bases alone. The shipped encoder reads no
tree, so `reference` is its row with and without one; `reference_branches` has the net's linear path along the
tree of the study (`model.linear`). Intervals are of the paired difference to `study`, over groups.
"""
import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from net import prepared, TASKS
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

import aam_nb.training.target_stage as stage
from aam_nb.batches.build import build_store
from aam_nb.batches.samples import asvs_in
from aam_nb.data.placed import placed_tree
from aam_nb.data.targets import Targets
from aam_nb.data.tip_set import find_tips, read_tips
from aam_nb.data.tree import shear
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.shipped import find_bundle
from aam_nb.runs.folds import fit_fold
from aam_nb.training.bench import new_model
from aam_nb.training.encoder_stage import pretrain_asvs
from aam_nb.training.metrics import class_metrics, paired_bootstrap, regression_metrics
from aam_nb.training.outputs import embed_asvs

SEED = 42
WAYS = ("reference", "kmers", "random", "no_tree", "placed_tree", "study", "reference_branches")
SETTINGS = ("run.folds=3", "run.inner=2") # What is not as in `small`; words of the command line come on top


def six_mers(store, train):
    "64 principal components of 6-mer profiles, fitted on the ASVs of training samples."
    letters = np.where((store.tokens >= 1) & (store.tokens <= 4), store.tokens - 1, 4).astype(np.int64)
    n = letters.shape[1] - 5
    code = sum(letters[:, k:k+n]*4**k for k in range(6))
    sure = np.all([letters[:, k:k+n] < 4 for k in range(6)], axis=0)
    row, _ = np.nonzero(sure)
    counts = sparse.csr_matrix((np.ones(len(row), np.float32), (row, code[sure])), shape=(len(letters), 4**6))
    mean = np.asarray(counts[asvs_in(store, train)].mean(0))
    svd = TruncatedSVD(64, random_state=0).fit(counts[asvs_in(store, train)])
    return torch.from_numpy((svd.transform(counts) - svd.transform(mean)).astype(np.float32))


def vectors(way, bench, stores, bundle, train, fold):
    "Vectors f32 [asvs, 64] by one way."
    store, bases = bench.store, bench.store.tokens.shape[1]
    if way == "kmers": return six_mers(store, train)
    if way.startswith("reference"): return embed_asvs(bundle.model, store.tokens)
    if way == "random": return embed_asvs(new_model(bench, bases, ("random", fold)), store.tokens)
    bench = replace(bench, store=stores.get(way, bench.store))
    return embed_asvs(pretrain_asvs(bench, train, (fold,)), store.tokens)


def scaled(z, rows):
    "Vectors centred and scaled on some of them, as a study's own encoder is."
    z = z - z[rows].mean(0)
    return z*8/z[rows].square().sum(1).mean().sqrt()


def with_path(bench, way):
    "The bench, with a linear path along the tree where the way has one."
    if not way.endswith("_branches"): return bench
    config = bench.config
    return replace(bench, config=replace(config, model=replace(config.model, linear="branches")))


def outputs(ready, way, stores, bundle):
    "Out-of-fold predictions of one way, and the seconds that the vectors and all took."
    bench, found, vector_seconds = ready.bench, {}, 0.
    begun = time.process_time()
    for k, ((train, test), inner) in enumerate(zip(ready.parts.outer, ready.parts.inner, strict=True), 1):
        train, test = map(ready.study.positions, (train, test))
        at = time.process_time()
        table = vectors(way, bench, stores, bundle, train, k)
        if not way.endswith("as_it_is"): table = scaled(table, torch.from_numpy(asvs_in(bench.store, train)))
        vector_seconds += time.process_time() - at
        stage.frozen_embeddings = lambda bench, model, optim, table=table: table
        begin = replace(with_path(bench, way), start=new_model(bench, bench.store.tokens.shape[1]))
        inner = [tuple(map(ready.study.positions, o)) for o in inner]
        made = fit_fold(begin, train, test, inner, k)
        found[k] = (train, test, made)
    return found, vector_seconds, time.process_time() - begun


def predictions(ready, found):
    "Predictions, of the refitted model or of the mean of the inner ones: [n], or [n, classes]."
    bench, n = ready.bench, len(ready.study.ids)
    out = None
    for train, test, made in found.values():
        targets = Targets.fit(bench.metadata, bench.config, train=train)
        codec = targets.codecs[0]
        by = np.mean([codec.decode(o) for o in made.get("refit", made["test"])], axis=0)
        if out is None: out = np.full((n, *by.shape[1:]), np.nan)
        out[test] = by
    return out


def score(true, pred, task):
    "R2, or accuracy; AUC for two classes."
    if task == "regression": return regression_metrics(true, pred)["r2"]
    return class_metrics(true, pred)["auc" if pred.shape[1] == 2 else "accuracy"]


def made(ready, way, bundle, stores, kept):
    "Predictions of one way, and the seconds that its vectors and all took: made now, or taken up again."
    if kept and kept.is_file():
        with np.load(kept, allow_pickle=False) as o: return o["pred"], *map(float, o["seconds"])
    found, vector_seconds, seconds = outputs(ready, way, stores, bundle)
    pred = predictions(ready, found)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, pred=pred, seconds=[vector_seconds, seconds])
    return pred, vector_seconds, seconds


def other_stores(study):
    "The study without a tree, and with one along the reference, by way."
    sequences = study.table.sequences
    placed, tip = shear(placed_tree(sequences, read_tips(find_tips("reference"))), sequences)
    return dict(no_tree=build_store(replace(study, tree=None, tip=None, store=None)),
                placed_tree=build_store(replace(study, tree=placed, tip=tip, store=None)))


def truth(ready):
    "True values [n], numbers or numbers of classes, and the task."
    every = np.arange(len(ready.study.ids))
    codec = Targets.fit(ready.bench.metadata, ready.bench.config, train=every).codecs[0]
    if codec.task == "regression": return ready.values.to_numpy(np.float64), codec.task
    return Targets((codec,)).encode(ready.bench.metadata)[:, 0], codec.task


def table_of(task, words, ways, bundle, keep):
    "Print the rows of one task."
    with tempfile.TemporaryDirectory() as out:
        ready = prepared(task, SEED, (*SETTINGS, *words), Path(out))
        stores, held = other_stores(ready.study), {}
        for way in ways:
            held[way] = made(ready, way, bundle, stores, keep and keep/task/f"{way}.npz")
            print(f"<!-- {task} {way}: {held[way][2]:.0f} s -->", flush=True)
    true, kind = truth(ready)
    known = np.isfinite(true)
    groups = np.arange(len(true)) if ready.groups is None else np.asarray(ready.groups)
    print(f"\n## {task}: {'R2' if kind == 'regression' else 'AUC, or accuracy of many classes'}, "
          f"{known.sum()} samples\n\n| vectors | score | minus study | s for the vectors | s in all |\n"
          "|---|---|---|---|---|")
    for way, (pred, a, b) in held.items():
        print(f"| {way} | {score(true[known], pred[known], kind):.3f} | "
              f"{difference(true, pred, held, known, groups, kind)} | {a:.0f} | {b:.0f} |", flush=True)


def difference(true, pred, held, known, groups, kind):
    "The score minus that of `study`, with its interval over groups."
    if "study" not in held: return ""
    parts = (o[known] for o in (true, pred, held["study"][0], groups))
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*paired_bootstrap(lambda *o: score(*o, kind), *parts))


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("words", nargs="+", help=f"tasks ({', '.join(TASKS)}) and section.key=value")
    ask.add_argument("--ways", default=",".join(WAYS), help="separated by commas")
    ask.add_argument("--bundle", default="reference")
    ask.add_argument("--keep", type=Path, help="folder for predictions, from which a later call goes on")
    given = ask.parse_intermixed_args()
    torch.set_num_threads(1)
    bundle = load_bundle(find_bundle(given.bundle))
    words = [o for o in given.words if "=" in o]
    for task in (o for o in given.words if "=" not in o):
        table_of(task, words, given.ways.split(","), bundle, given.keep)
