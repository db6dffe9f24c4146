"Mixed samples against scikit-bio; partners and shares that follow their key alone."
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_samples import samples_of

from aam_nb.batches.build import build_store
from aam_nb.batches.mix import mix_pair, mix_samples, whole_reads
from aam_nb.batches.source import StudyPart
from aam_nb.core import AamError, keyed_rng
from aam_nb.data.simulate import simulate
from aam_nb.sections import AugmentConfig
from aam_nb.types import Tree, strings


def pair_of(n=30, seed=0):
    counts = np.random.default_rng(seed).negative_binomial(.4, .02, (2, n))
    counts[:, 0] += 1
    return counts

def tree_of(n):
    "A comb of n tips: the branch of each tip, and each clade of the last tips."
    return Tree(tips=strings(range(n)), start=np.array([*range(n), *range(n - 2, 0, -1)]),
                stop=np.array([*range(1, n + 1), *[n]*(n - 2)]),
                length=np.ones(2*n - 2))

@pytest.mark.parametrize("seed", range(4))
def test_mixes_are_scikit_bios(seed):
    skbio = pytest.importorskip("skbio.table")
    from skbio import TreeNode
    counts = pair_of(seed=seed)
    shares = counts/counts.sum(1, keepdims=True)
    rng = lambda: np.random.default_rng(seed)
    mixed, share = mix_pair(counts, "reads", .8, rng())
    theirs, label = skbio.mixup(shares, 1, labels=[0, 1], alpha=.8, seed=rng())
    assert np.allclose(mixed, theirs[0]) and share == label[0, 0]
    assert np.allclose(mixed, share*shares[0] + (1 - share)*shares[1])
    mixed, share = mix_pair(counts, "aitchison", .8, rng())
    theirs, label = skbio.aitchison_mixup(np.maximum(counts, .5), 1, labels=[0, 1], alpha=.8, seed=rng())
    powers = np.prod(np.maximum(counts, .5)**np.array([[share], [1 - share]]), axis=0)
    assert np.allclose(mixed, theirs[0]) and share == label[0, 0] and np.allclose(mixed, powers/powers.sum())
    mixed, share = mix_pair(counts, "phylomix", .8, rng(), tree_of(30), np.arange(30))
    comb = f"{','.join(f'({i}' for i in range(29))},29{')'*29};"
    theirs, label = skbio.phylomix(shares, 1, tree=TreeNode.read([comb]), taxa=list(map(str, range(30))),
                                   labels=[0, 1], alpha=.8, seed=rng())
    assert np.allclose(mixed, theirs[0]) and share == label[0, 0] and np.isclose(mixed.sum(), 1)

@pytest.mark.parametrize("seed", range(4))
def test_cutmix_takes_each_asv_from_one_sample_and_says_how_much_is_its_own(seed):
    skbio = pytest.importorskip("skbio.table")
    counts = pair_of(seed=seed)
    shares = counts/counts.sum(1, keepdims=True)
    mixed, share = mix_pair(counts, "cutmix", .8, np.random.default_rng(seed))
    theirs, _ = skbio.compos_cutmix(np.pad(shares, ((0, 0), (0, 1)), constant_values=1.), 1, normalize=False,
                                    seed=np.random.default_rng(seed))
    assert np.allclose(mixed, theirs[0, :-1]/theirs[0, :-1].sum()) and np.isclose(mixed.sum(), 1)
    taken = theirs[0, :-1]/theirs[0, -1]
    own, other = np.isclose(taken, shares[0]), np.isclose(taken, shares[1])
    assert (own | other).all() and np.isclose(share, taken[own].sum()/taken.sum())

def test_mixes_of_samples_that_share_nothing():
    pytest.importorskip("skbio")
    counts = np.array([[5, 0], [0, 7]])
    for kind in ("reads", "aitchison", "cutmix", "phylomix"):
        for i in range(20):
            mixed, share = mix_pair(counts, kind, .4, keyed_rng("test", i), tree_of(2), np.arange(2))
            assert np.isfinite(mixed).all() and np.isclose(mixed.sum(), 1) and 0 <= share <= 1

@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 5000), st.integers(0, 99))
def test_whole_reads_round_up_or_down(shares, depth, seed):
    shares = np.array(shares) + 1e-3
    exact = shares/shares.sum()*depth
    counts = whole_reads(shares, depth, keyed_rng(seed))
    assert counts.sum() == depth and (abs(counts - exact) < 1 + 1e-9).all() and (counts >= 0).all()
    assert counts.dtype == np.int32

def test_whole_reads_are_right_on_average():
    shares = np.array([.5, .3, .13, .0699, .0001])
    counts = np.array([whole_reads(shares, 17, keyed_rng("test", i)) for i in range(4000)])
    assert abs(counts.mean(0) - 17*shares).max() < .04

@pytest.fixture(scope="module")
def store(): return build_store(simulate(samples=24, asvs=60, groups=8, seed=3))

@pytest.mark.parametrize("mix", ["reads", "aitchison", "cutmix", "phylomix"])
def test_a_batch_is_mixed_by_its_step_and_ids(store, mix):
    pytest.importorskip("skbio")
    before = samples_of(store)[:8]
    config = AugmentConfig(mix=mix, mixup=.8)
    out, partner, share = mix_samples(before, config, 7, 2, store.studies[0])
    again = mix_samples(before, config, 7, 2, store.studies[0])
    assert partner.dtype == np.int64 and share.dtype == np.float32 and sorted(partner) == list(range(8))
    assert ((0 <= share) & (share <= 1)).all()
    assert all((a.counts == b.counts).all() and (a.asv == b.asv).all() for a,
               b in zip(out, again[0], strict=True))
    assert (again[1] == partner).all() and (again[2] == share).all()
    assert (mix_samples(before, config, 7, 3, store.studies[0])[2] != share).any()
    for a, o, j in zip(before, out, partner, strict=True):
        assert o.counts.sum() == a.counts.sum() and (o.counts > 0).all() and o.counts.dtype == np.int32
        assert (np.diff(o.asv) > 0).all()
        assert set(o.asv.tolist()) <= {*a.asv.tolist(), *before[j].asv.tolist()}
        assert (o.id, o.index, o.target) == (a.id, a.index, a.target)
        if a is before[j]: assert o is a

def test_the_mix_of_a_pair_does_not_depend_on_the_rest_of_the_batch(store):
    pytest.importorskip("skbio")
    before = samples_of(store)[:8]
    for mix in ("reads", "phylomix"):
        config = AugmentConfig(mix=mix, mixup=.8)
        out, partner, share = mix_samples(before, config, 7, 2, store.studies[0])
        i = next(i for i, j in enumerate(partner) if i != j)
        others = [o if k in (i, partner[i]) else samples_of(store)[12 + k] for k, o in enumerate(before)]
        two = mix_samples(others, config, 7, 2, store.studies[0])
        assert two[2][i] == share[i] and (two[0][i].counts == out[i].counts).all()
        assert (two[0][i].asv == out[i].asv).all()

def test_asvs_without_a_tip_stay_their_own_in_phylomix(store):
    pytest.importorskip("skbio")
    lost = np.arange(len(store.tokens)) % 2 == 0
    half = StudyPart(SimpleNamespace(tip=np.where(lost, -1, store.tip), branches=store.branches))
    before = samples_of(store)[:8]
    out, partner, _ = mix_samples(before, AugmentConfig(mix="phylomix", mixup=.8), 7, 2, half)
    for a, o in zip(before, out, strict=True):
        full = np.zeros((2, len(lost)))
        full[0, a.asv] = a.counts
        full[1, o.asv] = o.counts
        assert abs(full[0] - full[1])[lost].max() <= 1 # Rounded again
    none = StudyPart(SimpleNamespace(tip=np.full(len(lost), -1), branches=store.branches))
    assert all((a.counts == o.counts).all() for a,
               o in zip(before, mix_samples(before, AugmentConfig(mix="phylomix"), 7, 2, none)[0],
                        strict=True))

def test_what_is_not_mixed(store):
    before = samples_of(store)[:4]
    empty = replace(before[0], asv=before[0].asv[:0], counts=before[0].counts[:0])
    for config in (AugmentConfig(), AugmentConfig(mix="reads", mixup=0.)):
        out, partner, share = mix_samples(before, config, 7, 2)
        assert out is before and (partner == range(4)).all() and (share == 1).all()
    out, partner, share = mix_samples([empty, before[1]], AugmentConfig(mix="reads"), 7, 1)
    assert out[0] is empty and out[1] is before[1] and (partner == range(2)).all() and (share == 1).all()
    with pytest.raises(AamError, match="the tree of one study, but there is none"):
        mix_samples(before, AugmentConfig(mix="phylomix"), 7, 2)

def test_a_missing_scikit_bio_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "skbio.table", None)
    with pytest.raises(AamError, match=r"needs the package 'skbio'.*aam_nb\[mix\]"):
        mix_pair(pair_of(), "reads", 1., keyed_rng())
