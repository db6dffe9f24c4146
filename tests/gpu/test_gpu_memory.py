"""How many samples fit on a GPU: the search against every size, and memory that runs out.

    pytest -m gpu
"""
from dataclasses import replace

import numpy as np
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.data.simulate import simulate
from aam_nb.runs.held import search, tried
from aam_nb.runs.trial import _is_full
from aam_nb.training.batch_size import largest, piece_sizes
from aam_nb.training.bench import Bench
from aam_nb.training.memory import allowed, free_memory
from aam_nb.training.parallel import make_accelerator
from aam_nb.runs.held import work_of

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    config = config_from({
        "model": {"sample": "attention", "sample_width": 256, "sample_layers": 4, "heads": 4},
        "data": {"target": "age"}, "pretrain_asv": {"steps": 0}, "optim": {"batch": 48, "steps": 4},
        "run": {"device": "cuda", "batch_size": "auto"}})
    study = simulate(samples=60, asvs=2000, groups=10, seed=0)
    store = build_store(study, tmp_path_factory.mktemp("gpu")/"store")
    accelerator = make_accelerator(config.run)
    return Bench(config=config, store=store, metadata=study.metadata, accelerator=accelerator)


def test_what_is_free():
    assert 0 < allowed("cuda") < free_memory("cuda") and allowed("cuda", given=1.) == 970_000_000


def test_everything_fits_in_one_trial(bench):
    found = search(bench, "optim")
    assert found.n == found.cap == 48 and len(found.trials) == 1


def test_the_search_comes_within_a_tenth(bench):
    sizes = piece_sizes(48)
    peaks = {n: tried(bench, "optim", [n], limit=10**12).peaks[0] for n in sizes[-5:].tolist()}
    limit = (peaks[16] + peaks[24])//2
    found, trials = largest(lambda o: tried(bench, "optim", o, limit), sizes, work_of(bench, "optim"), limit)
    assert found == 16 and len(trials) <= 6, (peaks, trials)


def test_half_precision_learns_in_its_trial(bench):
    half = replace(bench, config=config_from({"run": {"precision": "fp16"}}, base=bench.config))
    assert tried(half, "optim", [48], limit=10**12).fits == 48


def test_memory_that_runs_out_is_seen():
    with pytest.raises(torch.cuda.OutOfMemoryError) as e:
        torch.zeros(int(np.prod([10**6, 10**6])), device="cuda")
    assert _is_full(e.value)
