"Prediction and embedding read samples from a store: at the bundle's depth, in any order, with a row for each sample asked for."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.augment import rarefy
from aam_nb.data.batch import Corpus
from aam_nb.data.metadata import TargetCodec
from aam_nb.data.simulate import simulate
from aam_nb.data.store import build_store
from aam_nb.model.aam import AamModel
from aam_nb.training.bundle import Bundle
from aam_nb.training.predict import embed_asvs, embed_store, predict_store, predict_table
from aam_nb.types import Study

TABLE = simulate(samples=20, asvs=40, groups=5, length=40, seed=3).table
DEPTH = int(np.sort(TABLE.depths)[4])


@pytest.fixture(scope="module")
def bundle():
    "A model with random weights, fit for all that does not ask for skill."
    torch.manual_seed(0)
    config = config_from({"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8, "identity": 16}})
    codec = TargetCodec.fit(pd.Series([1., 4., 9.], name="age"))
    keys = build_store(Study(table=TABLE)).keys
    return Bundle(model=AamModel(config.model, 40, task=codec.task, outputs=1).eval(), config=config, codec=codec, known=keys[::2])


def at_depth(bundle, depth): return replace(bundle, config=config_from({"data": {"depth": depth}}, base=bundle.config))


def test_a_depth_is_the_rarefied_table(bundle):
    "Drawing each sample while it is read gives what a table rarefied beforehand gives."
    drawn = predict_table(at_depth(bundle, DEPTH), TABLE).rows
    table = rarefy(TABLE, DEPTH, bundle.config.run.seed); before = predict_table(bundle, table).rows
    assert 0 < len(before) < len(drawn) and drawn.note[~drawn.index.isin(before.index)].str.contains("reads; the bundle").all()
    for c in ("prediction", "unseen_reads"): np.testing.assert_allclose(drawn.loc[before.index, c], before[c], rtol=1e-6)


def test_unseen_reads_are_counted(bundle):
    store = build_store(Study(table=TABLE)); counts = store.counts().toarray()
    wanted = counts[:, ~np.isin(store.keys, bundle.known)].sum(axis=1)/counts.sum(axis=1)
    np.testing.assert_allclose(predict_store(bundle, store, batch=3).rows.unseen_reads, wanted, atol=1e-12)


def test_embedding_is_what_the_heads_read(bundle):
    "The target head on the vectors of `embed_store` gives the prediction."
    store = build_store(Study(table=TABLE)); ids = store.sample_ids[[7, 2, 11]]
    found = embed_store(bundle, store, ids); told = predict_store(bundle, store, ids).rows
    with torch.no_grad(): head = bundle.model.heads["target"](torch.from_numpy(found.vectors)).numpy()
    np.testing.assert_allclose(bundle.codec.decode(head), told.prediction, rtol=1e-5)
    assert found.names.tolist() == ids.tolist() == told.index.tolist()


def test_asvs_embed_alone_or_together(bundle):
    store = build_store(Study(table=TABLE)); rows = np.array([3, 17])
    every = embed_asvs(bundle.model, store.tokens); some = embed_asvs(bundle.model, store.tokens, rows)
    torch.testing.assert_close(every[rows], some[rows], rtol=1e-5, atol=1e-6); assert not some[0].any()
    found = embed_store(bundle, store, store.sample_ids[:2], level="asv")
    here = store.counts(np.arange(2)).getnnz(axis=0) > 0
    assert found.names.tolist() == store.sequences[here].tolist()
    np.testing.assert_allclose(found.vectors, every[here].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["e.tsv", "e.npz"])
def test_vectors_survive_the_file(bundle, tmp_path, name):
    counts = TABLE.counts.tolil(); counts[4] = 0
    found = embed_store(bundle, build_store(Study(table=replace(TABLE, counts=counts.tocsr())))); found.write(tmp_path/name)
    if name == "e.npz":
        with np.load(tmp_path/name, allow_pickle=False) as f: names, vectors, note = f["names"], f["vectors"], f["note"]
    else:
        frame = pd.read_csv(tmp_path/name, sep="\t", index_col="name", keep_default_na=True)
        names, vectors, note = frame.index, frame.filter(regex=r"^e\d+$").to_numpy(), frame.note.fillna("")
    assert list(names) == found.names.tolist() and list(note) == found.note.tolist() and list(note)[4] == "no reads"
    np.testing.assert_allclose(vectors, found.vectors, rtol=1e-6); assert np.isnan(vectors[4]).all() and np.isfinite(np.delete(vectors, 4, 0)).all()


def test_nothing_to_score_still_has_its_rows(bundle):
    told = predict_table(at_depth(bundle, 10**6), TABLE).rows
    assert len(told) == 20 and told.prediction.isna().all() and (told.note != "").all()


def test_an_untrained_level_is_not_embedded(bundle):
    store = build_store(Study(table=TABLE)); bare = replace(bundle, codec=None)
    with pytest.raises(AamError, match="has not been trained"): embed_store(bare, store)
    assert len(embed_store(bare, store, level="asv").names) == len(store.tokens)
    with pytest.raises(AamError, match="'sample' or 'asv'"): embed_store(bundle, store, level="asvs")


def test_stores_side_by_side_predict_and_embed_like_each(bundle):
    "A corpus gives the rows of its stores, one after the other."
    parts = [build_store(Study(table=TABLE.samples(o))) for o in (np.arange(9), np.arange(9, 20))]; corpus = Corpus(parts)
    told = predict_store(bundle, corpus).rows; wanted = pd.concat([predict_store(bundle, o).rows for o in parts])
    assert told.index.tolist() == wanted.index.tolist()
    for c in ("prediction", "unseen_reads"): np.testing.assert_allclose(told[c], wanted[c], rtol=1e-5, atol=1e-9)
    one = build_store(Study(table=TABLE)); ids = ["S12", "S03"]
    np.testing.assert_allclose(embed_store(bundle, corpus, ids).vectors, embed_store(bundle, one, ids).vectors, rtol=1e-4, atol=1e-5)
    assert set(embed_store(bundle, corpus, ids, "asv").names) == set(embed_store(bundle, one, ids, "asv").names)
