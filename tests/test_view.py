"Views: what they refuse, and that two of them may differ in one choice."
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from small_batches import DATA, FULL, PLAIN, STORE

from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.view import AS_STORED, View, mixes_reads
from aam_nb.core import AamError
from aam_nb.data.distance_files import read_distances
from aam_nb.sections import AugmentConfig


def test_precomputed_distances_must_be_there_and_fit_the_store(tmp_path):
    ids = np.array([*STORE.sample_ids, "X"], dtype=str)
    np.savez(tmp_path/"far.npz", matrix=np.zeros((12, 12)), ids=ids)
    with pytest.raises(AamError, match="no distances are given"): View(metrics=("unweighted", "precomputed"))
    far = View(metrics=("precomputed",), distances=read_distances(tmp_path/"far.npz"))
    for make in (PlainBatches, lambda *o, **how: SampleBatches(*o, **how, steps=6)):
        with pytest.raises(AamError, match="between 12 samples, but the store has 11"):
            make(DATA, far, batch=8)


def test_a_view_is_frozen_and_takes_samples_as_stored_unless_told():
    with pytest.raises(FrozenInstanceError): FULL.mask = .5
    kept = ("patch", "span", "alpha")
    assert not any(getattr(AS_STORED, o.name) for o in fields(View) if o.name not in kept)
    assert replace(FULL, mask=0.).augment is FULL.augment


def test_only_reads_that_are_mixed_in_the_batch_count_as_mixed():
    assert not mixes_reads(AS_STORED) and not mixes_reads(FULL)
    assert mixes_reads(View(augment=AugmentConfig(mix="reads")))
    assert not mixes_reads(View(augment=replace(PLAIN, mix="reads", mixup=0.)))
