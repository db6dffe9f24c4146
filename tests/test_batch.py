"Batches: the ragged layout against a loop, pure functions of the step, every sample once an epoch, the same from any worker."
import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from aam_nb.batches.asv_batches import AsvBatches, PlainAsvBatches
from aam_nb.batches.augment import augment_sample, augment_samples
from aam_nb.batches.build import build_store
from aam_nb.batches.collate import collate, known_places
from aam_nb.batches.loader import loader
from aam_nb.batches.reads import select_asvs
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.batches.turns import turns
from aam_nb.core import AamError, digest
from aam_nb.data.distances import aitchison, faith_pd, unifrac
from aam_nb.data.tokens import MASK
from aam_nb.data.tree import parse_newick
from aam_nb.sections import AugmentConfig
from aam_nb.types import Study, Table, strings


def made(samples=11, asvs=40, seed=0, tree=True):
    "A random study with one empty sample and a tree without the first two ASVs."
    rng = np.random.default_rng(seed); counts = rng.integers(1, 300, (samples, asvs))*(rng.random((samples, asvs)) < .3)
    counts[3] = 0
    seqs = set()
    while len(seqs) < asvs: seqs.add("".join(rng.choice(list("ACGT"), 14)))
    seqs = sorted(seqs)
    table = Table(counts=sparse.csr_matrix(counts.astype(np.int32)), sample_ids=strings([f"S{i}" for i in rng.permutation(samples)]),
                  sequences=strings(seqs))
    if not tree: return Study(table=table)
    nodes = [f"{o}:{rng.random():.3f}" for o in seqs[2:]]
    while len(nodes) > 1: a, b = nodes.pop(0), nodes.pop(0); nodes.append(f"({a},{b}):{rng.random():.3f}")
    tree = parse_newick(nodes[0] + ";"); at = {o: i for i, o in enumerate(tree.tips)}
    return Study(table=table, tree=tree, tip=np.array([at.get(o, -1) for o in seqs], dtype=np.int32))

STORE = build_store(made())
DATA = SampleDataset(STORE, target=np.arange(22.).reshape(11, 2))
FULL = dict(augment=AugmentConfig(), identity=16, metrics=("unweighted",), mask=.2, patch=3)

def same(a, b):
    "Equal in every field, bit for bit."
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, torch.Tensor):
            if x.dtype != y.dtype or x.shape != y.shape or not torch.equal(x.nan_to_num(-7), y.nan_to_num(-7)): return False
        elif x != y: return False
    return True

# Layout

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=8))
def test_the_ragged_layout_equals_a_plain_loop(rows):
    known = np.where(np.arange(40) % 3 > 0, np.arange(40)[::-1] + 5, -1); identity = STORE.identity(8)
    batch = collate([DATA[i] for i in rows], STORE, identity, known=known, key=5)
    counts = STORE.counts().toarray(); distinct = [a for a in range(40) if any(counts[r, a] for r in rows)]
    asv, reads, offsets = [], [], [0]
    for r in rows:
        for a in np.flatnonzero(counts[r]): asv.append(distinct.index(a)); reads.append(counts[r, a])
        offsets.append(len(asv))
    assert batch.rows.tolist() == distinct and batch.asv.tolist() == asv
    assert batch.counts.tolist() == reads and batch.offsets.tolist() == offsets
    assert batch.tokens.numpy().tolist() == STORE.tokens[distinct].tolist()
    assert batch.identity.tolist() == [(identity[a]*(known[a] >= 0)).tolist() for a in distinct] and batch.place.tolist() == known[distinct].tolist()
    assert batch.index.tolist() == rows and batch.target.tolist() == [[2*r, 2*r + 1] for r in rows]
    assert batch.size == len(rows) and batch.key == 5 and batch.distance is None and batch.masked is None
    assert batch.sample.tolist() == [j for j, r in enumerate(rows) for _ in np.flatnonzero(counts[r])]
    types = dict(tokens=torch.uint8, rows=torch.int64, identity=torch.float32, asv=torch.int64, counts=torch.float32,
                 offsets=torch.int64, index=torch.int64, target=torch.float32)
    assert {k: getattr(batch, k).dtype for k in types} == types

def test_targets_may_be_absent_one_column_or_missing():
    assert collate([SampleDataset(STORE)[0]], STORE).target.shape == (1, 0)
    assert collate([SampleDataset(STORE, target=np.full(11, np.nan))[0]]*2, STORE).target.isnan().tolist() == [[True], [True]]
    assert collate([SampleDataset(STORE)[0]], STORE).identity.shape[1] == 0

def test_rows_are_chosen_by_number_or_mask_and_checked():
    assert SampleDataset(STORE, [5, 2])[1].index == 2 and SampleDataset(STORE, np.arange(11) > 8).rows.tolist() == [9, 10]
    assert SampleDataset(STORE, [5, 2]).ids.tolist() == STORE.sample_ids[[5, 2]].tolist()
    for rows in ([11], [-1, 2]):
        with pytest.raises(AamError, match="the store has 11 samples"): SampleDataset(STORE, rows)
    with pytest.raises(AamError, match="10 targets for 11 samples"): SampleDataset(STORE, target=np.zeros(10))
    with pytest.raises(AamError, match="no samples to train on"): SampleBatches(SampleDataset(STORE, []), 4, 1, 0)

@pytest.mark.parametrize("metric", ["unweighted", "weighted", "weighted_normalized", "generalized"])
def test_distances_are_those_of_the_very_counts_in_the_batch(metric):
    source = SampleBatches(DATA, 6, 4, 3, AugmentConfig(rarefy=1., rarefy_low=.05, asv_dropout=.3), metrics=(metric,), alpha=.4)
    for step, batch in enumerate(source):
        table = np.zeros((6, 40), dtype=np.int64) # From the batch's own pairs, over all ASVs of the store
        for j in range(6):
            for p in range(batch.offsets[j], batch.offsets[j+1]): table[j, batch.rows[batch.asv[p]]] = int(batch.counts[p])
        drawn = [augment_sample(DATA[source.order(e)[i]], source.augment, 3, e) for e, i in zip(*turns(11, 6, step), strict=True)]
        for j, o in enumerate(drawn): assert table[j, o.asv].tolist() == o.counts.tolist() and table[j].sum() == o.counts.sum()
        wanted = unifrac(sparse.csr_matrix(table), STORE.tree, STORE.tip, metric, .4)
        assert np.allclose(batch.distance[0].numpy(), wanted, atol=1e-6, equal_nan=True)
        as_stored = unifrac(STORE.counts(batch.index.numpy()), STORE.tree, STORE.tip, metric, .4)
        assert not np.allclose(batch.distance[0].numpy(), as_stored, atol=1e-3, equal_nan=True)

def test_the_distance_equals_scikit_bio():
    skbio = pytest.importorskip("skbio"); pytest.importorskip("skbio.diversity")
    from io import StringIO

    from aam_nb.data.tree import newick
    batch = SampleBatches(SampleDataset(STORE, [0, 1, 2, 4, 5]), 5, 1, 0, AugmentConfig(rarefy=1.), metrics=("unweighted",))[0]
    tree = skbio.TreeNode.read(StringIO(newick(STORE.tree)))
    dense = np.zeros((5, 40), dtype=int); dense[batch.sample, batch.rows[batch.asv]] = batch.counts
    has = STORE.tip >= 0
    wanted = skbio.diversity.beta_diversity("unweighted_unifrac", dense[:, has], taxa=STORE.tree.tips[STORE.tip[has]], tree=tree, validate=False)
    assert np.allclose(batch.distance[0].numpy(), wanted.data, atol=1e-6)

def test_without_a_tree_there_are_no_distances():
    store = build_store(made(tree=False)); data = SampleDataset(store)
    assert SampleBatches(data, 4, 1, 0, metrics=("unweighted", "faith_pd"))[0].distance is None
    assert AsvBatches(store, batch=5)[0].distance is None and PlainAsvBatches(store)[0].distance is None

# A pure function of the step

def test_a_batch_is_a_function_of_the_step_alone():
    one, two = SampleBatches(DATA, 4, 12, 7, **FULL), SampleBatches(DATA, 4, 12, 7, **FULL)
    forward = [one[i] for i in range(12)]
    np.random.seed(1); torch.manual_seed(1); np.random.random(9)
    for i in (11, 0, 5, 5, 7, 2): assert same(two[i], forward[i])
    assert not same(SampleBatches(DATA, 4, 12, 8, **FULL)[0], forward[0])
    assert len({o.key for o in forward}) == 12 and len(one) == 12
    with pytest.raises(IndexError): one[12]

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 5))
def test_every_epoch_passes_each_sample_once(n, batch, seed):
    source = SampleBatches(SampleDataset(STORE, np.arange(n) if n < 12 else None), batch, 40, seed)
    n = len(source.dataset); seen = [i for step in range(40) for i in source[step].index.tolist()]
    assert all(source[step].size == min(batch, n) for step in (0, 17, 39))
    for e in range(len(seen)//n): assert sorted(seen[e*n:(e + 1)*n]) == list(range(n))
    if n > 6 and len(seen) >= 3*n: assert len({tuple(seen[e*n:(e + 1)*n]) for e in range(3)}) > 1

def test_the_order_of_the_table_changes_nothing():
    study = made(); rng = np.random.default_rng(5); rows, columns = rng.permutation(11), rng.permutation(40); t = study.table
    other = build_store(replace(study, tip=study.tip[columns], table=replace(
        t, counts=t.counts[rows][:, columns], sample_ids=t.sample_ids[rows], sequences=t.sequences[columns])))
    for step in range(4):
        a = SampleBatches(DATA, 4, 4, 7, **FULL)[step]
        b = SampleBatches(SampleDataset(other, target=DATA.target[rows]), 4, 4, 7, **FULL)[step]
        assert STORE.sample_ids[a.index].tolist() == other.sample_ids[b.index].tolist()
        assert same(a, replace(b, index=a.index))

def test_a_view_changes_with_the_epoch_and_not_with_the_place_in_the_batch():
    views = {}
    for batch in (3, 5): # Other batches, same epochs
        source = SampleBatches(DATA, batch, 11, 7, augment=AugmentConfig())
        for step, b in enumerate(source):
            for j, e in enumerate(turns(11, batch, step)[0]):
                if e > 2: continue
                view = tuple(zip(b.rows[b.asv[b.offsets[j]:b.offsets[j+1]]].tolist(), b.counts[b.offsets[j]:b.offsets[j+1]].tolist(), strict=True))
                assert views.setdefault((int(e), int(b.index[j])), view) == view
    full = [i for i in range(11) if STORE.depths[i]]
    assert all(len({views[e, i] for e in range(3)}) > 1 for i in full)

# Draws by sequence

def test_names_are_hidden_by_seed_step_and_sequence():
    source = SampleBatches(DATA, 6, 150, 7, augment=AugmentConfig(identity_dropout=.25, rarefy=0., asv_dropout=0.), identity=16)
    other = SampleBatches(DATA, 9, 150, 7, augment=AugmentConfig(identity_dropout=.25, rarefy=0., asv_dropout=0.), identity=16)
    hidden = 0.
    for step in range(150):
        a, b = source[step], other[step]
        shown = (a.identity != 0).any(1); hidden += 1 - shown.float().mean().item()
        assert (a.identity[shown] == torch.from_numpy(STORE.identity(16))[a.rows[shown]]).all()
        both, at, bt = np.intersect1d(a.rows.numpy(), b.rows.numpy(), return_indices=True)
        assert len(both) and torch.equal(a.identity[at], b.identity[bt])
    assert abs(hidden/150 - .25) < .02
    plain = SampleBatches(DATA, 6, 150, 7, identity=16)[0]
    assert (plain.identity != 0).all() # Without augmentation nothing is hidden

def test_names_of_unknown_sequences_are_hidden_everywhere():
    known = np.where(np.arange(40) % 2 == 0, np.arange(40)//2, -1)
    for batch in (SampleBatches(DATA, 6, 3, 7, identity=16, known=known)[1], PlainBatches(DATA, 6, identity=16, known=known)[1]):
        assert ((batch.identity != 0).all(1) == torch.from_numpy(known >= 0)[batch.rows]).all()
        assert batch.place.tolist() == known[batch.rows].tolist()

def test_the_second_view_hides_whole_patches_and_leaves_the_first_alone():
    for batch in (*SampleBatches(DATA, 6, 3, 7, **FULL), *AsvBatches(STORE, batch=9, steps=3, patch=3), *PlainAsvBatches(STORE, patch=3)):
        assert torch.equal(batch.tokens, torch.from_numpy(STORE.tokens[batch.rows]))
        hidden = batch.masked == MASK
        assert torch.equal(batch.masked[~hidden], batch.tokens[~hidden])
        patches = hidden[:, :12].reshape(-1, 4, 3) # 14 bases: the last two fill no patch
        assert (patches.all(2) == patches.any(2)).all() and patches.any(2).any(1).all() and not hidden[:, 12:].any()
    steps = [SampleBatches(DATA, 11, 2, 7, **FULL)[i].masked for i in (0, 1)]
    assert steps[0].shape != steps[1].shape or not torch.equal(*steps)

# Plain batches

def test_plain_batches_are_in_order_whole_and_fixed():
    rows = [7, 3, 9, 0, 1]; data = SampleDataset(STORE, rows)
    source = PlainBatches(data, 2, identity=16, metrics=("weighted",), mask=.2, patch=3)
    assert [o.index.tolist() for o in source] == [[7, 3], [9, 0], [1]] and len(source) == 3
    for i, o in enumerate(source): assert same(o, source[i])
    back = np.concatenate([[r]*int(o.offsets.diff()[j]) for o in source for j, r in enumerate(o.index.tolist())])
    reads = np.concatenate([o.counts for o in source]); asv = np.concatenate([o.rows[o.asv] for o in source])
    assert (sparse.csr_matrix((reads, (back.astype(int), asv)), shape=(11, 40))[rows] != STORE.counts(rows)).nnz == 0
    assert len(PlainBatches(SampleDataset(STORE, []), 4)) == 0 and list(PlainBatches(SampleDataset(STORE, []), 4)) == []

def test_hidden_bases_of_plain_batches_do_not_depend_on_the_batch():
    seen = {}
    for size in (2, 5):
        for b in PlainBatches(DATA, size, mask=.3, patch=3):
            for r, m in zip(b.rows.tolist(), b.masked.tolist(), strict=True): assert seen.setdefault(r, m) == m

def test_a_real_study_comes_out_as_it_went_in(data_dir):
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    folder = data_dir/"tiny_ecam60"; study = make_study(read_table(folder/"table.biom"), tree=read_tree(folder/"tree.nwk"))
    batch = PlainBatches(SampleDataset(build_store(study)), 60, metrics=("unweighted",))[0]
    reads = sparse.csr_matrix((batch.counts.numpy(), batch.asv.numpy(), batch.offsets.numpy()), shape=(60, 356))
    assert (reads != study.table.counts[:, np.argsort(study.table.sequences)]).nnz == 0
    lines = [o.split("\t") for o in (folder/"unweighted_unifrac.tsv").read_text().splitlines()]
    order = [lines[0].index(o) - 1 for o in study.ids]; wanted = np.array([o[1:] for o in lines[1:]], dtype=float)
    assert [o[0] for o in lines[1:]] == lines[0][1:] and np.allclose(batch.distance[0].numpy(), wanted[order][:, order], atol=2e-6)

# Weights, covariates, several distances, places, hidden reads

RNG = np.random.default_rng(4)
TOLD = dict(weight=RNG.random((11, 2)), category=RNG.integers(0, 6, (11, 3)), number=RNG.normal(size=(11, 1)))
def told(**more): return SampleDataset(STORE, target=DATA.target, **TOLD | more)

def test_what_is_told_of_samples_stands_in_the_batch_in_their_order():
    batch = collate([told()[i] for i in (7, 2, 7)], STORE); rows = [7, 2, 7]
    for name, dtype in (("weight", torch.float32), ("category", torch.int64), ("number", torch.float32)):
        found = getattr(batch, name); assert found.dtype == dtype and np.allclose(found.numpy(), TOLD[name][rows])
    bare = collate([DATA[7]], STORE); assert bare.weight is bare.category is bare.number is bare.place is bare.hidden is None
    one = SampleDataset(STORE, category=TOLD["category"])[3]; assert one.number.shape == (0,) and one.weight is None # Categories and numbers come together
    assert SampleDataset(STORE, number=TOLD["number"])[3].category.shape == (0,)
    for name, wanted in (("weight", "weights"), ("category", "categories"), ("number", "numbers")):
        with pytest.raises(AamError, match=f"10 {wanted} for 11 samples"): told(**{name: TOLD[name][:10]})
    with pytest.raises(AamError, match="weights of 2 targets for 1"): SampleDataset(STORE, target=np.zeros(11), weight=TOLD["weight"])

@pytest.mark.parametrize("mix", ["pooled", "reads"])
def test_what_is_told_follows_its_sample_and_changes_no_reads(mix):
    if mix == "reads": pytest.importorskip("skbio.table")
    chains = (("diet",), ("country", "city")); how = FULL | dict(augment=AugmentConfig(covariate_dropout=.4, mix=mix))
    source, bare = SampleBatches(told(), 4, 9, 7, **how, chains=chains), SampleBatches(DATA, 4, 9, 7, **how); lost = 0
    for step in range(9):
        batch, places = source[step], source.places(step)
        views = augment_samples([told()[i] for _, i in places], how["augment"], 7, [e for e, _ in places], chains)
        assert same(replace(batch, weight=None, category=None, number=None), bare[step])
        assert np.allclose(batch.weight.numpy(), TOLD["weight"][batch.index])
        assert batch.category.tolist() == [o.category.tolist() for o in views] and np.allclose(batch.number, [o.number for o in views], equal_nan=True)
        lost += (batch.category.numpy() != TOLD["category"][batch.index]).sum()
        hidden = batch.category[:, 1] != torch.from_numpy(TOLD["category"])[batch.index, 1]
        assert (batch.category[hidden, 2] <= 1).all() # The city went with the country
    assert lost > 20 and source[0].category.dtype == torch.int64 and source[0].number.dtype == torch.float32

def test_several_distances_are_those_of_each_metric_alone():
    metrics = ("unweighted", "aitchison", "faith_pd", "generalized"); augment = AugmentConfig(rarefy=1.)
    source = SampleBatches(DATA, 6, 3, 7, augment, metrics=metrics, alpha=.3)
    for step, batch in enumerate(source):
        assert batch.distance.shape == (4, 6, 6) and batch.distance.dtype == torch.float32
        for m, one in zip(metrics, batch.distance, strict=True):
            assert torch.equal(one, SampleBatches(DATA, 6, 3, 7, augment, metrics=(m,), alpha=.3)[step].distance[0])
        table = np.zeros((6, 40)); table[batch.sample, batch.rows[batch.asv]] = batch.counts; far = faith_pd(sparse.csr_matrix(table), STORE.tree, STORE.tip)
        assert np.allclose(batch.distance[1].numpy(), aitchison(sparse.csr_matrix(table)), atol=1e-4)
        assert np.allclose(batch.distance[2].numpy(), abs(far[:, None] - far), atol=1e-5)
    bare = collate([SampleDataset(build_store(made(tree=False)))[i] for i in (0, 1)], build_store(made(tree=False)), metrics=("unweighted", "jaccard"))
    assert bare.distance[0].isnan().all() and not bare.distance[1].isnan().any() # Without a tree the first is not known, and keeps its place

@settings(max_examples=40)
@given(st.lists(st.integers(-50, 50), max_size=20), st.sets(st.integers(-50, 50), max_size=20))
def test_places_among_known_keys(keys, known):
    known = np.array(sorted(known), dtype=np.int64); found = known_places(np.array(keys, dtype=np.int64), known)
    assert found.dtype == np.int64 and found.tolist() == [known.tolist().index(o) if o in known else -1 for o in keys]

def test_a_selection_is_kept_in_training_and_for_looking_and_changes_with_the_turn():
    how = dict(limit=4, select="random", seed=5); data = SampleDataset(STORE, **how); whole = SampleDataset(STORE)
    for i in range(11):
        for turn in (0, 3): # By seed, turn and id
            wanted = select_asvs(whole[i], 4, "random", 5, turn); found = data.look(i, turn)
            assert found.asv.tolist() == wanted.asv.tolist() == data.in_turn(turn)[i].asv.tolist() and data[i].asv.tolist() == data.look(i, 0).asv.tolist()
    assert any(data.look(i, 0).asv.tolist() != data.look(i, 1).asv.tolist() for i in range(11))
    source = SampleBatches(data, 4, 9, 7, AugmentConfig(rarefy=0., asv_dropout=0.))
    for step, batch in enumerate(source):
        for j, (e, i) in enumerate(source.places(step)):
            at = slice(*batch.offsets[j:j+2].tolist()); assert batch.rows[batch.asv[at]].tolist() == data.look(i, e).asv.tolist()
    most = PlainBatches(SampleDataset(STORE, limit=4), 11)[0]; again = PlainBatches(data.in_turn(2), 11)[0]
    for j in range(11):
        at = slice(*most.offsets[j:j+2].tolist()); assert sorted(most.counts[at].tolist()) == sorted(whole[j].counts.tolist())[-4:]
        at = slice(*again.offsets[j:j+2].tolist()); assert again.rows[again.asv[at]].tolist() == data.look(j, 2).asv.tolist()

def hidden_of(batch): # By sample and ASV
    return {(int(batch.index[s]), int(batch.rows[a])): bool(h) for s, a, h in zip(batch.sample, batch.asv, batch.hidden, strict=True)}

def test_hidden_reads_follow_step_sample_and_sequence_alone():
    augment = AugmentConfig(rarefy=0., asv_dropout=0.); share = []
    for step in range(20):
        a, b = SampleBatches(DATA, 4, 20, 7, augment, hide=.3)[step], SampleBatches(DATA, 4, 20, 7, replace(augment, shuffle=True), hide=.3)[step]
        assert a.hidden.dtype == torch.bool and hidden_of(a) == hidden_of(b); share.append(a.hidden.float().mean())
        for j in range(4):
            own = a.hidden[a.offsets[j]:a.offsets[j+1]]; assert own.sum() >= 2*(len(own) > 2) and (not len(own) or not own.all())
    assert abs(np.mean(share) - .3) < .05
    plain = PlainBatches(DATA, 4, hide=.3); one = {k: v for b in plain for k, v in hidden_of(b).items()}
    assert one == {k: v for b in PlainBatches(SampleDataset(STORE, np.arange(11)[::-1]), 3, hide=.3) for k, v in hidden_of(b).items()} and any(one.values())
    assert one != {k: v for b in PlainBatches(DATA, 4, hide=.3, seed=1) for k, v in hidden_of(b).items()}
    assert same(replace(plain[0], hidden=None), PlainBatches(DATA, 4)[0])

def test_new_choices_left_alone_leave_every_draw_as_it_was():
    "The digest of what was drawn before there were these choices: hashes and draws of numpy, so a failure after an upgrade of numpy may be its streams'."
    parts = [getattr(b, k).numpy() for b in SampleBatches(DATA, 4, 9, 7, **FULL | dict(metrics=()))
             for k in ("index", "rows", "asv", "counts", "offsets", "identity", "masked")]
    assert digest(parts, size=8) == "3cf2c2a674fabd9a"
    more = SampleBatches(told(limit=100, select="random"), 4, 9, 7, **FULL, hide=.2, known=np.arange(40))
    new = dict.fromkeys(("weight", "category", "number", "hidden", "place"))
    for step in (0, 5): assert same(replace(more[step], **new), SampleBatches(DATA, 4, 9, 7, **FULL)[step])

# Batches of ASVs

def test_asv_batches_are_distinct_random_and_pure():
    rows = [4, 30, 9, 9, 17, 22, 5]; source = AsvBatches(STORE, rows, 4, 300, 7, 3, .15); times = np.zeros(40)
    for i, o in enumerate(source):
        at = o.rows.tolist(); assert at == sorted(set(at)) and len(at) == 4 and set(at) <= set(rows); times[at] += 1
        if i < 20: assert same(o, AsvBatches(STORE, rows[::-1], 4, 300, 7, 3, .15)[i])
    assert (abs(times[sorted(set(rows))] - 200) < 45).all() # 300 x 4/6 each, standard deviation 8
    assert AsvBatches(STORE, rows, 100)[0].rows.tolist() == sorted(set(rows))
    with pytest.raises(AamError, match="no ASVs to learn from"): AsvBatches(STORE, [])

def test_distances_of_asv_batches_equal_the_sum_of_branches_apart():
    batch = AsvBatches(STORE, batch=25, seed=3)[0]; tree = STORE.tree; tips = STORE.tip[batch.rows]
    for i in range(25):
        for j in range(25):
            found = batch.distance[i, j]
            if min(tips[i], tips[j]) < 0: assert found.isnan(); continue
            below = lambda t: (tree.start <= t) & (t < tree.stop)
            assert np.isclose(found, tree.length[below(tips[i]) != below(tips[j])].sum(), atol=1e-5)

def test_validation_parts_cover_every_asv_once_and_stay():
    source = PlainAsvBatches(STORE, np.arange(40)[::-1], batch=13, patch=3, seed=5)
    assert sorted(sum((o.rows.tolist() for o in source), [])) == list(range(40))
    assert [len(o.rows) for o in source] == [10]*4 and len(source) == 4
    for i, o in enumerate(source): assert same(o, PlainAsvBatches(STORE, batch=13, patch=3, seed=5)[i])
    assert len(PlainAsvBatches(STORE, [])) == 0

def test_the_asvs_of_some_samples():
    counts = STORE.counts().toarray()
    for rows in ([0], [2, 5, 3], [3], []): assert asvs_in(STORE, rows).tolist() == np.flatnonzero(counts[rows].sum(0)).tolist()

# The loader

def test_the_loader_starts_where_it_is_told():
    source = SampleBatches(DATA, 4, 9, 7, **FULL)
    assert [o.key for o in loader(source)] == [o.key for o in source]
    assert [o.key for o in loader(source, start=6)] == [source[i].key for i in (6, 7, 8)]
    assert list(loader(source, start=9)) == [] == list(loader(source, start=9, workers=2))

@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_in_the_same_order(workers):
    source = SampleBatches(DATA, 4, 9, 7, **FULL); before = torch.get_rng_state()
    found = list(loader(source, start=2, workers=workers))
    assert len(found) == 7 and all(same(o, source[i + 2]) for i, o in enumerate(found))
    assert torch.equal(before, torch.get_rng_state()) # The model's own draws are left alone

def test_a_source_that_was_sent_to_another_process_gives_the_same_batches(tmp_path):
    store = build_store(made(), tmp_path/"store")
    for source in (SampleBatches(SampleDataset(store), 4, 5, 7, **FULL), AsvBatches(store, None, 9, 5), PlainBatches(DATA, 4)):
        sent = pickle.loads(pickle.dumps(source))
        assert all(same(sent[i], source[i]) for i in range(len(source)))

@pytest.mark.slow
def test_spawned_workers_map_the_same_store(tmp_path):
    "In a program of its own, since spawned workers import the main module again."
    tests = Path(__file__).parent
    (tmp_path/"program.py").write_text(f"""
if __name__ == "__main__":
    import sys; sys.path.insert(0, {str(tests)!r})
    from test_batch import AugmentConfig, SampleBatches, SampleDataset, build_store, loader, made, same
    store = build_store(made(), {str(tmp_path/"store")!r})
    source = SampleBatches(SampleDataset(store), 4, 5, 7, AugmentConfig(), 16, ("unweighted",))
    found = list(loader(source, 1, workers=2, context="spawn"))
    assert len(found) == 4 and all(same(o, source[i + 1]) for i, o in enumerate(found))
    print("same")
""")
    done = subprocess.run([sys.executable, tmp_path/"program.py"], capture_output=True, text=True, timeout=240,
                          env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(tests.parent)))
    assert done.stdout.strip() == "same", done.stderr
