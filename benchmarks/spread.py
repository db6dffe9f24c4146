"""How much faster two processes evaluate when the folds are dealt to them, one thread each.

    python benchmarks/spread.py                 # some minutes; needs two free cores
    python benchmarks/spread.py --rounds 1 --steps 20

A simulated study of 160 samples, the recipe `small` with fewer steps, six folds. One process and two take
turns in one run, started as a user would; the best round of each counts. `rest` is what the main process
does alone: reading and checking the study before, intervals and the report after. On a busy machine look at
`CPU`: the ratio of the processor time of one process to that of the busier of two, as free cores would give.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["run.folds=6", "run.inner=3", "run.threads=1", "run.trackers=[]", "run.device='cpu'"]


def work(data, out, spread, steps):
    "One process of an evaluation: its seconds, of the clock and of the processor."
    from aam_nb.data.simulate import study_files
    from aam_nb.recipe import load_config
    from aam_nb.runs import evaluate
    from aam_nb.runs.ending import ending
    given = {f"data.{k}": v for k, v in study_files(Path(data)).items()}
    given |= {"data.target": "age", "data.groups": "subject", "run.out": out, "run.spread": spread}
    share, shared = evaluate.share_work, []
    def timed(*args):
        begun = time.perf_counter()
        found = share(*args)
        shared.append(time.perf_counter() - begun)
        return found
    evaluate.share_work = timed
    begun, used = time.perf_counter(), time.process_time()
    steps = [f"optim.steps={steps}", f"pretrain_asv.steps={steps}"]
    with ending(): evaluate.evaluate_run(load_config("small", [*SHORT, *steps], given), lambda text: None)
    found = dict(wall=time.perf_counter() - begun, cpu=time.process_time() - used, shared=sum(shared))
    Path(f"{out}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def run(data, out, world, steps):
    "The figures of each process, and the seconds of the whole command."
    launcher = ["-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
                "--nproc-per-node", str(world)] if world > 1 else []
    environ = dict(os.environ, OMP_NUM_THREADS="1", TQDM_DISABLE="1", PYTHONPATH=str(ROOT))
    words = [sys.executable, *launcher, __file__, "--work", str(data), str(out), "folds", str(steps)]
    begun = time.perf_counter()
    subprocess.run(words, env=environ, check=True, timeout=1800)
    seconds = time.perf_counter() - begun
    return [json.loads(Path(f"{out}-{rank}.json").read_text()) for rank in range(world)], seconds


def main():
    "Take turns, and print a table."
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--work", nargs=4)
    given = parser.parse_args()
    if given.work: return work(*given.work)
    from aam_nb.data.simulate import simulate, write_study
    with tempfile.TemporaryDirectory() as tmp:
        data, found = Path(tmp)/"data", {1: [], 2: []}
        write_study(simulate(samples=160, asvs=300, groups=40, seed=42), data)
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for i in range(given.rounds):
            for world in found:
                found[world].append(run(data, Path(tmp)/f"{world}-{i}", world, given.steps))
        same = {(Path(tmp)/f"{world}-0"/"predictions.tsv").read_bytes() for world in found}
        report(found, len(same) == 1)


def report(found, same):
    "The table."
    wall = {k: min(max(o["wall"] for o in each) for each, _ in v) for k, v in found.items()}
    cpu = {k: min(max(o["cpu"] for o in each) for each, _ in v) for k, v in found.items()}
    command = {k: min(seconds for _, seconds in v) for k, v in found.items()}
    rest = min(each[0]["wall"] - each[0]["shared"] for each, _ in found[2])
    print(f"load of the machine after: {os.getloadavg()[0]:.1f}")
    for name, of in (("evaluation", wall), ("whole command", command), ("CPU of the busier process", cpu)):
        print(f"{name:<26} one {of[1]:6.1f} s, two {of[2]:6.1f} s: {of[1]/of[2]:.2f} times as fast")
    print(f"{'rest, main process alone':<26} {rest:.1f} s of {wall[2]:.1f} s")
    print(f"predictions of one and two processes are {'equal to the bit' if same else 'DIFFERENT'}")


if __name__ == "__main__": main()
