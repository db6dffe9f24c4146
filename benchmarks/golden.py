"""Shows that a change to the code leaves its results as they were: predictions, scores, folds and final
weights of many kinds of runs. Run it before the change and after it, on the same machine, and compare what
the two wrote.

    python benchmarks/golden.py write BEFORE            run every case and keep what it made; minutes
    python benchmarks/golden.py write AFTER --only demo run the cases that are named
    python benchmarks/golden.py compare BEFORE AFTER    say what is the same to the bit or to 1e-6

Every case goes through the command line, so the same script serves both versions; PYTHONPATH picks the code
that runs. It runs on one thread, so that sums have one order. AAM_DATA names the folder of real studies
(default ../shared/data), which all cases but `demo` need.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
TINY = DATA/"tiny_ecam60"
FILES = [f"data.table='{TINY}/table.biom'", f"data.metadata='{TINY}/metadata.tsv'",
         f"data.tree='{TINY}/tree.nwk'"]
GROUPS = ["data.groups=host_subject_id"]
MONTH = [*FILES, *GROUPS, "data.target=month_of_life"]
BIRTH = [*FILES, *GROUPS, "data.target=delivery"]
SHORT = ["pretrain_asv.steps=30", "pretrain_asv.every=10", "optim.steps=40", "optim.every=10"]
TRAINED = ["optim.freeze=false", "optim.chunk=32", "optim.steps=12", "optim.every=4", "pretrain_asv.steps=20"]
PAIRS = ["pretrain_sample.steps=20", "pretrain_sample.every=10", "loss.distance=0.3"]

# Name of a case: a command, and its overrides
CASES = {
    "demo": ("demo", []),
    "month_frozen": ("train", [*MONTH, *SHORT]),
    "month_trained": ("train", [*MONTH, *SHORT, *TRAINED]),
    "birth_frozen": ("train", [*BIRTH, *SHORT]),
    "birth_trained": ("train", [*BIRTH, *SHORT, *TRAINED, "target.class_weights=balanced"]),
    "covariates": ("train", [*MONTH, *SHORT, "data.covariates=diet,sex/delivery", "model.fusion=gated",
                             "target.loss=huber"]),
    "cross": ("train", [*BIRTH, *SHORT, "data.covariates=diet", "model.fusion=cross", "model.scale_by=diet",
                        "augment.mixup=0"]),
    "two_targets": ("train", [*FILES, *GROUPS, "data.target=month_of_life,delivery", *SHORT,
                              "target.bounds='month_of_life=0:'"]),
    "distances": ("train", [*MONTH, *SHORT, *PAIRS, "loss.metric=unweighted,braycurtis,aitchison,faith_pd"]),
    "attention": ("train", [*MONTH, *SHORT, *TRAINED, *PAIRS, "model.sample=attention",
                            "model.readout=attention", "model.patch=3", "loss.counts=0.2",
                            "pretrain_sample.freeze=false", "loss.span=2"]),
    "pools": ("train", [*MONTH, *SHORT, *PAIRS, "model.sample=both", "model.abundance=clr",
                        "model.pools=clade,presence,mean,attention,sum",
                        "loss.metric=generalized,weighted", "data.limit=20", "data.select=random"]),
    "linear": ("train", [*MONTH, *SHORT, "model.linear=both", "model.components=8", "model.depth=true",
                         "target.loss=quantile"]),
    "augmented": ("train", [*BIRTH, *SHORT, *TRAINED, "augment.mix=reads", "augment.jitter=dirichlet",
                            "augment.substitution=0.01", "augment.window=10", "augment.reverse=0.1",
                            "loss.tree=0", "augment.shuffle=true"]),
    "two_months": ("evaluate", [*MONTH, *SHORT, "run.folds=3", "data.depth=500"]),
    "two_births": ("evaluate", [*BIRTH, *SHORT, "run.folds=3", "run.inner=3", "run.repeats=2"]),
    "two_both": ("evaluate", [*FILES, *GROUPS, "data.target=month_of_life,delivery", *SHORT, "run.folds=2"]),
    "pretrained": ("pretrain", [*FILES, "pretrain_asv.steps=30", "pretrain_asv.every=10",
                                "pretrain_sample.steps=20", "pretrain_sample.every=10",
                                "loss.metric=unweighted,jaccard"]),
    "looked_at": ("inspect", [*MONTH]),
}
KEPT = {".tsv", ".safetensors", ".json", ".jsonl"}
SKIPPED = {"versions.json", "config.json"}
SCRATCH = {"store", "cache", "checkpoint", "checkpoints"} # Folders of a run that are no results
TIMES = {"time", "seconds", "created", "elapsed"}
RENAMED = {"told": "covariates"} # Words of files that mean the same under another name


def aam(*words):
    "Run the command line of the code that PYTHONPATH picks."
    code = "from aam_nb.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True,
                          cwd="/")
    if done.returncode:
        raise SystemExit(f"aam {' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def keep(run, to):
    "Copy the small files that say what a run found."
    for path in sorted(run.rglob("*")):
        inner = path.relative_to(run)
        if path.suffix not in KEPT or path.name in SKIPPED or SCRATCH & set(inner.parts): continue
        (to/inner).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to/inner)


def run_case(name, folder):
    "One case, and the use of its bundle."
    command, words = CASES[name]
    work = folder/"work"/name
    base = ["--out", work, "--threads", "1", "--overwrite"]
    if command == "inspect": aam(command, "demo", *words, "--out", work, "--overwrite")
    else: aam(command, *([] if command == "demo" else ["demo"]), *base, *words)
    bundle = work/"bundle"
    if bundle.is_dir() and command in ("train", "pretrain"):
        told = ["--metadata", TINY/"metadata.tsv"] if any("covariates" in o for o in words) else []
        if command == "train":
            aam("predict", "--bundle", bundle, "--table", TINY/"table.biom", *told, "--out",
                work/"all_predictions.tsv", "--overwrite")
        aam("embed", "--bundle", bundle, "--table", TINY/"table.biom", "--out", work/"all_embeddings.tsv",
            "--overwrite")
    keep(work, folder/"kept"/name)


def write(folder, only):
    "Run every case."
    for name in only or CASES:
        begun = time.perf_counter()
        run_case(name, folder)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    shutil.rmtree(folder/"work", ignore_errors=True)


def stripped(value):
    "A JSON value without what may differ between two equal runs."
    if isinstance(value, dict): return {k: stripped(v) for k, v in value.items() if k not in TIMES}
    return [stripped(o) for o in value] if isinstance(value, list) else value


def weights_of(path):
    "Names and numbers of a file of weights, in order."
    from safetensors.numpy import load_file
    found = []
    for name, values in sorted(load_file(path).items()):
        found += [name, *values.astype(np.float64).ravel().tolist()]
    return found


def json_words(path):
    "Numbers and words of a file of one JSON value, or of one a line, in order."
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(o) for o in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    return re.sub(r"[][{},]", " ", json.dumps(stripped(rows))).split()


def numbers_of(path):
    "Numbers and words of a kept file, in order."
    if path.suffix == ".safetensors": return weights_of(path)
    if path.suffix != ".tsv": return [as_number(o) for o in json_words(path)]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [as_number(o) for line in lines for o in line.split("\t")]


def as_number(cell):
    "A number where the cell is one; a word under its present name."
    try: return float(cell)
    except ValueError: return re.sub(r'^("?)(\w+)(?=[":]|$)', lambda m: m[1] + RENAMED.get(m[2], m[2]), cell)


def farthest(a, b):
    """Largest difference of two lists of numbers and words, relative to 1 or more; None where words or
    lengths differ."""
    if len(a) != len(b): return None
    most = 0.
    for x, y in zip(a, b):
        if isinstance(x, str) or isinstance(y, str):
            if x != y: return None
        elif x != y and not (np.isnan(x) and np.isnan(y)): most = max(most, abs(x - y)/max(1, abs(x)))
    return most


def kept_in(folder):
    "The files of all cases, by their paths."
    return {p.relative_to(folder/"kept") for p in (folder/"kept").rglob("*") if p.is_file()}


def report(path, apart):
    "Say how far a file is from what it was; 1 where that is too far, and otherwise 0."
    if apart is None: print(f"DIFFERS (words): {path}")
    elif apart > 1e-6: print(f"DIFFERS ({apart:.2e}): {path}")
    elif apart: print(f"the same to 1e-6 ({apart:.1e}): {path}")
    return int(apart is None or apart > 1e-6)


def compare(before, after):
    "Print what differs; returns 1 where something does by more than 1e-6."
    wrong = same = 0
    old, new = kept_in(before), kept_in(after)
    for o in sorted(old - new): print(f"gone: {o}")
    for o in sorted(new - old): print(f"new: {o}")
    for o in sorted(old & new):
        apart = farthest(numbers_of(before/"kept"/o), numbers_of(after/"kept"/o))
        same += apart == 0
        wrong += report(o, apart)
    print(f"{same} of {len(old & new)} files are the same to the bit, {wrong} differ, "
          f"{len(old - new)} are gone")
    return int(bool(wrong or old - new))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("act", choices=["write", "compare"])
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--only", nargs="*", choices=CASES)
    args = p.parse_args()
    if args.act == "write": return write(args.folders[0].absolute(), args.only)
    return compare(*args.folders)


if __name__ == "__main__": sys.exit(main())
