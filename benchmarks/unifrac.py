"""UniFrac in the batch and for a whole table, beside scikit-bio and scipy in the same run, all on one thread.

    python benchmarks/unifrac.py             # the studies under AAM_DATA; minutes, most of them scikit-bio's
    python benchmarks/unifrac.py --quick     # without the whole table by scikit-bio

AAM_DATA is the folder of real studies (default ../shared/data).
"""
import argparse
import os
import sys
import time
from pathlib import Path

# Before numpy. Threads that wait for each other on a busy machine would be measured, not the method
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.spatial.distance import cdist

from aam_nb.core import keyed_rng
from aam_nb.data.distances import UNIFRACS, faith_pd, tree_with_reads, unifrac, unifrac_blocks
from aam_nb.data.table import read_table
from aam_nb.data.tree import branch_abundance, parse_newick, path_lengths, read_tree, shear
from aam_nb.runs.speed import measured

ROOT = Path(__file__).resolve().parent.parent


def timed(f, *args, repeats=7):
    """The result of `f`, and the least seconds on the clock and of the processor, which a busy machine
    stretches less."""
    wall = cpu = np.inf
    for _ in range(repeats):
        clock, own = time.perf_counter(), time.process_time()
        out = f(*args)
        wall, cpu = min(wall, time.perf_counter() - clock), min(cpu, time.process_time() - own)
    return out, wall, cpu


def in_batch(name, table, tree, tip, sizes=(32, 128)):
    "Each metric for batches of one study; city-block over the same branches for comparison."
    for b in sizes:
        counts = table.counts[np.sort(keyed_rng(0, name, b).choice(len(table.sample_ids), b, replace=False))]
        cut, at = tree_with_reads(tree, tip, counts)
        print(f"\n{name}, {b} samples: {len(tree.length):,} branches, {len(cut.length):,} after the cut to "
              f"the batch's {len(cut.tips):,} ASVs")
        for metric in UNIFRACS:
            ours, wall, cpu = timed(unifrac, counts, tree, tip, metric)
            aim = "  (aim: under 50 ms)" if (name, b, metric) == ("ecam_infant", 128, "unweighted") else ""
            print(f"  {metric:20} {wall*1e3:7.1f} ms, {cpu*1e3:6.1f} ms of processor time{aim}")
            if metric == "weighted": weighted, fast = ours, cpu
        share = branch_abundance(cut, at, counts)/np.maximum(counts @ (at >= 0), 1)[:, None]*cut.length
        city, _, slow = timed(cdist, share, share, "cityblock", repeats=3)
        print(f"  weighted by scipy's city-block, same branches: {slow*1e3:.1f} ms of processor time, "
              f"{slow/fast:.1f} x ours; "
              f"largest difference {np.abs(city - weighted).max():.0e}")
        measured(f"weighted UniFrac beside scipy, {name}, {b}", fast*1e3, slow*1e3, "ms", less=True)


def beside_scikit_bio(name, path, table, tree, tip, samples):
    "Unweighted UniFrac by both, on the same samples."
    from skbio import TreeNode
    from skbio.diversity import beta_diversity
    counts = table.counts[:samples]
    dense = counts.toarray()
    theirs = TreeNode.read(str(path), format="newick", convert_underscores=False)
    call = lambda: beta_diversity("unweighted_unifrac", dense, taxa=list(table.sequences), tree=theirs,
                                  validate=False).data
    want, slow, _ = timed(call, repeats=1)
    ours, fast, _ = timed(unifrac_blocks, counts, tree, tip, repeats=3)
    print(f"{name}, {counts.shape[0]} samples, unweighted: scikit-bio {slow:.2f} s, ours {fast:.3f} s: ratio "
          f"{slow/fast:,.0f}; "
          f"largest difference {np.abs(want - ours).max():.0e}")


def trees():
    "Reading a tree of 100,000 tips, and paths between 1,021 of them."
    rng = keyed_rng(0, "tree")
    parts = [f"{'ACGT'*30}{i}:{rng.exponential():.6f}" for i in range(100_000)]
    while len(parts) > 1:
        parts = [f"({a},{b}):.01" for a, b in zip(parts[::2], parts[1::2],
                                                  strict=False)] + parts[len(parts)//2*2:]
    text = parts[0] + ";"
    tree, seconds, _ = timed(parse_newick, text, repeats=2)
    print(f"\nNewick text of {len(text)/1e6:.0f} MB, {len(tree.tips):,} tips: {seconds:.1f} s")
    paths, seconds, _ = timed(path_lengths, tree, np.arange(0, 100_000, 98), repeats=3)
    print(f"paths between {len(paths):,} of its tips: {seconds*1e3:.0f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave the whole table by scikit-bio out")
    quick = parser.parse_args().quick
    folder = ROOT/os.environ.get("AAM_DATA", "../shared/data")
    if not folder.is_dir(): sys.exit(f"No studies in {folder}. Set AAM_DATA.")
    for name in ("ecam_infant", "ibd_crohns_2538"):
        table = read_table(folder/name/"table.biom")
        tree, tip = shear(read_tree(folder/name/"tree.nwk"), table.sequences)
        in_batch(name, table, tree, tip)
        print(f"  Faith PD of all {len(table.sample_ids)} samples: "
              f"{timed(faith_pd, table.counts, tree, tip, repeats=3)[1]*1e3:.0f} ms")
        if name == "ecam_infant": ecam = (name, folder/name/"tree.nwk", table, tree, tip)
    print()
    beside_scikit_bio(*ecam, 128)
    if not quick: beside_scikit_bio(*ecam, None)
    trees()


if __name__ == "__main__": main()
