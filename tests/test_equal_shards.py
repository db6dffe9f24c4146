"Training on shards, by FSDP2 on CPUs, ends with the losses and weights of one process."
from functools import partial

import pytest
from equal_cases import apart, CASES, trained
from shares import on_cpu

from aam_nb.training.ranks import several


def shared(case, ranks, **more):
    "As `trained`, with the model shared out among the processes."
    return trained(case, ranks, on=on_cpu(), **more)


SOON = ["asvs", "all at once", "regression, frozen"] # The others are slow tests
LATER = [pytest.param(o, marks=pytest.mark.slow) for o in CASES if o not in SOON]


@pytest.mark.parametrize("case", [*SOON, *LATER])
def test_twenty_steps(case):
    wanted = trained(case)
    for found in several(partial(shared, case)): assert apart(found, wanted) < 1e-10
