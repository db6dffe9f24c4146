"Views of samples and bases: what they hold, what they follow, and which distances they keep true."
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_samples import random_tokens, same, sample, samples_of

from aam_nb.batches.augment import augment_sample, augment_samples, augment_tokens, false_for
from aam_nb.batches.bases import insert_and_delete, reverse_some, shuffle_windows, substitute
from aam_nb.batches.build import build_store
from aam_nb.batches.collate import collate
from aam_nb.batches.draws import AsvDraws
from aam_nb.batches.reads import drop_asvs, read_share
from aam_nb.batches.view import View
from aam_nb.data.distances import unifrac
from aam_nb.data.simulate import simulate
from aam_nb.data.tokens import detokenize, sequence_keys
from aam_nb.sections import AugmentConfig
from aam_nb.types import Sample


def one_by_one(config, n, one): return [augment_sample(one, config, 7, i) for i in range(n)]

def test_views_take_the_chance_and_the_depths_they_are_given():
    one = sample(depth=50_000)
    config = AugmentConfig(rarefy=.7, rarefy_low=.3, rarefy_cap=20_000, asv_dropout=0.)
    views = one_by_one(config, 1500, one)
    depths = np.array([o.counts.sum() for o in views])
    depths = depths[depths < 50_000]
    assert abs(len(depths)/1500 - .7) < .05
    # Each read decides by itself: give or take a hundred
    assert 5700 < depths.min() < 6300 and 19_000 < depths.max() < 20_500
    share = np.log(depths/20_000)/np.log(.3) # Uniform from 0 to 1 when the share is log-uniform
    assert abs(share.mean() - .5) < .03 and abs(share.var() - 1/12) < .01
    assert read_share(10_000, config, 1.) == .3 and read_share(10_000, config, 0.) == 1
    assert read_share(80_000, config, 0.) == .25

def test_dropout_leaves_out_the_share_and_never_all():
    one = sample(200)
    config = AugmentConfig(rarefy=0., asv_dropout=.1)
    views = one_by_one(config, 600, one)
    kept = np.array([len(o.asv) for o in views])
    assert abs(kept.mean() - 180) < 1 and abs(kept.var() - 18) < 5
    often = np.bincount(np.concatenate([o.asv for o in views])//3, minlength=200)/600
    assert abs(often - .9).max() < .06 and all((o.counts == one.counts[o.asv//3]).all() for o in views)
    lone = sample(1)
    assert all(same(o, lone) for o in one_by_one(AugmentConfig(rarefy=0., asv_dropout=.9), 40, lone))
    counts, of = np.array([3, 0, 5, 0, 9, 1]), np.array([0, 0, 0, 1, 2, 2])
    # The first would have lost all
    assert drop_asvs(counts, of, .5, np.array([.4, .9, .1, .2, .6, .3])).tolist() == [3, 0, 5, 0, 9, 0]
    assert drop_asvs(counts, of, 0., np.zeros(6)).tolist() == counts.tolist()

steps = st.builds(AugmentConfig, rarefy=st.sampled_from([0., .5, 1.]), rarefy_low=st.sampled_from([.01, .5]),
                  rarefy_cap=st.sampled_from([1, 50, 20_000]),
                  asv_dropout=st.sampled_from([0., .1, .9]), shuffle=st.booleans(),
                  jitter=st.sampled_from(["none", "multinomial", "dirichlet"]))

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=12), steps, st.integers(0, 99))
def test_any_view_is_a_sample_of_the_same_asvs(counts, config, seed):
    one = Sample(asv=np.arange(len(counts))*2, counts=np.array(counts, np.int32),
                 target=np.zeros(1, np.float32), index=3, id="S")
    view = augment_sample(one, config, seed, 1)
    assert (view.id, view.index, view.target) == (one.id, one.index, one.target)
    assert view.counts.dtype == np.int32 and view.asv.dtype == np.int64
    assert len(view.asv) == len(view.counts) == len(set(view.asv.tolist()))
    assert set(view.asv.tolist()) <= set(one.asv.tolist())
    assert (view.counts > 0).all() and bool(len(view.asv)) == bool(counts)
    assert view.counts.sum() <= max(1, sum(counts))
    if config.jitter == "none":
        assert all(c <= counts[a//2] for a, c in zip(view.asv, view.counts, strict=True))

def test_a_view_follows_its_key_alone():
    for config in (AugmentConfig(), AugmentConfig(jitter="dirichlet", shuffle=True)):
        one = augment_sample(sample(), config, 1, 2)
        np.random.seed(0)
        augment_sample(sample(id="S2"), config, 1, 2)
        assert same(one, augment_sample(sample(), config, 1, 2))
        for other in ((2, 2, "S1"), (1, 3, "S1"), (1, 2, "S2")):
            assert not same(one, augment_sample(sample(id=other[2]), config, *other[:2]))
    assert same(augment_sample(sample(), AugmentConfig(rarefy=0., asv_dropout=0.), 1, 2), sample())

def test_company_and_order_change_no_view():
    batch = [sample(n, id=f"S{n}", seed=n) for n in (40, 3, 1, 17, 60)]
    batch.insert(2, replace(batch[0], asv=batch[0].asv[:0], counts=batch[0].counts[:0], id="S0"))
    epochs = [3, 3, 4, 4, 3, 4]
    order = [4, 0, 2, 5]
    for config in (AugmentConfig(), AugmentConfig(jitter="multinomial", asv_dropout=.5, shuffle=True)):
        whole = augment_samples(batch, config, 7, epochs)
        some = augment_samples([batch[i] for i in order], config, 7, [epochs[i] for i in order])
        assert all(same(a, whole[i]) for a, i in zip(some, order, strict=True))
        assert all(same(augment_sample(a, config, 7, e), o) for a, e,
                   o in zip(batch, epochs, whole, strict=True))

def test_a_shuffled_sample_holds_the_same_reads_in_any_order():
    config = AugmentConfig(rarefy=0., asv_dropout=0., shuffle=True)
    one = sample(4)
    views = one_by_one(config, 2400, one)
    for o in views[:20]:
        assert sorted(zip(o.asv, o.counts, strict=True)) == sorted(zip(one.asv, one.counts, strict=True))
    often = np.unique([o.asv for o in views], axis=0, return_counts=True)[1]
    assert len(often) == 24 and abs(often - 100).max() < 45

def test_the_view_of_bases_follows_key_and_sequence_alone():
    tokens = random_tokens(60)
    keys = sequence_keys(detokenize(tokens))
    rows = np.array([41, 3, 17])
    config = AugmentConfig(substitution=.05, indel=.02, window=5, reverse=.5)
    view = augment_tokens(tokens, keys, config, 7, 3)
    assert (augment_tokens(tokens[rows], keys[rows], config, 7, 3) == view[rows]).all()
    assert (augment_tokens(tokens, keys, config, 7, 3) == view).all() and view.dtype == np.uint8
    for other in ((8, 3), (7, 4)): assert (augment_tokens(tokens, keys, config, *other) != view).any(1).all()
    assert augment_tokens(tokens, keys, AugmentConfig(), 7, 3) is tokens
    for name, change, amount in (("substitution", substitute, .05), ("indel", insert_and_delete, .02),
                                 ("window", shuffle_windows, 5),
                                 ("reverse", reverse_some, .5)):
        alone = augment_tokens(tokens, keys, AugmentConfig(**{name: amount}), 7, 3)
        assert (alone == change(tokens, amount, AsvDraws(keys, 7, 3, name))).all()

def test_steps_that_make_distances_false_are_named():
    every = AugmentConfig(jitter="dirichlet", shuffle=True, substitution=.01, indel=.01, window=4, reverse=.5,
                          mix="reads")
    assert false_for(every, tree=False) == []
    assert false_for(AugmentConfig(), tree=True, metrics=("weighted",)) == []
    assert [o.split(" ")[0] for o in false_for(every, tree=True)] == ["augment.window"]
    computed = false_for(every, tree=False, metrics=("unweighted", "jaccard"))
    assert [o.split(" ")[0] for o in computed] == ["augment.window"]
    assert [o.split(" ")[0] for o in false_for(every, tree=False, metrics=("unweighted", "precomputed"))] == [
        "augment.window", "augment.rarefy", "augment.asv_dropout", "augment.jitter", "augment.mix"]
    quiet = AugmentConfig(rarefy=0., asv_dropout=0., shuffle=True, substitution=.01, mix="reads", mixup=0.,
                          window=1)
    assert false_for(quiet, tree=True, metrics=("precomputed",)) == []

@pytest.fixture(scope="module")
def store(): return build_store(simulate(samples=24, asvs=60, groups=8, seed=3))

def test_unifrac_of_a_view_is_of_its_own_counts(store):
    "The steps that are not refused change the counts before distances are taken from them."
    config = AugmentConfig(jitter="multinomial", rarefy_low=.05)
    views = [augment_sample(o, config, 7, 0) for o in samples_of(store)[:5]]
    counts = np.zeros((5, len(store.tokens)))
    for i, o in enumerate(views): counts[i, o.asv] = o.counts
    found = collate(views, store, View(metrics=("unweighted",))).distance[0].numpy()
    assert np.allclose(found, unifrac(counts, store.tree, store.tip, "unweighted"), atol=1e-6)

def told_sample(i, c=3, v=2, seed=0):
    rng = np.random.default_rng(seed + i)
    return replace(sample(id=f"S{i}", seed=i), category=rng.integers(2, 9, c),
                   number=rng.normal(size=v).astype(np.float32), weight=np.ones(1, np.float32))

def categories_of(samples): return np.stack([o.category for o in samples])

def numbers_of(samples): return np.stack([o.number for o in samples])

def test_covariates_are_hidden_with_their_chance_as_missing_and_unknown_alike():
    many = [told_sample(i) for i in range(40)]
    views = [augment_samples(many, AugmentConfig(covariate_dropout=.3), 7, [e]*40) for e in range(50)]
    before = np.stack([o.category for o in many])
    after = np.array([categories_of(v) for v in views])
    gone = after != before
    # Standard deviation .01
    assert (np.isin(after, (0, 1)) == gone).all() and (abs(gone.mean((0, 1)) - .3) < .04).all()
    assert abs((after[gone] == 1).mean() - .5) < .05
    numbers = np.array([numbers_of(v) for v in views])
    hidden = np.isnan(numbers)
    assert (abs(hidden.mean((0, 1)) - .3) < .04).all()
    assert (numbers[~hidden] == np.broadcast_to([o.number for o in many], numbers.shape)[~hidden]).all()
    both = np.concatenate([gone, hidden], 2).reshape(-1, 5)
    assert abs(np.corrcoef(both.T) - np.eye(5)).max() < .1 # Each by itself

def test_hidden_covariates_follow_seed_epoch_and_id_alone_and_leave_the_reads_alone():
    many = [told_sample(i) for i in range(9)]
    config = AugmentConfig(covariate_dropout=.5)
    view = augment_samples(many, config, 7, list(range(9)))
    key = lambda o: (o.category.tolist(), np.isnan(o.number).tolist())
    for i in (5, 2):
        alone = augment_sample(many[i], config, 7, i)
        assert key(alone) == key(view[i]) and same(alone, view[i])
    for other in (dict(seed=8, epochs=list(range(9))), dict(seed=7, epochs=[1]*9)):
        assert [key(o) for o in augment_samples(many, config, **other)] != [key(o) for o in view]
    bare = augment_samples([replace(o, category=None, number=None, weight=None) for o in many], config, 7,
                           list(range(9)))
    assert all(same(a, b) and a.weight is not None and b.category is None for a,
               b in zip(view, bare, strict=True))
    still = augment_samples(many, replace(config, covariate_dropout=0.), 7, list(range(9)))
    assert all(same(a, b) and (a.category == o.category).all() for a, b,
               o in zip(still, view, many, strict=True))
