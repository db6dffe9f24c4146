"""How many samples a second the loader makes, alone: the infants of ecam_infant, batches of 32, one process;
then the same beside ibd_crohns_2538 in a corpus.

    python benchmarks/loader.py            # reads AAM_DATA, default ../shared/data; under a minute
"""
import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from aam_nb.sections import AugmentConfig
from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.data.metadata import read_metadata
from aam_nb.batches.build import build_store
from aam_nb.data.table import read_table
from aam_nb.data.study import make_study
from aam_nb.data.tree import read_tree
from aam_nb.runs.speed import measured

ROOT = Path(__file__).resolve().parent.parent
AIM = 2000 # Samples a second, so that the loader is never what a step waits for


def rates(source, repeats):
    "Samples (or ASVs) a second by the clock and by processor time, the best of a few passes."
    clock = work = 0.
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        n = sum(len(o.rows) if isinstance(source, AsvBatches) else o.size for o in loader(source))
        clock, work = max(clock, n/(time.perf_counter() - wall)), max(work, n/(time.process_time() - cpu))
    return clock, work


def stored(name, where=""):
    "A real study, in memory."
    data = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")/name
    return build_store(make_study(read_table(data/"table.biom"), read_metadata(data/"metadata.tsv"),
                                  read_tree(data/"tree.nwk"),
                                  missing="drop", where=where))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = stored("ecam_infant", "is_infant == 1")
    samples = SampleDataset(store, target=np.zeros(len(store)))
    corpus = Corpus([store, stored("ibd_crohns_2538")])
    beside = SampleDataset(corpus)
    print(f"{store}\n{corpus}\nBatches of {args.batch}, {args.steps} steps, best of {args.repeats}; "
          "processor time in brackets")
    common = dict(batch=args.batch, steps=args.steps)
    varied = View(augment=AugmentConfig())
    named = View(augment=AugmentConfig(), identity=64)
    compared = View(augment=AugmentConfig(), identity=64, metrics=("unweighted",))
    masked = View(augment=AugmentConfig(), identity=64, mask=.15, patch=6)
    for name, source in (
        ("as stored", SampleBatches(samples, **common)),
        ("augmented", SampleBatches(samples, varied, **common)),
        ("augmented, identity", SampleBatches(samples, named, **common)),
        ("the same, masked view", SampleBatches(samples, masked, **common)),
        ("the same, unweighted UniFrac", SampleBatches(samples, compared, **common)),
        ("the same, rank 0 of 2", SampleBatches(samples, compared, world=2, **common)),
        ("corpus: augmented, identity", SampleBatches(beside, named, **common)),
        ("the same, unweighted UniFrac", SampleBatches(beside, compared, **common)),
    ):
        clock, work = rates(source, args.repeats)
        aim = f"  (aim: over {AIM:,})" if name == "augmented, identity" else ""
        print(f"  {name:30} {clock:9,.0f} samples/s ({work:,.0f}){aim}")
        if aim: measured("batches, augmented with identity", clock, AIM, "samples/s")
    clock, work = rates(AsvBatches(store, view=View(patch=6, mask=.15), batch=256, steps=args.steps//2),
                        args.repeats)
    print(f"  {'256 ASVs, path lengths, masked':30} {clock:9,.0f} ASVs/s ({work:,.0f})")


if __name__ == "__main__": main()
