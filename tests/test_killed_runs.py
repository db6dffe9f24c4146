"Runs that are killed at any moment, again and again, end with the very bytes of a run that never was."
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aam_nb.data.simulate import simulate, write_study

# Forks a run, kills it at a random moment and resumes it, at most eight times; then leaves it to its end.
# Prints how many kills there were, how many of them fell after the first checkpoint, and how many runs.
LIVES = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from aam_nb.config import config_from
    from aam_nb.data.simulate import study_files
    from aam_nb.runs.evaluate import evaluate_run
    from aam_nb.runs.train import train_run
    from aam_nb.training.loop import Stage
    Stage.__init__.__kwdefaults__["save_seconds"] = 0.         # A checkpoint whenever it is worth its time

    top, name, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    command = dict(train=train_run, evaluate=evaluate_run)[name]
    MARKS = dict(train="checkpoints/*/last*/state.json", evaluate="folds/*.npz")

    def config(out):
        data = dict(study_files(top/"study"), target="age", groups="subject")
        small = dict(width=8, layers=1, sample_width=8, head_width=8, identity=8, heads=2)
        run = dict(folds=3, inner=2, threads=1, trackers=(), out=str(out),
                   resume=(out/"config.toml").is_file(), overwrite=False)
        stage = dict(steps=200, batch=8, every=20)
        return config_from(dict(data=data, model=small, run=run, pretrain_asv=stage, optim=stage))

    def quiet(text): pass

    def life(out):
        pid = os.fork()
        if pid: return pid
        try: command(config(out), say=quiet)
        except BaseException as e:
            print(repr(e), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)

    def wait(pid):
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status): return True
        if os.WEXITSTATUS(status): sys.exit(1)
        return False

    command(config(top/"first"), say=quiet)                     # everything is imported before the clock runs
    begun = time.perf_counter()
    wait(life(top/"whole"))
    whole, rng, kills, late, n = time.perf_counter() - begun, random.Random(1), 0, 0, 0
    while kills < wanted or late < .75*wanted:
        out, n, here = top/f"run{n}", n + 1, 0
        while here < 8 and (kills < wanted or late < .75*wanted):
            pid = life(out)
            time.sleep(rng.uniform(.1, .9)*whole)
            marked = any(out.glob(MARKS[name]))
            os.kill(pid, signal.SIGKILL)
            if not wait(pid): break
            here, kills, late = here + 1, kills + 1, late + marked
        if not (out/"finished.json").is_file(): wait(life(out))
    print(kills, late, n)
"""


def lives(folder, name, kills):
    "Let runs of a command be killed. Gives the number of kills, of those after a checkpoint, and of runs."
    write_study(simulate(samples=30, asvs=20, groups=10, length=24, seed=3), folder/"study")
    env = dict(os.environ, OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    command = [sys.executable, "-c", textwrap.dedent(LIVES), str(folder), name, str(kills)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return map(int, done.stdout.split())


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
            for k in ("test", "oof"): np.testing.assert_array_equal(a[k], b[k])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name,check,kills", [
    ("train", check_train, 2), pytest.param("train", check_train, 40, marks=pytest.mark.slow),
    pytest.param("evaluate", check_evaluate, 40, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path, name, check, kills):
    made, late, runs = lives(tmp_path, name, kills)
    assert made >= kills and late >= .75*kills
    for i in range(runs): check(tmp_path/"whole", Path(tmp_path/f"run{i}"))
