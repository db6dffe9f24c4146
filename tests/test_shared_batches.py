"Batches that several processes share: the parts, one after the other, are the batch of one process."
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_batches import ALL, CORPUS, DATA, OTHER, PLAIN, STORE, VARIED, check_parts, same, shared

from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.collate import known_places
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.core import AamError


MORE = [{}, dict(metrics=()), dict(metrics=("generalized", "braycurtis")), dict(augment=None)]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("more", MORE)
def test_processes_share_the_batches_of_one(world, more):
    view, how = replace(ALL, **more), dict(batch=5, steps=7)
    one, parts = SampleBatches(DATA, view, **how), shared(world, DATA, view, **how)
    for step in range(7): check_parts(one[step], [o[step] for o in parts])


def test_processes_share_covariates_selections_and_hidden_reads():
    rng = np.random.default_rng(0)
    weight, covariates = rng.random((35, 1)), (rng.integers(0, 5, (35, 3)), rng.normal(size=(35, 2)))
    data = SampleDataset(CORPUS, target=np.arange(35.), weight=weight, covariates=covariates, limit=5,
                         select="random", seed=3)
    known = known_places(CORPUS.keys, np.sort(np.asarray(CORPUS.keys)[::2]))
    view = replace(ALL, metrics=("unweighted", "jaccard"), hide=.4, known=known, chains=(("a",), ("b", "c")))
    one, parts = SampleBatches(data, view, batch=5, steps=7), shared(2, data, view, batch=5, steps=7)
    for step in range(7):
        whole = one[step]
        check_parts(whole, [o[step] for o in parts])
        assert whole.offsets.diff().max() <= 5 and whole.hidden.any() and whole.place.min() == -1


@pytest.mark.parametrize("mix", ["reads", "aitchison", "cutmix", "phylomix"])
def test_processes_share_mixed_reads_too(mix):
    pytest.importorskip("skbio.table")
    view = replace(ALL, seed=3, augment=replace(VARIED, mix=mix, window=0))
    # Phylomix needs every study's tree
    data = SampleDataset(CORPUS if mix == "reads" else Corpus([STORE, OTHER]))
    one, parts = SampleBatches(data, view, batch=5, steps=4), shared(2, data, view, batch=5, steps=4)
    for step in range(4):
        whole = one[step]
        check_parts(whole, [o[step] for o in parts])
        assert whole.share.dtype == torch.float32 and whole.partner.dtype == torch.int64
        assert (whole.share < 1).any()
        study = np.searchsorted(data.store.asv_edges[1:-1], whole.rows.numpy(), side="right")
        assert (np.diff(study) == 0).all()


def test_partners_are_places_in_the_global_batch_whatever_the_part():
    "The reads of a partner are found by its place among all samples, from the part of any process."
    pytest.importorskip("skbio.table")
    augment = replace(PLAIN, mix="reads")
    view = View(seed=7, augment=augment, metrics=("unweighted",))
    one = SampleBatches(DATA, view, batch=6, steps=8)
    crossed = 0
    for step in range(8):
        asvs = [set(DATA[i].asv.tolist()) for _, i in one.places(step)]
        for part in (o[step] for o in shared(2, DATA, view, batch=6, steps=8)):
            for j, place in enumerate(part.places.tolist()):
                at, partner = slice(*part.offsets[j:j+2].tolist()), int(part.partner[j])
                assert set(part.rows[part.asv[at]].tolist()) <= asvs[place] | asvs[partner]
                crossed += not part.start <= partner < part.start + part.size
    assert crossed > 5 # Partners of other processes


def test_processes_share_batches_of_asvs():
    view, how = View(seed=2, patch=3, mask=.15, augment=VARIED, span=2), dict(batch=11, steps=5)
    one = AsvBatches(STORE, view=view, **how)
    parts = [AsvBatches(STORE, view=view, **how, rank=o, world=2) for o in range(2)]
    for step in range(5):
        whole, own = one[step], [o[step] for o in parts]
        assert [o.start for o in own] == [0, len(own[0].rows)] and whole.start == 0
        for name in ("tokens", "masked", "rows", "distance"):
            found = torch.cat([getattr(o, name) for o in own])
            assert torch.equal(found.nan_to_num(-7), getattr(whole, name).nan_to_num(-7))


def test_a_process_without_work_is_refused():
    with pytest.raises(AamError, match="A batch of 2 cannot be shared by 3 processes"):
        SampleBatches(DATA, batch=2, steps=5, world=3)
    with pytest.raises(AamError, match="A batch of 7 cannot be shared by 8"):
        SampleBatches(SampleDataset(CORPUS), batch=30, steps=5, world=8)
    with pytest.raises(AamError, match="process 2 of 2"):
        SampleBatches(DATA, batch=4, steps=5, rank=2, world=2)
    with pytest.raises(AamError, match="A batch of 9 cannot"): AsvBatches(CORPUS, batch=64, world=10)


SHARED = [
    lambda **k: SampleBatches(DATA, ALL, batch=4, steps=9, **k),
    lambda **k: SampleBatches(SampleDataset(CORPUS), ALL, batch=4, steps=9, temperature=2., **k)]


@pytest.mark.parametrize("source", SHARED)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_order_is_one_for_0_1_and_4_workers_and_1_and_2_processes(source):
    wanted = list(loader(source()))
    for workers in (0, 1, 4):
        found = list(loader(source(), workers=workers))
        assert len(found) == 9 and all(map(same, found, wanted))
        parts = [loader(source(rank=o, world=2), workers=workers) for o in range(2)]
        for whole, *own in zip(wanted, *parts, strict=True): check_parts(whole, own)
