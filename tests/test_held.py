"`--batch-size`: which stages, what is tried in other processes, what is kept, and the commands that take it."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.batches.corpus import Corpus
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.runs import held, trial
from aam_nb.runs.held import search, trained_stages, tried, with_batch_size, work_of
from aam_nb.runs.prepare import Prepared
from aam_nb.runs.train import train_run
from aam_nb.train import config_from_flags
from aam_nb.training.batch_size import HELD, read_held
from aam_nb.training.bench import Bench
from aam_nb.training.parallel import make_accelerator
from aam_nb.training.probe import Trial
from aam_nb.training.ranks import Ranks

SMALL = config_from({"model": {"width": 16, "layers": 1, "heads": 2, "sample_width": 16, "head_width": 16},
                     "data": {"target": "age", "groups": "subject"},
                     "pretrain_asv": {"steps": 4, "batch": 40},
                     "optim": {"steps": 4, "batch": 8, "every": 2, "freeze": False},
                     "run": {"device": "cpu", "batch_size": "auto", "threads": 1}})


def quiet(text): pass


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    study = simulate(samples=40, asvs=60, groups=10, length=40, seed=0)
    store = build_store(study, tmp_path_factory.mktemp("held")/"store")
    return Bench(config=SMALL, store=store, metadata=study.metadata, accelerator=make_accelerator(SMALL.run))


def ready(bench, tmp_path, **run):
    config = config_from({"run": run}, base=bench.config)
    return Prepared(study=None, out=tmp_path, bench=replace(bench, config=config))


def memory_of(**most):
    "A stand-in for trials: in each stage, steps fit up to a number of samples."
    asked = []
    def tried(bench, stage, sizes, limit, world=1):
        asked.append((stage, sizes, world))
        return Trial(sizes=sizes, peaks=[10**8 + n for n in sizes if n <= most[stage]], base=10**8)
    return tried, asked


def test_every_stage_is_searched_once_and_kept(bench, tmp_path, monkeypatch):
    fake, asked = memory_of(pretrain_asv=40, optim=3)
    monkeypatch.setattr(held, "tried", fake)
    said = []
    made = with_batch_size(ready(bench, tmp_path), True, said.append).bench.config
    assert (made.pretrain_asv.chunk, made.optim.at_once, made.optim.batch) == (40, 3, 8)
    assert made.pretrain_sample == SMALL.pretrain_sample and len(said) == 1
    assert "all 40 ASVs of pretrain_asv, 3 of 8 samples of optim; found in" in said[0]
    n = len(asked)
    again = with_batch_size(ready(bench, tmp_path), True, said.append).bench.config
    assert again == made and len(asked) == n and said[0] == said[1]
    kept = [(o.stage, o.n, o.cap) for o in read_held(tmp_path/HELD)]
    assert kept == [("pretrain_asv", 40, 40), ("optim", 3, 8)]


def test_a_number_holds_for_samples_and_nothing_is_tried(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(held, "tried", None)
    for n in (3, "3"):
        made = with_batch_size(ready(bench, tmp_path, batch_size=n), True, quiet).bench.config
        assert (made.optim.at_once, made.pretrain_sample.at_once) == (3, 3)
        assert made.pretrain_asv == SMALL.pretrain_asv
    as_said = ready(bench, tmp_path, batch_size="")
    assert with_batch_size(as_said, True, quiet) is as_said and not (tmp_path/HELD).exists()


def test_which_stages_are_tried(bench):
    assert trained_stages(bench, True) == ["pretrain_asv", "optim"]
    assert trained_stages(bench, False) == ["pretrain_asv"]
    pretrained = replace(bench, start=object())
    assert trained_stages(pretrained, True) == ["optim"]
    assert trained_stages(pretrained, False) == ["pretrain_asv"]
    both = replace(bench, config=config_from({"pretrain_sample": {"steps": 2}}, base=SMALL))
    assert trained_stages(both, True) == ["pretrain_asv", "pretrain_sample", "optim"]


def test_never_more_than_the_data_fill(bench):
    assert len(work_of(bench, "pretrain_asv")) - 1 == 40 and len(work_of(bench, "pretrain_asv", 3)) - 1 == 14
    sizes = np.sort(np.diff(bench.store.indptr))[::-1]
    assert work_of(bench, "optim").tolist() == np.r_[0, np.cumsum(sizes[:8])].tolist()
    assert work_of(bench, "optim", 2).tolist() == np.r_[0, np.cumsum(sizes[:4])].tolist()
    more = {"optim": {"batch": 5000}, "pretrain_asv": {"batch": 9000}}
    large = replace(bench, config=config_from(more, base=SMALL))
    assert len(work_of(large, "optim")) - 1 == 40
    assert len(work_of(large, "pretrain_asv")) - 1 == len(bench.store.tokens)


def test_processes_hold_what_the_smallest_can(bench, monkeypatch):
    fake, asked = memory_of(optim=8)
    monkeypatch.setattr(held, "tried", fake)
    class Two(Ranks):
        def values(self, value): return [value, value if isinstance(value, list) or value is None else 2]
        def sizes(self, n): return [n, n]
    from contextlib import nullcontext
    monkeypatch.setattr(Two, "together", lambda self: nullcontext())
    found = search(replace(bench, ranks=Two(0, 2)), "optim", 2)
    assert (found.n, found.cap) == (2, 4) and asked[0][2] == 2


JOBS = [("optim", [1, 8]), ("pretrain_asv", [7, 40]), ("pretrain_sample", [2, 5])]


@pytest.mark.parametrize("stage,sizes", JOBS)
def test_a_job_makes_steps_that_learn(bench, tmp_path, stage, sizes):
    "In this process: what the other one says, in its order."
    config = config_from({"pretrain_sample": {"steps": 3, "batch": 5}}, base=SMALL)
    trial.write_job(tmp_path, replace(bench, config=config), stage, sizes)
    job, said = json.loads((tmp_path/"job.json").read_text()), []
    other = trial.bench_of(job, config)
    trial.try_steps(other, job, lambda **what: said.append(what))
    assert [list(o)[0] for o in said] == ["base", "peak", "peak", "learned"] and said[-1]["learned"] == 3
    assert all(next(iter(o.values())) > 0 for o in said)


def test_steps_that_change_nothing_do_not_count(bench, tmp_path):
    still = config_from({"optim": {"lr": 0., "weight_decay": 0.}}, base=SMALL)
    trial.write_job(tmp_path, replace(bench, config=still), "optim", [8])
    job, said = json.loads((tmp_path/"job.json").read_text()), []
    trial.try_steps(trial.bench_of(job, still), job, lambda **what: said.append(what))
    assert said[-1] == {"learned": 0}


def test_the_process_says_why_it_cannot(bench, tmp_path, capsys, monkeypatch):
    trial.write_job(tmp_path, bench, "optim", [8])
    job = dict(stores=[str(tmp_path/"none")], stage="optim", sizes=[8], world=1)
    (tmp_path/"job.json").write_text(json.dumps(job))
    trial.main(str(tmp_path))
    assert "error" in json.loads(capsys.readouterr().out)
    for error, full in ((MemoryError(), True), (RuntimeError("can't allocate memory"), True)):
        def fail(*what, error=error): raise error
        monkeypatch.setattr(trial, "bench_of", fail)
        trial.main(str(tmp_path))
        assert ("full" in json.loads(capsys.readouterr().out)) == full
    def fail(*what): raise RuntimeError("something else")
    monkeypatch.setattr(trial, "bench_of", fail)
    with pytest.raises(RuntimeError, match="something else"): trial.main(str(tmp_path))
    assert trial._is_full(torch.cuda.OutOfMemoryError("x"))


def test_stores_of_a_corpus_and_in_memory(bench, tmp_path):
    other = build_store(simulate(samples=12, asvs=30, groups=6, length=40, seed=5), tmp_path/"other")
    both = replace(bench, store=Corpus([bench.store, other]))
    trial.write_job(tmp_path, both, "optim", [3])
    again = trial.bench_of(json.loads((tmp_path/"job.json").read_text()), SMALL)
    assert again.store.digest == both.store.digest and len(again.metadata) == 52
    here = replace(bench, store=build_store(simulate(samples=12, asvs=30, groups=6, seed=5)))
    with pytest.raises(AamError, match="in a folder only"): trial.write_job(tmp_path, here, "optim", [3])


def test_a_real_process_is_stopped(bench):
    over = tried(bench, "optim", [8], limit=120*10**6)
    assert (over.fits, over.fails) == (0, 8)


@pytest.mark.slow
def test_a_real_process_makes_its_steps(bench):
    done = tried(bench, "optim", [2, 8], limit=6*10**9)
    assert done.fits == 8 and 10**8 < done.base <= done.peaks[0] <= done.peaks[-1]


def test_what_this_process_holds_beside_counts_where_memory_is_given(bench, monkeypatch):
    from aam_nb.training.probe import Watched
    lines = [{"ready": 3*10**8, "room": None}, {"base": 4*10**8}, {"peak": 5*10**8}, {"learned": 1}]
    monkeypatch.setattr(held, "watched", lambda *a, **k: Watched(ended="done", seen=0, lines=lines))
    monkeypatch.setattr(held, "resident", lambda: 9*10**8)
    given = replace(bench, config=config_from({"run": {"memory": 1.}}, base=SMALL))
    assert tried(given, "optim", [8], 10**9).fits == 0 # 0.6 GB here that are not there
    assert tried(bench, "optim", [8], 10**9).fits == 8


def test_the_flag_and_what_it_may_be():
    assert config_from_flags(batch_size="auto").run.batch_size == "auto"
    assert config_from_flags(batch_size="16").run.batch_size == "16"
    assert config_from_flags(["run.batch_size=16", "run.memory=2.5"]).run.batch_size == 16
    for wrong in ("many", "0", "-3", "1.5", "²"):
        with pytest.raises(AamError, match="wanted a number of samples"): config_from_flags(batch_size=wrong)
    with pytest.raises(AamError, match="with run.shard each one holds a part"):
        config_from({"run": {"batch_size": "auto", "shard": "fsdp"}})
    for command in ("train", "pretrain", "evaluate"):
        from typer.testing import CliRunner
        from aam_nb.cli import app
        assert "--batch-size" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output


def test_pieces_of_a_recipe_change_nothing_but_rounding(bench, tmp_path):
    "A whole run that holds three samples at once, and one that holds all."
    write_study(simulate(samples=40, asvs=60, groups=10, length=40, seed=0), tmp_path/"study")
    found = []
    for n in ("", 3):
        run = {"out": str(tmp_path/f"run{n}"), "batch_size": n}
        train_run(config_from({"data": study_files(tmp_path/"study"), "run": run}, base=SMALL), quiet)
        lines = [json.loads(o) for o in (tmp_path/f"run{n}/metrics.jsonl").read_text().splitlines()]
        found.append([o["loss"] for o in lines if o["stage"] == "target"])
    assert np.allclose(*found, rtol=1e-4) and len(found[0]) == 2


def test_the_optimizer_has_its_state_before_a_step_is_measured(bench, tmp_path, monkeypatch):
    "The first step of a training makes the state only at its end, and would take too little."
    trial.write_job(tmp_path, bench, "optim", [2, 8])
    job, had, loops = json.loads((tmp_path/"job.json").read_text()), [], []
    make = trial._loop
    monkeypatch.setattr(trial, "_loop", lambda *a: loops.append(make(*a)) or loops[-1])
    trial.try_steps(trial.bench_of(job, SMALL), job, lambda **what: had.append(len(loops[0].optimizer.state)))
    assert had[0] > 10 and min(had) == max(had)
