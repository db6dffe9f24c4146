"Runs in MLflow: in a database, and on real servers that answer, go away and come back."
import json
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from tracking import logging, mlflow_points, mlflow_runs, mlflow_server, settled, wait_for, write_log

from aam_nb.recipe import load_config, to_toml
from aam_nb.runs.track import track_run
from aam_nb.training.cursor import open_cursor
from aam_nb.training.follow import Courier
from aam_nb.training.mlflow_runs import metric_name

pytest.importorskip("mlflow")
quiet = dict(say=lambda text: None)


def database(folder): return f"sqlite:///{folder}/tracking/mlflow.db"


def write_result(folder):
    "The choices of a run, its records, a report and a bundle, with the mark that it has finished."
    (folder/"config.toml").write_text(to_toml(load_config(None, ("data.target=ph", "run.seed=7"))))
    files = {"versions.json": dict(aam_nb="0.1.0"), "data.json": dict(digest="358edd35", samples=40),
             "inputs.json": {"data.table study/table.biom": "acacfc14"},
             "scores.json": dict(aam=dict(mae=.25))}
    for name, value in files.items(): (folder/name).write_text(json.dumps(value))
    (folder/"bundle").mkdir()
    (folder/"bundle/model.safetensors").write_bytes(bytes(1000))
    (folder/"bundle/seal.json").write_text("{}")
    (folder/"report.html").write_text("<p>Report")
    (folder/"predictions.tsv").write_text("sample_id\tph\nS1\t7\n")
    (folder/"finished.json").write_text('["bundle"]')


def again(folder, **how):
    "Bring a run once more, in this process, which has MLflow in memory."
    over = threading.Event()
    over.set()
    courier = Courier(folder, "mlflow", pytest.fail, over, **how)
    courier.round()
    return courier


def listed(client, run, at=None):
    "Paths of all files of a run."
    found = client.list_artifacts(run.info.run_id, at)
    return sorted(p for o in found for p in (listed(client, run, o.path) if o.is_dir else [o.path]))


def test_a_run_with_folds_is_there_once_with_all_that_belongs_to_it(tmp_path):
    write_log(tmp_path, ("fold 1 pretrain_asv", "fold 1.1 target", "fold 1.2 target"))
    write_result(tmp_path)
    assert "9 of them are new" in track_run(tmp_path, "mlflow", register="ph", **quiet)
    points = mlflow_points(database(tmp_path))
    # As if the answer to the last delivery had been lost: it is sent again, and a rewind comes on top
    path = tmp_path/"tracking/mlflow.json"
    cursor = open_cursor(path)
    cursor.sent["fold 1.2 target"] = 20
    cursor.save()
    (tmp_path/"tracking/rewinds.jsonl").write_text('{"stage": "fold 1.1 target", "step": 20}\n')
    assert again(tmp_path, register="ph").sent == 2
    assert mlflow_points(database(tmp_path)) == points
    client, runs = mlflow_runs(database(tmp_path))
    name = tmp_path.name
    root, fold, inner = runs[name], runs[f"{name} fold 1"], runs[f"{name} fold 1.2"]
    assert [o for o in points if o[0] == inner.info.run_name and o[1] == "target/loss"] == \
        [(f"{name} fold 1.2", "target/loss", s, 1/s) for s in (20, 40, 60)]
    assert fold.data.tags["mlflow.parentRunId"] == root.info.run_id
    assert inner.data.tags["mlflow.parentRunId"] == fold.info.run_id
    assert {o.info.status for o in runs.values()} == {"FINISHED"}
    assert root.data.params["run.seed"] == "7" and json.loads(root.data.params["data.target"]) == ["ph"]
    assert root.data.tags["data.digest"] == "358edd35" and root.data.tags["input.data.table"] == "acacfc14"
    assert root.data.metrics["score/aam/mae"] == .25
    files = ["config.toml", "data.json", "inputs.json", "report.html", "scores.json", "versions.json"]
    assert listed(client, root) == ["bundle/model.safetensors", "bundle/seal.json", *files]
    model, = client.search_model_versions("name = 'ph'")
    assert model.run_id == root.info.run_id and model.source.endswith("/bundle")
    model = Path(model.source.removeprefix("file://"))/"model.safetensors"
    assert model.read_bytes() == (tmp_path/"bundle/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["target/valid_auc (krank, süß)", "load/memory_gb", "a"*400, "x@y\n%"])
def test_names_of_metrics_suit_mlflow(name):
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name
    _validate_metric_name(metric_name(name))
    _validate_length_limit("name", 250, metric_name(name))


def free_port():
    "A port that was free a moment ago, for a server that must come back to the same one."
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder of a server and its port; runs find it in the environment."
    (tmp_path/"server").mkdir()
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    yield tmp_path/"server", port


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back_has_every_point_once(tmp_path, place):
    folder, (server, port) = tmp_path/"run", place
    with logging(folder, "mlflow") as log:
        sent = lambda: {} if not list(folder.glob("tracking/mlflow-*.json")) else \
            open_cursor(next(folder.glob("tracking/mlflow-*.json"))).sent
        with mlflow_server(server, port):
            for step in (20, 40): log.write("target", step, dict(loss=1/step))
            wait_for(lambda: sent() == {"target": 40})
        for step in (60, 80): log.write("target", step, dict(loss=1/step))         # Nobody is there
        wait_for(lambda: "does not get" in (folder/"tracking/log.txt").read_text()
                 if (folder/"tracking/log.txt").is_file() else False)
        with mlflow_server(server, port) as uri:
            for step in (100, 120): log.write("target", step, dict(loss=1/step))
            wait_for(lambda: sent() == {"target": 120})
            settled(log)
            found = [o[2:] for o in mlflow_points(uri) if o[1] == "target/loss"]
            assert found == [(s, 1/s) for s in (20, 40, 60, 80, 100, 120)]
    assert (folder/"tracking/log.txt").read_text().count("warning") == 1


@pytest.mark.slow
def test_a_run_whose_server_was_away_is_brought_later_and_goes_on_as_the_same_run(tmp_path, place):
    folder, (server, port) = tmp_path/"run", place
    with logging(folder, "mlflow") as log:
        for step in (20, 40, 60): log.write("target", step, dict(loss=1/step))
        begun = time.perf_counter()
        log.close()
        assert time.perf_counter() - begun < 2
    with mlflow_server(server, port) as uri:
        assert "3 of them are new" in track_run(folder, "mlflow", **quiet)
        assert mlflow_runs(uri)[1]["run"].info.status == "KILLED"
        with logging(folder, "mlflow", resume=True) as log:                        # It was stopped at step 40
            log.rewind("target", 40)
            for step in (60, 80): log.write("target", step, dict(loss=2/step))
            write_result(folder)
            settled(log)
        found = [o[2:] for o in mlflow_points(uri) if o[1] == "target/loss"]
        assert found == [(20, 1/20), (40, 1/40), (60, 1/60), (80, 2/80)]           # A step once
        assert "0 of them are new" in track_run(folder, "mlflow", register="ph", **quiet)
        client, runs = mlflow_runs(uri)
        assert list(runs) == ["run"] and runs["run"].info.status == "FINISHED"
        assert "bundle/model.safetensors" in listed(client, runs["run"])           # Through the server
        model, = client.search_model_versions("name = 'ph'")
        assert model.run_id == runs["run"].info.run_id


def test_an_address_with_a_password_is_refused_without_showing_it():
    from aam_nb.core import AamError
    with pytest.raises(AamError, match="run.mlflow holds a user or a password") as e:
        load_config(None, ("run.mlflow=http://ann:hunter22@lab:5000",))
    assert "hunter22" not in str(e.value)
    assert load_config(None, ("run.mlflow=http://lab:5000/a@b",)).run.mlflow == "http://lab:5000/a@b"


def test_a_setting_goes_before_the_environment(tmp_path, monkeypatch):
    from aam_nb.training.about import About
    from aam_nb.training.follow import cursor_path
    from aam_nb.training.mlflow_runs import mlflow_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter22@there:1")
    named = About(name="run", mlflow="http://here:1")
    assert mlflow_uri(tmp_path, named) == "http://here:1"
    there = cursor_path("mlflow", tmp_path, About(name="run"))
    assert there.name != cursor_path("mlflow", tmp_path, named).name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:other123@there:1")
    assert there == cursor_path("mlflow", tmp_path, About(name="run"))             # A password is no place
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert cursor_path("mlflow", tmp_path, About(name="run")).name == "mlflow.json"
