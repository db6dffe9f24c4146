"How many samples fit at once: the search in the number of trials, over kinds of memory, and what is kept."
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_batches import ALL, CORPUS, DATA, STORE

from aam_nb.batches.largest import LargestBatches
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.core import AamError
from aam_nb.training.batch_size import (
    HELD, HeldAtOnce, agreed, foreseen, largest, piece_sizes, read_held, write_held)
from aam_nb.training.probe import Trial
from aam_nb.training.ranks import several


def tried(taken, limit, base=0):
    "A function that tries sizes in a made-up memory, and what it was asked."
    asked = []
    def measure(sizes):
        asked.append(sizes)
        peaks = []
        for n in sizes:
            if taken(n) > limit: break
            peaks.append(int(taken(n)))
        return Trial(sizes=sizes, peaks=peaks, base=base)
    return measure, asked


KINDS = st.tuples(st.floats(1e3, 1e5), st.floats(0, 2e3), st.floats(0, 5e7), st.floats(1.05, 30))


@settings(max_examples=150, deadline=None)
@given(KINDS, st.integers(1, 3000), st.integers(0, 9))
def test_within_a_tenth_of_brute_force_in_six_trials(kind, cap, seed):
    "A constant, so much an ASV and so much a pair: what a step takes."
    asv, pair, const, room = kind
    sizes = np.sort(np.random.default_rng(seed).lognormal(4.5, .9, cap).astype(np.int64) + 1)[::-1]
    work = np.concatenate([[0], np.cumsum(sizes)])
    taken = lambda n: 3e8 + const + asv*work[n] + pair*n**2
    limit = (3e8 + const)*room
    measure, asked = tried(taken, limit, base=int(3e8))
    fit = [n for n in piece_sizes(cap) if taken(n) <= limit]
    if not fit:
        with pytest.raises(AamError, match="does not fit into"):
            largest(measure, piece_sizes(cap), work, limit)
        return
    found, trials = largest(measure, piece_sizes(cap), work, limit)
    assert .9*fit[-1] <= found <= fit[-1] and len(trials) == len(asked) <= 6
    if fit[-1] == cap: assert found == cap and len(trials) == 1


def test_the_search_without_its_model_would_fail():
    "Blind halving needs more trials than there are."
    sizes, work = np.arange(1, 4097), np.arange(4097)*100
    taken = lambda n: 3e8 + 1e5*work[n]
    limit = taken(3000)
    found, trials = largest(tried(taken, limit)[0], sizes, work, limit)
    assert found >= 2700 and len(trials) <= 3
    blind = lambda trials, work: np.where(np.arange(len(work)) == max(o.fits for o in trials) + 1, 0., np.inf)
    from aam_nb.training import batch_size
    with pytest.MonkeyPatch.context() as m:
        m.setattr(batch_size, "foreseen", blind)
        found, trials = largest(tried(taken, limit)[0], sizes, work, limit)
    assert found < 2700


@given(st.integers(1, 500))
def test_pieces_of_a_step_have_these_sizes(n):
    every = {max(np.diff([n*i//k for i in range(k + 1)])) for k in range(1, n + 1)}
    assert every == set(piece_sizes(n).tolist())


def test_nothing_is_foreseen_before_something_fits():
    work = np.arange(11)
    assert np.isinf(foreseen([Trial(sizes=[4], peaks=[])], work)).all()
    assert foreseen([Trial(sizes=[5], peaks=[100], base=50)], work)[[0, 5, 10]].tolist() == [50, 100, 150]


def heaviest(data, view, **how):
    "ASVs of the heaviest of many steps, counted from the samples of its batches."
    source = SampleBatches(data, view, steps=200, **how)
    return max(sum(data.sizes[i] for _, i in source.places(o)) for o in range(200))


@pytest.mark.parametrize("how", [dict(batch=4), dict(batch=40), dict(batch=1, batch_asvs=30)])
@pytest.mark.parametrize("data", [DATA, SampleDataset(CORPUS), SampleDataset(STORE, limit=6)])
def test_no_step_is_heavier_than_the_heaviest(data, how):
    source = SampleBatches(data, ALL, steps=3, **how)
    heavy = LargestBatches(source)
    most = heaviest(data, View(seed=1), **how)
    assert heavy.work[-1] >= (.9 if "batch_asvs" in how else 1)*most # A budget is filled nearly
    assert heavy.work[-1] <= max(how.get("batch_asvs", 10**9), int(data.sizes.max()))
    batch = heavy[1]
    assert batch.offsets.diff().tolist() == sorted(batch.offsets.diff().tolist(), reverse=True)
    assert int(batch.offsets[-1]) == heavy.work[-1] and batch.distance is not None
    assert len({int(o) for o in data.store.study_of(batch.index.numpy())}) == 1


def test_the_heaviest_step_of_several_processes():
    source = SampleBatches(DATA, View(), batch=7, steps=3)
    assert [len(LargestBatches(source, world=o).largest) for o in (1, 2, 3)] == [7, 4, 3]
    budget = SampleBatches(DATA, View(), batch=7, steps=3, batch_asvs=3*int(DATA.sizes.max()))
    assert LargestBatches(budget, world=3).work[-1] == DATA.sizes.max()


def test_processes_agree_on_the_smallest():
    assert several(lambda ranks: agreed([14, 9, 30][ranks.rank], ranks), 3) == [9, 9, 9]


def test_what_was_found_is_kept(tmp_path):
    trial = Trial(sizes=[4, 8], peaks=[10**9], base=5*10**8, seconds=2.5)
    found = [HeldAtOnce(stage="pretrain_asv", n=256, cap=256, trials=[trial], limit=2*10**9),
             HeldAtOnce(stage="optim", n=4, cap=32, trials=[trial, trial], limit=2*10**9)]
    write_held(tmp_path/HELD, found)
    assert read_held(tmp_path/HELD) == found and json.loads((tmp_path/HELD).read_text())[1]["n"] == 4
    assert [str(o) for o in found] == ["all 256 ASVs of pretrain_asv", "4 of 32 samples of optim"]
    assert read_held(tmp_path/"other.json") is None
    for text in ('{"a": 1}', "3", "[3]", '[{"stage": "optim"}]', "no json"):
        (tmp_path/HELD).write_text(text)
        with pytest.raises(AamError): read_held(tmp_path/HELD)
