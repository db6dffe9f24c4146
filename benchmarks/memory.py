"""Peak memory of pretraining at AAM's default size: recipe aam, batch 8, 1,024 ASVs a sample, UniFrac and
masked bases.

    python benchmarks/memory.py               # two steps on 2,048 distinct ASVs; some minutes
    python benchmarks/memory.py --asvs 8192   # no ASV in two samples; four times as long, no more memory

A child process does the work, so that its peak is its own; the figure is the whole process, imports included.
"""
import argparse
import resource
import subprocess
import sys
import time

AIM = 1.5 # GiB, the whole process


def peak():
    "Largest resident memory of this process so far, GiB."
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/1024**3


def work(asvs, samples, held, steps, chunk):
    "Pretraining steps as the recipe makes them; prints the peak as it grows."
    from dataclasses import replace

    import numpy as np
    from scipy import sparse

    from aam_nb.recipe import load_config
    from aam_nb.core import keyed_rng
    from aam_nb.batches.sample_batches import SampleBatches
    from aam_nb.batches.samples import SampleDataset
    from aam_nb.batches.view import View
    from aam_nb.data.simulate import simulate
    from aam_nb.batches.build import build_store
    from aam_nb.model.aam import AamModel
    from aam_nb.model.passes import fit_constants
    from aam_nb.training.objectives import SampleObjective
    from aam_nb.training.optim import make_optimizer
    print(f"imports: {peak():.2f} GiB", flush=True)
    cfg = load_config("aam")
    chunk = chunk or cfg.pretrain_sample.chunk
    study = simulate(samples=samples, asvs=asvs, groups=samples, length=150, depth=20*asvs)
    rng, n = keyed_rng(0, "reads"), study.table.counts.shape[1]
    at = np.concatenate([np.sort(rng.choice(n, min(held, n), replace=False)) for _ in range(samples)])
    counts = sparse.csr_matrix((rng.integers(1, 200, len(at)).astype(np.int32), at,
                                np.arange(samples + 1)*min(held, n)), (samples, n))
    store = build_store(replace(study, table=replace(study.table, counts=counts)))
    view = View(metrics=(cfg.loss.metric,), mask=cfg.loss.mask, patch=cfg.model.patch,
                identity=cfg.model.identity)
    source = SampleBatches(SampleDataset(store), view, batch=samples, steps=steps)
    model = AamModel(cfg.model, 150, metrics=(cfg.loss.metric,)).train()
    objective = SampleObjective(model, cfg.loss, chunk=chunk)
    optimizer = make_optimizer(model.named_parameters(), cfg.pretrain_sample)
    print(f"data and model ({model.count_parameters()['total']:,} parameters): {peak():.2f} GiB", flush=True)
    fit_constants(model, [source[0]], chunk=chunk)
    for i, batch in enumerate(source):
        start = time.perf_counter()
        optimizer.zero_grad()
        terms = objective.train_step(batch)
        optimizer.step()
        print(f"step {i}: {batch.size} samples, {len(batch.asv):,} ASVs, {len(batch.rows):,} distinct, "
              f"chunks of {chunk}; "
              f"{', '.join(f'{k} {float(v):.3f}' for k, v in terms.items())}; "
              f"{time.perf_counter() - start:.0f} s: {peak():.2f} GiB", flush=True)
    print(f"peak {peak():.2f} GiB (aim: under {AIM})")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asvs", type=int, default=2048, help="distinct ASVs")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--held", type=int, default=1024, help="ASVs a sample")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=0, help="0 for the recipe's")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return work(args.asvs, args.samples, args.held, args.steps, args.chunk)
    sys.exit(subprocess.run([sys.executable, __file__, "--child", *sys.argv[1:]]).returncode)


if __name__ == "__main__": main()
