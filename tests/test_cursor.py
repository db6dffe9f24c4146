"What a tracker gets of a log that grows and goes back, whenever it looks; and what nobody gets to see."
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.training.about import about_run, parameters, read_choices, redacted, run_files
from aam_nb.training.cursor import Feed, open_cursor, Tail
from aam_nb.training.follow import BACK_ENDS, Courier
from aam_nb.training.log import gpu_load, JsonLines, read_log
from aam_nb.training.mlflow_runs import metric_name, part_above, stage_part


def test_a_graphics_card_is_among_the_numbers(monkeypatch):
    torch = pytest.importorskip("torch")
    assert gpu_load() == {} or torch.cuda.is_initialized()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2_500_000_000)
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 87)
    assert gpu_load() == dict(gpu_memory_gb=2.5, gpu_percent=87.)

    def mute(): raise type("NVMLError_NotSupported", (Exception,), {})("a slice of a card")
    monkeypatch.setattr(torch.cuda, "utilization", mute)
    assert gpu_load() == dict(gpu_memory_gb=2.5)


class Shelf:
    "A back end in memory, that can take points back or cannot."
    sure, replaces = True, True

    def __init__(self, folder, cursor): self.points, self.ended = [], []
    def begin(self, about): pass
    def send(self, points): self.points += [(o.stage, o.step, o.numbers["loss"]) for o in points]

    def rewind(self, stage, step): self.points = [o for o in self.points if o[0] != stage or o[1] <= step]
    def finish(self, about): self.ended.append(about)
    def close(self): pass


class Wall(Shelf):
    "A back end that keeps what it has got."
    replaces = False
    def rewind(self, stage, step): raise AssertionError("it cannot take points back")


def training(folder, moves):
    "A training in single acts on the disk: records of one stage, and sittings that go back to a checkpoint."
    load, log = JsonLines(folder/"tracking/load.jsonl"), JsonLines(folder/"metrics.jsonl")
    step, tries = 0, 0
    for back in moves:
        if back is None:
            step += 1
            load.write("target", step, dict(time=1e9 + step))
            yield
            log.write("target", step, dict(loss=100.*tries + step))
        else:
            step, tries = max(step - back, 0), tries + 1
            for o in (load, log):
                o.rewind("target", step)
                yield
            line = json.dumps(dict(stage="target", step=step)) + "\n"
            with open(folder/"tracking/rewinds.jsonl", "a") as f: f.write(line)
        yield


def tracking(courier):
    "A courier in single acts on the disk."
    while True:
        courier.follow_rewinds()
        yield
        courier.waiting += courier.cursor.new(courier.feed.points())
        yield
        courier.deliver()
        yield


@pytest.mark.parametrize("kind", [Shelf, Wall])
@given(moves=st.lists(st.none() | st.integers(0, 3), max_size=12), turns=st.lists(st.booleans(), max_size=60))
def test_whoever_looks_at_whatever_moment_has_the_whole_log_in_the_end(tmp_path_factory, kind, moves, turns):
    folder, over = tmp_path_factory.mktemp("run"), threading.Event()
    run = training(folder, moves)
    courier = Courier(folder, "shelf", pytest.fail, over)
    BACK_ENDS["shelf"] = kind
    try:
        courier.open()
        reader = tracking(courier)
        for first in turns: next(run if first else reader, None)
        for _ in run: pass
        over.set()
        courier.round()
    finally: del BACK_ENDS["shelf"]
    steps = [o[1] for o in courier.end.points]
    log = [(o["stage"], o["step"], o["loss"]) for o in read_log(folder/"metrics.jsonl")]
    assert len(set(steps)) == len(steps)                       # None comes twice
    if kind is Shelf: assert sorted(courier.end.points) == sorted(log)
    else: assert {o[1] for o in log} <= set(steps)             # And perhaps steps that are repeated later


def test_a_tail_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path/"a.jsonl"
    tail, line = Tail(path), json.dumps(dict(stage="größe", step=1), ensure_ascii=False).encode() + b"\n"
    assert tail.read() == []
    for k in range(1, len(line)):
        path.write_bytes(line[:k])
        assert tail.read() == []
    path.write_bytes(line + b"nonsense\n" + line[:5])
    assert tail.read() == [dict(stage="größe", step=1)]


def test_points_of_an_earlier_version_keep_their_time_when_they_are_sent_again(tmp_path):
    JsonLines(tmp_path/"metrics.jsonl").write("target", 20, dict(seconds=3.5, loss=.5))
    cursor = open_cursor(tmp_path/"tracking/mlflow.json")
    cursor.save()
    times = [Feed(tmp_path, open_cursor(cursor.path).begun).points()[0].time for _ in range(2)]
    assert times == [cursor.begun + 3.5]*2


def test_a_courier_gives_up_where_somebody_waits_and_never_in_a_training(tmp_path):
    class Broken(Shelf):
        def send(self, points): raise ConnectionError("no")
    JsonLines(tmp_path/"metrics.jsonl").write("target", 20, dict(loss=.5))
    over, said = threading.Event(), []
    over.set()
    BACK_ENDS["broken"] = Broken
    try:
        courier = Courier(tmp_path, "broken", said.append, over, tries=3)
        courier.pause = lambda: None
        courier.run()
        endless = Courier(tmp_path, "broken", said.append, over)
        for _ in range(20): endless.failed(ConnectionError("no"))
    finally: del BACK_ENDS["broken"]
    assert courier.failures == 3 and not courier.done and not endless.gave_up()
    assert len(said) == 2 and all("(no)" in o for o in said)


words = st.text("abcXYZ019_-.!$", min_size=6, max_size=20)


@given(user=words, password=words, key=words)
def test_users_passwords_and_keys_are_not_shown(user, password, key):
    text = f"at http://{user}:{password}@lab.org:5000/api?token={key} with key {key}, 'api_key': '{key}'"
    environ = {"WANDB_API_KEY": key, "PATH": "/usr/bin"}
    shown = redacted(text, environ)
    assert shown == "at http://***@lab.org:5000/api?token=*** with key ***, 'api_key': '***'"
    assert redacted(shown, environ) == shown
    plain = "2 of 3 points at http://lab:5000 (a@b.org)"
    assert redacted(plain, {}) == plain


def test_choices_of_a_run_are_told_without_passwords(tmp_path):
    lines = ["[data]", 'table = "s3://ann:hunter22@lab/t"', 'where = ""', "[optim]", "lr = 0.001"]
    (tmp_path/"config.toml").write_text("\n".join(lines))
    assert parameters(read_choices(tmp_path)) == {"data.table": "s3://***@lab/t", "optim.lr": "0.001"}
    (tmp_path/"config.toml").write_text("[data\n")
    with pytest.raises(AamError, match="config.toml cannot be read"): about_run(tmp_path)


def test_files_that_name_samples_and_files_that_are_large_stay(tmp_path):
    stay = ["predictions.tsv", "split.tsv", "folds.tsv", "metrics.jsonl", "checkpoints/a/last/config.json",
            "cache/x.png", "store/data.json", "tracking/mlflow.db", "folds/1.npz", "bundle/.part/m", ".x.png"]
    go = ["config.toml", "report.html", "split.png", "ph/report.html", "ph/scores.tsv", "bundle/asvs.fasta"]
    for o in stay + go:
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).write_text("")
    assert run_files(tmp_path) == sorted(go)


def test_stages_belong_to_parts_of_a_run():
    assert stage_part("depth_500 fold 1.2 target") == ("depth_500 fold 1.2", "target")
    found = {o: part_above(o) for o in ("depth_500 fold 1.2", "depth_500 fold 1", "fold 10.3", "all")}
    assert found == {"depth_500 fold 1.2": "depth_500 fold 1", "depth_500 fold 1": "", "fold 10.3": "fold 10",
                     "all": ""}
    assert metric_name("target/valid_auc (krank, süß)") == "target/valid_auc _krank_ süß_"
