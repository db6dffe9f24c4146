"""Writers that are killed while they replace something, again and again.

Run as `python replaced.py KIND PLACE KILLS`: what is written carries a number that grows; after each kill
the number that is read must be whole and must not have fallen, and nothing else may lie beside it. Prints how
many versions were written and how many kills left something beside the place.
"""
import os
import random
import signal
import sys
import time
from pathlib import Path


def file(place):
    from aam_nb.beside import recovered
    from aam_nb.disk import read_json, write_json

    def read(): return set(read_json(recovered(place))["n"])

    def write(n): write_json(place, dict(n=[n]*2000))
    return write, read


def folder(place):
    from aam_nb.beside import recovered
    from aam_nb.disk import whole_folder

    def write(n):
        with whole_folder(place) as f:
            for o in "abc": (f/o).write_text(f"{n}\n"*2000)

    def read(): return {int(o) for f in sorted(recovered(place).iterdir()) for o in f.read_text().split()}
    return write, read


def folder_aside(place):
    "Where folders cannot be exchanged in one step."
    import aam_nb.disk
    aam_nb.disk._exchange = lambda a, b: False
    return folder(place)


def bundle(place):
    import torch
    from bundle_cases import small_bundle

    from aam_nb.inference.bundle import load_bundle, save_bundle
    torch.set_num_threads(1)
    made = small_bundle()

    def write(n):
        with torch.no_grad(): made.model.encoder.position.fill_(n)
        made.about["n"] = n
        save_bundle(place, made)

    def read():
        found = load_bundle(place)
        return {found.about["n"], *map(int, found.model.encoder.position.detach().unique())}
    return write, read


def checkpoint(place):
    import torch
    from torch import nn

    from aam_nb.training.checkpoint import read_checkpoint, save_checkpoint
    torch.set_num_threads(1)
    model = nn.Linear(40, 40)

    def write(n):
        with torch.no_grad(): model.weight.fill_(n)
        save_checkpoint(place, model, state=dict(step=n))

    def read():
        written, tensors = read_checkpoint(place)
        return {written["state"]["step"], *map(int, tensors["model"]["weight"].unique())}
    return write, read


def store(place):
    import numpy as np
    from bundle_cases import STUDY

    from aam_nb.batches.build import build_store
    from aam_nb.batches.store import open_store
    from aam_nb.types import Study, Table

    def write(n):
        counts = (STUDY.table.counts > 0).astype(np.int32)*(n + 1)
        build_store(Study(table=Table(counts=counts.tocsr(), sample_ids=STUDY.table.sample_ids,
                                      sequences=STUDY.table.sequences)), place)

    def read(): return {int(o) - 1 for o in np.unique(open_store(place).counts().data)}
    return write, read


def report(place):
    from aam_nb.beside import recovered
    from aam_nb.disk import whole_file

    def write(n):
        with whole_file(place) as p: p.write_text(f"<p>{n}</p>\n"*3000)

    def read(): return {int(o[3:-4]) for o in recovered(place).read_text().split()}
    return write, read


def dies_while_writing(write, first, wait):
    "A process that writes one version after the other until it is killed."
    child = os.fork()
    if not child:
        for n in range(first, first + 10**6): write(n)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def cost_of(write):
    start = time.perf_counter()
    for _ in range(3): write(0)
    return (time.perf_counter() - start)/3


def names(folder): return sorted(o.name for o in folder.iterdir())


def main(kind, place, kills):
    write, read = globals()[kind](place)
    rng, cost, seen, left = random.Random(0), cost_of(write), 0, 0
    for kill in range(kills):
        dies_while_writing(write, seen + 1, rng.uniform(0, 4*cost))
        left += len(names(place.parent)) > 1
        numbers = read()
        assert len(numbers) == 1, f"kill {kill}: mixed {numbers}"
        assert (n := numbers.pop()) >= seen, f"kill {kill}: {n} after {seen}"
        assert names(place.parent) == [place.name], f"kill {kill}: {names(place.parent)}"
        if n == seen: cost *= 1.1 # A slow disk: give the next one more time
        seen = n
    print(seen, left)


if __name__ == "__main__": main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
