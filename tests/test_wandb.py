"Runs in Weights & Biases: offline files are read back, and a server that is away is no trouble."
import json
import time

import pytest
from tracking import away, logging, settled, wait_for, wandb_points, wandb_records, write_log

from aam_nb.core import AamError
from aam_nb.runs.track import track_run
from aam_nb.training.cursor import open_cursor
from aam_nb.training.log import read_log
from aam_nb.training.wandb_runs import wandb_place

pytest.importorskip("wandb")
quiet = dict(say=lambda text: None)
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    "Offline, with a key that must not be seen, and without an earlier login."
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path/"netrc"))


def test_an_offline_run_that_goes_on_has_every_point_once(tmp_path):
    folder = tmp_path/"run"
    with logging(folder, "wandb") as log:
        (folder/"config.toml").write_text('[data]\ntarget = ["ph"]\n[run]\nseed = 7\nexperiment = "gut"\n')
        (folder/"report.html").write_text("<p>Report")
        for step in (20, 40, 60): log.write("target", step, dict(loss=1/step))
        settled(log)
    with logging(folder, "wandb", resume=True) as log:
        log.rewind("target", 40)
        for step in (60, 80): log.write("target", step, dict(loss=2/step))
        settled(log)
    assert "0 of them are new" in track_run(folder, "wandb", **quiet)
    points = wandb_points(folder)
    losses = [(k, o["target/step"], o["target/loss"]) for k, o in points if "target/loss" in o]
    assert losses == [(0, 20, 1/20), (1, 40, 1/40), (2, 60, 1/60), (3, 80, 2/80)]   # A step once
    assert all(o["target/load/memory_gb"] > 0 for _, o in points)
    files = sorted(folder.glob("tracking/wandb/offline-run-*/*.wandb"))
    records = [list(wandb_records(o)) for o in files]
    runs = [o.run for found in records for o in found if o.WhichOneof("record_type") == "run"]
    assert {o.run_id for o in runs} == {open_cursor(folder/"tracking/wandb.json").key}
    assert {o.project for o in runs} == {"gut"}
    config = {o.key: json.loads(o.value_json) for o in runs[0].config.update}
    assert config["run.seed"] == "7" and json.loads(config["data.target"]) == ["ph"]
    kinds = [o.artifact.type for o in records[0] if o.WhichOneof("record_type") == "artifact"]
    assert kinds == ["run"] and all(o[-1].exit.exit_code == 1 for o in records)     # It did not finish
    assert not any(KEY.encode() in o.read_bytes() for o in tmp_path.rglob("*") if o.is_file())


@pytest.mark.slow
def test_a_file_that_was_cut_off_is_written_again(tmp_path):
    folder = tmp_path/"run"
    with logging(folder, "wandb") as log:
        for step in (20, 40): log.write("target", step, dict(loss=1/step))
        side = log.sinks["side process"]
        wait_for(lambda: list(folder.glob("tracking/wandb/offline-run-*")))
        time.sleep(1.5)
        side.process.kill()
        side.process.wait(30)
    assert open_cursor(folder/"tracking/wandb.json").sent == {}
    assert "2 of them are new" in track_run(folder, "wandb", **quiet)
    assert [(k, o["target/loss"]) for k, o in wandb_points(folder)] == [(0, 1/20), (1, 1/40)]


def test_it_goes_online_only_where_a_key_is_known(monkeypatch, tmp_path):
    assert wandb_place()[0] == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert wandb_place() == ("online", "https://api.wandb.ai")
    monkeypatch.delenv("WANDB_API_KEY")
    assert wandb_place()[0] == "offline"
    (tmp_path/"netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert wandb_place()[0] == "online"


@pytest.mark.slow
def test_a_server_that_is_away_costs_nothing_and_nothing_is_lost(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    folder = tmp_path/"run"
    with away() as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        with logging(folder, "wandb") as log:
            for step in (20, 40, 60): log.write("target", step, dict(loss=1/step))
            wait_for(lambda: (folder/"tracking/log.txt").is_file())
            log.write("target", 80, dict(loss=1/80))
            begun = time.perf_counter()
            log.close()
            assert time.perf_counter() - begun < 2
        with pytest.raises(AamError, match="wandb does not get the numbers"):
            track_run(folder, "wandb", limit=60., **quiet)
    said = capsys.readouterr().err
    assert said.count("warning: wandb does not get") == 1 and KEY not in said
    assert len(read_log(folder/"metrics.jsonl")) == 4
    monkeypatch.setenv("WANDB_MODE", "offline")                                     # Another place: all of it
    assert "4 of them are new" in track_run(folder, "wandb", **quiet)
    assert not any(KEY.encode() in o.read_bytes() for o in tmp_path.rglob("*") if o.is_file())


def test_a_replayed_run_has_the_steps_of_all_stages(tmp_path):
    write_log(tmp_path, ("pretrain_asv", "fold 1.1 target"))
    track_run(tmp_path, "wandb", **quiet)
    assert [k for k, _ in wandb_points(tmp_path)] == list(range(6))
    steps = [o.get("fold 1.1 target/step") for _, o in wandb_points(tmp_path)]
    assert steps == [None, None, None, 20, 40, 60]
