"What the tests of trackers share: logs, servers that answer, that are away and that hang, and readers."
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

from aam_nb.training.log import JsonLines
from aam_nb.training.track import RunLog

PATIENCE = 240 # Seconds; a process that takes only idle time may need them on a busy machine


def wait_for(true, seconds=PATIENCE, every=.05):
    "Wait until a condition holds; fails after a while."
    until = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(every)
    return found


def write_log(folder, stages=("target",), steps=(20, 40, 60)):
    "The log of a run that is over, as an earlier version left it: without the load of the machine."
    log = JsonLines(Path(folder)/"metrics.jsonl")
    for stage in stages:
        for step in steps: log.write(stage, step, dict(seconds=step/10, loss=1/step, valid_auc=None))


@contextmanager
def logging(folder, *trackers, resume=False):
    "A log that trackers follow. Its side process is ended with the block, whatever happens."
    log = RunLog(folder, resume=resume, trackers=trackers)
    side = log.sinks["side process"]
    try: yield log
    finally:
        log.close()
        if side.process is not None:
            if side.process.poll() is None: side.process.kill()
            side.process.wait(PATIENCE)


def settled(log):
    "Close a log and wait until its side process has brought all. What it said is in tracking/log.txt."
    side = log.sinks["side process"]
    side.wait = PATIENCE
    log.close()
    assert side.process.wait(PATIENCE) == 0, (side.folder/"tracking/log.txt").read_text()


@contextmanager
def away():
    "The address of a server that is not there; nobody else gets its port meanwhile."
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


@contextmanager
def hanging():
    "The port of a server that takes every connection and never answers."
    taken = []

    def accept(s):
        while True:
            try: taken.append(s.accept()[0])
            except OSError: return
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        s.listen(64)
        threading.Thread(target=accept, args=(s,), daemon=True).start()
        try: yield s.getsockname()[1]
        finally:
            for o in taken: o.close()
            s.shutdown(socket.SHUT_RDWR)


def answers(address):
    "Whether an MLflow server is up."
    try: return urllib.request.urlopen(f"{address}/health", timeout=2).status == 200
    except OSError: return False


@contextmanager
def mlflow_server(folder, port):
    "A real MLflow server on loopback, with its data in a folder; its processes are reaped."
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
               "--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1",
               "--artifacts-destination", f"{folder}/files"]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(Path(folder)/"server.txt", "w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        wait_for(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}"), 300, .2)
        assert server.poll() is None, (Path(folder)/"server.txt").read_text()[-2000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 9)
        server.wait(PATIENCE)


def mlflow_runs(uri):
    "All runs of a server, or of a database, by name."
    from mlflow import MlflowClient
    client = MlflowClient(tracking_uri=uri)
    ids = [o.experiment_id for o in client.search_experiments()]
    found = client.search_runs(ids, max_results=1000)
    assert len({o.info.run_name for o in found}) == len(found), "a run is there twice"
    return client, {o.info.run_name: o for o in found}


def mlflow_points(uri):
    "(run, metric, step, value) of every point, doubles included, in the order of names and steps."
    client, runs = mlflow_runs(uri)
    points = [(name, k, m.step, m.value) for name, run in runs.items() for k in run.data.metrics
              for m in client.get_metric_history(run.info.run_id, k)]
    return sorted(points)


def wandb_records(path):
    "Records of a file of Weights & Biases: the format of LevelDB's log, in blocks of 32 kB."
    from wandb.proto import wandb_internal_pb2 as wandb
    data, at, whole = Path(path).read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7:at + 7 + size]
        at += 7 + size
        if kind not in (1, 4): continue
        record = wandb.Record()
        record.ParseFromString(whole)
        yield record
        whole = b""


def wandb_points(folder):
    "(step of W&B, numbers) of every point in the offline files of a run."
    found = []
    for path in sorted(Path(folder).glob("tracking/wandb/offline-run-*/*.wandb")):
        for o in wandb_records(path):
            if o.WhichOneof("record_type") != "history": continue
            items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in o.history.item}
            found.append((items.pop("_step"), {k: v for k, v in items.items() if k[0] != "_"}))
    return found


def curve(folder, stage, tag):
    "(step, value) of a curve of TensorBoard."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(Path(folder)/"tensorboard"/stage)).Reload()
    return [(o.step, round(o.value, 5)) for o in events.Scalars(tag)]
