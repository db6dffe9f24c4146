"What processes tell each other, against what one process knows."
import math
import os
import time
import warnings

import pytest
import torch

from aam_nb.core import AamError
from aam_nb.training.ranks import ALONE, Ranks, several


def rows(rank, n=None):
    generator = torch.Generator().manual_seed(rank)
    return torch.rand([2, 0, 3, 1][rank] if n is None else n, 3, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("world", [2, 4])
def test_rows_come_in_the_order_of_the_ranks_without_padding(world):
    wanted = torch.cat([rows(o) for o in range(world)]).tolist()
    assert several(lambda ranks: ranks.gather(rows(ranks.rank)).tolist(), world) == [wanted]*world


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_rows_of_any_kind_keep_it(kind):
    def work(ranks):
        found = ranks.gather(torch.ones(ranks.rank + 1, 2).to(kind))
        return [str(found.dtype), list(found.shape), float(found.float().sum())]
    assert several(work) == [[str(kind), [3, 2], 6.]]*2


def test_messages_keep_every_bit_of_a_number():
    values = [[.1 + .2, float("nan"), None], {"ä": float("-inf"), "b": []}]
    for found in several(lambda ranks: ranks.values(values[ranks.rank])):
        assert found[0][0] == .1 + .2 and math.isnan(found[0][1]) and found[1] == values[1]


@pytest.mark.parametrize("pieces", [0, 1, 2, 7])
def test_dealt_work_is_done_once_and_comes_back_in_order(pieces):
    def work(ranks):
        done = []
        found = ranks.deal(pieces, lambda i: done.append(i) or torch.full((i % 3, 2), float(i)))
        return [done, [o.tolist() for o in found]]
    found = several(work, 3)
    assert sorted(sum((done for done, _ in found), [])) == list(range(pieces))
    wanted = [o.tolist() for o in ALONE.deal(pieces, lambda i: torch.full((i % 3, 2), float(i)))]
    assert all(out == wanted for _, out in found)


def test_the_mean_gradient_leaves_out_what_nobody_has():
    def work(ranks):
        some, none, one = (torch.zeros(2, 3, requires_grad=True) for _ in range(3))
        some.grad = torch.full((2, 3), 1. + ranks.rank)
        if ranks.rank == 1: one.grad = torch.full((2, 3), 4.)
        sums = ranks.average([some, none, one], torch.tensor([ranks.rank + 1.]))
        return [some.grad.flatten().tolist(), none.grad, one.grad.flatten().tolist(), sums.tolist()]
    assert several(work) == [[[1.5]*6, None, [2.]*6, [3.]]]*2


def test_one_process_talks_to_nobody():
    x = torch.rand(3, 2)
    with ALONE.together():
        assert torch.equal(ALONE.gather(x), x) and ALONE.values([1]) == [[1]] and ALONE.told(2) == 2
        ALONE.wait()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("failing", [[0], [1], [0, 1]])
def test_an_error_of_one_is_an_error_of_all(failing):
    def work(ranks):
        try:
            with ranks.together():
                if ranks.rank in failing: raise AamError(f"no file on {ranks.rank}")
        except AamError as e: return [type(e).__name__, str(e)]
    found, first = several(work), failing[0]
    assert found[first] == ["AamError", f"no file on {first}"]
    assert found[1 - first] == ["Elsewhere", f"Process {first} of 2 stopped: no file on {first}"]


def test_a_process_that_dies_ends_the_wait_of_the_others(tmp_path):
    def work(ranks):
        ranks.wait()
        if ranks.rank == 1:
            time.sleep(.3)
            os._exit(9)
        begun = time.perf_counter()
        try: ranks.wait()
        except AamError as e: (tmp_path/"said").write_text(f"{time.perf_counter() - begun} {e}")
        os._exit(2)
    with pytest.raises(AamError, match="0: 2, 1: 9"): several(work)
    seconds, said = (tmp_path/"said").read_text().split(" ", 1)
    assert float(seconds) < 5 and said.startswith("Another process of this run has stopped")


def test_no_warning_of_what_the_library_will_drop():
    def work(ranks):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            ranks.deal(3, lambda i: torch.ones(1))
            ranks.average([torch.zeros(1, requires_grad=True)], ranks.sum(torch.ones(1)))
            ranks.told(1)
        return [str(o.message) for o in found]
    assert several(work) == [[], []]


def test_a_rank_says_who_it_is():
    assert (str(Ranks(1, 4)), Ranks(1, 4).main, Ranks(0, 4).alone) == ("process 1 of 4", False, False)
