"""Scores and seconds of the baselines on real studies, by group: python benchmarks/baselines.py [DATA]

DATA is the folder of real studies (default: AAM_DATA, or ../shared/data). Three evaluations without a model:
infants of ecam_infant (month_of_life), ibd_crohns_2538 as it comes, where depth alone predicts, and the same
at 4,000 reads. Seconds are for the slowest method and for one outer fold of all methods.
"""
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from aam_nb.batches.reads import rarefy
from aam_nb.data.metadata import read_metadata
from aam_nb.data.table import read_table
from aam_nb.data.study import make_study
from aam_nb.data.tree import read_tree
from aam_nb.evaluation.validate import evaluate


def study(folder, target, where=""):
    "A real study with the samples that have the target."
    s = make_study(read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv"),
                   read_tree(folder/"tree.nwk"), where=where)
    known = s.metadata[target].notna().to_numpy()
    return replace(s, table=s.table.samples(known), metadata=s.metadata[known])


def at_depth(s, depth):
    "Every sample rarefied to one depth; shallower ones are gone."
    table = rarefy(s.table, depth, 42)
    return replace(s, table=table, metadata=s.metadata.iloc[s.positions(table.sample_ids)])


def main():
    "Print the three evaluations."
    data = Path(sys.argv[1] if len(sys.argv) > 1
                else os.environ.get("AAM_DATA", Path(__file__).parents[1]/"../shared/data"))
    ibd = study(data/"ibd_crohns_2538", "ibd")
    for name, s, target, depth in (("ecam_infant",
                                    study(data/"ecam_infant", "month_of_life", "is_infant == 1"),
                                    "month_of_life", 0),
                                   ("ibd_crohns_2538", ibd, "ibd", 0),
                                   ("ibd_crohns_2538", at_depth(ibd, 4000), "ibd", 4000)):
        begun = time.process_time()
        e = evaluate(s, s.metadata[target], groups=s.metadata["host_subject_id"], depth=depth)
        print(f"{name}: {e}\n  depth: {e.alarm.finding}\n  {sum(e.seconds.values())/5:.1f} s an outer fold, "
              "all baselines "
              f"(slowest: {max(e.seconds, key=e.seconds.get)} {max(e.seconds.values())/5:.1f} s); "
              f"{time.process_time() - begun:.0f} s of CPU in all")
        print("  " + " ".join(f"{o} {np.round(t/5, 2)} s" for o, t in e.seconds.items()), flush=True)


if __name__ == "__main__": main()
