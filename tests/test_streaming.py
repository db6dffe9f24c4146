"Streaming: one order for any number of workers and ranks, exact positions, studies side by side, and nothing of a store read whole."
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from test_batch import DATA, FULL, STORE, made, same

from aam_nb.batches.asv_batches import AsvBatches, PlainAsvBatches
from aam_nb.batches.augment import augment_tokens
from aam_nb.batches.bases import mask_patches
from aam_nb.batches.build import build_store
from aam_nb.batches.collate import Signs, collate, known_places
from aam_nb.batches.corpus import Corpus, Joined
from aam_nb.batches.draws import AsvDraws
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.batches.store import Store
from aam_nb.batches.turns import rank_part, study_turns, turns
from aam_nb.core import AamError, digest
from aam_nb.data.distance_files import read_distances
from aam_nb.data.distances import faith_pd, sample_distances, unifrac
from aam_nb.data.tree import path_lengths
from aam_nb.registry import metrics
from aam_nb.sections import AugmentConfig, LossConfig, ModelConfig
from aam_nb.types import Column, Study, Table, strings

VARIED = AugmentConfig(rarefy=1., substitution=.05, indel=.02, reverse=.3, window=4, shuffle=True, jitter="multinomial", identity_dropout=.3)
ALL = FULL | dict(augment=VARIED, span=2)
THIRD = build_store(replace(s := made(7, 9, seed=3, tree=False), table=replace(s.table, sample_ids=strings([f"T{i}" for i in range(7)]))))

def longer():
    "A study of other ASVs, of 20 bases, with a tree and sample ids of its own."
    study = made(17, 30, seed=4); t = study.table
    return replace(study, table=replace(t, sequences=strings([o + "ACGTAC" for o in t.sequences]), sample_ids=strings([f"L{i}" for i in range(17)])))

OTHER = build_store(longer())
CORPUS = Corpus([STORE, OTHER, THIRD]) # 11, 17 and 7 samples; the last has no tree

def pairs(batch, j):
    "Reads of sample `j`, and whether they are hidden, by row of the store."
    at = slice(*batch.offsets[j:j+2].tolist()); hidden = batch.counts[at]*0 if batch.hidden is None else batch.hidden[at]
    return dict(zip(batch.rows[batch.asv[at]].tolist(), zip(batch.counts[at].tolist(), hidden.tolist(), strict=True), strict=True))

def check_shares(whole, parts):
    "The parts of a batch, one after the other, are the batch."
    assert torch.cat([o.index for o in parts]).tolist() == whole.index.tolist()
    assert torch.equal(torch.cat([o.target for o in parts]).nan_to_num(-7), whole.target.nan_to_num(-7))
    for name in ("distance", "partner", "share", "weight", "category", "number"):
        if getattr(whole, name) is None: assert all(getattr(o, name) is None for o in parts); continue
        found = torch.cat([getattr(o, name) for o in parts], dim=int(name == "distance"))
        assert torch.equal(found.nan_to_num(-7), getattr(whole, name).nan_to_num(-7))
    at = {r: i for i, r in enumerate(whole.rows.tolist())}; begin = 0
    for o in parts:
        same_rows = torch.tensor([at[r] for r in o.rows.tolist()], dtype=torch.long); assert o.key == whole.key
        for name in ("tokens", "identity", "masked", "place"):
            if getattr(whole, name) is not None: assert torch.equal(getattr(o, name), getattr(whole, name)[same_rows])
        for j in range(o.size): assert pairs(o, j) == pairs(whole, begin + j)
        begin += o.size
    assert {r for o in parts for r in o.rows.tolist()} == set(at)

# Ranks

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12))
def test_parts_cover_a_batch_once_and_are_even(n, world):
    parts = [list(range(n))[rank_part(n, o, world)] for o in range(world)]
    assert sum(parts, []) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1
    if n >= world: assert all(parts)

@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("more", [{}, dict(metrics=()), dict(metrics=("generalized", "braycurtis")), dict(augment=None)])
def test_ranks_share_the_batches_of_one_process(world, more):
    one = SampleBatches(DATA, 5, 7, 7, **ALL | more)
    ranks = [SampleBatches(DATA, 5, 7, 7, **ALL | more, rank=o, world=world) for o in range(world)]
    for step in range(7): check_shares(one[step], [o[step] for o in ranks])

def test_ranks_share_what_is_told_selected_and_hidden():
    rng = np.random.default_rng(0); told = dict(weight=rng.random((35, 1)), category=rng.integers(0, 5, (35, 3)), number=rng.normal(size=(35, 2)))
    data = SampleDataset(CORPUS, target=np.arange(35.), **told, limit=5, select="random", seed=3)
    known = known_places(CORPUS.keys, np.sort(np.asarray(CORPUS.keys)[::2]))
    how = ALL | dict(metrics=("unweighted", "jaccard"), hide=.4, known=known, chains=(("a",), ("b", "c")))
    one = SampleBatches(data, 5, 7, 7, **how); ranks = [SampleBatches(data, 5, 7, 7, **how, rank=o, world=2) for o in range(2)]
    for step in range(7):
        whole = one[step]; check_shares(whole, [o[step] for o in ranks])
        assert whole.offsets.diff().max() <= 5 and whole.hidden.any() and whole.place.min() == -1

@pytest.mark.parametrize("mix", ["reads", "aitchison", "cutmix", "phylomix"])
def test_ranks_share_mixed_reads_too(mix):
    pytest.importorskip("skbio.table")
    how = ALL | dict(augment=replace(VARIED, mix=mix, window=0))
    one = SampleBatches(SampleDataset(CORPUS if mix == "reads" else Corpus([STORE, OTHER])), 5, 4, 3, **how) # Phylomix needs every study's tree
    ranks = [SampleBatches(one.dataset, 5, 4, 3, **how, rank=o, world=2) for o in range(2)]
    for step in range(4):
        whole = one[step]; check_shares(whole, [o[step] for o in ranks])
        assert whole.share.dtype == torch.float32 and whole.partner.dtype == torch.int64 and (whole.share < 1).any()
        assert (np.diff(np.searchsorted(one.dataset.store.first_asv[1:-1], whole.rows.numpy(), side="right")) == 0).all() # Of one study

def test_ranks_share_batches_of_asvs():
    how = dict(batch=11, steps=5, seed=2, patch=3, augment=VARIED, span=2)
    one = AsvBatches(STORE, **how); ranks = [AsvBatches(STORE, **how, rank=o, world=2) for o in range(2)]
    for step in range(5):
        whole, parts = one[step], [o[step] for o in ranks]
        for name in ("tokens", "masked", "rows", "distance"):
            assert torch.equal(torch.cat([getattr(o, name) for o in parts]).nan_to_num(-7), getattr(whole, name).nan_to_num(-7))

def test_a_process_without_work_is_refused():
    with pytest.raises(AamError, match="A batch of 2 cannot be shared by 3 processes"): SampleBatches(DATA, 2, 5, 0, world=3)
    with pytest.raises(AamError, match="A batch of 7 cannot be shared by 8"): SampleBatches(SampleDataset(CORPUS), 30, 5, 0, world=8)
    with pytest.raises(AamError, match="process 2 of 2"): SampleBatches(DATA, 4, 5, 0, rank=2, world=2)
    with pytest.raises(AamError, match="A batch of 9 cannot"): AsvBatches(CORPUS, batch=64, world=10)

@pytest.mark.parametrize("source", [
    lambda rank, world: SampleBatches(DATA, 4, 9, 7, **ALL, rank=rank, world=world),
    lambda rank, world: SampleBatches(SampleDataset(CORPUS), 4, 9, 7, **ALL, temperature=2., rank=rank, world=world)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_order_is_one_for_0_1_and_4_workers_and_1_and_2_ranks(source):
    wanted = list(loader(source(0, 1)))
    for workers in (0, 1, 4):
        found = list(loader(source(0, 1), workers=workers)); assert len(found) == 9 and all(map(same, found, wanted))
        for whole, *parts in zip(wanted, *(loader(source(o, 2), workers=workers) for o in range(2)), strict=True): check_shares(whole, parts)

# A position goes on with exactly the next sample

PROGRAM = """
import json, sys, time
sys.path.insert(0, {tests!r})
from aam_nb.sections import AugmentConfig
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.store import open_store
from test_streaming import line
if __name__ == "__main__":
    folders, out, start, rank, world, workers, pause = json.loads(sys.argv[1])
    stores = [open_store(o) for o in folders]; store = stores[0] if len(stores) == 1 else Corpus(stores)
    source = SampleBatches(SampleDataset(store), 4, 40, 7, AugmentConfig(), 16, ("unweighted",), mask=.2, patch=3, rank=rank, world=world)
    with open(out, "a") as f:
        for b in loader(source, start, workers):
            f.write(json.dumps(line(b)) + "\\n"); f.flush(); time.sleep(pause)
"""

def start(tmp_path, folders, out, begin=0, rank=0, world=1, workers=0, pause=0.):
    program = tmp_path/"program.py"; program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parent.parent))
    return subprocess.Popen([sys.executable, program, json.dumps([folders, str(out), begin, rank, world, workers, pause])], env=env)

def line(b): return [b.index.tolist(), digest(*(getattr(b, k).numpy() for k in ("tokens", "counts", "masked", "identity")))]

def lines(path): return [json.loads(o) for o in path.read_text().splitlines()] if path.exists() else []

def test_killed_in_mid_epoch_the_next_process_makes_exactly_the_next_batch(tmp_path):
    "In other processes, of which the first is killed without notice and the second has other workers."
    folders, broken = [str(tmp_path/"a"), str(tmp_path/"b")], tmp_path/"broken"
    data = SampleDataset(Corpus([build_store(made(), folders[0]), build_store(longer(), folders[1])]))
    straight = [line(o) for o in SampleBatches(data, 4, 40, 7, AugmentConfig(), 16, ("unweighted",), mask=.2, patch=3)]
    first = start(tmp_path, folders, broken, workers=2, pause=.05)
    while len(lines(broken)) < 7 and first.poll() is None: time.sleep(.02)
    first.send_signal(signal.SIGKILL); first.wait(60)
    done = lines(broken); assert 7 <= len(done) < 40
    assert start(tmp_path, folders, broken, begin=len(done), workers=1).wait(240) == 0
    assert lines(broken) == straight

@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_two_processes_of_their_own_share_the_batches(tmp_path, workers):
    folders = [str(tmp_path/"a")]; build_store(made(), folders[0])
    outs = [tmp_path/"one", tmp_path/"rank0", tmp_path/"rank1"]
    jobs = [start(tmp_path, folders, outs[0]), *(start(tmp_path, folders, outs[1 + o], rank=o, world=2, workers=workers) for o in range(2))]
    assert [o.wait(300) for o in jobs] == [0, 0, 0]
    whole, a, b = map(lines, outs)
    assert len(whole) == 40 and [o[0] for o in whole] == [x[0] + y[0] for x, y in zip(a, b, strict=True)]

# Studies side by side

@settings(max_examples=40, deadline=None)
@given(st.data())
def test_joined_arrays_read_like_one(data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)); widths = [data.draw(st.integers(1, 4)) for _ in sizes]
    parts = [np.arange(n*w).reshape(n, w) + 1 for n, w in zip(sizes, widths, strict=True)]; n = sum(sizes)
    whole = np.concatenate([np.pad(o, ((0, 0), (0, max(widths) - o.shape[1]))) for o in parts]); found = Joined(parts)
    at = data.draw(st.lists(st.integers(0, n - 1), max_size=6)); cut = slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))
    flat = Joined([o[:, 0] for o in parts], add=np.arange(len(parts))*100)
    flat_whole = np.concatenate([o[:, 0] + 100*i for i, o in enumerate(parts)]); mask = np.arange(n) % 2 == 0
    for a, b in ((found, whole), (flat, flat_whole)):
        assert a.shape == b.shape and len(a) == n and np.array_equal(np.asarray(a), b)
        for o in (np.array(at, dtype=np.int64), cut, slice(None), mask, 0, n - 1): assert np.array_equal(a[o], b[o])

def test_a_corpus_reads_like_its_stores():
    first = [0, 11, 28, 35]; asvs = [0, 40, 70, 79]
    assert len(CORPUS) == 35 and CORPUS.tokens.shape == (79, 20) and CORPUS.first_sample.tolist() == first and CORPUS.first_asv.tolist() == asvs
    assert CORPUS.sample_ids.tolist() == [o for s in CORPUS.stores for o in s.sample_ids]
    assert CORPUS.sequences.tolist() == [o for s in CORPUS.stores for o in s.sequences]
    assert (CORPUS.identity(16) == np.concatenate([o.identity(16) for o in CORPUS.stores])).all()
    assert (CORPUS.depths == np.concatenate([o.depths for o in CORPUS.stores])).all() and np.asarray(CORPUS.keys).tolist() == [
        k for s in CORPUS.stores for k in s.keys]
    wanted = sparse.block_diag([o.counts() for o in CORPUS.stores], format="csr"); rows = np.array([34, 0, 11, 12, 30])
    assert (CORPUS.counts() != wanted).nnz == 0 and (CORPUS.counts(rows) != wanted[rows]).nnz == 0
    samples = SampleDataset(CORPUS, target=np.arange(35.))
    for k, store in enumerate(CORPUS.stores):
        for i in range(len(store)):
            mine, its = samples[first[k] + i], SampleDataset(store)[i]
            assert mine.id == its.id and mine.index == first[k] + i and mine.target.tolist() == [first[k] + i]
            assert mine.asv.tolist() == (its.asv + asvs[k]).tolist() and mine.counts.tolist() == its.counts.tolist()
    assert asvs_in(CORPUS, [3, 12, 30]).tolist() == np.flatnonzero(wanted[[3, 12, 30]].sum(0)).tolist()
    assert repr(CORPUS).startswith("Corpus(3 studies, 35 samples, 79 ASVs") and Corpus([STORE]).tip.shape == (40,)
    assert CORPUS.tree[2] is None and Corpus([THIRD]).tree is None and Corpus([THIRD]).tip is None
    with pytest.raises(AamError, match="needs a store"): Corpus([])
    with pytest.raises(AamError, match="same content"): Corpus([STORE, OTHER, STORE])

def test_a_corpus_of_one_study_gives_the_batches_of_the_study():
    alone = Corpus([STORE]); data = SampleDataset(alone, target=DATA.target)
    for i in range(6): assert same(SampleBatches(data, 4, 6, 7, **ALL)[i], SampleBatches(DATA, 4, 6, 7, **ALL)[i])
    for i in range(3): assert same(AsvBatches(alone, batch=9, steps=3)[i], AsvBatches(STORE, batch=9, steps=3)[i])
    assert all(same(a, b) for a, b in zip(PlainAsvBatches(alone, batch=9), PlainAsvBatches(STORE, batch=9), strict=True))

@pytest.mark.parametrize("temperature", [1., 3.])
def test_each_batch_is_of_one_study_and_each_study_has_whole_epochs(temperature):
    rows = np.flatnonzero(np.arange(35) % 5 > 0); source = SampleBatches(SampleDataset(CORPUS, rows), 4, 300, 7, temperature=temperature)
    seen = {0: [], 1: [], 2: []}
    for step in range(300):
        index = [source.dataset.rows[i] for _, i in source.places(step)]
        k, = set(np.searchsorted([11, 28], index, side="right")); seen[int(k)] += index
    for k, own in enumerate(np.split(rows, np.searchsorted(rows, [11, 28]))):
        for e in range(len(seen[k])//len(own)): assert sorted(seen[k][e*len(own):(e + 1)*len(own)]) == own.tolist()
    sizes = np.array([len(o) for o in source.studies])**(1/temperature); found = np.array([len(seen[k]) for k in range(3)])/1200
    assert np.allclose(found, sizes/sizes.sum(), atol=.09) # Standard deviation below .03

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any), st.integers(0, 200), st.floats(1, 100), st.integers(0, 9))
def test_the_study_of_a_step_does_not_depend_on_the_length_of_the_run(sizes, steps, temperature, seed):
    study, turn = study_turns(sizes, steps, seed, temperature); more, later = study_turns(sizes, steps + 50, seed, temperature)
    assert (more[:steps] == study).all() and (later[:steps] == turn).all() and all(sizes[k] for k in study)
    for i in range(steps): assert turn[i] == (study[:i] == study[i]).sum()

def test_distances_are_those_within_each_study():
    samples = [SampleDataset(CORPUS)[i] for i in (0, 12, 30, 2, 13, 20, 31)]; where = np.array([0, 1, 2, 0, 1, 1, 2])
    batch = collate(samples, CORPUS, metrics=("weighted",))
    for k, base in ((0, 0), (1, 11)):
        at = np.flatnonzero(where == k); store = CORPUS.stores[k]
        wanted = unifrac(store.counts(np.array([samples[i].index for i in at]) - base), store.tree, store.tip, "weighted")
        assert np.allclose(batch.distance[0][at][:, at].numpy(), wanted, atol=1e-6)
    assert batch.distance[0].isnan()[where[:, None] != where].all() and batch.distance[0][where == 2].isnan().all()
    source = PlainBatches(SampleDataset(CORPUS), 35, metrics=("unweighted",)); assert source[0].distance.shape == (1, 35, 35)
    alone = Corpus([THIRD]); assert collate([SampleDataset(alone)[0]], alone, metrics=("weighted",)).distance is None

@pytest.mark.parametrize("metric", [o.name for o in metrics.values() if o.between and not o.needs_tree])
def test_distances_of_reads_need_no_tree(metric):
    samples = [SampleDataset(CORPUS)[i] for i in (0, 29, 12, 30, 2)]; batch = collate(samples, CORPUS, metrics=(metric,)); at = [1, 3]
    wanted = sample_distances(THIRD.counts([1, 2]), metric) # Over all ASVs of the study, also those that the batch lacks
    assert np.allclose(batch.distance[0][at][:, at].numpy(), wanted, atol=1e-5) and wanted[0, 1] > 0
    assert batch.distance.isnan().sum() == 25 - 4 - 4 - 1

def test_faith_pd_is_computed_in_the_batch():
    batch = SampleBatches(DATA, 6, 1, 7, metrics=("faith_pd",))[0]
    far = faith_pd(STORE.counts(batch.index.numpy()), STORE.tree, STORE.tip)
    assert np.allclose(batch.distance[0].numpy(), abs(far[:, None] - far), atol=1e-5)

def test_asvs_of_a_corpus_keep_to_their_study_and_tree():
    source = AsvBatches(CORPUS, batch=12, steps=60, seed=1, temperature=100.); drawn = []
    for o in source:
        k, = set(np.searchsorted([40, 70], o.rows.numpy(), side="right")); drawn.append(int(k)); store = CORPUS.stores[k]
        if store.tip is None: assert o.distance.isnan().all(); continue
        wanted = path_lengths(store.tree, store.tip[o.rows.numpy() - CORPUS.first_asv[k]])
        assert np.allclose(o.distance.numpy(), wanted, equal_nan=True, atol=1e-5) and len(o.rows) == 12
    assert set(drawn) == {0, 1, 2} and max(map(drawn.count, (0, 1, 2))) < 35
    parts = PlainAsvBatches(CORPUS, batch=16); assert sorted(r for o in parts for r in o.rows.tolist()) == list(range(79))
    assert all(len(set(np.searchsorted([40, 70], o.rows.numpy(), side="right"))) == 1 for o in parts)

def test_a_corpus_travels_to_another_process(tmp_path):
    stores = [build_store(made(), tmp_path/"a"), build_store(longer(), tmp_path/"b")]; source = SampleBatches(SampleDataset(Corpus(stores)), 4, 6, 7, **ALL)
    sent = pickle.dumps(source); again = pickle.loads(sent)
    assert len(sent) < 20_000 and all(same(source[i], again[i]) for i in range(6))

# What varies reaches the batch, and the loss

def test_bases_vary_by_seed_step_and_sequence_and_the_second_view_follows():
    source = SampleBatches(DATA, 6, 3, 7, **ALL)
    for step, o in enumerate(source):
        rows = o.rows.numpy(); wanted = augment_tokens(STORE.tokens[rows], STORE.keys[rows], VARIED, 7, step)
        assert (o.tokens.numpy() == wanted).all() and not (wanted == STORE.tokens[rows]).all()
        assert (o.masked.numpy() == mask_patches(wanted, 3, .2, AsvDraws(STORE.keys[rows], 7, step, "mask"), 2)).all()
    for step, o in enumerate(AsvBatches(STORE, None, 9, 3, 7, 3, .2, span=2, augment=VARIED)):
        rows = o.rows.numpy(); wanted = augment_tokens(STORE.tokens[rows], STORE.keys[rows], VARIED, 7, step)
        assert (o.tokens.numpy() == wanted).all()
        assert (o.masked.numpy() == mask_patches(wanted, 3, .2, AsvDraws(STORE.keys[rows], 7, step, "mask"), 2)).all()

@pytest.mark.parametrize("augment", [VARIED, replace(VARIED, mix="reads")])
def test_distances_are_those_of_the_varied_and_mixed_reads(augment):
    if augment.mix != "pooled": pytest.importorskip("skbio.table")
    for o in SampleBatches(DATA, 6, 3, 7, **ALL | dict(augment=augment)):
        table = np.zeros((6, 40)); table[o.sample, o.rows[o.asv]] = o.counts
        assert np.allclose(o.distance[0].numpy(), unifrac(sparse.csr_matrix(table), STORE.tree, STORE.tip, "unweighted"), atol=1e-6)

def test_mixed_reads_mix_the_targets_in_the_loss_and_nothing_twice():
    pytest.importorskip("skbio.table")
    from aam_nb.model.aam import AamModel
    from aam_nb.training.objectives import SampleObjective
    torch.manual_seed(0); data = SampleDataset(STORE, target=np.arange(11.)); age = Column(name="age", task="regression")
    batch = SampleBatches(data, 6, 1, 7, AugmentConfig(mix="reads"), 16)[0]; assert batch.partner is not None
    model = AamModel(ModelConfig(width=16, identity=16, patch=7, sample_width=16, head_width=8, dropout=0., head_dropout=0.), 14, columns=(age,))
    found = SampleObjective(model, LossConfig(), mixup=.4).train_step(batch)["target"]
    out = model(batch).target[:, 0]; share = batch.share; each = lambda y: (out - y)**2
    wanted = (share*each(batch.target[:, 0]) + (1 - share)*each(batch.target[batch.partner, 0])).sum()/6
    assert torch.allclose(found, wanted.detach(), rtol=1e-5)
    pooled = SampleBatches(data, 6, 1, 7, AugmentConfig(), 16)[0]; assert pooled.partner is None and pooled.share is None

def test_distances_made_elsewhere_are_those_of_the_samples_in_the_batch(tmp_path):
    rng = np.random.default_rng(0); far = rng.random((12, 12)); far = np.triu(far, 1) + np.triu(far, 1).T; ids = rng.permutation([*STORE.sample_ids, "X"])
    np.savez(tmp_path/"far.npz", matrix=far, ids=ids.astype(str)); distances = read_distances(tmp_path/"far.npz").align(STORE.sample_ids)
    at = {o: i for i, o in enumerate(ids)}; own = np.array([at[o] for o in STORE.sample_ids]); wanted = far[np.ix_(own, own)]
    how = dict(metrics=("precomputed",), distances=distances); plain = AugmentConfig(rarefy=0., asv_dropout=0.)
    source = SampleBatches(DATA, 8, 6, 7, plain, **how); assert len({i for o in source.places(1) for i in o[1:]}) < 8 # One twice
    for o in (*source, *PlainBatches(DATA, 4, **how), *loader(source, workers=1)):
        assert np.allclose(o.distance[0].numpy(), wanted[np.ix_(o.index.numpy(), o.index.numpy())], atol=1e-6) and o.distance.dtype == torch.float32
    for step in range(6): check_shares(source[step], [SampleBatches(DATA, 8, 6, 7, plain, **how, rank=o, world=2)[step] for o in range(2)])
    with pytest.raises(AamError, match="no distances are given"): SampleBatches(DATA, 8, 6, 7, metrics=("precomputed",))
    with pytest.raises(AamError, match="no distances are given"): PlainBatches(DATA, 8, metrics=("precomputed",))
    with pytest.raises(AamError, match="of 12 samples for a store of 11"):
        PlainBatches(DATA, 8, metrics=("precomputed",), distances=read_distances(tmp_path/"far.npz"))

# Nothing is read whole

def test_batches_ask_for_no_text_and_no_table_of_the_whole_store(monkeypatch):
    def refuse(self, *args): raise AssertionError("the whole store was read")
    fresh = build_store(made()); rows = asvs_in(fresh, range(11))
    for name in ("sample_ids", "sequences", "tree", "depths"): monkeypatch.setattr(Store, name, property(refuse))
    for name in ("identity", "counts", "study"): monkeypatch.setattr(Store, name, refuse)
    data = SampleDataset(fresh)
    known = known_places(fresh.keys, np.sort(fresh.keys[::2])); how = ALL | dict(known=known, hide=.3)
    for source in (SampleBatches(data, 4, 6, 7, **how), PlainBatches(data, 4, 16, ("unweighted",), hide=.3), AsvBatches(fresh, rows, 9, 4),
                   PlainAsvBatches(fresh, rows)):
        assert len(list(source))

def test_names_are_made_for_the_asvs_that_are_met():
    signs = Signs(STORE, 24); rows = np.array([3, 17, 30])
    assert (signs[rows] == STORE.identity(24)[rows]).all() and np.flatnonzero(signs.made).tolist() == [3, 17, 30]
    assert (signs[np.arange(40)] == STORE.identity(24)).all() and not pickle.loads(pickle.dumps(signs)).made.any()
    with pytest.raises(AamError, match="identity width is 12"): Signs(STORE, 12)

def test_a_store_in_a_folder_is_not_copied_into_a_worker(tmp_path):
    rng = np.random.default_rng(0); n = 4000
    seqs = strings(["".join(o) for o in np.array(list("ACGT"))[rng.integers(0, 4, (n, 60))]])
    table = Table(counts=sparse.random(3000, n, .01, random_state=0, format="csr", dtype=np.float64), sample_ids=strings(range(3000)), sequences=seqs)
    table.counts.data[:] = rng.integers(1, 9, table.counts.nnz); table = replace(table, counts=table.counts.astype(np.int32))
    source = SampleBatches(SampleDataset(build_store(Study(table=table), tmp_path/"store")), 32, 10, 0, AugmentConfig(), 64)
    source[0]; size = len(pickle.dumps(source))
    assert size < 200_000 # Rows, order and targets of 3,000 samples; the store itself is 2 MB, and its names 4,000 x 64
    assert turns(3000, 32, 3)[1][0] == 96
