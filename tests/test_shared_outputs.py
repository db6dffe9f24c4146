"Embeddings and predictions that several processes share, against those of one, to the bit."
import numpy as np
import pytest
from bundle_cases import ABOUT, small_bundle, STUDY

from aam_nb.batches.build import build_store
from aam_nb.batches.collate import known_places
from aam_nb.inference.embed import embed_store
from aam_nb.inference.predict import predict_store
from aam_nb.training.outputs import embed_asvs, predict_rows
from aam_nb.training.ranks import ALONE, several

BUNDLE, STORE = small_bundle(), build_store(STUDY)


def embedded(ranks):
    return embed_asvs(BUNDLE.model, STORE.tokens, chunk=2, ranks=ranks).tolist()


def outputs(ranks, rows=(4, 0, 5, 2, 1)):
    known, covariates = known_places(STORE.keys, BUNDLE.known), BUNDLE.covariates.encode(ABOUT)
    rows = np.array(rows, dtype=np.int64)
    found = predict_rows(BUNDLE.model, STORE, rows, known=known, batch=2, ranks=ranks, covariates=covariates)
    return [list(found.shape), found.tolist()]


def predicted(ranks):
    return predict_store(BUNDLE, STORE, metadata=ABOUT, batch=2, ranks=ranks).rows.to_csv()


def vectors(ranks):
    found = [embed_store(BUNDLE, STORE, of=o, batch=1, ranks=ranks) for o in ("sample", "asv")]
    return [o.vectors.tolist() for o in found]


@pytest.mark.parametrize("work", [embedded, outputs, predicted, vectors])
@pytest.mark.parametrize("world", [2, 3])
def test_shared_work_equals_that_of_one_to_the_bit(work, world):
    assert several(work, world) == [work(ALONE)]*world


@pytest.mark.parametrize("rows", [(), (1,)])
def test_more_processes_than_batches_still_agree(rows):
    assert several(lambda ranks: outputs(ranks, rows), 3) == [outputs(ALONE, rows)]*3


def test_each_batch_is_read_by_one_process_alone(monkeypatch):
    from aam_nb.training import outputs as page
    def work(ranks):
        seen, look = [], page._look
        def watched(model, source, asv, j):
            seen.append(j)
            return look(model, source, asv, j)
        monkeypatch.setattr(page, "_look", watched)
        predicted(ranks)
        return seen
    assert several(work) == [[0, 2], [1]]
