"Steps by a budget of ASVs: every sample once an epoch, the same order for all, and even parts."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_batches import ALL, CORPUS, DATA, check_parts, same, shared

from aam_nb.batches.budget import AsvTurns, asv_part
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.config import Config, config_from
from aam_nb.core import AamError, keyed_rng

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=30)


def by_hand(sizes, order, budget, steps):
    "Steps as a person would deal them: one sample after the other, of one long row of epochs."
    row, at, out = [], 0, []
    while len(row) < steps*len(sizes) + len(sizes):
        row += [(len(row)//len(sizes), i) for i in order(len(row)//len(sizes)).tolist()]
    for _ in range(steps):
        step = [row[at]]
        while len(step) < len(sizes) and sum(sizes[i] for _, i in step + [row[at + len(step)]]) <= budget:
            step.append(row[at + len(step)])
        out.append(step)
        at += len(step)
    return out


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(1, 200), st.integers(0, 9))
def test_steps_are_those_that_a_person_would_deal(sizes, budget, seed):
    order = lambda epoch: keyed_rng(seed, epoch).permutation(len(sizes))
    turns = AsvTurns(np.array(sizes), order, budget)
    found = [[(int(e), int(order(e)[i])) for e, i in zip(*turns.turn(o))] for o in range(12)]
    assert found == by_hand(sizes, order, budget, 12)
    again = AsvTurns(np.array(sizes), order, budget)
    assert [o.tolist() for o in again.turn(11)] == [o.tolist() for o in turns.turn(11)] # Asked for first


@settings(max_examples=120, deadline=None)
@given(SIZES, st.integers(1, 9))
def test_parts_cover_a_step_once_and_are_as_even_as_whole_samples_allow(sizes, world):
    if len(sizes) < world: return
    parts = [sizes[asv_part(np.array(sizes), o, world)] for o in range(world)]
    assert sum(parts, []) == sizes and all(parts)
    assert max(map(sum, parts)) <= sum(sizes)/world + max(sizes)


def steps_of(source):
    "Epoch and sample of each place, step by step."
    ids = source.dataset.ids
    return [[(e, ids[i]) for e, i in source.places(o)] for o in range(len(source))]


@pytest.mark.parametrize("data", [DATA, SampleDataset(CORPUS)])
def test_the_order_does_not_depend_on_processes_rows_or_batch(data):
    most = int(data.sizes.max())
    how = dict(batch_asvs=4*most, steps=30)
    one = SampleBatches(data, View(seed=7), batch=32, **how)
    for world in (2, 3):
        parts = shared(world, data, View(seed=7), batch=3, **how)
        assert all(steps_of(o) == steps_of(one) for o in parts)
    turned = SampleBatches(SampleDataset(data.store, data.rows[::-1]), View(seed=7), batch=32, **how)
    assert steps_of(turned) == steps_of(one)
    longer = SampleBatches(data, View(seed=7), batch=32, batch_asvs=4*most, steps=60)
    assert steps_of(longer)[:30] == steps_of(one)


def test_processes_share_the_batches_of_one():
    how = dict(batch=5, steps=9, batch_asvs=2*int(DATA.sizes.max()))
    one, parts = SampleBatches(DATA, ALL, **how), shared(2, DATA, ALL, **how)
    assert len({one[o].size for o in range(9)}) > 1 # Steps differ in their samples
    for step in range(9): check_parts(one[step], [o[step] for o in parts])


def test_every_sample_is_seen_once_an_epoch_and_no_step_is_over_the_budget():
    data = SampleDataset(CORPUS, np.arange(28)) # Two studies
    source = SampleBatches(data, View(seed=3), batch=1, steps=120, batch_asvs=25)
    seen = sorted(o for step in steps_of(source) for o in step)
    assert len(seen) == len(set(seen))
    for study in source.studies:
        own = set(data.ids[study])
        epochs = [[i for e, i in seen if i in own and e == epoch] for epoch in range(3)]
        assert all(set(o) == own for o in epochs[:2])
    sizes = dict(zip(data.ids, data.sizes, strict=True))
    for step in steps_of(source):
        total = sum(sizes[i] for _, i in step)
        assert total <= 25 or len(step) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches(workers):
    source = SampleBatches(DATA, ALL, batch=5, steps=7, batch_asvs=30)
    made = list(loader(SampleBatches(DATA, ALL, batch=5, steps=7, batch_asvs=30), start=2, workers=workers,
                       context="fork"))
    assert len(made) == 5 and all(same(o, source[2 + i]) for i, o in enumerate(made))


def test_a_corpus_shows_every_sample_equally_often():
    "At temperature 1, whatever the number of ASVs of a study's samples."
    data = SampleDataset(CORPUS)
    source = SampleBatches(data, View(seed=1), batch=1, steps=2500, batch_asvs=24)
    often = np.zeros(len(data))
    for step in range(2500): np.add.at(often, [i for _, i in source.places(step)], 1)
    each = [often[o].mean() for o in source.studies]
    assert max(each)/min(each) < 1.35


def test_steps_too_small_for_the_processes_are_refused():
    most = int(DATA.sizes.max())
    with pytest.raises(AamError, match=f"largest sample has {most} ASVs.*Set batch_asvs to {3*most}"):
        SampleBatches(DATA, View(), batch=32, steps=3, batch_asvs=3*most - 1, world=3)
    SampleBatches(DATA, View(), batch=1, steps=3, batch_asvs=3*most, world=3) # `batch` does not matter
    with pytest.raises(AamError, match="cannot be shared by 12 processes"):
        SampleBatches(DATA, View(), batch=32, steps=3, batch_asvs=10**6, world=12)
    limited = SampleDataset(DATA.store, limit=2)
    assert len(SampleBatches(limited, View(), batch=1, steps=3, batch_asvs=6, world=3).places(0)) >= 3


def test_the_key_belongs_to_the_stages_of_samples():
    assert config_from({"optim": {"batch_asvs": 8192}}).optim.batch_asvs == 8192
    with pytest.raises(AamError, match="set pretrain_asv.batch"):
        config_from({"pretrain_asv": {"batch_asvs": 8192}})
    assert not any(getattr(Config(), o).batch_asvs for o in ("optim", "pretrain_sample", "pretrain_asv"))
