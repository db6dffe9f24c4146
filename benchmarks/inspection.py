"""What the leak check finds in real studies, how long it takes, and how often it is wrong on clean simulated
ones.

    python benchmarks/inspection.py            # all of it; some minutes
    python benchmarks/inspection.py --seeds 5  # fewer clean studies

Clean studies also hold columns that say nothing of any target: numbers, codes, dates, places and studies.
Real studies are read from the folder AAM_DATA (default ../shared/data). Seconds are processor time on one
thread.
"""
import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate
from aam_nb.data.table import read_table
from aam_nb.data.study import make_study
from aam_nb.data.tree import read_tree
from aam_nb.evaluation.inspect import inspect_study, quick_checks
from aam_nb.evaluation.question import Question

ROOT = Path(__file__).resolve().parent.parent
REAL = (("ecam_infant", "month_of_life", ""), ("ecam_infant", "delivery", "host_subject_id"),
        ("ibd_crohns_2538", "ibd", "host_subject_id"), ("cfs87", "Subject", ""),
        ("global_gut", "country", ""),
        ("hmp_v35_bodysite", "HMPbodysubsite", ""), ("tiny_ecam60", "month_of_life", "host_subject_id"))
CLEAN = (dict(samples=120, groups=30), dict(samples=60, groups=20, depth=1000), dict(samples=200, groups=200),
         dict(samples=40, groups=40, depth=2000), dict(samples=160, groups=40, depth=300))


def timed(work):
    start = time.process_time()
    out = work()
    return out, time.process_time() - start


def real(folder, target, groups):
    "Findings and seconds of one study."
    table, metadata = read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv")
    study = make_study(table, metadata, read_tree(folder/"tree.nwk"))
    question = Question(target=target, groups=groups)
    found, full = timed(lambda: inspect_study(study, question))
    _, quick = timed(lambda: quick_checks(study, question))
    print(f"\n{folder.name}, target {target}, groups {groups or 'not named'}: {len(study.ids):,} samples; "
          f"inspect {full:.1f} s, quick checks {quick:.1f} s")
    for o in found.findings: print(f"  {o.severity} ({o.kind}): {o.text}")
    for name in ("hostsubjectid", "host_subject_id", "srs"):
        if not len(found.pairs) or name not in study.metadata: continue
        v = study.metadata[name].to_numpy()
        same = (v[found.pairs[:, 0]] == v[found.pairs[:, 1]]).sum()
        print(f"  alike pairs with the same '{name}': {same:,} of {len(found.pairs):,}")


def with_innocents(study, seed):
    "The study with columns that say nothing of any target, of each kind that is looked at."
    rng, n = np.random.default_rng(seed), len(study.ids)
    who = pd.factorize(study.metadata["subject"])[0]
    people = who.max() + 1
    day = np.datetime64("2020-01-01")
    columns = dict(
        bmi=rng.normal(25, 4, n).round(1), weight=rng.integers(45, 95, n), score=rng.integers(0, 6, n),
        latitude=rng.uniform(-60, 60, max(3, n//4)).round(3)[rng.integers(max(3, n//4), size=n)],
        reads_wanted=study.table.depths//1000*1000, number=rng.integers(1, max(4, n//4), n),
        collection_date=(day + rng.permutation(n)).astype(str),
        date=(day + rng.integers(26, size=n)).astype(str),
        income=rng.integers(1, max(4, people//3), people)[who], village=rng.integers(5, size=people)[who],
        height=rng.integers(150, 190, people)[who], location=[f"L{o}" for o in rng.integers(n//3, size=n)],
        study=[f"study {o}" for o in rng.integers(4, size=n)],
        plot=[f"p{o}" for o in rng.integers(n//4, size=n)])
    return replace(study, metadata=study.metadata.assign(**columns))


def alarms(size, seed):
    "Kinds of the alarms on one clean study."
    study = with_innocents(simulate(asvs=200, seed=seed, **size), seed)
    groups = "subject" if size["groups"] < size["samples"] else ""
    questions = [Question(target=o, groups=groups, seed=seed) for o in ("age", "site")]
    return [o.kind for q in questions for o in inspect_study(study, q).alarms]


def clean(seeds):
    "Alarms on studies without any leak, with their groups named where there are any."
    print(f"\nClean simulated studies, {seeds} seeds each, targets age and site:")
    for size in CLEAN:
        found = [o for seed in range(seeds) for o in alarms(size, seed)]
        words = ", ".join(f"{k} {v}" for k, v in size.items())
        print(f"  {words}: {len(found)} alarms in {2*seeds} inspections {' '.join(found)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="clean studies of each size")
    args = parser.parse_args()
    data = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
    for name, target, groups in REAL:
        if (data/name).is_dir(): real(data/name, target, groups)
    clean(args.seeds)


if __name__ == "__main__": main()
