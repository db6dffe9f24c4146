"Runs that are killed at any moment, again and again, end with the very bytes of a run that never was."
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aam_nb.data.simulate import simulate, write_study

# Forks the processes of a run, ends them at a random moment and resumes, at most eight times; then leaves
# the run to its end. Now and then a byte of the newest checkpoint is flipped in between. Prints how many ends
# there were, how many of them fell after the first checkpoint, how many runs, how many flipped bytes, and the
# longest time that a run took to leave.
LIVES = """
    import os, random, signal, socket, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from accelerate.state import AcceleratorState
    from aam_nb.config import config_from
    from aam_nb.data.simulate import study_files
    from aam_nb.runs.evaluate import evaluate_run
    from aam_nb.runs.train import train_run
    from aam_nb.training.checkpoint import kept_checkpoints
    from aam_nb.training.loop import Stage
    Stage.__init__.__kwdefaults__["save_seconds"] = 0.         # A checkpoint whenever it is worth its time

    top, name, wanted, world, workers, flips = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:7])
    signals = [getattr(signal, o) for o in sys.argv[7].split(",")]
    command = dict(train=train_run, evaluate=evaluate_run)[name]
    MARKS = dict(train="checkpoints/*/last*/state.json", evaluate="folds/*.npz")

    def config(out):
        data = dict(study_files(top/"study"), target="age", groups="subject")
        small = dict(width=8, layers=1, sample_width=8, head_width=8, identity=8, heads=2)
        run = dict(folds=3, inner=2, refit=1, threads=1, trackers=(), out=str(out), device="cpu",
                   workers=workers, save_minutes=0., resume=(out/"config.toml").is_file(), overwrite=False)
        stage = dict(steps=200, batch=8, every=20)
        return config_from(dict(data=data, model=small, run=run, pretrain_asv=stage, optim=stage))

    def quiet(text): pass

    def process(out, rank, port):
        pid = os.fork()
        if pid: return pid
        if world > 1:
            os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_PORT=port,
                               LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
            AcceleratorState._reset_state(reset_partial_state=True)
        try: command(config(out), say=quiet)
        except SystemExit as e: os._exit(e.code)
        except KeyboardInterrupt: os._exit(130)
        except BaseException as e:
            print(repr(e), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)

    def life(out):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        return [process(out, rank, port) for rank in range(world)]

    def wait(pids, asked=False):
        statuses = [os.waitpid(o, 0)[1] for o in pids]
        ends = [os.waitstatus_to_exitcode(o) for o in statuses]
        if any(o in (1, 2) for o in ends) and not (asked and world > 1): sys.exit(1)
        return any(ends)

    def end(pids, number):
        begun = time.monotonic()
        for pid in rng.sample(pids, world):
            os.kill(pid, number)
            time.sleep(rng.choice([0., .03]))
        cut = wait(pids, asked=True)
        return cut, time.monotonic() - begun

    def flip(out):
        newest = [o for o in out.glob("checkpoints/*/last") if len(kept_checkpoints(o)) > 1]
        if not newest: return 0
        last = max(newest, key=lambda o: o.stat().st_mtime)
        path = rng.choice(sorted(last.iterdir()))
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.unlink()                                           # Its other names keep what they had
        path.write_bytes(data)
        return 1

    command(config(top/"first"), say=quiet)                     # everything is imported before the clock runs
    begun = time.perf_counter()
    wait(life(top/"whole"))
    whole, rng = time.perf_counter() - begun, random.Random(1)
    ends = late = n = flipped = 0
    slowest = 0.
    while ends < wanted or late < .75*wanted:
        out, n, here = top/f"run{n}", n + 1, 0
        while here < 8 and (ends < wanted or late < .75*wanted):
            pids = life(out)
            time.sleep(rng.uniform(.1, .9)*whole)
            marked = any(out.glob(MARKS[name]))
            cut, took = end(pids, rng.choice(signals))
            slowest = max(slowest, took)
            if not cut: break
            here, ends, late = here + 1, ends + 1, late + marked
            if flips and rng.random() < .3: flipped += flip(out)
        if not (out/"finished.json").is_file(): wait(life(out))
    print(ends, late, n, flipped, slowest)
"""


def lives(folder, name, ends, processes=1, workers=0, flips=False, signals="SIGKILL"):
    """Let runs of a command be ended. Gives the number of ends, of those after a checkpoint, of runs, of
    flipped bytes, and the seconds of the slowest end."""
    write_study(simulate(samples=30, asvs=20, groups=10, length=24, seed=3), folder/"study")
    env = dict(os.environ, OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    how = [str(int(o)) for o in (ends, processes, workers, flips)] + [signals]
    command = [sys.executable, "-c", textwrap.dedent(LIVES), str(folder), name, *how]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=env, start_new_session=True, **pipes) as done:
        try: out, said = done.communicate(timeout=3600)
        finally:
            with suppress(ProcessLookupError): os.killpg(done.pid, signal.SIGKILL)
    assert done.returncode == 0, said
    *numbers, slowest = out.split()[-5:]
    return *map(int, numbers), float(slowest)


def same_bytes(one, other, *names):
    for o in names: assert (one/o).read_bytes() == (other/o).read_bytes(), o


def check_train(whole, run):
    same_bytes(whole, run, "predictions.tsv", "scores.json", "split.tsv", "bundle/codecs.json")
    a, b = (load_file(o/"bundle/model.safetensors") for o in (whole, run))
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def check_evaluate(whole, run):
    same_bytes(whole, run, "predictions.tsv", "scores.tsv", "folds.tsv")
    for path in (whole/"folds").glob("*.npz"):
        with np.load(path) as a, np.load(run/"folds"/path.name) as b:
            for k in ("test", "oof", "refit"): np.testing.assert_array_equal(a[k], b[k])


slow = pytest.mark.slow


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name,check,kills,world,workers", [
    ("train", check_train, 2, 1, 0), pytest.param("train", check_train, 50, 1, 0, marks=slow),
    pytest.param("train", check_train, 50, 1, 2, marks=slow),
    pytest.param("train", check_train, 50, 2, 0, marks=slow),
    pytest.param("train", check_train, 50, 2, 2, marks=slow),
    pytest.param("evaluate", check_evaluate, 40, 1, 0, marks=slow)])
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path, name, check, kills, world, workers):
    made, late, runs, flipped, _ = lives(tmp_path, name, kills, world, workers, flips=name == "train")
    assert made >= kills and late >= .75*kills and (kills < 10 or name != "train" or flipped)
    for i in range(runs): check(tmp_path/"whole", Path(tmp_path/f"run{i}"))


@slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("workers", [0, 2])
def test_runs_that_are_asked_to_stop_leave_in_time_and_end_with_the_same_bytes(tmp_path, workers):
    made, _, runs, _, slowest = lives(tmp_path, "train", 20, 1, workers, signals="SIGTERM,SIGINT,SIGUSR1")
    assert made >= 20 and slowest < 10
    for i in range(runs): check_train(tmp_path/"whole", Path(tmp_path/f"run{i}"))
