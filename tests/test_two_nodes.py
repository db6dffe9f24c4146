"Training on two nodes: a node that dies ends the other with a clear error, and both go on where they were."
import json
import textwrap
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from two_nodes import Pair

from aam_nb.data.simulate import simulate, study_files, write_study

SMALL = ["model.width=8", "model.layers=1", "model.sample_width=8", "model.head_width=8", "model.identity=8",
         "model.heads=2", "pretrain_asv.steps=10", "pretrain_asv.batch=16", "pretrain_asv.every=5",
         "optim.steps=400", "optim.batch=8", "optim.every=10", "run.threads=1", "run.device=cpu",
         "run.save_steps=10", "data.target=age", "data.groups=subject"]


@pytest.fixture
def pair(tmp_path):
    "Two nodes that are taken away whatever happens."
    made = Pair(tmp_path/"nodes")
    yield made
    made.close()


def lines(text, start="error:"): return [o for o in text.splitlines() if o.startswith(start)]


TALK = """
    import sys, torch
    import torch.distributed as dist
    from pathlib import Path
    from aam_nb.core import AamError
    from aam_nb.training.ranks import Ranks

    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        while ranks.sum(torch.ones(3)).tolist() == [2., 2., 2.]:
            Path(sys.argv[1], f"met{ranks.rank}").touch()
    except AamError as e: sys.exit(f"error: {e}")
"""


@pytest.mark.parametrize("dies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_node_that_dies_ends_the_other_with_a_sentence(pair, tmp_path, dies):
    (tmp_path/"talk.py").write_text(textwrap.dedent(TALK))
    pair.start(tmp_path/"talk.py", tmp_path)
    pair.until(lambda: all((tmp_path/f"met{i}").is_file() for i in range(2)))
    pair.kill(dies)
    begun = time.monotonic()
    ends = pair.ends(30)
    assert time.monotonic() - begun < 30 and ends[dies] == -9 and ends[1-dies] > 0
    assert "Another process of this run has stopped" in lines(pair.said(1 - dies))[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "A simulated study on disk."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=30, groups=10, length=24, seed=3), folder)
    return folder


def train(pair, study, out, *more):
    "Start the training of a tiny study on both nodes."
    files = [f"data.{k}={v}" for k, v in study_files(study).items()]
    pair.start("-m", "aam_nb.train", "demo", *files, *SMALL, f"run.out={out}", *more)


def whole(pair, study, out, *more):
    "Train to the end."
    train(pair, study, out, *more)
    assert pair.ends(300) == [0, 0], [pair.said(0), pair.said(1)]


def train_until(pair, study, out, step=100):
    "Train until the last stage has made some steps and kept some of them."
    def far(): return steps(out) >= step and any((out/"checkpoints/target").glob("last*/state.json"))
    train(pair, study, out)
    pair.until(far, 300)


def steps(out):
    "The last step of the target that the log of the run tells of."
    path = out/"metrics.jsonl"
    told = [json.loads(o) for o in path.read_text().splitlines()] if path.is_file() else []
    return max([o["step"] for o in told if o["stage"] == "target"], default=0)


def same(one, other):
    "Two runs hold the same weights and the same predictions, to the bit."
    for name in ("predictions.tsv", "scores.json", "split.tsv"):
        assert (one/name).read_bytes() == (other/name).read_bytes(), name
    a, b = (load_file(o/"bundle/model.safetensors") for o in (one, other))
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory):
    "A run that nobody disturbed."
    top = tmp_path_factory.mktemp("undisturbed")
    pair = Pair(top/"nodes")
    try: whole(pair, study, top/"run")
    finally: pair.close()
    return top/"run"


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_run_whose_node_died_goes_on_as_if_it_had_not(pair, study, undisturbed, tmp_path, dies):
    run = tmp_path/"run"
    train_until(pair, study, run)
    pair.kill(dies)
    begun = time.monotonic()
    ends = pair.ends(30)
    assert time.monotonic() - begun < 30 and ends[dies] == -9 and ends[1-dies] > 0
    assert len(lines(pair.said(1 - dies))) == 1, pair.said(1 - dies)
    assert not (run/"finished.json").exists()
    whole(pair, study, run, "run.resume=true")
    same(undisturbed, run)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[0], [1], [0, 1]])
def test_nodes_that_are_asked_to_stop_leave_together_and_go_on(pair, study, undisturbed, tmp_path, asked):
    run = tmp_path/"run"
    train_until(pair, study, run)
    pair.ask(asked)
    assert all(o > 0 for o in pair.ends(20))
    assert "Stopped after step" in pair.said(0) and not lines(pair.said(0)) and not lines(pair.said(1))
    whole(pair, study, run, "run.resume=true")
    same(undisturbed, run)
