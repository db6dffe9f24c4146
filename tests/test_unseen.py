"""Reads that are not those of the bundle: what they are is said, by sample and once for all, and no interval
stands beside a prediction from them."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.batches.build import build_store
from aam_nb.batches.corpus import Corpus
from aam_nb.config import config_from
from aam_nb.data.codec import TargetCodec
from aam_nb.data.reach import Reach
from aam_nb.data.related import reverse_complement
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.data.table import read_table
from aam_nb.data.targets import Targets
from aam_nb.data.tokens import sequence_keys
from aam_nb.inference.bundle import Bundle, load_bundle, save_bundle
from aam_nb.inference.embed import embed_store
from aam_nb.inference.predict import predict_table
from aam_nb.inference.unseen import NO_INTERVAL, common_sequences, unseen_reads, unseen_text
from aam_nb.model.aam import AamModel
from aam_nb.runs.predict import embed_run, predict_run
from aam_nb.runs.train import train_run
from aam_nb.types import Study, strings

LONG = simulate(samples=20, asvs=40, groups=5, length=70, seed=3).table
ASVS = len(LONG.sequences)
LETTERS = np.random.default_rng(0).choice(list("ACGT"), (ASVS, 70))
LONG = replace(LONG, sequences=strings(["".join(o) for o in LETTERS]))
TABLE = replace(LONG, sequences=strings([o[5:65] for o in LONG.sequences]))
AGE = replace(TargetCodec.fit(pd.Series([1., 4., 9.], name="age")), margin=.5)
SITE = TargetCodec.fit(pd.Series(["gut", "skin", "gut", "mouth"], name="site"))
# How the letters of the same ASVs differ, and what must be said of it
CHANGES = {
    "beginning": (lambda o: o[5:55],
                  "are beginnings of the bundle's ASVs (50 bases, where the bundle's have 60)",
                  "Denoise again with reads truncated at 60 bases"),
    "later": (lambda o: o[8:68], "are the bundle's ASVs without their first 3 bases", "Cut 3 bases less"),
    "earlier": (lambda o: o[1:61], "are the bundle's ASVs with 4 bases more in front", "Cut 4 bases more"),
    "turned": (lambda o: reverse_complement(o[5:65]), "are reverse complements of the bundle's ASVs",
               "Turn these reads round"),
    "turned and cut": (lambda o: reverse_complement(o[5:65])[:50],
                       "are reverse complements of the bundle's ASVs", "Turn these reads round"),
    "other region": (lambda o: o[::-1][:40], "are unlike any ASV of the bundle (40 bases, where the bundle's",
                     "train a bundle on it"),
}


def bundle_of(*codecs, known=TABLE.sequences, letters=True):
    torch.manual_seed(0)
    targets = Targets(codecs)
    config = config_from({"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8,
                                    "identity": 16}, "data": {"target": [o.name for o in codecs]}})
    return Bundle(model=AamModel(config.model, 60, columns=targets.columns).eval(), config=config,
                  targets=targets, known=np.sort(sequence_keys(known)),
                  sequences=known if letters else strings([]))


def with_letters(change, which=slice(None)):
    "The table with other letters for some of its ASVs."
    words = TABLE.sequences.copy()
    words[which] = [change(o) for o in LONG.sequences[which]]
    return replace(TABLE, sequences=words)


@pytest.mark.parametrize("name", CHANGES)
def test_the_cause_is_named_with_its_remedy(name):
    change, what, todo = CHANGES[name]
    found = predict_table(bundle_of(AGE), with_letters(change))
    text = unseen_text(found.unseen)
    assert text.startswith("20 of 20 samples have many reads in ASVs that the bundle was not trained on")
    assert "(median 100%)" in text and f"{ASVS} ASVs {what}" in text and todo in text
    assert np.isfinite(found.rows.prediction).all() and found.rows[["low", "high"]].isna().all(axis=None)
    short = what.split(" (")[0].removeprefix("are ")
    assert found.rows.note.str.startswith("100% of the reads are in ASVs").all()
    assert found.rows.note.str.endswith(f"most of them {short}; no interval").all()
    assert len(found.skipped) == 0


def test_the_bundles_own_reads_have_no_note():
    found = predict_table(bundle_of(AGE), TABLE)
    assert (found.rows.note == "").all() and unseen_text(found.unseen) == ""
    assert found.rows[["low", "high"]].notna().all(axis=None)
    assert not found.unseen.asvs


@pytest.mark.parametrize("letters", ["lower", "rna"])
def test_other_spellings_of_the_same_letters_are_the_same_reads(letters, tmp_path):
    spelled = [o.lower() if letters == "lower" else o.replace("T", "U") for o in TABLE.sequences]
    rows = pd.Index(spelled, name="#OTU ID")
    frame = pd.DataFrame(TABLE.counts.toarray().T, index=rows, columns=TABLE.sample_ids)
    frame.to_csv(tmp_path/"table.tsv", sep="\t")
    found = predict_table(bundle_of(AGE), read_table(tmp_path/"table.tsv"))
    assert (found.rows.unseen_reads == 0).all() and (found.rows.note == "").all()


def test_a_table_of_which_a_part_is_turned_is_noticed():
    "Each sample holds known reads too, fewer or more than one half."
    which = np.arange(0, ASVS, 2)
    table = with_letters(lambda o: reverse_complement(o[5:65]), which)
    found = predict_table(bundle_of(AGE), table)
    counts = table.counts.toarray()
    share = counts[:, which].sum(1)/counts.sum(1)
    np.testing.assert_allclose(found.rows.unseen_reads, share)
    said = share > .1
    assert said.sum() > 10 and (share < .5).sum() > 3
    assert ((found.rows.note != "") == said).all()
    assert (found.rows.low.isna() == (share > NO_INTERVAL)).all()
    assert f"{len(which)} ASVs are reverse complements of the bundle's ASVs" in unseen_text(found.unseen)


def test_a_note_has_the_share_of_its_sample():
    "New organisms are noted above one half of the reads, with the percentage, and not below."
    bundle = bundle_of(AGE, known=TABLE.sequences[::2])
    rows = predict_table(bundle, TABLE).rows
    loud = rows.unseen_reads > .5
    assert 3 < loud.sum() < 17 and ((rows.note != "") == loud).all()
    for share, note in zip(rows.unseen_reads[loud], rows.note[loud], strict=True):
        assert note.startswith(f"{share:.0%} of the reads are in ASVs that the bundle was not trained on")


def test_every_target_loses_its_interval_and_none_its_prediction():
    quantiles = replace(AGE, name="bmi", loss="quantile", levels=(.1, .5, .9))
    found = predict_table(bundle_of(AGE, SITE, quantiles), with_letters(CHANGES["turned"][0])).rows
    gone = ["age:low", "age:high", "bmi:low", "bmi:high", "bmi:q0.1", "bmi:q0.5", "bmi:q0.9"]
    assert found[gone].isna().all(axis=None)
    assert found.drop(columns=gone).notna().all(axis=None)
    classes = predict_table(bundle_of(SITE), with_letters(CHANGES["turned"][0])).rows
    assert classes.notna().all(axis=None) and not classes.note.str.contains("interval").any()


def test_a_bundle_without_letters_says_that_the_cause_is_unknown():
    found = predict_table(bundle_of(AGE, letters=False), with_letters(CHANGES["later"][0]))
    assert "holds no letters" in unseen_text(found.unseen)
    assert found.rows.note.str.endswith("that the bundle was not trained on; no interval").all()


def test_letters_survive_the_file(tmp_path):
    bundle = bundle_of(AGE, known=strings(["ACGTNRYA", "AC", "ACG"]))
    assert load_bundle(save_bundle(tmp_path/"b", bundle)).sequences.tolist() == ["ACGTNRYA", "AC", "ACG"]
    assert len(load_bundle(save_bundle(tmp_path/"c", bundle_of(AGE, letters=False))).sequences) == 0


def test_the_commonest_asvs_are_kept():
    store = build_store(Study(table=TABLE))
    rows = np.arange(0, 20, 3)
    many = (store.counts(rows) > 0).sum(axis=0).A1
    kept = common_sequences(store, rows, most=12)
    assert sorted(many[np.isin(store.sequences, kept)]) == sorted(many)[-12:]
    assert set(common_sequences(store, rows)) == set(store.sequences[many > 0])
    parts = Corpus([build_store(Study(table=TABLE.samples(o))) for o in (np.arange(9), np.arange(9, 20))])
    assert set(common_sequences(parts, np.arange(20))) == set(TABLE.sequences)


def test_shares_are_the_same_from_several_stores():
    table, bundle = with_letters(CHANGES["later"][0], np.arange(10)), bundle_of(AGE)
    parts = [build_store(Study(table=table.samples(o))) for o in (np.arange(9), np.arange(9, 20))]
    whole = unseen_reads(bundle, build_store(Study(table=table)), np.arange(20))
    found = unseen_reads(bundle, Corpus(parts), np.arange(20))
    np.testing.assert_allclose(found.shares, whole.shares)
    np.testing.assert_allclose(found.technical, whole.technical)


def test_vectors_have_the_note_too():
    store = build_store(Study(table=with_letters(CHANGES["turned"][0])))
    found = embed_store(bundle_of(AGE), store)
    assert np.isfinite(found.vectors).all() and not found.lost.any()
    assert all("reverse complements" in o for o in found.note)
    assert (embed_store(bundle_of(AGE), build_store(Study(table=TABLE))).note == "").all()
    assert "reverse complements" in unseen_text(embed_store(bundle_of(AGE), store, of="asv").unseen)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A study, the same from the other strand, and a bundle of the first."
    tmp = tmp_path_factory.mktemp("unseen")
    study = simulate(samples=40, asvs=40, groups=10, length=60, seed=1)
    words = strings([reverse_complement(o) for o in study.table.sequences])
    write_study(study, tmp/"data")
    write_study(replace(study, table=replace(study.table, sequences=words), tree=None), tmp/"turned")
    config = config_from({
        "data": dict(**study_files(tmp/"data"), target="age", groups="subject"),
        "model": dict(width=16, sample_width=16, layers=1),
        "pretrain_asv": dict(steps=2, batch=20, every=2), "optim": dict(steps=2, every=2),
        "run": dict(out=str(tmp/"run"), threads=1)})
    train_run(config, lambda text: None)
    return tmp, config


def test_the_commands_say_it_once_with_numbers(trained):
    tmp, _ = trained
    said = []
    found = predict_run(tmp/"run/bundle", tmp/"turned/table.biom", tmp/"new.tsv", say=said.append)
    warned = [o for o in said if o.startswith("warning")]
    assert len(warned) == 1 and "ASVs are reverse complements of the bundle's ASVs" in warned[0]
    assert f"Predictions without an interval: {len(found.rows)}" in said[-1]
    written = pd.read_csv(tmp/"new.tsv", sep="\t", index_col=0)
    assert written.note.str.contains("reverse complements").all() and written.low.isna().all()
    said.clear()
    embed_run(tmp/"run/bundle", tmp/"turned/table.biom", tmp/"new.npz", say=said.append)
    assert "vectors of" in said[0] and "could not be read" not in said[0]
    assert "reverse complements" in said[1]
    said.clear()
    predict_run(tmp/"run/bundle", tmp/"data/table.biom", tmp/"own.tsv", say=said.append)
    assert not [o for o in said if "warning" in o]


def test_a_run_that_starts_from_other_reads_has_a_note(trained):
    tmp, config = trained
    said = []
    data = replace(config.data, **study_files(tmp/"turned") | {"tree": ""})
    run = replace(config.run, start=str(tmp/"run/bundle"), out=str(tmp/"second"), transductive=True)
    bundle = load_bundle(train_run(replace(config, data=data, run=run), said.append))
    notes = [o for o in bundle.about["notes"] if "the bundle to start from was not trained on" in o]
    assert len(notes) == 1 and "reverse complements" in notes[0]
    assert [o for o in said if notes[0] in o]


def test_intervals_widen_with_unseen_reads_in_prediction_as_in_the_codec():
    "What `aam predict` writes is what the codec says of each sample's share of unseen reads."
    careful = replace(AGE, reach=Reach(usual=.05, lowest=-2., highest=2.))
    table = with_letters(lambda o: reverse_complement(o[5:65]), np.arange(0, ASVS, 2))
    rows = predict_table(bundle_of(careful), table).rows.dropna(subset="low")
    x = ((rows.prediction - AGE.mean)/AGE.sd).to_numpy()[:, None]
    wanted, plain = careful.interval(x, unseen=rows.unseen_reads.to_numpy()), AGE.interval(x)
    np.testing.assert_allclose(rows[["low", "high"]], wanted, atol=1e-4)
    more = np.diff(wanted)[:, 0] - np.diff(plain)[:, 0]
    assert (more > -1e-9).all() and ((more > .1) == (rows.unseen_reads > .06)).all() and (more > 1).sum() > 5
    same = predict_table(bundle_of(AGE), table).rows.loc[rows.index]
    np.testing.assert_allclose(same[["low", "high"]], plain, atol=1e-4)
