"Training on shards, by FSDP2 on CPUs, ends with the losses and weights of one process."
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from equal_cases import apart, CASES, objective_of, trained
from shares import on_cpu

from aam_nb.core import AamError
from aam_nb.training.ranks import Elsewhere, several
from aam_nb.training.shard import sharded


def shared(case, ranks, **more):
    "As `trained`, with the model shared out among the processes."
    return trained(case, ranks, on=on_cpu(), **more)


SOON = ["asvs", "all at once", "regression, frozen"] # The others are slow tests
LATER = [pytest.param(o, marks=pytest.mark.slow) for o in CASES if o not in SOON]


@pytest.mark.parametrize("case", [*SOON, *LATER])
def test_twenty_steps(case):
    wanted = trained(case)
    for found in several(partial(shared, case)): assert apart(found, wanted) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4])
def test_a_process_whose_samples_have_no_reads(world):
    "It goes through no block of the set transformer, and must send what the others send."
    wanted = trained("all at once", steps=12)
    for found in several(partial(shared, "all at once", steps=12), world): assert apart(found, wanted) < 1e-10


@pytest.mark.parametrize("case", ["all at once", pytest.param("counts", marks=pytest.mark.slow)])
def test_unequal_pieces_and_a_budget_of_asvs(case):
    wanted = trained(case, steps=6, batch_asvs=60)
    work = partial(shared, case, steps=6, batch_asvs=60, at_once=2)
    for found in several(work): assert apart(found, wanted) < 1e-10


def test_validation_of_the_average_is_that_of_one_process():
    wanted = trained("two targets", steps=6, validated=True)
    for found in several(partial(shared, "two targets", steps=6, validated=True), 3):
        assert apart(found, wanted) < 1e-10 and found[2] == wanted[2]


@pytest.mark.slow
def test_one_process_with_shards_of_its_own():
    assert apart(several(partial(shared, "all at once"), 1)[0], trained("all at once")) < 1e-10


def bereft(ranks):
    "What a process says whose companion dies in a step."
    model = objective_of("asvs").model
    shards = sharded(model, on_cpu())
    if ranks.rank == 1: os._exit(0)
    try:
        with shards.connected(): model.encode(torch.ones(3, 12, dtype=torch.uint8)).sum().backward()
    except Elsewhere as e: return Path(os.environ["SAID"]).write_text(str(e))
    return None


def test_a_process_that_dies_is_told_of_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("SAID", str(tmp_path/"said"))
    with pytest.raises(AamError, match="Processes failed"): several(bereft, seconds=30)
    assert "Another process of this run has stopped" in (tmp_path/"said").read_text()
