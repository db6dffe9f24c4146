"Training on several processes, or in pieces, ends with the losses and weights of one process."
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from equal_cases import CASES, apart, gradient, gradients_apart, matters, source_of, trained

from aam_nb.sections import OptimConfig
from aam_nb.training.ranks import ALONE, Ranks, several
from aam_nb.training.seam import Seam


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_processes_are_those_of_one(case):
    wanted = gradient(case)
    for found in several(partial(gradient, case)): assert gradients_apart(found, wanted) < 1e-12


@pytest.mark.parametrize("world", [3, 4])
@pytest.mark.parametrize("case", ["asvs", "all at once", "two targets", "mixed reads"])
def test_gradients_of_more_processes_are_those_of_one(case, world):
    wanted = gradient(case)
    for found in several(partial(gradient, case), world): assert gradients_apart(found, wanted) < 1e-12


@pytest.mark.parametrize("case", [o for o in CASES if o != "asvs"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_gradients_in_pieces_are_those_of_the_whole(case, at_once):
    assert gradients_apart(gradient(case, at_once=at_once), gradient(case)) < 1e-12


@pytest.mark.parametrize("case", ["all at once", "asvs", "two targets, frozen"])
def test_twenty_steps_of_two_processes_are_those_of_one(case):
    wanted = trained(case)
    for found in several(lambda ranks: trained(case, ranks)): assert apart(found, wanted) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_of_any_number_of_processes_are_those_of_one(case, world):
    wanted = trained(case)
    for found in several(lambda ranks: trained(case, ranks), world): assert apart(found, wanted) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_in_single_precision_stay_near(case):
    single, which = partial(trained, case, kind=torch.float32, lr=OptimConfig().lr), matters(case)
    wanted = single()
    assert which.mean() > .2
    for found in several(single):
        assert apart(found, wanted, which) < 1e-5


def test_pieces_in_processes_and_a_budget_of_asvs():
    "Unequal samples, unequal pieces and unequal chunks of ASVs."
    wanted = trained("all at once", steps=6, batch_asvs=60)
    for at_once in (0, 1):
        work = partial(trained, "all at once", steps=6, batch_asvs=60, at_once=at_once)
        for found in several(work, 2): assert apart(found, wanted) < 1e-10


@pytest.mark.parametrize("case", ["all at once", "regression", "counts"])
def test_a_piece_may_hold_only_a_sample_without_reads(case):
    "Sample 3 of the study is empty; alone in a piece it has no ASV at all."
    whole = source_of(case, 20, ALONE)
    assert any((o.offsets.diff() == 0).any() for o in (whole[i] for i in range(20)))
    assert apart(trained(case, at_once=1), trained(case)) < 1e-10


def test_validation_is_shared_and_decides_for_all():
    wanted = trained("two targets", steps=6, validated=True)
    for found in several(partial(trained, "two targets", steps=6, validated=True), 3):
        assert apart(found, wanted) < 1e-10 and found[2] == wanted[2]
        assert any(k.startswith("valid_") for k in found[0][0])


# ---- Faults that train without a word, each of which this file must see

def without_factor(ranks):
    whole = Seam.gradients
    Seam.gradients = lambda self: [o/self.ranks.world for o in whole(self)]
    return gradient("all at once", ranks)


def in_wrong_order(ranks):
    gather = Ranks.gather
    def swapped(self, x, sizes=None):
        found, sizes = gather(self, x, sizes), sizes or self.sizes(len(x))
        return torch.cat(found.split(sizes)[::-1])
    Ranks.gather = swapped
    return gradient("all at once", ranks)


def by_wrapper(ranks):
    "Each process on its own part, as PyTorch's DistributedDataParallel has it."
    def learn(objective, batch, ranks):
        own = slice(batch.start, batch.start + batch.size)
        objective.train_step(replace(batch, total=0, start=0, distance=batch.distance[:, :, own]))
        ranks.average([p for p in objective.model.parameters() if p.requires_grad], torch.zeros(1).double())
    return gradient("all at once", ranks, learn=learn)


@pytest.mark.parametrize("fault", [without_factor, in_wrong_order, by_wrapper])
def test_a_fault_is_seen(fault):
    assert gradients_apart(several(fault)[0], gradient("all at once")) > 1e-2


def test_nothing_warns_of_what_will_be_dropped():
    def work(ranks):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            gradient("all at once", ranks)
        dropped = FutureWarning, DeprecationWarning
        return [str(o.message) for o in found if issubclass(o.category, dropped)]
    assert several(work) == [[], []]
