"An augmentation from outside the package: one record, named in an override, from training to predictions."
from dataclasses import replace

import numpy as np
import pytest
import torch

from aam_nb.batches.augment import Augmentation, augment_sample, augment_samples, augment_tokens, false_for
from aam_nb.batches.build import build_store
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.table import read_table
from aam_nb.data.tokens import MASK
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.recipe import load_config
from aam_nb.registry import augmentations, registered
from aam_nb.runs.train import train_run
from aam_nb.sections import AugmentConfig

SHORT = ["pretrain_asv.steps=6", "pretrain_asv.batch=16", "pretrain_sample.steps=0", "optim.steps=6",
         "optim.batch=8",
         "model.width=16", "model.layers=1", "model.sample_width=16", "run.threads=1"]
PLAIN = AugmentConfig(rarefy=0., asv_dropout=0.)
CALLS = []


def bloom(sample, rng, config):
    "One ASV of the sample, chosen at random, grows tenfold: a bloom after the sample was taken."
    CALLS.append(sample.id)
    counts = sample.counts.copy()
    if len(counts): counts[rng.integers(len(counts))] *= 10
    return replace(sample, counts=counts)


def lose_rare(counts, rng, config):
    "The ASVs with the fewest reads are lost, each with the chance 1/2."
    rare = counts <= np.median(counts) if len(counts) else counts > 0
    return np.where(rare & (rng.random(len(counts)) < .5), 0, counts)


def blur_ends(tokens, rng, config):
    "The last bases of some sequences are not sure, as at the end of a read."
    hidden = rng.random(tokens.shape) < .5
    hidden[:, :-5] = False
    return np.where(hidden, np.uint8(MASK), tokens)


BLOOM = Augmentation(name="bloom", on="sample", apply=bloom)
LOSE = Augmentation(name="lose_rare", on="reads", apply=lose_rare)
BLUR = Augmentation(name="blur_ends", on="bases", apply=blur_ends, keeps_distances=True)
ALL = replace(PLAIN, also=("bloom", "lose_rare", "blur_ends"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "The folder of a small simulated study."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=8), folder)
    return folder


@pytest.fixture(scope="module")
def store(): return build_store(simulate(samples=12, asvs=40, groups=6, length=40, seed=8))


@pytest.fixture(autouse=True)
def known():
    with registered(augmentations, BLOOM, LOSE, BLUR): yield


def same(a, b):
    "Whether two batches hold the same tokens and reads."
    return all(torch.equal(getattr(a, o), getattr(b, o)) for o in ("tokens", "asv", "counts", "index"))


def test_an_augmentation_is_applied_from_the_recipe_to_the_prediction(study, tmp_path):
    recipe = tmp_path/"recipe.toml"
    recipe.write_text('[augment]\nalso = ["bloom", "lose_rare", "blur_ends"]\n')
    files = [f"data.table={study/'table.biom'}", f"data.metadata={study/'metadata.tsv'}"]
    words = (*files, "data.target=age", "data.groups=subject", f"run.out={tmp_path/'run'}", *SHORT)
    config = load_config(recipe, words)
    assert config.augment.also == ("bloom", "lose_rare", "blur_ends")
    CALLS.clear()
    bundle = load_bundle(train_run(config, say=lambda text: None))
    trained = len(CALLS)
    predicted = predict_table(bundle, read_table(study/"table.biom"))
    assert predicted.rows.prediction.notna().all() and len(predicted.rows) == 40
    assert trained >= 6*8 and len(CALLS) == trained # Each view of training, and none of prediction


def test_a_view_changes_as_the_record_says(store):
    data = SampleDataset(store)
    plain = [augment_sample(data[i], PLAIN, 7, 0) for i in range(12)]
    bloomed = [augment_sample(data[i], replace(PLAIN, also=("bloom",)), 7, 0) for i in range(12)]
    for a, b in zip(plain, bloomed, strict=True):
        assert (a.asv == b.asv).all()
        grown = np.flatnonzero(a.counts != b.counts)
        assert len(grown) == 1 and b.counts[grown[0]] == 10*a.counts[grown[0]]
    lost = [augment_sample(data[i], replace(PLAIN, also=("lose_rare",)), 7, 0) for i in range(12)]
    before, after = np.array([len(o.asv) for o in plain]), np.array([len(o.asv) for o in lost])
    assert (after <= before).all() and (2*after >= before - 1).all() and after.sum() < before.sum()
    assert all((o.counts > 0).all() and o.counts.dtype == np.int32 for o in lost)
    tokens = augment_tokens(store.tokens[:], store.keys[:], replace(PLAIN, also=("blur_ends",)), 7, 0)
    assert (tokens[:, :-5] == store.tokens[:, :-5]).all() and (tokens == MASK).any()


def test_the_views_follow_their_key_in_any_order_and_company(store):
    data = SampleDataset(store)
    samples, epochs = [data[i] for i in range(12)], [0, 1]*6
    whole = augment_samples(samples, ALL, 7, epochs)
    order = [5, 0, 11]
    some = augment_samples([samples[i] for i in order], ALL, 7, [epochs[i] for i in order])
    for a, i in zip(some, order, strict=True):
        assert a.asv.tolist() == whole[i].asv.tolist() and a.counts.tolist() == whole[i].counts.tolist()
    other_epoch, other_seed = (augment_sample(samples[0], ALL, *key) for key in ((7, 1), (8, 0)))
    assert other_epoch.counts.tolist() != whole[0].counts.tolist() != other_seed.counts.tolist()
    rows = np.array([9, 2])
    tokens, keys = store.tokens[:], store.keys[:]
    whole_view = augment_tokens(tokens, keys, ALL, 7, 3)
    assert (augment_tokens(tokens[rows], keys[rows], ALL, 7, 3) == whole_view[rows]).all()


def test_workers_and_processes_make_the_same_batches(store):
    data = SampleDataset(store)
    source = SampleBatches(data, View(seed=7, augment=ALL), batch=4, steps=5)
    here = [source[i] for i in range(5)]
    there = list(loader(source, workers=2, context="fork"))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert not same(here[0], SampleBatches(data, View(seed=7, augment=PLAIN), batch=4, steps=5)[0])
    halves = [SampleBatches(data, View(seed=7, augment=ALL), batch=4, steps=5, rank=o, world=2)[2]
              for o in range(2)]
    assert torch.equal(torch.cat([o.counts for o in halves]), here[2].counts)


def test_a_run_refuses_what_makes_its_distances_false():
    assert false_for(ALL, tree=True, metrics=("unweighted",)) == []
    found = false_for(ALL, tree=True, metrics=("precomputed",))
    assert [o.split("'")[1] for o in found] == ["bloom", "lose_rare"]
    with registered(augmentations, replace(BLUR, name="scramble", keeps_distances=False)):
        text, = false_for(replace(PLAIN, also=("scramble",)), tree=True)
    assert "that place an ASV in the tree" in text
    assert text.endswith("Leave 'scramble' out of augment.also.")


def test_names_that_cannot_be_used_are_refused(store):
    sample = SampleDataset(store)[0]
    with pytest.raises(AamError, match="no augmentation 'blom'.*bloom"):
        augment_sample(sample, replace(PLAIN, also=("blom",)), 7, 0)
    with pytest.raises(AamError, match="Set augment.indel instead"):
        augment_sample(sample, replace(PLAIN, also=("indel",)), 7, 0)
    with pytest.raises(AamError, match="named 'bloom' already"): augmentations.add(BLOOM)
    with pytest.raises(AamError, match="changes 'names'; wanted one of reads, sample, bases"):
        replace(BLOOM, on="names")


def test_bases_that_nothing_would_read_are_refused():
    still = ("augment.also=[\"blur_ends\"]", "pretrain_asv.steps=0")
    with pytest.raises(AamError, match="no stage trains the ASV encoder"): load_config(None, still)
    assert load_config(None, ("augment.also=[\"bloom\"]", "pretrain_asv.steps=0")).augment.also == ("bloom",)
