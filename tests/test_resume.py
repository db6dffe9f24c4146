"Stopping and going on: killed runs end with the weights of undisturbed ones; what does not fit is refused."
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
import torch
from toy_batches import ASVS, QUICK, Toy, cpu, fresh, pairs, same

from aam_nb.core import AamError, draw_key
from aam_nb.model.passes import embed_chunks
from aam_nb.sections import LossConfig
from aam_nb.training.checkpoint import read_checkpoint
from aam_nb.training.loop import Stage, fit, stop_requests
from aam_nb.training.measure import measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.log import read_log
from aam_nb.training.track import RunLog

LIFE = replace(QUICK, steps=24, every=6, chunk=8)


def objective_of(kind):
    "Three ways to train, with everything that draws at random switched on."
    if kind == "asvs": return AsvObjective(fresh(dropout=.2), LossConfig())
    if kind == "samples": return SampleObjective(fresh(dropout=.2), LossConfig(distance=.5), mixup=.4)
    model = fresh()
    model.encoder.fit_constants(ASVS)
    model.freeze_encoder()
    return SampleObjective(model, LossConfig(distance=.5), embeddings=embed_chunks(model, ASVS, 5), mixup=.4)


class Asvs(Toy):
    "Batches of ASVs by step."
    def __getitem__(self, step):
        time.sleep(self.slow)
        return pairs(draw_key("asvs", step))


def life(kind, folder, resume, slow=0., save_seconds=0.):
    "One life of a run: train, or go on, to the end."
    objective, source = objective_of(kind), (Asvs if kind == "asvs" else Toy)(slow=slow)
    held, log = [Toy(seed=9)[0]], None if folder is None else RunLog(folder, resume=resume, show=False)
    validate = None if kind == "asvs" else lambda: measure_samples(objective, held)
    stage = Stage(folder=folder, log=log, resume=resume, save_seconds=save_seconds)
    return fit(objective, source, LIFE, cpu(), validate, stage), objective.model


LIVES = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[2])
    import test_resume
    test_resume.life("frozen", None, False)                    # everything is imported before the clock runs
    start = time.perf_counter()
    test_resume.life("frozen", None, False, slow=.005)
    whole = time.perf_counter() - start
    rng = random.Random(1)
    for kind in ("asvs", "samples", "frozen"):
        folder, kills, first = Path(sys.argv[1])/kind, 0, True
        while True:
            pid = os.fork()
            if not pid:
                try: test_resume.life(kind, folder, resume=not first, slow=.005)
                except BaseException as e:
                    print(kind, repr(e), file=sys.stderr, flush=True)
                    os._exit(1)
                os._exit(0)
            if kills < 4:
                time.sleep(rng.uniform(.1, .6)*whole)
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            first = False
            if os.WIFSIGNALED(status): kills += 1
            elif os.WEXITSTATUS(status): sys.exit(1)
            else: break
        print(kind, kills)
"""


@pytest.fixture
def one_thread():
    "Sums in one order."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def history(written):
    "The records of a checkpoint, without what the clock says."
    records = [dict(o) for o in written["state"]["history"]]
    for o in records: o.pop("seconds", None)
    return records


def check_life(kind, folder, undisturbed):
    "A killed run holds what an undisturbed one does, and a finished run gives its result at once."
    found, model = life(kind, undisturbed, False)
    (whole, a), (parts, b) = read_checkpoint(undisturbed/"last"), read_checkpoint(folder/"last")
    for k in a: assert same(a[k], b[k]), (kind, k)             # weights, average, moments, best: bit for bit
    assert history(whole) == history(parts)
    assert whole["state"]["best_score"] == parts["state"]["best_score"] == found.best_score
    assert same({k: model.state_dict()[k] for k in a["best"]}, a["best"])
    assert [o["step"] for o in read_log(folder/"metrics.jsonl")] == [6, 12, 18, 24]
    again, resumed = life(kind, folder, True)
    assert again.best_score == found.best_score and same(resumed.state_dict(), model.state_dict())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_with_the_weights_of_an_undisturbed_one(tmp_path, one_thread):
    env = dict(os.environ, OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    command = [sys.executable, "-c", textwrap.dedent(LIVES), str(tmp_path), os.path.dirname(__file__)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed = dict(o.split() for o in done.stdout.split("\n") if o)
    for kind in ("asvs", "samples", "frozen"):
        assert int(killed[kind]) >= 1, done.stdout
        check_life(kind, tmp_path/kind, tmp_path/f"{kind}_whole")


def test_saving_often_or_never_changes_nothing(tmp_path):
    lives = [life("frozen", tmp_path/str(o), False, save_seconds=o) for o in (0., 1e9)]
    runs = [model.state_dict() for _, model in lives]
    assert same(*runs) and same(runs[0], life("frozen", None, False)[1].state_dict())


@pytest.mark.parametrize("number,error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_request_to_stop_finishes_the_step_and_keeps_it(tmp_path, number, error):
    class Asked(Toy):
        def __getitem__(self, step):
            if step == 17 and not asked: asked.append(os.kill(os.getpid(), number))
            return super().__getitem__(step)
    handlers = lambda: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    asked, before = [], handlers()
    with pytest.raises(error):
        fit(SampleObjective(fresh(), LossConfig()), Asked(), QUICK, cpu(), stage=Stage(folder=tmp_path))
    assert read_checkpoint(tmp_path/"last")[0]["state"]["step"] == 18 and before == handlers()
    models = [fresh(), fresh()]
    again = Stage(folder=tmp_path, resume=True)
    fit(SampleObjective(models[0], LossConfig()), Asked(), QUICK, cpu(), stage=again)
    fit(SampleObjective(models[1], LossConfig()), Toy(), QUICK, cpu())
    assert same(models[0].state_dict(), models[1].state_dict())


def press(times):
    "Ctrl-C, and a moment for it to arrive."
    for _ in range(times): os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): time.sleep(.001)


def test_a_second_request_stops_at_once():
    was = signal.signal(signal.SIGINT, signal.default_int_handler) # A job in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt), stop_requests(): press(2)
        with pytest.raises(KeyboardInterrupt), stop_requests(active=False): press(1) # no checkpoint, at once
    finally: signal.signal(signal.SIGINT, was)


def test_other_settings_and_other_batches_are_refused(tmp_path):
    class Stop(Toy):
        def __getitem__(self, step):
            if step == 15: raise KeyboardInterrupt
            return super().__getitem__(step)
    again = Stage(folder=tmp_path, resume=True)

    def go_on(source=None, optim=QUICK, stage=again, **sizes):
        return fit(SampleObjective(fresh(**sizes), LossConfig()), source or Toy(), optim, cpu(), stage=stage)
    with pytest.raises(KeyboardInterrupt): go_on(Stop(), stage=Stage(folder=tmp_path, save_seconds=0.))
    with pytest.raises(AamError, match="lr=0.005, here 0.01"): go_on(optim=replace(QUICK, lr=.01))
    with pytest.raises(AamError, match="other batches"): go_on(Toy(seed=1))
    with pytest.raises(AamError, match="another model"): go_on(head_width=16)
    (tmp_path/"last/model.safetensors").write_bytes(b"")
    with pytest.raises(AamError, match="damaged"): go_on()
