"A process of a run fails in any phase: its reason is told once, and nobody is left waiting."
import time

import pytest
from launches import launched

from aam_nb.data.simulate import simulate, study_files, write_study

SHORT = ["model.width=16", "model.sample_width=16", "model.layers=1", "pretrain_asv.steps=6",
         "pretrain_asv.batch=40", "pretrain_asv.every=2", "optim.steps=6", "optim.every=3", "run.folds=3",
         "run.inner=2", "run.trackers=[]"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=45, asvs=40, groups=15, length=60, seed=1), folder)
    flags = [f"--{k}={v}" for k, v in study_files(folder).items()]
    return [*SHORT, *flags, "--target", "age", "--groups", "subject", "--threads", "1", "--device", "cpu"]


def run(words, out, plan, command="train"):
    at = out.with_name("failed_at")
    command = ["tests/failing_run.py", plan, command, *words, "--out", out]
    done = launched(command, seconds=300, FAILED_AT=str(at))
    if at.exists(): assert time.time() - float(at.read_text()) < 45 # 30 seconds, and the launcher's own end
    return done


PHASES = ["reading", "store", "step", "validation"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", [*(f"1,{o},error" for o in PHASES), "0,step,error", "0,bundle,error"])
def test_an_error_of_one_process_ends_all_and_is_told_once(words, tmp_path, plan):
    done = run(words, tmp_path/"run", plan)
    who = "" if plan.startswith("0") else "process 1 of 2, counted from 0: "
    assert done.status
    assert [o for o in done.own.splitlines() if "error" in o] == [f"error: {who}No space is left."], done.err
    assert "Elsewhere" not in done.err and "RuntimeError" not in done.err
    assert (tmp_path/"run").exists() == (",reading," not in plan)
    assert not (tmp_path/"run/finished.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["1,reading,bug", "1,step,bug", "0,validation,bug"])
def test_a_fault_of_the_program_in_one_process_ends_all(words, tmp_path, plan):
    done = run(words, tmp_path/"run", plan)
    assert done.status and done.err.count("MemoryError: no room") == 1, done.err
    assert "Elsewhere" not in done.err and "RuntimeError" not in done.err


@pytest.mark.slow
def test_a_fold_that_fails_in_one_process_ends_all_and_the_run_goes_on(words, tmp_path):
    more = [*words, "run.spread=folds"]
    done = run(more, tmp_path/"run", "1,fold,error", "evaluate")
    said = [o for o in done.own.splitlines() if "error" in o]
    assert done.status and said == ["error: process 1 of 2, counted from 0: No space is left."], done.err
    again = run([*more, "--resume"], tmp_path/"run", "9,fold,error", "evaluate")
    assert not again.status and (tmp_path/"run/report.html").is_file(), again.err
    alone = launched(["tests/failing_run.py", "9,fold,error", "evaluate", *words, "--out", tmp_path/"one"],
                     world=1, RANK="0")
    assert not alone.status, alone.err
    for name in ("predictions.tsv", "scores.tsv"):
        assert (tmp_path/"run"/name).read_bytes() == (tmp_path/"one"/name).read_bytes()
