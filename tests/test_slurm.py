"The batch scripts of slurm/: clean shell, options that SLURM knows, commands that this package takes."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_stub import asked, commands, noted
from typer.testing import CliRunner

from aam_nb.cli import app

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT/"slurm").glob("*.sh"))
PARTS = pytest.mark.parametrize("script", SCRIPTS, ids=lambda o: o.stem)
SEVERAL = pytest.mark.parametrize("name", ["one_node", "many_nodes"])


def test_there_are_three(): assert [o.stem for o in SCRIPTS] == ["many_nodes", "one_gpu", "one_node"]


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT/"tools/setup.sh"], ids=lambda o: o.name)
def test_shellcheck_finds_nothing(path):
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run([shutil.which("shellcheck", path=beside), path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@PARTS
def test_slurm_is_asked_for_what_it_knows(script):
    options = asked(script.read_text())
    assert {"requeue", "open-mode", "signal", "time", "output", "gpus-per-node"} <= options.keys()
    assert options["signal"].startswith("B:USR1@") and options["open-mode"] == "append"
    assert int(options["cpus-per-task"]) % int(options["gpus-per-node"]) == 0


@pytest.mark.parametrize("right,wrong", [
    ("--gpus-per-node=", "--gpu-per-node="), ("--time=12:00:00", "--time=12h"),
    ("--requeue", "--requeue=yes"), ("--signal=B:USR1@300", "--signal=B:USR1@5m"),
    ("--open-mode=append", "--open-mode=add"),
    ("set -euo", "#SBATCH --mem=1G\nset -euo"), ("set -euo pipefail", "set -eu\n#SBATCH --mem=1G")])
def test_a_slip_in_what_is_asked_is_found(right, wrong):
    text = SCRIPTS[0].read_text()
    assert right in text
    with pytest.raises(ValueError): asked(text.replace(right, wrong))


@PARTS
def test_names_and_paths_stand_at_the_top(script):
    top, below = script.read_text().split("# From here on")
    assert {"environment", "study", "run"} <= set(re.findall(r"^(\w+)=", top, re.M))
    assert "/home" not in below and ".qza" not in below and "$HOME" not in below


def test_what_starts_and_ends_a_run_is_the_same_in_all():
    ends = {o.read_text().split('export OMP_NUM_THREADS="$threads"')[1] for o in SCRIPTS}
    assert len(ends) == 1


@pytest.fixture
def job(tmp_path):
    "Submits a script with the stand-ins on PATH. Gives the exit status and what would run."
    path = f"{commands(tmp_path/'bin')}:{os.environ['PATH']}"

    def submit(name, change=(), **env):
        text = (ROOT/f"slurm/{name}.sh").read_text()
        for old, new in change: text = text.replace(old, new)
        (tmp_path/"job.sh").write_text(text)
        env = os.environ | dict(PATH=path, HOME=str(tmp_path), STUB_OUT=str(tmp_path)) | env
        command = ["sbatch", tmp_path/"job.sh"]
        done = subprocess.run(command, env=env, timeout=90, capture_output=True, text=True)
        return done.returncode, noted(tmp_path), done.stderr
    return submit


def configuration(words, monkeypatch):
    "The configuration that a command line of `aam` describes."
    got, name = [], words[0]
    monkeypatch.setattr(f"aam_nb.runs.{name}.{name}_run", got.append)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return got[0]


def launched(words):
    "What torchrun understands, and the words behind it."
    from torch.distributed.run import parse_args
    args = parse_args(words)
    assert args.no_python and args.training_script == "aam" and args.max_restarts == 0
    return args, args.training_script_args


def test_one_gpu_starts_the_run_itself(job, tmp_path, monkeypatch):
    code, ran, errors = job("one_gpu")
    assert (code, [o["command"] for o in ran]) == (0, ["srun", "aam"]), errors
    config = configuration(ran[1]["words"], monkeypatch)
    assert config.run.out == f"{tmp_path}/runs/age" and config.run.threads == 8 and not config.run.resume
    assert config.data.table == f"{tmp_path}/study/table.qza" and config.data.target == ("age_months",)
    assert ran[1]["env"] == {"OMP_NUM_THREADS": "8"}


def test_one_node_starts_a_process_for_each_gpu(job, tmp_path, monkeypatch):
    code, ran, errors = job("one_node")
    assert (code, [o["command"] for o in ran]) == (0, ["srun", "torchrun"]), errors
    args, words = launched(ran[1]["words"])
    assert args.standalone and args.nproc_per_node == "4"
    assert (args.role, args.log_dir) == ("node0-", f"{tmp_path}/runs/age-logs/node0")
    assert configuration(words, monkeypatch).run.threads == 8 and ran[1]["env"] == {"OMP_NUM_THREADS": "8"}


def test_many_nodes_meet_on_the_first(job, monkeypatch):
    code, ran, errors = job("many_nodes", [("--nodes=2", "--nodes=3")])
    assert (code, [o["command"] for o in ran]) == (0, ["srun", *["torchrun"]*3]), errors
    assert ran[0]["options"] == {"kill-on-bad-exit": "1", "cpus-per-task": "32"}
    all_args, words = zip(*(launched(o["words"]) for o in ran[1:]))
    assert sorted(o.node_rank for o in all_args) == [0, 1, 2]
    assert all(o.role == f"node{o.node_rank}-" for o in all_args)
    assert all(o.log_dir.endswith(f"/runs/age-logs/node{o.node_rank}") for o in all_args)
    assert {(o.nnodes, o.nproc_per_node, o.master_addr) for o in all_args} == {("3", "4", "node1")}
    ports = {o.master_port for o in all_args}
    assert len(ports) == 1 and 1024 < ports.pop() < 32768 # below the ports that systems deal out themselves
    assert configuration(words[0], monkeypatch) == configuration(words[2], monkeypatch)


def test_a_network_card_that_is_named_is_used(job):
    ran = job("many_nodes", [('network=""', 'network="ib0"')])[1]
    cards = {k: "ib0" for k in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    assert all(cards.items() <= o["env"].items() for o in ran[1:])
    assert not any(k in o["env"] for o in job("many_nodes")[1][4:] for k in cards)


def test_the_same_script_evaluates(job, monkeypatch):
    ran = job("one_node", [("work=(train", "work=(evaluate")])[1]
    assert configuration(launched(ran[1]["words"])[1], monkeypatch).data.groups == "host_subject_id"


@pytest.fixture
def run(tmp_path):
    "The folder of a run that has begun."
    folder = tmp_path/"runs/age"
    folder.mkdir(parents=True)
    (folder/"config.toml").write_text("")
    return folder


@PARTS
def test_a_folder_that_holds_a_run_is_resumed(script, job, run):
    assert job(script.stem)[1][-1]["words"].count("--resume") == 1
    (run/"config.toml").unlink()
    assert "--resume" not in job(script.stem)[1][-1]["words"] # nothing there yet


@PARTS
def test_before_the_time_is_up_a_job_saves_and_is_queued_again(script, job, run):
    code, ran, errors = job(script.stem, [("--nodes=2", "--nodes=1")], STUB_USR1="yes")
    assert [o["command"] for o in ran[-2:]] == ["left", "requeue"] and ran[-2]["asked"], errors
    assert code == 1 and [o["command"] for o in ran].count("requeue") == 1


@pytest.mark.parametrize("file,there", [("finished.json", True), ("config.toml", False)])
def test_a_job_that_has_finished_or_not_begun_is_not_queued_again(job, run, file, there):
    if there: (run/file).write_text("[]")
    else: (run/file).unlink()
    assert [o["command"] for o in job("one_node", STUB_USR1="yes")[1]][-1] == "left"


@PARTS
def test_an_error_is_handed_on_and_not_tried_again(script, job):
    code, ran, _ = job(script.stem, STUB_CODE="2")
    assert code == 2 and "requeue" not in [o["command"] for o in ran]
