"""Prediction and embedding read samples from a store as the bundle says: at its depth and limit, with its
covariates, and with a row for each sample asked for."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.batches.collate import known_places
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.reads import rarefy, select_asvs
from aam_nb.batches.samples import SampleDataset
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.covariates import CovariateCodec
from aam_nb.data.simulate import simulate
from aam_nb.data.targets import Targets
from aam_nb.inference.bundle import Bundle
from aam_nb.inference.embed import embed_store
from aam_nb.inference.predict import decoded, predict_store, predict_table
from aam_nb.inference.read import AtDepth
from aam_nb.model.aam import AamModel
from aam_nb.training.outputs import embed_asvs, predict_rows, sample_outputs
from aam_nb.types import Study, strings

TABLE = simulate(samples=20, asvs=40, groups=5, length=40, seed=3).table
DEPTH = int(np.sort(TABLE.depths)[4])
AGE = TargetCodec.fit(pd.Series([1., 4., 9.], name="age"))
SITE = TargetCodec.fit(pd.Series(["gut", "skin", "gut", "mouth"], name="site"))
PEOPLE = pd.DataFrame({"diet": ["meat", "plants"]*10, "country": ["a", "b"]*10, "city": ["x", "y"]*10,
                       "bmi": np.linspace(18, 30, 20)}, index=TABLE.sample_ids)


@pytest.fixture(scope="module")
def bundle():
    "A model with random weights, fit for all that does not ask for skill."
    torch.manual_seed(0)
    config = config_from({"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8,
                                    "identity": 16}})
    targets = Targets((AGE,))
    keys = build_store(Study(table=TABLE)).keys
    return Bundle(model=AamModel(config.model, 40, columns=targets.columns).eval(), config=config,
                  targets=targets, known=np.sort(keys[::2]))


def reading(bundle, **data): return replace(bundle, config=config_from({"data": data}, base=bundle.config))
def at_depth(bundle, depth): return reading(bundle, depth=depth)


def of(bundle, *codecs, covariates=None, seed=0):
    "The bundle with a model of other targets and covariates, with random weights."
    torch.manual_seed(seed)
    targets = Targets(codecs)
    model = AamModel(bundle.config.model, 40, columns=targets.columns,
                     covariates=covariates and covariates.shape).eval()
    return replace(bundle, model=model, targets=targets, covariates=covariates)


def test_a_depth_is_the_rarefied_table(bundle):
    "Drawing each sample while it is read gives what a table rarefied beforehand gives."
    drawn = predict_table(at_depth(bundle, DEPTH), TABLE).rows
    table = rarefy(TABLE, DEPTH, bundle.config.run.seed)
    before = predict_table(bundle, table).rows
    assert 0 < len(before) < len(drawn)
    assert drawn.note[~drawn.index.isin(before.index)].str.contains("reads; the bundle").all()
    for c in ("prediction", "unseen_reads"):
        np.testing.assert_allclose(drawn.loc[before.index, c], before[c], rtol=1e-6)


def test_unseen_reads_are_counted(bundle):
    store = build_store(Study(table=TABLE))
    counts = store.counts().toarray()
    wanted = counts[:, ~np.isin(store.keys, bundle.known)].sum(axis=1)/counts.sum(axis=1)
    np.testing.assert_allclose(predict_store(bundle, store, batch=3).rows.unseen_reads, wanted, atol=1e-12)


def test_embedding_is_what_the_heads_read(bundle):
    "The target head on the vectors of `embed_store` gives the prediction."
    store = build_store(Study(table=TABLE))
    ids = store.sample_ids[[7, 2, 11]]
    found = embed_store(bundle, store, ids)
    predicted = predict_store(bundle, store, ids).rows
    with torch.no_grad(): head = bundle.model.heads["target"](torch.from_numpy(found.vectors)).numpy()
    np.testing.assert_allclose(AGE.decode(head), predicted.prediction, rtol=1e-5)
    assert found.names.tolist() == ids.tolist() == predicted.index.tolist()


def test_asvs_embed_alone_or_together(bundle):
    store = build_store(Study(table=TABLE))
    rows = np.array([3, 17])
    every = embed_asvs(bundle.model, store.tokens)
    some = embed_asvs(bundle.model, store.tokens, rows)
    torch.testing.assert_close(every[rows], some[rows], rtol=1e-5, atol=1e-6)
    assert not some[0].any()
    found = embed_store(bundle, store, store.sample_ids[:2], of="asv")
    here = store.counts(np.arange(2)).getnnz(axis=0) > 0
    assert found.names.tolist() == store.sequences[here].tolist()
    np.testing.assert_allclose(found.vectors, every[here].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["e.tsv", "e.npz"])
def test_vectors_survive_the_file(bundle, tmp_path, name):
    counts = TABLE.counts.tolil()
    counts[4] = 0
    found = embed_store(bundle, build_store(Study(table=replace(TABLE, counts=counts.tocsr()))))
    found.write(tmp_path/name)
    if name == "e.npz":
        with np.load(tmp_path/name, allow_pickle=False) as f:
            names, vectors, note = f["names"], f["vectors"], f["note"]
    else:
        frame = pd.read_csv(tmp_path/name, sep="\t", index_col="name", keep_default_na=True)
        names, vectors, note = frame.index, frame.filter(regex=r"^e\d+$").to_numpy(), frame.note.fillna("")
    assert list(names) == found.names.tolist() and list(note) == found.note.tolist()
    assert list(note)[4] == "no reads"
    np.testing.assert_allclose(vectors, found.vectors, rtol=1e-6)
    assert np.isnan(vectors[4]).all() and np.isfinite(np.delete(vectors, 4, 0)).all()


def test_nothing_to_score_still_has_its_rows(bundle):
    predicted = predict_table(at_depth(bundle, 10**6), TABLE).rows
    assert len(predicted) == 20 and predicted.prediction.isna().all() and (predicted.note != "").all()


def test_an_untrained_level_is_not_embedded(bundle):
    store = build_store(Study(table=TABLE))
    bare = replace(bundle, targets=None)
    with pytest.raises(AamError, match="has not been trained"): embed_store(bare, store)
    assert len(embed_store(bare, store, of="asv").names) == len(store.tokens)
    with pytest.raises(AamError, match="'sample' or 'asv'"): embed_store(bundle, store, of="asvs")


def test_stores_side_by_side_predict_and_embed_like_each(bundle):
    "A corpus gives the rows of its stores, one after the other."
    parts = [build_store(Study(table=TABLE.samples(o))) for o in (np.arange(9), np.arange(9, 20))]
    corpus = Corpus(parts)
    predicted = predict_store(bundle, corpus).rows
    wanted = pd.concat([predict_store(bundle, o).rows for o in parts])
    assert predicted.index.tolist() == wanted.index.tolist()
    for c in ("prediction", "unseen_reads"):
        np.testing.assert_allclose(predicted[c], wanted[c], rtol=1e-5, atol=1e-9)
    one = build_store(Study(table=TABLE))
    ids = ["S12", "S03"]
    np.testing.assert_allclose(embed_store(bundle, corpus, ids).vectors,
                               embed_store(bundle, one, ids).vectors, rtol=1e-4, atol=1e-5)
    in_corpus, in_one = (embed_store(bundle, o, ids, "asv").names for o in (corpus, one))
    assert set(in_corpus) == set(in_one)


# Targets as columns

def test_columns_have_the_names_and_numbers_of_their_codecs():
    """A number with an interval, quantiles, classes: each as its codec gives it, the name before it where
    there are several."""
    q = TargetCodec.fit(pd.Series([1., 4., 9.], name="ph"), "regression", loss="quantile",
                        levels=(.05, .5, .95))
    wide = replace(AGE, margin=.3, low=0.)
    out = np.random.default_rng(0).normal(size=(4, 7))
    ids = strings("abcd")
    frame = decoded(Targets((wide, q, SITE)), out, ids)
    assert frame.columns.tolist() == [
        "age:prediction", "age:low", "age:high", "ph:prediction", "ph:q0.05", "ph:q0.5", "ph:q0.95",
        "site:label", "site:probability_gut", "site:probability_mouth", "site:probability_skin"]
    assert frame.index.tolist() == list("abcd")
    np.testing.assert_allclose(frame["age:prediction"], wide.decode(out[:, :1]))
    np.testing.assert_allclose(frame[["age:low", "age:high"]], wide.interval(out[:, :1]))
    np.testing.assert_allclose(frame[["ph:q0.05", "ph:q0.5", "ph:q0.95"]], q.quantiles(out[:, 1:4]))
    assert (frame["ph:prediction"] == frame["ph:q0.5"]).all()
    np.testing.assert_allclose(frame.filter(like="probability").sum(axis=1), 1)
    assert frame["site:label"].tolist() == [SITE.classes[i] for i in out[:, 4:].argmax(axis=1)]
    alone = decoded(Targets((SITE,)), out[:, 4:], ids)
    assert alone.columns.tolist() == [o.removeprefix("site:") for o in frame.columns[7:]]
    assert decoded(Targets((wide, q, SITE)), out[:0], ids[:0]).columns.tolist() == frame.columns.tolist()


def test_numbers_that_are_relative_to_a_category_are_decoded_by_it_in_any_order():
    y = pd.Series([1., 2., 3., 40., 50., 60.], index=list("abcdef"), name="age")
    place = pd.DataFrame({"site": ["x"]*3 + ["y"]*3}, index=y.index)
    codec = TargetCodec.fit(y, "regression", transform="zscore_by", by=place.site)
    targets = Targets((codec,))
    out = codec.encode(y, place.site)
    mixed = decoded(targets, out[::-1], y.index[::-1], place.sample(frac=1, random_state=0))
    np.testing.assert_allclose(mixed.prediction.loc[y.index], y, rtol=1e-5)
    with pytest.raises(AamError, match="This model needs 'site'"): decoded(targets, out, y.index)
    with pytest.raises(AamError, match="1 of 6 samples has no row in the metadata.*first: 'b'"):
        decoded(targets, out, y.index, place.drop(index="b"))
    with pytest.raises(AamError, match="'a' has more than one row"):
        decoded(targets, out, y.index, pd.concat([place, place[:1]]))
    with pytest.raises(AamError, match="site"):
        decoded(targets, out, y.index, place.rename(columns={"site": "place"}))


def test_several_targets_are_predicted_side_by_side(bundle):
    two = of(bundle, AGE, SITE)
    rows = predict_table(two, TABLE).rows
    store = build_store(Study(table=TABLE))
    out = predict_rows(two.model, store, np.arange(20), known=known_places(store.keys, two.known))
    assert out.shape == (20, 4) and predict_rows(two.model, store, np.zeros(0, np.int64)).shape == (0, 4)
    np.testing.assert_allclose(rows["age:prediction"], AGE.decode(out[:, :1]), rtol=1e-5)
    np.testing.assert_allclose(rows[[f"site:probability_{o}" for o in SITE.classes]],
                               SITE.decode(out[:, 1:]), rtol=1e-5)


# The bundle's limit, and passes

@pytest.mark.parametrize("select", ["abundance", "random"])
def test_the_limit_of_the_bundle_is_kept(bundle, select):
    "The prediction is that of a table which has only the selected reads."
    store = build_store(Study(table=TABLE))
    data = SampleDataset(store)
    counts = np.zeros((20, len(store.tokens)), np.int32)
    for i in range(20):
        o = select_asvs(data[i], 5, select, bundle.config.run.seed, 0)
        counts[i, o.asv] = o.counts
    few = replace(TABLE, counts=type(TABLE.counts)(counts), sequences=store.sequences)
    limited = predict_table(reading(bundle, limit=5, select=select), TABLE).rows
    wanted = predict_table(bundle, few).rows
    for c in ("prediction", "unseen_reads"): np.testing.assert_allclose(limited[c], wanted[c], rtol=1e-5)
    assert not np.allclose(limited.prediction, predict_table(bundle, TABLE).rows.prediction, rtol=1e-3)


def test_passes_average_what_a_person_reads(bundle):
    """The mean of decoded numbers and of probabilities, each pass by itself (B15); the spread is numpy's
    standard deviation."""
    logged = TargetCodec.fit(pd.Series([1., 40., 900.], name="age"), "regression", transform="log1p_zscore")
    store = build_store(Study(table=TABLE))
    two = reading(of(bundle, replace(logged, margin=.1), SITE), depth=DEPTH, limit=6, select="random")
    rows = np.flatnonzero(store.depths >= DEPTH)
    data = AtDepth(store, rows, DEPTH, two.config.run.seed, limit=6, select="random")
    known = known_places(store.keys, two.known)
    each = []
    embeddings = embed_asvs(two.model, store.tokens)
    for turn in range(5):
        looked = sample_outputs(two.model, data.in_turn(turn), embeddings, known)
        each.append(torch.cat([o.target for _, o in looked]).numpy())
    found = predict_store(two, store, passes=5).rows.iloc[rows]
    age = np.array([logged.decode(o[:, :1]) for o in each])
    p = np.array([SITE.decode(o[:, 1:]) for o in each])
    best = p.mean(0).argmax(1)
    assert (age.std(0) > 0).all()
    np.testing.assert_allclose(found["age:prediction"], age.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["age:spread"], age.std(0, ddof=1), rtol=1e-3)
    np.testing.assert_allclose(found[[f"site:probability_{o}" for o in SITE.classes]], p.mean(0), rtol=1e-4)
    assert found["site:label"].tolist() == [SITE.classes[i] for i in best]
    spread = p.std(0, ddof=1)[np.arange(len(rows)), best]
    np.testing.assert_allclose(found["site:spread"], spread, rtol=1e-3, atol=1e-7)
    decoded_mean = logged.decode(np.mean(each, axis=0)[:, :1])
    assert not np.allclose(found["age:prediction"], decoded_mean, rtol=1e-4)
    one = predict_store(two, store).rows.iloc[rows]
    np.testing.assert_allclose(one["age:prediction"], age[0], rtol=1e-4)
    assert "age:spread" not in one
    again = predict_store(two, store, store.sample_ids[rows[::-1]], batch=3, passes=5).rows
    np.testing.assert_allclose(again["age:prediction"].iloc[::-1], found["age:prediction"], rtol=1e-4)


def test_passes_that_would_be_equal_are_refused(bundle):
    for data in ({}, dict(limit=5), dict(select="random")):
        with pytest.raises(AamError, match="3 passes would all be the same"):
            predict_table(reading(bundle, **data), TABLE, passes=3)
    with pytest.raises(AamError, match="passes is 0"): predict_table(bundle, TABLE, passes=0)
    for data in (dict(limit=5, select="random"), dict(depth=DEPTH)):
        assert "spread" in predict_table(reading(bundle, **data), TABLE, passes=2).rows


# Covariates

@pytest.fixture(scope="module")
def with_covariates(bundle):
    "A bundle with a diet, a place and a number as covariates, whose model makes use of them."
    model = of(bundle, AGE, covariates=CovariateCodec.fit(PEOPLE, ("diet", ("country", "city"), "bmi")))
    with torch.no_grad():
        for p in model.model.fusion.parameters():
            p += .3*torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return model


def test_new_samples_have_their_own_covariates(with_covariates):
    "By id, whatever the order of the metadata and of the samples; other columns and rows are of no account."
    rows = predict_table(with_covariates, TABLE, metadata=PEOPLE).rows.prediction
    mixed = PEOPLE.sample(frac=1, random_state=1).assign(more=1)
    ids = TABLE.sample_ids[[7, 2, 15]]
    np.testing.assert_allclose(predict_table(with_covariates, TABLE, ids, mixed, batch=2).rows.prediction,
                               rows.loc[ids], rtol=1e-4)
    for column in PEOPLE:
        other = PEOPLE.assign(**{column: PEOPLE[column].to_numpy()[::-1]})
        moved = predict_table(with_covariates, TABLE, metadata=other).rows.prediction
        assert not np.allclose(moved, rows, rtol=1e-4), column
    store = build_store(Study(table=TABLE))
    category, number = with_covariates.covariates.encode(PEOPLE)
    known = known_places(store.keys, with_covariates.known)
    out = predict_rows(with_covariates.model, store, np.arange(20), known=known,
                       covariates=(category, number))
    np.testing.assert_allclose(AGE.decode(out), rows, rtol=1e-4)


def test_empty_cells_and_new_categories_are_fine(with_covariates):
    empty = np.random.default_rng(0).random(PEOPLE.shape) < .5
    holes = PEOPLE.astype(object).mask(empty).astype({"bmi": float})
    holes.loc[holes.index[:3], "diet"] = "insects"
    rows = predict_table(with_covariates, TABLE, metadata=holes).rows.prediction
    assert np.isfinite(rows).all()
    known = predict_table(with_covariates, TABLE, metadata=holes.assign(diet=np.nan)).rows.prediction
    assert not np.allclose(rows[:3], known[:3], rtol=1e-4) # An unknown diet is not a missing one


def test_what_metadata_lack_is_named(with_covariates):
    with pytest.raises(AamError, match="This model needs 'diet', 'country', 'city', 'bmi' of each sample"):
        predict_table(with_covariates, TABLE)
    with pytest.raises(AamError, match="'city'"):
        predict_table(with_covariates, TABLE, metadata=PEOPLE.drop(columns="city"))
    with pytest.raises(AamError, match="2 of 20 samples have no row"):
        predict_table(with_covariates, TABLE, metadata=PEOPLE[2:])
    assert len(predict_table(with_covariates, TABLE, TABLE.sample_ids[2:], PEOPLE[2:]).rows) == 18
    counts = TABLE.counts.tolil()
    counts[0] = 0
    empty = replace(TABLE, counts=counts.tocsr())
    # What cannot be scored needs no row
    assert predict_table(with_covariates, empty, metadata=PEOPLE[1:]).rows.note.iloc[0] == "no reads"
    deep = at_depth(with_covariates, 10**6)
    assert predict_table(deep, TABLE, metadata=PEOPLE).rows.prediction.isna().all()


def test_vectors_of_samples_ask_for_no_covariates(with_covariates):
    "They are of the reads alone: whatever the covariates are, its summary is the same."
    store = build_store(Study(table=TABLE))
    found = embed_store(with_covariates, store)
    category, number = with_covariates.covariates.encode(PEOPLE)
    data = SampleDataset(store, covariates=(category, number))
    known = known_places(store.keys, with_covariates.known)
    embeddings = embed_asvs(with_covariates.model, store.tokens)
    looked = sample_outputs(with_covariates.model, data, embeddings, known)
    wanted = torch.cat([o.summary for _, o in looked])
    np.testing.assert_allclose(found.vectors, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_each_pass_draws_its_own_reads_and_the_first_as_the_table_is_rarefied(bundle):
    store = build_store(Study(table=TABLE))
    rows = np.flatnonzero(store.depths > DEPTH)
    data = AtDepth(store, rows, DEPTH, seed=7)
    drawn = np.zeros((4, len(rows), len(store.tokens)), int)
    for turn in range(4):
        for i in range(len(rows)):
            o = data.look(i, turn)
            drawn[turn, i, o.asv] = o.counts
    assert (drawn.sum(2) == DEPTH).all()
    assert all((drawn[a] != drawn[b]).any(1).all() for a in range(4) for b in range(a))
    wanted = rarefy(TABLE.samples(rows), DEPTH, 7)
    order = np.argsort(wanted.sequences)
    assert (drawn[0] == wanted.counts.toarray()[:, order]).all()
    assert (predict_table(at_depth(bundle, DEPTH), TABLE, passes=3).rows.spread.iloc[rows] > 0).all()
