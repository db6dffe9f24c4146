"""What tracking costs: a process beside the training, a step, the end of a run, and a delivery.

    python benchmarks/tracking.py > benchmarks/results/tracking.md

Times of steps and records are of the processor, since the machine may be busy with other things; that of
the end of a run is of the clock.
"""
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

os.environ.update(TQDM_DISABLE="1", MLFLOW_DISABLE_TELEMETRY="true", WANDB_MODE="offline",
                  MLFLOW_HTTP_REQUEST_TIMEOUT="5", OMP_NUM_THREADS="1")
WRITER = "from tensorboard.summary.writer.event_file_writer import EventFileWriter"
IMPORTS = {"TensorBoard's event writer": WRITER,
           "accelerate.tracking": "import accelerate.tracking", "mlflow": "import mlflow",
           "accelerate.tracking and mlflow": "import accelerate.tracking, mlflow", "wandb": "import wandb"}
EVERY, RECORDS = 20, 30
NUMBERS = ("seconds", "lr", "loss", "target", "norm", "valid_loss", "valid_mae")
HEAD = """
## A step and the end of a run

A step of ASV pretraining by the recipe `small`: {:.0f} ms on one core. A record is written every {} steps,
{} of them in {:.0f} s. `side process` is what that process took of a processor until the end of the run.

| trackers | a record | share of its steps | first record | end of the run | side process |
| --- | --- | --- | --- | --- | --- |"""


def imported(code):
    "Processor seconds and MB of a process that only imports."
    more = "\nimport resource, json\nu = resource.getrusage(resource.RUSAGE_SELF)\n" \
           "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss/1024]))"
    done = subprocess.run([sys.executable, "-c", code + more], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def server(listen):
    "The port of a server that is away, or of one that takes connections and never answers."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        if listen: s.listen(64)
        yield s.getsockname()[1]


def a_step():
    "Processor seconds of a step of ASV pretraining, by the recipe `small`."
    import numpy as np
    import torch
    from accelerate import Accelerator

    from aam_nb.batches.build import build_store
    from aam_nb.data.simulate import simulate
    from aam_nb.recipe import load_config
    from aam_nb.runs.plan import seconds_a_step
    from aam_nb.training.bench import Bench
    from aam_nb.training.encoder_stage import asv_stage
    torch.set_num_threads(1)
    study = simulate(samples=200, asvs=400, groups=40, length=150, seed=1)
    config = load_config("small")
    bench = Bench(config=config, store=build_store(study), accelerator=Accelerator(cpu=True))
    objective, source = asv_stage(bench, np.arange(200))[1:]
    begun = time.process_time()
    seconds_a_step(bench, objective, source, config.pretrain_asv, 9)
    return (time.process_time() - begun)/10


def run_with(trackers, folder, work):
    "Seconds: of a record, of the first one, of the end of the run by the clock, and of the side process."
    from aam_nb.training.track import RunLog
    log, records = RunLog(folder, show=False, trackers=trackers), []
    log.meter.process.cpu_percent()
    bar = log.bar("target", RECORDS*EVERY)
    for i in range(1, RECORDS + 1):
        bar.update(EVERY, EVERY*32)
        time.sleep(work)
        begun = time.process_time()
        log.write("target", i*EVERY, dict.fromkeys(NUMBERS, 1/i))
        records.append(time.process_time() - begun)
    side = log.sinks.get("side process")
    own = sum(psutil.Process(side.process.pid).cpu_times()[:2]) if side else 0.
    begun = time.perf_counter()
    log.close()
    end = time.perf_counter() - begun
    if side is not None and side.process.poll() is None:
        side.process.kill()
        side.process.wait()
    return statistics.median(records), records[0], end, own


def delivered(many, folder):
    "Seconds that MLflow's client in batches, and Accelerate's tracker, take for records of eight numbers."
    import mlflow
    from accelerate.tracking import MLflowTracker
    from mlflow.entities import Metric
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("a", artifact_location=Path(folder).as_uri())
    run = client.create_run(experiment).info.run_id
    numbers = [Metric(f"n{k}", i/7, 1000*i, i) for i in range(many) for k in range(8)]
    begun = time.perf_counter()
    for i in range(0, len(numbers), 1000): client.log_batch(run, metrics=numbers[i:i + 1000])
    ours = time.perf_counter() - begun
    mlflow.set_tracking_uri(uri)
    tracker = MLflowTracker("a")
    tracker.start()
    begun = time.perf_counter()
    for i in range(many): tracker.log({f"n{k}": i/7 for k in range(8)}, step=i)
    theirs = time.perf_counter() - begun
    tracker.finish()
    return ours, theirs


def cases():
    "Name, trackers and address of MLflow of each case."
    with server(False) as gone, server(True) as silent:
        yield "none", (), ""
        yield "TensorBoard", ("tensorboard",), ""
        yield "MLflow, a database", ("mlflow",), ""
        yield "W&B, offline", ("wandb",), ""
        yield "all three", ("tensorboard", "mlflow", "wandb"), ""
        yield "MLflow, server away", ("mlflow",), f"http://127.0.0.1:{gone}"
        yield "MLflow, server hangs", ("mlflow",), f"http://127.0.0.1:{silent}"


def main():
    "Measure all, and print it as a page."
    print(f"# Tracking\n\n`python benchmarks/tracking.py`, Python {sys.version.split()[0]}.\n")
    print("## A process beside the training\n\n| imports | processor | memory |\n| --- | --- | --- |")
    for name, code in IMPORTS.items():
        seconds, size = imported(code)
        print(f"| {name} | {seconds:.1f} s | {size:.0f} MB |")
    step, pause = a_step(), .4
    print(HEAD.format(1000*step, EVERY, RECORDS, RECORDS*pause))
    for name, trackers, uri in cases():
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if uri: os.environ["MLFLOW_TRACKING_URI"] = uri
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            record, first, end, own = run_with(trackers, folder, pause)
        share = 100*record/(EVERY*step)
        cells = f"{1000*record:.2f} ms | {share:.3f} % | {1000*first:.1f} ms | {end:.2f} s | {own:.1f} s"
        print(f"| {name} | {cells} |")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as folder: ours, theirs = delivered(500, folder)
    print("\n## A delivery\n\n500 records of 8 numbers into an MLflow database: "
          f"{ours:.1f} s by its client in batches of a thousand\nnumbers, {theirs:.1f} s by Accelerate's "
          "`MLflowTracker`, record by record.")


if __name__ == "__main__": main()
