"Studies side by side: joined arrays and a corpus read like what they are made of."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_batches import CORPUS, OTHER, STORE

from aam_nb.batches.corpus import Corpus, Joined
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.core import AamError


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_joined_arrays_read_like_one(data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    widths = [data.draw(st.integers(1, 4)) for _ in sizes]
    parts, n = [np.arange(n*w).reshape(n, w) + 1 for n, w in zip(sizes, widths, strict=True)], sum(sizes)
    padded = [np.pad(o, ((0, 0), (0, max(widths) - o.shape[1]))) for o in parts]
    whole, found = np.concatenate(padded), Joined(parts)
    at = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=6)), dtype=np.int64)
    cut = slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))
    flat = Joined([o[:, 0] for o in parts], add=np.arange(len(parts))*100)
    flat_whole = np.concatenate([o[:, 0] + 100*i for i, o in enumerate(parts)])
    for a, b in ((found, whole), (flat, flat_whole)):
        assert a.shape == b.shape and len(a) == n and np.array_equal(np.asarray(a), b)
        for o in (at, cut, slice(None), np.arange(n) % 2 == 0, 0, n - 1): assert np.array_equal(a[o], b[o])


def test_a_corpus_reads_like_its_stores():
    assert len(CORPUS) == 35 and CORPUS.tokens.shape == (79, 20)
    assert [o.first_sample for o in CORPUS.studies] == [0, 11, 28]
    assert CORPUS.asv_edges.tolist() == [0, 40, 70, 79]
    for name in ("sample_ids", "sequences", "depths", "keys"):
        wanted = np.concatenate([getattr(o, name) for o in CORPUS.stores])
        assert np.asarray(getattr(CORPUS, name)).tolist() == wanted.tolist()
    assert (CORPUS.identity(16) == np.concatenate([o.identity(16) for o in CORPUS.stores])).all()
    wanted = sparse.block_diag([o.counts() for o in CORPUS.stores], format="csr")
    rows = np.array([34, 0, 11, 12, 30])
    assert (CORPUS.counts() != wanted).nnz == 0 and (CORPUS.counts(rows) != wanted[rows]).nnz == 0
    assert asvs_in(CORPUS, [3, 12, 30]).tolist() == np.flatnonzero(wanted[[3, 12, 30]].sum(0)).tolist()
    assert repr(CORPUS).startswith("Corpus(3 studies, 35 samples, 79 ASVs")
    assert [o.has_tree for o in CORPUS.studies] == [True, True, False] and CORPUS.studies[2].branches is None


def test_the_samples_of_a_corpus_are_those_of_its_stores():
    samples = SampleDataset(CORPUS, target=np.arange(35.))
    for study in CORPUS.studies:
        for i in range(len(study.store)):
            row = study.first_sample + i
            mine, its = samples[row], SampleDataset(study.store)[i]
            assert mine.id == its.id and mine.index == row and mine.target.tolist() == [row]
            assert mine.asv.tolist() == (its.asv + study.first_asv).tolist()
            assert mine.counts.tolist() == its.counts.tolist()


def test_a_corpus_without_stores_or_with_one_twice_is_refused():
    with pytest.raises(AamError, match="needs at least one store"): Corpus([])
    with pytest.raises(AamError, match="same content"): Corpus([STORE, OTHER, STORE])
