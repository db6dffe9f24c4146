"What the page about clusters tells a reader to type is understood by the programs it is typed for."
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from test_readme import parsed

from aam_nb.train import config_from_flags

ROOT = Path(__file__).resolve().parent.parent
CELLS = json.loads((ROOT/"nbs/howto/cluster.ipynb").read_text())["cells"]
TEXT = "\n\n".join("".join(o["source"]) for o in CELLS)
LINES = [o for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for o in block.strip().splitlines()]


def of(program): return [shlex.split(o.partition(program)[2]) for o in LINES if o.startswith(program)]


def given(words):
    "The configuration behind the words of `aam`."
    name, context = parsed(words)
    assert name in ("train", "evaluate")
    return config_from_flags(**{k: v for k, v in context.params.items() if k != "help_all"})


@pytest.mark.parametrize("words", of("torchrun "), ids=lambda o: " ".join(o[:4]))
def test_torchrun_starts_a_command_of_this_package(words):
    from torch.distributed.run import parse_args
    args = parse_args(words)
    assert args.no_python and args.training_script == "aam" and args.nproc_per_node == "4"
    assert given(args.training_script_args).data.table == "table.qza"


def test_the_two_nodes_differ_in_their_number_only():
    first, second = [o for o in of("torchrun ") if "--nnodes" in o]
    assert [(a, b) for a, b in zip(first, second) if a != b] == [("0", "1")]


def accelerate(words):
    from accelerate.commands.launch import launch_command_parser
    return launch_command_parser().parse_args(words)


@pytest.mark.parametrize("words", of("accelerate launch "), ids=lambda o: " ".join(o[:3]))
def test_accelerate_starts_the_training_module(words):
    args = accelerate(words)
    assert args.module and args.training_script == "aam_nb.train"
    recipe, *keys = args.training_script_args
    config = config_from_flags([recipe, *keys])
    assert config.data.target == ("age_months",) and config.run.out == "runs/age"


def test_the_file_says_what_the_flags_say(tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file
    (tmp_path/"a.yaml").write_text(re.search(r"```yaml\n(.*?)```", TEXT, re.S)[1])
    found = load_config_from_file(str(tmp_path/"a.yaml"))
    flags = accelerate(next(o for o in of("accelerate launch ") if "--multi_gpu" in o))
    assert found.distributed_type == "MULTI_GPU" and flags.multi_gpu
    assert (found.num_machines, found.num_processes) == (flags.num_machines, flags.num_processes) == (1, 4)
    assert found.mixed_precision == flags.mixed_precision == "no" and not found.use_cpu


def test_scripts_and_settings_that_are_named_exist():
    for name in re.findall(r"slurm/\w+\.sh", TEXT): assert os.access(ROOT/name, os.X_OK)
    from aam_nb.config import all_keys
    named = set(re.findall(r"`((?:run|optim|pretrain_asv|data|model)\.\w+)(?:=\w+)?`", TEXT))
    assert len(named) > 3 and named <= set(all_keys()), named - set(all_keys())
    scripts = "".join(o.read_text() for o in (ROOT/"slurm").glob("*.sh"))
    for word in ("--requeue", "B:USR1@300", "network", "config.toml", "OMP_NUM_THREADS", "From here on"):
        assert word in TEXT and word in scripts
