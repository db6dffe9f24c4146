"Samples of a store: which they are, what belongs to them, and which of their ASVs are selected."
import numpy as np
import pytest
from small_batches import CATEGORY, DATA, NUMBER, PLAIN, STORE, WEIGHT, rows_of, with_covariates

from aam_nb.batches.reads import select_asvs
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.batches.view import View
from aam_nb.core import AamError


def test_rows_are_chosen_by_number_or_mask_and_checked():
    assert SampleDataset(STORE, [5, 2])[1].index == 2
    assert SampleDataset(STORE, np.arange(11) > 8).rows.tolist() == [9, 10]
    assert SampleDataset(STORE, [5, 2]).ids.tolist() == STORE.sample_ids[[5, 2]].tolist()
    for rows in ([11], [-1, 2]):
        with pytest.raises(AamError, match="the store has 11 samples"): SampleDataset(STORE, rows)
    with pytest.raises(AamError, match="10 targets for 11 samples"): SampleDataset(STORE, target=np.zeros(10))
    with pytest.raises(AamError, match="no samples to train on"):
        SampleBatches(SampleDataset(STORE, []), batch=4, steps=1)


def test_categories_and_numbers_come_together():
    one = SampleDataset(STORE, covariates=(CATEGORY, None))[3]
    assert one.number.shape == (0,) and one.category.tolist() == CATEGORY[3].tolist() and one.weight is None
    assert SampleDataset(STORE, covariates=(None, NUMBER))[3].category.shape == (0,)
    assert DATA[3].category is DATA[3].number is None


def test_arrays_of_another_length_are_refused():
    with pytest.raises(AamError, match="10 categories for 11 samples"):
        SampleDataset(STORE, covariates=(CATEGORY[:10], NUMBER))
    with pytest.raises(AamError, match="10 numbers for 11 samples"):
        SampleDataset(STORE, covariates=(CATEGORY, NUMBER[:10]))
    with pytest.raises(AamError, match="10 weights for 11 samples"):
        SampleDataset(STORE, target=DATA.target, weight=WEIGHT[:10])
    with pytest.raises(AamError, match="differ in their columns: 2 and 1"):
        SampleDataset(STORE, target=np.zeros(11), weight=WEIGHT)
    assert with_covariates()[3].weight.shape == (2,)


def test_a_selection_follows_seed_turn_and_id():
    data, whole = SampleDataset(STORE, limit=4, select="random", seed=5), SampleDataset(STORE)
    for i in range(11):
        for turn in (0, 3):
            wanted, found = select_asvs(whole[i], 4, "random", 5, turn), data.look(i, turn)
            assert found.asv.tolist() == wanted.asv.tolist() == data.in_turn(turn)[i].asv.tolist()
        assert data[i].asv.tolist() == data.look(i, 0).asv.tolist()
    assert any(data.look(i, 0).asv.tolist() != data.look(i, 1).asv.tolist() for i in range(11))


def test_a_selection_is_kept_in_training_and_for_looking():
    data, whole = SampleDataset(STORE, limit=4, select="random", seed=5), SampleDataset(STORE)
    source = SampleBatches(data, View(seed=7, augment=PLAIN), batch=4, steps=9)
    for step, batch in enumerate(source):
        for j, (e, i) in enumerate(source.places(step)):
            assert rows_of(batch, j)[0] == data.look(i, e).asv.tolist()
    most = PlainBatches(SampleDataset(STORE, limit=4), batch=11)[0]
    again = PlainBatches(data.in_turn(2), batch=11)[0]
    for j in range(11):
        assert sorted(rows_of(most, j)[1]) == sorted(whole[j].counts.tolist())[-4:]
        assert rows_of(again, j)[0] == data.look(j, 2).asv.tolist()


def test_the_asvs_of_some_samples():
    counts = STORE.counts().toarray()
    for rows in ([0], [2, 5, 3], [3], []):
        assert asvs_in(STORE, rows).tolist() == np.flatnonzero(counts[rows].sum(0)).tolist()
