"The benchmark: tasks, a file that is only appended to, frozen folds, and a leaderboard made from the file."
import json
import shutil

import numpy as np
import pytest
from html_pages import Page
from made_up import made
from swapped import clear

from aam_nb.config import config_from, Config
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.evaluation.kept import read_evaluation
from aam_nb.evaluation.verdict import write_evaluation
from aam_nb.recipe import load_config
from aam_nb.runs.benchmark import benchmark_command, benchmark_run, task_folds
from aam_nb.runs.choice import group_values
from aam_nb.runs.parts import choose_folds
from aam_nb.runs.results import append_records, config_digest, machine, read_records
from aam_nb.runs.samples import load_study
from aam_nb.runs.speed import scripts_folder, speed_run, STANDING
from aam_nb.runs.tasks import find_tasks, mlrepo_tasks, SIMULATED, Task, with_task

SMALL = dict(samples=60, asvs=40, groups=20)


def task(name, seed=0, **size):
    "A small simulated task."
    asked = dict(target=("age",), groups="subject")
    return Task(name=name, data=asked, simulated=SMALL | dict(seed=seed) | size)


class StandIn:
    "An evaluation of made-up predictions on the task's own folds; it may be stopped at one of its calls."
    def __init__(self, stop=None): self.seen, self.stop = [], stop

    def __call__(self, config):
        self.seen.append(config)
        if len(self.seen) == self.stop: raise KeyboardInterrupt
        study = load_study(config.data)
        folds = choose_folds(study, config, study.metadata["age"], group_values(study, config.data)).outer
        e = made(study, groups=0)
        fold = np.zeros(len(study.ids), dtype=int)
        for k, (_, test) in enumerate(folds, 1): fold[study.positions(test)] = k
        write_evaluation(type(e)(**{**vars(e), "fold": fold}), config.run.out)
        return dict(run_seconds=2., cpu_seconds=1.5, peak_mb=100)


def config(folder, **run): return config_from({"run": dict(out=str(folder), folds=3) | run})


def test_one_line_for_each_method_with_its_cost(tmp_path):
    page = benchmark_run(config(tmp_path), (task("a"), task("b", seed=1)), (1, 2), evaluated=StandIn())
    found = read_records(tmp_path/"results.jsonl")
    assert {(o["task"], o["seed"]) for o in found} == {(t, s) for t in "ab" for s in (1, 2)}
    one = next(o for o in found if o["method"] == "aam" and o["task"] == "a" and o["seed"] == 1)
    e = read_evaluation(tmp_path/"runs"/f"a-{one['config']}-1")
    assert np.allclose(one["scores"]["r2"], e.scores["aam"]["r2"])
    assert np.allclose(one["minus_forest"]["r2"], e.differences["aam"]["r2"])
    assert (one["cpu_seconds"], one["peak_mb"], one["seconds"]) == (1.5, 100, 3.)
    assert one["machine"] == machine() and "torch" in one["versions"] and len(one["folds"]) == 16
    assert page.is_file() and (tmp_path/"leaderboard.md").read_text().count("\n## ") == 3


def test_what_is_recorded_is_not_run_again(tmp_path):
    tasks, first = (task("a"), task("b", seed=1)), StandIn(stop=2)
    with pytest.raises(KeyboardInterrupt): benchmark_run(config(tmp_path), tasks, evaluated=first)
    before = (tmp_path/"results.jsonl").read_bytes()
    with (tmp_path/"results.jsonl").open("a") as f: f.write('{"task": "b", "meth')
    again = StandIn()
    benchmark_run(config(tmp_path), tasks, evaluated=again)
    assert [o.run.out.split("/")[-1].split("-")[0] for o in again.seen] == ["b"]
    assert (tmp_path/"results.jsonl").read_bytes().startswith(before)
    assert len(read_records(tmp_path/"results.jsonl")) == 2*len(before.splitlines())


def test_other_choices_are_other_results(tmp_path):
    again = StandIn()
    for steps in (10, 20, 10):
        one = config_from({"run": dict(out=str(tmp_path), folds=3), "optim": dict(steps=steps)})
        benchmark_run(one, (task("a"),), evaluated=again)
    assert len(again.seen) == 2
    assert config_digest(config("x", threads=1)) == config_digest(config("y", seed=3))
    assert config_digest(config("x")) != config_digest(config("x", baselines=["all"]))
    labels = {o["label"] for o in read_records(tmp_path/"results.jsonl")}
    assert len(labels) == 2 and any("optim.steps=10" in o for o in labels)


def test_changed_folds_are_refused_and_nothing_is_added(tmp_path):
    benchmark_run(config(tmp_path), (task("a"),), evaluated=StandIn())
    before, later = (tmp_path/"results.jsonl").read_bytes(), StandIn()
    shutil.rmtree(tmp_path/"studies")
    with pytest.raises(AamError, match="are not those of the recorded results"):
        benchmark_run(config(tmp_path), (task("a", samples=57),), evaluated=later)
    other = config_from({"run": dict(out=str(tmp_path), folds=4)})
    with pytest.raises(AamError, match="are not those of the recorded results"):
        benchmark_run(other, (task("a", samples=60),), evaluated=later)
    assert not later.seen and (tmp_path/"results.jsonl").read_bytes() == before


def test_an_evaluation_on_other_folds_is_not_recorded(tmp_path):
    def wrong(config):
        write_evaluation(made(load_study(config.data)), config.run.out)
        return {}
    with pytest.raises(AamError, match="on other folds"):
        benchmark_run(config(tmp_path), (task("a"),), evaluated=wrong)
    assert not (tmp_path/"results.jsonl").exists()


def test_lines_are_added_after_a_torn_one(tmp_path):
    file, line = tmp_path/"r.jsonl", dict(task="a", method="m", seed=1, nothing=float("nan"))
    for _ in range(2):
        append_records(file, [line])
        with file.open("a") as f: f.write('{"task": "a", "method"')
    append_records(file, [line])
    assert [o["nothing"] for o in read_records(file)] == [None]*3
    assert json.loads(file.read_text().splitlines()[0])["task"] == "a"


def test_the_page_is_made_from_the_file_alone(tmp_path):
    benchmark_run(config(tmp_path), (task("<b>"),), evaluated=StandIn())
    page = Page((tmp_path/"leaderboard.html").read_text())
    assert len(page.tags("table")) == 2 and not page.tags("b")
    text = (tmp_path/"leaderboard.md").read_text()
    assert "Against the random forest" in text
    assert any(f"| {o} |" in text for o in ("win", "loss", "level"))


def mlrepo(folder, n=12):
    "Two small data sets in MLRepo's layout."
    study = simulate(samples=n, asvs=10, groups=n//2, length=40, seed=0)
    counts = study.table.counts.toarray().T
    names, ravel = [str(1000 + i) for i in range(len(counts))], {"task-ph": False, "task-black-white": False}
    for name, tasks in (("kostic", {"task": True}), ("ravel", ravel)):
        for place in ("gg", ""): (folder/name/place).mkdir(parents=True, exist_ok=True)
        rows = ["\t".join([k, *map(str, row)]) for k, row in zip(names, counts.tolist(), strict=True)]
        head = "\t".join(["#OTU ID", *study.ids])
        (folder/name/"gg/otutable.txt").write_text("\n".join([head, *rows]) + "\n")
        for task, grouped in tasks.items():
            kinds = study.metadata["age"] if task == "task-ph" else ["Tumor", "Healthy"]*(n//2)
            more = [f"\t1457:{o}" for o in study.metadata["subject"]] if grouped else ["\tall"]*n
            lines = [f"{i}\t{v}{m}\n" for i, v, m in zip(study.ids, kinds, more, strict=True)]
            text = "".join(["#SampleID\tVar\tControlVar\n", *lines[:-1]])
            (folder/name/f"{task}.txt").write_text(text)
    fasta = [f">{k}\n{o}\n" for k, o in zip(names, study.table.sequences, strict=True)]
    (folder/"sequences.fasta").write_text("".join(fasta))
    return study


def test_mlrepo_is_read(tmp_path):
    study = mlrepo(tmp_path)
    tasks = {o.name: o for o in mlrepo_tasks(tmp_path)}
    assert list(tasks) == ["kostic", "ravel_black_white", "ravel_ph"]
    read = load_study(with_task(Config(), tasks["kostic"], tmp_path).data)
    assert list(read.ids) == list(study.ids[:-1]) # the last one has no label
    assert (read.table.counts.toarray().sum(1) == study.table.depths[:-1]).all()
    assert tasks["kostic"].data["groups"] == "ControlVar" and tasks["ravel_ph"].data["independent"]
    assert read.metadata["Var"].nunique() == 2
    (tmp_path/"sequences.fasta").unlink()
    with pytest.raises(AamError, match="without sequences"): mlrepo_tasks(tmp_path)


def test_declared_tasks_name_their_mistakes(tmp_path):
    write_study(clear(0), tmp_path/"one")
    path = tmp_path/"tasks.toml"
    def wrong(text, match):
        path.write_text(text)
        with pytest.raises(AamError, match=match):
            with_task(Config(), find_tasks(str(path), tmp_path)[0], tmp_path)
    wrong("", "declares no task")
    wrong("[a]\nfolder = 'one'", "has no target")
    wrong("[a]\nfolder = 'two'\ntarget = 'age'", "two/table.biom")
    wrong("[a]\nfolder = 'one'\ntarget = 'age'\ngroup = 'subject'", "a key 'group'.*groups")
    wrong("[a", "cannot be read as TOML")
    with pytest.raises(AamError, match="simulated_age"): find_tasks("simulated", tmp_path, ("simulated_ag",))


def test_seeds_draw_other_folds(tmp_path):
    digests = [task_folds(with_task(config(tmp_path, seed=o), task("a"), tmp_path/"a")) for o in (1, 2, 1)]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.slow
def test_two_simulated_tasks_from_end_to_end(tmp_path):
    quick = ["pretrain_asv.steps=10", "optim.steps=20", "run.inner=2", "run.folds=3", "run.refit=0",
             "run.threads=1"]
    choices = load_config("demo", (*quick, f"run.out='{tmp_path}'"))
    names = ",".join(o.name for o in SIMULATED[:2])
    said = []
    benchmark_command(choices, only=names, say=said.append)
    found = read_records(tmp_path/"results.jsonl")
    model = [o for o in found if o["method"] == o["model"]]
    assert [o["task"] for o in model] == ["simulated_age", "simulated_site"]
    assert all(o["cpu_seconds"] > 1 and o["peak_mb"] > 100 and o["data"] for o in model)
    assert {"forest", "clr", "depth"} <= {o["method"] for o in found}
    before = (tmp_path/"results.jsonl").read_bytes()
    benchmark_command(choices, only=names, say=said.append)
    assert (tmp_path/"results.jsonl").read_bytes() == before and "recorded before" in said[-2]


SCRIPT = "from aam_nb.runs.speed import measured\nmeasured('a figure', {}, 4., 'ms', less=True)\n"


def test_figures_of_speed_are_kept_with_floor_and_ratio(tmp_path):
    for figure in (2., 8.):
        (tmp_path/"loop.py").write_text(SCRIPT.format(figure))
        said = []
        file = speed_run(tmp_path, ("loop",), said.append, folder=tmp_path)
    lines = [json.loads(o) for o in file.read_text().splitlines()]
    assert [(o["figure"], o["floor"], o["ratio"]) for o in lines] == [(2., 4., 2.), (8., 4., .5)]
    assert all(o["machine"] == machine() and o["benchmark"] == "loop" for o in lines)
    assert "torch" in lines[0]["versions"]
    assert said[-1].rstrip().endswith("2 ms") # what the same machine measured before


def test_a_script_that_fails_says_why(tmp_path):
    (tmp_path/"loop.py").write_text("raise SystemExit('No study. Set AAM_DATA.')")
    with pytest.raises(AamError, match="measured nothing.*Set AAM_DATA"):
        speed_run(tmp_path, ("loop",), folder=tmp_path)
    assert not (tmp_path/"speed.jsonl").exists()


def test_every_standing_benchmark_says_a_figure():
    for name in STANDING: assert "measured(" in (scripts_folder()/f"{name}.py").read_text()
