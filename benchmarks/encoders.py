"""What ASV vectors are worth in the same net: those of the shipped encoder, of one pretrained in the study,
of random weights, and principal components of 6-mer profiles. All are frozen.

    python benchmarks/encoders.py ecam_month cfs87     # under AAM_DATA; prints a table for each task
    python benchmarks/encoders.py ibd --ways reference,study run.folds=3 run.seed=7
    python benchmarks/encoders.py ecam_month --bundle runs/reference/bundle

Folds, augmentation, pools, head and draws are the same in every row. What is fitted (pretraining, components,
centre and scale of the vectors) is fitted on the training samples of each fold. `no_tree` pretrains on
hidden bases alone, as a study without a tree does; the other rows need no tree. Intervals are of the paired
difference to `study`, over groups.
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
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

import aam_nb.training.target_stage as stage
from aam_nb.batches.build import build_store
from aam_nb.batches.samples import asvs_in
from aam_nb.data.targets import Targets
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.shipped import find_bundle
from aam_nb.recipe import load_config
from aam_nb.runs.folds import fit_fold
from aam_nb.runs.parts import choose_folds
from aam_nb.runs.prepare import prepare
from aam_nb.training.bench import new_model
from aam_nb.training.encoder_stage import pretrain_asvs
from aam_nb.training.metrics import class_metrics, paired_bootstrap, regression_metrics
from aam_nb.training.outputs import embed_asvs

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
TASKS = dict(
    ecam_month=("ecam_infant", "month_of_life", "host_subject_id", "is_infant == 1", 0),
    ecam_delivery=("ecam_infant", "delivery", "host_subject_id", "is_infant == 1", 0),
    cfs87=("cfs87", "Subject", "", "", 0), ibd=("ibd_crohns_2538", "ibd", "host_subject_id", "", 4000),
    gut_age=("global_gut", "age_years", "", "age_years >= 0", 0),
    gut_country=("global_gut", "country", "", "", 0),
    hmp=("hmp_v35_bodysite", "HMPbodysubsite", "hostsubjectid", "", 0))
WAYS = ("reference", "reference_as_it_is", "study", "no_tree", "random", "kmers")


def ready_for(task, words, out):
    "The study of a task, divided."
    name, target, groups, where, depth = TASKS[task]
    d = DATA/name
    given = dict(table=d/"table.biom", metadata=d/"metadata.tsv", tree=d/"tree.nwk", target=target)
    if where: given["where"] = where
    given["groups" if groups else "independent"] = groups or "true"
    quoted = [f"data.{k}={v}" for k, v in given.items()]
    more = [f"data.depth={depth}", "data.missing=drop", f"run.out={out}", "run.threads=1", "run.folds=3"]
    config = load_config("small", (*quoted, *more, *words))
    return prepare(config, choose_folds, lambda text: None)


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


def vectors(way, bench, bare, bundle, train, fold):
    "Vectors f32 [asvs, 64] by one way."
    store, bases = bench.store, bench.store.tokens.shape[1]
    if way == "kmers": return six_mers(store, train)
    if way.startswith("reference"): return embed_asvs(bundle.model, store.tokens)
    if way == "random": return embed_asvs(new_model(bench, bases, ("random", fold)), store.tokens)
    if way == "no_tree": bench = replace(bench, store=bare)
    return embed_asvs(pretrain_asvs(bench, train, (fold,)), store.tokens)


def scaled(z, rows):
    "Vectors centred and scaled on some of them, as a study's own encoder is."
    z = z - z[rows].mean(0)
    return z*8/z[rows].square().sum(1).mean().sqrt()


def outputs(ready, way, bare, bundle):
    "Out-of-fold predictions of one way, and the seconds that the vectors and all took."
    bench, found, vector_seconds = replace(ready.bench, folder=None, cache=None), {}, 0.
    begun = time.perf_counter()
    for k, ((train, test), inner) in enumerate(zip(ready.parts.outer, ready.parts.inner, strict=True), 1):
        train, test = map(ready.study.positions, (train, test))
        at = time.perf_counter()
        table = vectors(way, bench, bare, bundle, train, k)
        if not way.endswith("as_it_is"): table = scaled(table, torch.from_numpy(asvs_in(bench.store, train)))
        vector_seconds += time.perf_counter() - at
        stage.frozen_embeddings = lambda bench, model, optim, table=table: table
        begin = replace(bench, start=new_model(bench, bench.store.tokens.shape[1]))
        inner = [tuple(map(ready.study.positions, o)) for o in inner]
        made = fit_fold(begin, train, test, inner, k)
        found[k] = (train, test, made)
    return found, vector_seconds, time.perf_counter() - begun


def predictions(ready, found):
    "True values, and predictions of the mean of the inner models: [n], or [n, classes]."
    bench, n = ready.bench, len(ready.study.ids)
    out = None
    for train, test, made in found.values():
        targets = Targets.fit(bench.metadata, bench.config, train=train)
        codec = targets.codecs[0]
        by = np.mean([codec.decode(o) for o in made.get("refit", made["test"])], axis=0)
        if out is None: out = np.full((n, *by.shape[1:]), np.nan)
        out[test] = by
    true = targets.encode(bench.metadata)[:, 0]
    if codec.task == "regression": true = ready.values.to_numpy(np.float64)
    return true, out, codec.task


def score(true, pred, task):
    "R2, or accuracy; AUC for two classes."
    if task == "regression": return regression_metrics(true, pred)["r2"]
    return class_metrics(true, pred)["auc" if pred.shape[1] == 2 else "accuracy"]


def table_of(task, words, ways, bundle):
    "Print the rows of one task."
    with tempfile.TemporaryDirectory() as out:
        ready = ready_for(task, words, Path(out)/"run")
        bare = build_store(replace(ready.study, tree=None, tip=None))
        held = {}
        for way in ways:
            found, vector_seconds, seconds = outputs(ready, way, bare, bundle)
            true, pred, kind = predictions(ready, found)
            held[way] = pred, vector_seconds, seconds
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
    given = ask.parse_intermixed_args()
    torch.set_num_threads(1)
    bundle = load_bundle(find_bundle(given.bundle))
    words = [o for o in given.words if "=" in o]
    for task in (o for o in given.words if "=" not in o):
        table_of(task, words, given.ways.split(","), bundle)
