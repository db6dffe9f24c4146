"""How near `--batch-size auto` comes to the largest number of samples that fit, in one process and in two.

    python benchmarks/batch_size.py            one process, samples of unequal size
    python benchmarks/batch_size.py --two      two processes that share each step, samples of equal size

Brute force: the stage is trained in new processes, by the loop of every training and with nothing of the
search, and the peak that the kernel noted decides whether a size fits. Sizes are halved until the largest
that fits lies next to the smallest that does not. The search is that of the run, with the same limit.
Result: results/batch_size.md
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import sparse

SAMPLES, ASVS = 48, 700


def study(equal):
    "Samples of a few hundred ASVs, all alike or with numbers that differ eightfold."
    from aam_nb.types import Study, Table, strings
    rng = np.random.default_rng(0)
    sizes = np.full(SAMPLES, 350) if equal else np.linspace(80, 640, SAMPLES).astype(int)
    counts = np.zeros((SAMPLES, ASVS), np.int32)
    for row, n in zip(counts, sizes, strict=True):
        row[rng.choice(ASVS, n, replace=False)] = rng.integers(1, 99, n)
    seqs = set()
    while len(seqs) < ASVS: seqs.add("".join(rng.choice(list("ACGT"), 60)))
    table = Table(counts=sparse.csr_matrix(counts), sample_ids=strings([f"S{i}" for i in range(SAMPLES)]),
                  sequences=strings(sorted(seqs)))
    import pandas as pd
    metadata = pd.DataFrame({"age": rng.normal(size=SAMPLES)}, index=pd.Index(table.sample_ids, name="id"))
    return Study(table=table, metadata=metadata)


def config_of(memory):
    "A set transformer on the samples; the encoder is frozen."
    from aam_nb.config import config_from
    return config_from({
        "model": {"sample": "attention", "sample_width": 128, "sample_layers": 4, "heads": 4},
        "data": {"target": "age", "independent": True}, "augment": {"rarefy": 0., "asv_dropout": 0.},
        "pretrain_asv": {"steps": 0}, "optim": {"batch": SAMPLES, "steps": 2},
        "run": {"device": "cpu", "threads": 1, "batch_size": "auto", "memory": memory}})


def bench_of(folder, memory):
    "The bench of the study in a folder, with the processes that a launcher started."
    from aam_nb.batches.store import open_store
    from aam_nb.training.bench import Bench
    from aam_nb.training.parallel import make_accelerator
    from aam_nb.training.ranks import ranks_of
    config, store = config_of(memory), open_store(folder)
    accelerator = make_accelerator(config.run)
    return Bench(config=config, store=store, accelerator=accelerator, metadata=store.metadata,
                 ranks=ranks_of(accelerator))


def train(folder, n, equal):
    "Two steps that hold `n` samples at once; prints the peak of this process."
    from aam_nb.batches.largest import LargestBatches
    from aam_nb.training.loop import fit
    from aam_nb.training.memory import peak
    from aam_nb.training.target_stage import codecs, target_stage
    from aam_nb.training.encoder_stage import asv_stage
    bench, rows = bench_of(folder, 0.), np.arange(SAMPLES)
    import torch
    blank = torch.zeros(len(bench.store.tokens), bench.config.model.width)
    made = target_stage(bench, asv_stage(bench, rows)[0], *codecs(bench, rows), rows, embeddings=blank)
    source = made[2] if equal else LargestBatches(made[2])
    optim = replace(bench.config.optim, at_once=n)
    found = fit(made[1], source, optim, bench.accelerator, ranks=bench.ranks)
    assert found.steps == 2
    print(json.dumps(dict(peak=peak())), flush=True)


def search(folder, memory):
    "What the run finds; prints it."
    from aam_nb.runs.held import search
    bench = bench_of(folder, memory)
    found = search(bench, "optim", bench.ranks.world)
    tried = [(o.sizes, o.fits) for o in found.trials]
    print(json.dumps(dict(rank=bench.ranks.rank, n=found.n, cap=found.cap, tried=tried)), flush=True)


def start(words, world):
    "Run this file in one process or several; what each of them printed as JSON."
    me = [str(Path(__file__).resolve()), *map(str, words)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    command = [sys.executable, *(torchrun if world > 1 else ()), *me]
    environ = os.environ | dict(OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environ)
    if done.returncode: raise SystemExit(done.stderr[-3000:])
    return [json.loads(o) for o in done.stdout.splitlines() if o.startswith("{")]


def peak_of(folder, n, world):
    "The largest peak among the processes of a training."
    return max(o["peak"] for o in start(["--train", folder, n] + ["--two"]*(world > 1), world))


def brute_force(folder, sizes, limit, world):
    "Peaks by size, for sizes that are halved until the border of what fits is found."
    peaks, low, high = {}, -1, len(sizes)
    while high - low > 1:
        at = (low + high)//2
        peaks[sizes[at]] = peak_of(folder, sizes[at], world)
        if peaks[sizes[at]] <= limit: low = at
        else: high = at
    return dict(sorted(peaks.items()))


def compare(world, limit):
    "Search and brute force on one study; a report in lines of Markdown."
    from aam_nb.batches.build import build_store
    from aam_nb.training.batch_size import piece_sizes
    with tempfile.TemporaryDirectory() as folder:
        build_store(study(world > 1), Path(folder)/"store")
        begun = time.perf_counter()
        found = start(["--search", Path(folder)/"store", limit/1e9], world)
        seconds = time.perf_counter() - begun
        peaks = brute_force(Path(folder)/"store", piece_sizes(-(-SAMPLES//world)).tolist(), limit, world)
    best = max(n for n, peak in peaks.items() if peak <= limit)
    yield f"## {world} process{'es'*(world > 1)}, a limit of {limit/1e6:,.0f} MB for each\n"
    yield "| samples at once | peak, MB | fits |\n|---:|---:|---|"
    for n, peak in peaks.items(): yield f"| {n} | {peak/1e6:,.0f} | {'yes' if peak <= limit else 'no'} |"
    for o in found:
        tried = "; ".join(f"tried {a}, fits {b or 'none'}" for a, b in o["tried"])
        yield (f"\nProcess {o['rank']}: found {o['n']} of {o['cap']}, brute force {best} "
               f"({o['n']/best:.0%}), in {len(o['tried'])} trials: {tried}")
    yield f"\nThe search took {seconds:.0f} s.\n"


if __name__ == "__main__":
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--two", action="store_true")
    parser.add_argument("--limit", type=float, default=800., help="MB that a process may hold")
    parser.add_argument("--train", nargs=2)
    parser.add_argument("--search", nargs=2)
    given = parser.parse_args()
    if given.train: train(given.train[0], int(given.train[1]), given.two)
    elif given.search: search(given.search[0], float(given.search[1]))
    else:
        for line in compare(1 + given.two, given.limit*1e6): print(line, flush=True)
