"""A study larger than it need be: 100,000 samples x 300,000 ASVs, about 20 million counts, as an HDF5 BIOM, a
TSV and a Newick tree.

    python benchmarks/big.py               # all of it, in a temporary folder of 1.5 GB; two to ten minutes
    python benchmarks/big.py --scale .1    # a tenth of the samples and of the ASVs

Builds the store at a quarter, a half and the whole of that size, trains from the whole, and counts samples a
second. Each piece of work runs in a process of its own, so that its peak of memory is its own; the figures
are those of whole processes, imports included. Writes benchmarks/results/big.md.
"""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from aam_nb import __version__

SAMPLES, ASVS, BASES = 100_000, 300_000, 150
HELD = 210 # Draws of an ASV a sample; repeats fall together
SITES = ("gut", "mouth", "skin")
AIMS = dict(build=1.5, train=2.) # GiB
AIM_LOADER = 1000 # Samples a second, one worker


def peak(who=resource.RUSAGE_SELF):
    "Largest resident memory of this process (or of its largest child) so far, GiB."
    return resource.getrusage(who).ru_maxrss*(1 if sys.platform == "darwin" else 1024)/1024**3


# Making the files. Counts are made and written some thousand samples at a time.

def slices_of(samples, asvs, step=5000):
    "Counts of some samples at a time: which ASVs (common ones first in the dealt order), and how many reads."
    import numpy as np
    from aam_nb.core import keyed_rng
    dealt = keyed_rng(0, "deal").permutation(asvs)
    for a in range(0, samples, step):
        rng, n = keyed_rng(0, "slice", a), min(step, samples - a)
        found = dealt[(asvs*rng.random(n*HELD)**2).astype(np.int64)]
        at = np.unique(np.repeat(np.arange(n), HELD)*asvs + found)
        reads = rng.geometric(.03, len(at)).astype(np.float64)
        yield np.bincount(at//asvs, minlength=n), (at % asvs).astype(np.int32), reads


def write_biom(path, samples, sequences):
    "A BIOM 2.1 file by slices of samples, with the counts by feature as well, as the format wants them."
    import h5py
    import numpy as np
    from scipy import sparse
    with h5py.File(path, "w") as f:
        f.attrs.update({"id": "big", "type": "OTU table", "format-url": "http://biom-format.org",
                        "format-version": (2, 1),
                        "generated-by": "aam_nb benchmark", "creation-date": date.today().isoformat()})
        how = dict(compression="gzip", maxshape=(None,), chunks=(2**16,))
        for axis, ids in (("sample", [f"S{i:06d}" for i in range(samples)]), ("observation", sequences)):
            f.create_dataset(f"{axis}/ids", data=ids, dtype=h5py.string_dtype(), compression="gzip")
            for o in ("metadata", "group-metadata"): f.create_group(f"{axis}/{o}")
            for o, kind in (("data", "f8"), ("indices", "i4")):
                f.create_dataset(f"{axis}/matrix/{o}", (0,), kind, **how)
        lengths = []
        for n, at, reads in slices_of(samples, len(sequences)):
            lengths.append(n)
            for o, values in (("data", reads), ("indices", at)):
                part = f[f"sample/matrix/{o}"]
                end = len(part)
                part.resize((end + len(values),))
                part[end:] = values
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
        f["sample/matrix/indptr"] = indptr
        f.attrs["shape"], f.attrs["nnz"] = (len(sequences), samples), int(indptr[-1])
        part = f["sample/matrix"] # The other half at once: this process has no aim
        other = sparse.csr_matrix((part["data"][:], part["indices"][:], indptr),
                                  shape=(samples, len(sequences))).tocsc()
        for o in ("data", "indices"):
            part = f[f"observation/matrix/{o}"]
            part.resize((other.nnz,))
            part[:] = getattr(other, o)
        f["observation/matrix/indptr"] = other.indptr
    return int(indptr[-1])


def make(folder, samples, asvs):
    "The three files. The bases are random and so is the tree: what is measured does not depend on them."
    import numpy as np
    from aam_nb.core import keyed_rng
    from aam_nb.data.simulate import _grow
    from aam_nb.data.tree import newick
    from aam_nb.types import Tree, strings
    letters = np.frombuffer(b"ACGT", np.uint8)
    sequences = [o.tobytes().decode() for i in range(0, asvs, 10_000)
                 for o in letters[keyed_rng(0, "bases", i).integers(0, 4, (min(10_000, asvs - i), BASES))]]
    start, stop, _, length = _grow(asvs, keyed_rng(0, "tree"))
    tree = Tree(tips=strings(sequences), start=start[1:], stop=stop[1:], length=np.maximum(length[1:], 1e-6))
    (folder/"tree.nwk").write_text(newick(tree) + "\n")
    rng = keyed_rng(0, "metadata")
    with open(folder/"metadata.tsv", "w") as f:
        f.write("sample-id\tsubject\tage\tsite\n")
        for i in range(samples):
            age, site = rng.uniform(0, 90), SITES[rng.integers(3)]
            f.write(f"S{i:06d}\tP{i//5}\t{age:.1f}\t{site}\n")
    pairs = write_biom(folder/"table.biom", samples, sequences)
    return dict(samples=samples, asvs=asvs, pairs=pairs, biom=(folder/"table.biom").stat().st_size/1e6,
                tree=(folder/"tree.nwk").stat().st_size/1e6)


# What is measured.

def build(folder):
    "Files to store."
    from aam_nb.data.metadata import read_metadata
    from aam_nb.batches.stream import cache_biom
    from aam_nb.data.tree import read_tree
    imports, clock, work = peak(), time.perf_counter(), time.process_time()
    metadata, tree = read_metadata(folder/"metadata.tsv"), read_tree(folder/"tree.nwk")
    read = peak(), time.process_time() - work
    store = cache_biom(folder/"table.biom", folder/"store", metadata, tree, progress=lambda *o: None)
    size = sum(o.stat().st_size for o in (folder/"store").iterdir())/1e6
    return dict(store=str(store), imports=imports, read=read[0], read_seconds=read[1], peak=peak(), size=size,
                seconds=time.perf_counter() - clock, work=time.process_time() - work)


def train(folder):
    """Steps of each stage of the recipe small, and one step through the encoder. ASVs of the steps are
    embedded, the others' vectors are zero."""
    from dataclasses import replace

    import numpy as np
    import torch
    from aam_nb.recipe import load_config
    from aam_nb.batches.asv_batches import AsvBatches
    from aam_nb.batches.sample_batches import SampleBatches
    from aam_nb.batches.samples import SampleDataset
    from aam_nb.batches.view import View
    from aam_nb.data.codec import TargetCodec
    from aam_nb.batches.store import open_store
    from aam_nb.model.aam import AamModel
    from aam_nb.model.passes import fit_constants
    from aam_nb.training.objectives import AsvObjective, SampleObjective
    from aam_nb.training.optim import make_optimizer
    from aam_nb.training.outputs import embed_asvs
    torch.set_num_threads(1)
    said = []
    def say(what, seconds=None): said.append(dict(what=what, peak=peak(), seconds=seconds))
    def steps(objective, source, optim):
        optimizer = make_optimizer(objective.model.named_parameters(), optim)
        begun = time.perf_counter()
        for batch in source:
            optimizer.zero_grad()
            objective.train_step(batch)
            optimizer.step()
        return (time.perf_counter() - begun)/len(source)
    say("imports")
    clock = time.perf_counter()
    store = open_store(folder/"store")
    say("store open", time.perf_counter() - clock)
    clock = time.perf_counter()
    age = store.metadata["age"]
    codec = TargetCodec.fit(age, task="regression")
    say("metadata read", time.perf_counter() - clock)
    cfg = load_config("small")
    loss = replace(cfg.loss, distance=.1)
    model = AamModel(cfg.model, store.tokens.shape[1], columns=(codec.column,),
                     metrics=(loss.metric,)).train()
    clock = time.perf_counter()
    tree = store.tree
    say(f"{tree} taken from the store", time.perf_counter() - clock)
    asvs = AsvBatches(store, view=View(patch=cfg.model.patch, mask=cfg.loss.mask),
                      batch=cfg.pretrain_asv.batch, steps=10)
    say("10 steps of 256 ASVs, distances along the tree and masked bases",
        steps(AsvObjective(model, loss), asvs, cfg.pretrain_asv))
    model.encoder.fit_constants(torch.from_numpy(store.tokens[:2048].copy()))
    known = np.arange(len(store.tokens))
    view = View(augment=cfg.augment, identity=cfg.model.identity, metrics=(loss.metric,), known=known)
    source = SampleBatches(SampleDataset(store, target=codec.encode(age)), view, batch=32, steps=5)
    rows = np.unique(np.concatenate([o.rows.numpy() for o in source]))
    clock = time.perf_counter()
    table = embed_asvs(model, store.tokens, rows)
    table.add_(0.) # Every page of it is touched
    say(f"{len(rows):,} ASVs embedded, into a table for all of them", time.perf_counter() - clock)
    fit_constants(model, [source[0]], table)
    say("5 steps of 32 samples on embeddings, unweighted UniFrac beside the target",
        steps(SampleObjective(model, loss, table, cfg.augment.mixup), source, cfg.optim))
    source.steps = 1
    say(f"1 step of 32 samples through the encoder ({len(source[0].rows):,} ASVs)",
        steps(SampleObjective(model, loss, None, cfg.augment.mixup, chunk=cfg.optim.chunk), source,
              cfg.optim))
    return dict(stages=said, peak=peak())


def load(folder):
    """Samples a second from one worker process and from none, after the first batches, which pay for the
    start."""
    import numpy as np
    import torch
    from aam_nb.sections import AugmentConfig
    from aam_nb.batches.loader import loader
    from aam_nb.batches.sample_batches import SampleBatches
    from aam_nb.batches.samples import SampleDataset
    from aam_nb.batches.view import View
    from aam_nb.batches.store import open_store
    torch.set_num_threads(1)
    store = open_store(folder/"store")
    out = {}
    common = dict(identity=64, known=np.arange(len(store.tokens)))
    samples = SampleDataset(store, target=np.zeros(len(store)))
    augmented = dict(augment=AugmentConfig())
    kinds = (("as stored", {}, 1), ("augmented", augmented, 1),
             ("augmented, in the training process", augmented, 0),
             ("augmented, unweighted UniFrac", dict(**augmented, metrics=("unweighted",)), 1))
    for name, how, workers in kinds:
        batches = loader(SampleBatches(samples, View(**common, **how), batch=32, steps=220), workers=workers)
        for _ in range(20): next(batches)
        begun = time.perf_counter()
        n = sum(o.size for o in batches)
        out[name] = n/(time.perf_counter() - begun)
    return dict(rates=out, peak=peak(), worker=peak(resource.RUSAGE_CHILDREN))


WORK = dict(make=make, build=build, train=train, load=load)


def child(what, *args):
    "Run a piece of work in a process of its own."
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).resolve().parent.parent))
    print(f"{what} {' '.join(map(str, args[1:]))}...", flush=True)
    done = subprocess.run([sys.executable, __file__, "--child", what, *map(str, args)],
                          stdout=subprocess.PIPE, text=True, env=env)
    if done.returncode: sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def page(scale, sizes, trained, loaded):
    "The results page."
    names = dict(aam_nb=__version__, **{o: version(o) for o in ("torch", "numpy", "scipy", "h5py")})
    lines = ["# big", "", f"`python benchmarks/big.py{'' if scale == 1 else f' --scale {scale}'}`", "",
             f"{date.today()}, one thread each on {os.cpu_count()} cores ({platform.machine()}) that ran "
             f"other work beside, {json.dumps(names)}. "
             "Memory is the largest resident memory of a whole process in GiB, imports included.", "",
             "## Building, at three sizes", "",
             "| samples x ASVs | counts | BIOM, tree, store (MB) | metadata and tree read | whole build, "
             "processor seconds (clock) | us a count | peak |",
             "|---|---|---|---|---|---|---|"]
    for files, o in sizes:
        lines.append(f"| {files['samples']:,} x {files['asvs']:,} | {files['pairs']:,} | "
                     f"{files['biom']:.0f}, {files['tree']:.0f}, {o['size']:.0f} "
                     f"| {o['read_seconds']:.1f} s, {o['read']:.2f} | {o['work']:.1f} ({o['seconds']:.1f}) | "
                     f"{o['work']/files['pairs']*1e6:.2f} "
                     f"| {o['peak']:.2f} |")
    whole = sizes[-1][1]
    lines += ["", f"Aim: under {AIMS['build']} GiB. Imports alone take {whole['imports']:.2f}. "
                  f"{whole['store']}", "",
              "## Training from the whole", "", "| after | seconds | peak so far |", "|---|---|---|"]
    for o in trained["stages"]:
        seconds = "" if o["seconds"] is None else f"{o['seconds']:.2f}"
        lines.append(f"| {o['what']} | {seconds} | {o['peak']:.2f} |")
    lines += ["", f"Seconds are those of a step where there are steps. Peak {trained['peak']:.2f}, "
                  f"aim: under {AIMS['train']} GiB.", "",
              "## Loading, batches of 32, one worker process", "", "| | samples/s |", "|---|---|"]
    lines += [f"| {k} | {v:,.0f} |" for k, v in loaded["rates"].items()]
    lines += ["", f"Aim: over {AIM_LOADER:,}. Peak of the training process {loaded['peak']:.2f}, of a worker "
                  f"{loaded['worker']:.2f} (mapped pages of the store count in both)."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1., help="of the samples and of the ASVs")
    parser.add_argument("--out", default="",
                        help="results page; benchmarks/results/big.md at full scale, none otherwise")
    parser.add_argument("--folder", default="",
                        help="where the files go; a temporary folder that is removed at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder or None, prefix="big-") as tmp:
        sizes = []
        for part in (.25, .5, 1.):
            folder = Path(tmp)/f"{part}"
            folder.mkdir()
            files = child("make", folder, int(SAMPLES*args.scale*part), int(ASVS*args.scale*part))
            sizes.append((files, child("build", folder)))
        text = page(args.scale, sizes, child("train", folder), child("load", folder))
    print(text)
    out = args.out or (str(Path(__file__).parent/"results"/"big.md") if args.scale == 1 else "")
    if out: Path(out).write_text(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        what, folder, *sizes = sys.argv[2:]
        print(json.dumps(WORK[what](Path(folder), *map(int, sizes))))
    else: main()
