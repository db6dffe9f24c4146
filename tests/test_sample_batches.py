"Batches of samples: pure functions of the step, whole epochs, draws by sequence, plain batches."
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_batches import (
    ALL, CATEGORY, CORPUS, DATA, FULL, NUMBER, PLAIN, STORE, VARIED, WEIGHT, check_parts, made, reads_of,
    rows_of, same,
    shared, with_covariates)

from aam_nb.batches.asv_batches import AsvBatches, PlainAsvBatches
from aam_nb.batches.augment import augment_sample, augment_samples, augment_tokens
from aam_nb.batches.build import build_store
from aam_nb.batches.collate import known_places
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.draws import AsvDraws
from aam_nb.batches.hide import mask_patches
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset, asvs_in
from aam_nb.batches.store import Store
from aam_nb.batches.turns import turns
from aam_nb.batches.view import View
from aam_nb.core import digest
from aam_nb.data.distance_files import read_distances
from aam_nb.data.distances import unifrac
from aam_nb.data.tokens import MASK
from aam_nb.sections import AugmentConfig, LossConfig, ModelConfig
from aam_nb.types import Column


# A pure function of the step

def test_a_batch_is_a_function_of_the_step_alone():
    one, two = (SampleBatches(DATA, FULL, batch=4, steps=12) for _ in range(2))
    forward = [one[i] for i in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    np.random.random(9)
    for i in (11, 0, 5, 5, 7, 2): assert same(two[i], forward[i])
    assert not same(SampleBatches(DATA, replace(FULL, seed=8), batch=4, steps=12)[0], forward[0])
    assert len({o.key for o in forward}) == 12 and len(one) == 12
    with pytest.raises(IndexError): one[12]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 5))
def test_every_epoch_passes_each_sample_once(n, batch, seed):
    data = SampleDataset(STORE, np.arange(n) if n < 12 else None)
    source = SampleBatches(data, View(seed=seed), batch=batch, steps=40)
    n, index = len(source.dataset), []
    for step in range(40): index += source[step].index.tolist()
    assert all(source[step].size == min(batch, n) for step in (0, 17, 39))
    for e in range(len(index)//n): assert sorted(index[e*n:(e + 1)*n]) == list(range(n))
    if n > 6 and len(index) >= 3*n: assert len({tuple(index[e*n:(e + 1)*n]) for e in range(3)}) > 1


def test_the_order_of_the_table_changes_nothing():
    study, rng = made(), np.random.default_rng(5)
    rows, columns, table = rng.permutation(11), rng.permutation(40), made().table
    shuffled = replace(table, counts=table.counts[rows][:, columns], sample_ids=table.sample_ids[rows],
                       sequences=table.sequences[columns])
    other = build_store(replace(study, tip=study.tip[columns], table=shuffled))
    for step in range(4):
        a = SampleBatches(DATA, FULL, batch=4, steps=4)[step]
        b = SampleBatches(SampleDataset(other, target=DATA.target[rows]), FULL, batch=4, steps=4)[step]
        assert STORE.sample_ids[a.index].tolist() == other.sample_ids[b.index].tolist()
        assert same(a, replace(b, index=a.index))


def test_a_view_changes_with_the_epoch_and_not_with_the_place_in_the_batch():
    views = {}
    for batch in (3, 5): # Other batches, same epochs
        source = SampleBatches(DATA, View(seed=7, augment=AugmentConfig()), batch=batch, steps=11)
        for step, b in enumerate(source):
            for j, e in enumerate(turns(11, batch, step)[0]):
                if e > 2: continue
                view = tuple(zip(*rows_of(b, j), strict=True))
                assert views.setdefault((int(e), int(b.index[j])), view) == view
    full = [i for i in range(11) if STORE.depths[i]]
    for i in full: assert len({views[e, i] for e in range(3)}) > 1


def test_new_choices_left_alone_leave_every_draw_as_it_was():
    "The digest of what was drawn before these choices. Where it fails, numpy's streams may differ."
    names = ("index", "rows", "asv", "counts", "offsets", "identity", "masked")
    plain, parts = SampleBatches(DATA, replace(FULL, metrics=()), batch=4, steps=9), []
    for b in plain: parts += [getattr(b, k).numpy() for k in names]
    assert digest(parts, size=8) == "3cf2c2a674fabd9a"
    chosen = with_covariates(limit=100, select="random")
    more = SampleBatches(chosen, replace(FULL, hide=.2, known=np.arange(40)), batch=4, steps=9)
    new = dict.fromkeys(("weight", "category", "number", "hidden", "place"))
    for step in (0, 5):
        assert same(replace(more[step], **new), SampleBatches(DATA, FULL, batch=4, steps=9)[step])


@pytest.mark.parametrize("temperature", [1., 3.])
def test_each_batch_is_of_one_study_and_each_study_has_whole_epochs(temperature):
    rows = np.flatnonzero(np.arange(35) % 5 > 0)
    data, how = SampleDataset(CORPUS, rows), dict(batch=4, steps=300, temperature=temperature)
    source = SampleBatches(data, View(seed=7), **how)
    drawn = {0: [], 1: [], 2: []}
    for step in range(300):
        index = [source.dataset.rows[i] for _, i in source.places(step)]
        k, = set(np.searchsorted([11, 28], index, side="right"))
        drawn[int(k)] += index
    for k, own in enumerate(np.split(rows, np.searchsorted(rows, [11, 28]))):
        for e in range(len(drawn[k])//len(own)):
            assert sorted(drawn[k][e*len(own):(e + 1)*len(own)]) == own.tolist()
    sizes = np.array([len(o) for o in source.studies])**(1/temperature)
    found = np.array([len(drawn[k]) for k in range(3)])/1200
    assert np.allclose(found, sizes/sizes.sum(), atol=.09) # Standard deviation below .03


def test_a_corpus_of_one_study_gives_the_batches_of_the_study():
    alone = Corpus([STORE])
    both = SampleDataset(alone, target=DATA.target), DATA
    corpus, study = (SampleBatches(o, ALL, batch=4, steps=6) for o in both)
    assert all(same(a, b) for a, b in zip(corpus, study, strict=True))
    for make in (lambda o: AsvBatches(o, batch=9, steps=3), lambda o: PlainAsvBatches(o, batch=9)):
        assert all(same(a, b) for a, b in zip(make(alone), make(STORE), strict=True))


# Distances of what was drawn

@pytest.mark.parametrize("metric", ["unweighted", "weighted", "weighted_normalized", "generalized"])
def test_distances_are_those_of_the_very_counts_in_the_batch(metric):
    augment = AugmentConfig(rarefy=1., rarefy_low=.05, asv_dropout=.3)
    source = SampleBatches(DATA, View(seed=3, augment=augment, metrics=(metric,), alpha=.4), batch=6, steps=4)
    for step, batch in enumerate(source):
        table = reads_of(batch)
        places = zip(*turns(11, 6, step), strict=True)
        drawn = [augment_sample(DATA[source.order(e)[i]], augment, 3, e) for e, i in places]
        for j, o in enumerate(drawn):
            assert table[j, o.asv].tolist() == o.counts.tolist() and table[j].sum() == o.counts.sum()
        wanted = unifrac(sparse.csr_matrix(table), STORE.tree, STORE.tip, metric, .4)
        assert np.allclose(batch.distance[0].numpy(), wanted, atol=1e-6, equal_nan=True)
        as_stored = unifrac(STORE.counts(batch.index.numpy()), STORE.tree, STORE.tip, metric, .4)
        assert not np.allclose(batch.distance[0].numpy(), as_stored, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("augment", [VARIED, replace(VARIED, mix="reads")])
def test_distances_are_those_of_the_varied_and_mixed_reads(augment):
    if augment.mix != "pooled": pytest.importorskip("skbio.table")
    for o in SampleBatches(DATA, replace(ALL, augment=augment), batch=6, steps=3):
        wanted = unifrac(sparse.csr_matrix(reads_of(o)), STORE.tree, STORE.tip, "unweighted")
        assert np.allclose(o.distance[0].numpy(), wanted, atol=1e-6)


def test_distances_made_elsewhere_are_those_of_the_samples_in_the_batch(tmp_path):
    rng = np.random.default_rng(0)
    far = np.triu(rng.random((12, 12)), 1)
    far, ids = far + far.T, rng.permutation([*STORE.sample_ids, "X"])
    np.savez(tmp_path/"far.npz", matrix=far, ids=ids.astype(str))
    distances = read_distances(tmp_path/"far.npz").align(STORE.sample_ids)
    at = {o: i for i, o in enumerate(ids)}
    own = np.array([at[o] for o in STORE.sample_ids])
    view = View(seed=7, augment=PLAIN, metrics=("precomputed",), distances=distances)
    wanted = far[np.ix_(own, own)]
    source = SampleBatches(DATA, view, batch=8, steps=6)
    plain = PlainBatches(DATA, replace(view, seed=0), batch=4)
    assert len({i for o in source.places(1) for i in o[1:]}) < 8 # One twice
    for o in (*source, *plain, *loader(source, workers=1)):
        index = o.index.numpy()
        assert np.allclose(o.distance[0].numpy(), wanted[np.ix_(index, index)], atol=1e-6)
        assert o.distance.dtype == torch.float32
    parts = shared(2, DATA, view, batch=8, steps=6)
    for step in range(6): check_parts(source[step], [o[step] for o in parts])


# Draws by sequence

def test_names_are_hidden_by_seed_step_and_sequence():
    view = View(seed=7, augment=replace(PLAIN, identity_dropout=.25), identity=16)
    source, other = (SampleBatches(DATA, view, batch=batch, steps=150) for batch in (6, 9))
    hidden, names = 0., torch.from_numpy(STORE.identity(16))
    for step in range(150):
        a, b = source[step], other[step]
        seen = (a.identity != 0).any(1)
        hidden += 1 - seen.float().mean().item()
        assert (a.identity[seen] == names[a.rows[seen]]).all()
        both, at, bt = np.intersect1d(a.rows.numpy(), b.rows.numpy(), return_indices=True)
        assert len(both) and torch.equal(a.identity[at], b.identity[bt])
    assert abs(hidden/150 - .25) < .02
    plain = SampleBatches(DATA, View(seed=7, identity=16), batch=6, steps=150)[0]
    assert (plain.identity != 0).all() # Without augmentation nothing is hidden


def test_names_of_unknown_sequences_are_hidden_everywhere():
    known = np.where(np.arange(40) % 2 == 0, np.arange(40)//2, -1)
    view = View(seed=7, identity=16, known=known)
    for batch in (SampleBatches(DATA, view, batch=6, steps=3)[1], PlainBatches(DATA, view, batch=6)[1]):
        assert ((batch.identity != 0).all(1) == torch.from_numpy(known >= 0)[batch.rows]).all()
        assert batch.place.tolist() == known[batch.rows].tolist()


def test_the_second_view_hides_whole_patches_and_leaves_the_first_alone():
    view = View(patch=3, mask=.15)
    sources = (SampleBatches(DATA, FULL, batch=6, steps=3), AsvBatches(STORE, view=view, batch=9, steps=3),
               PlainAsvBatches(STORE, view=view))
    for batch in (b for source in sources for b in source):
        assert torch.equal(batch.tokens, torch.from_numpy(STORE.tokens[batch.rows]))
        hidden = batch.masked == MASK
        assert torch.equal(batch.masked[~hidden], batch.tokens[~hidden])
        patches = hidden[:, :12].reshape(-1, 4, 3) # 14 bases: the last two fill no patch
        assert (patches.all(2) == patches.any(2)).all() and patches.any(2).any(1).all()
        assert not hidden[:, 12:].any()
    steps = [SampleBatches(DATA, FULL, batch=11, steps=2)[i].masked for i in (0, 1)]
    assert steps[0].shape != steps[1].shape or not torch.equal(*steps)


def test_bases_vary_by_seed_step_and_sequence_and_the_second_view_follows():
    asvs = AsvBatches(STORE, None, View(seed=7, patch=3, mask=.2, span=2, augment=VARIED), batch=9, steps=3)
    for source in (SampleBatches(DATA, ALL, batch=6, steps=3), asvs):
        for step, o in enumerate(source):
            rows = o.rows.numpy()
            keys = STORE.keys[rows]
            wanted = augment_tokens(STORE.tokens[rows], keys, VARIED, 7, step)
            assert (o.tokens.numpy() == wanted).all() and not (wanted == STORE.tokens[rows]).all()
            assert (o.masked.numpy() == mask_patches(wanted, 3, .2, AsvDraws(keys, 7, step, "mask"), 2)).all()


# Covariates, hidden reads, mixed reads

@pytest.mark.parametrize("mix", ["pooled", "reads"])
def test_covariates_follow_their_sample_and_change_no_reads(mix):
    if mix == "reads": pytest.importorskip("skbio.table")
    chains, augment, lost = (("diet",), ("country", "city")), AugmentConfig(covariate_dropout=.4, mix=mix), 0
    view = replace(FULL, augment=augment)
    source = SampleBatches(with_covariates(), replace(view, chains=chains), batch=4, steps=9)
    bare = SampleBatches(DATA, view, batch=4, steps=9)
    for step in range(9):
        batch, places = source[step], source.places(step)
        stored = [with_covariates()[i] for _, i in places]
        views = augment_samples(stored, augment, 7, [e for e, _ in places], chains)
        assert same(replace(batch, weight=None, category=None, number=None), bare[step])
        assert np.allclose(batch.weight.numpy(), WEIGHT[batch.index])
        assert batch.category.tolist() == [o.category.tolist() for o in views]
        assert np.allclose(batch.number, [o.number for o in views], equal_nan=True)
        lost += (batch.category.numpy() != CATEGORY[batch.index]).sum()
        hidden = batch.category[:, 1] != torch.from_numpy(CATEGORY)[batch.index, 1]
        assert (batch.category[hidden, 2] <= 1).all() # The city went with the country
    assert lost > 20 and source[0].category.dtype == torch.int64 and source[0].number.dtype == torch.float32
    assert source[0].number.shape[1] == NUMBER.shape[1]


def hidden_of(batch): # By sample and ASV
    pairs = zip(batch.sample, batch.asv, batch.hidden, strict=True)
    return {(int(batch.index[s]), int(batch.rows[a])): bool(h) for s, a, h in pairs}


def test_hidden_reads_follow_step_sample_and_sequence_alone():
    shuffled, share = replace(PLAIN, shuffle=True), []
    for step in range(20):
        views = [View(seed=7, augment=o, hide=.3) for o in (PLAIN, shuffled)]
        a, b = (SampleBatches(DATA, o, batch=4, steps=20)[step] for o in views)
        assert a.hidden.dtype == torch.bool and hidden_of(a) == hidden_of(b)
        share.append(a.hidden.float().mean())
        for j in range(4):
            own = a.hidden[a.offsets[j]:a.offsets[j+1]]
            assert own.sum() >= 2*(len(own) > 2) and (not len(own) or not own.all())
    assert abs(np.mean(share) - .3) < .05


def test_hidden_reads_of_plain_batches_do_not_depend_on_the_batch():
    def everything(source):
        out = {}
        for b in source: out |= hidden_of(b)
        return out
    plain = PlainBatches(DATA, View(hide=.3), batch=4)
    one = everything(plain)
    assert one == everything(PlainBatches(SampleDataset(STORE, np.arange(11)[::-1]), View(hide=.3), batch=3))
    assert any(one.values()) and one != everything(PlainBatches(DATA, View(hide=.3, seed=1), batch=4))
    assert same(replace(plain[0], hidden=None), PlainBatches(DATA, batch=4)[0])


def test_mixed_reads_mix_the_targets_in_the_loss_and_nothing_twice():
    pytest.importorskip("skbio.table")
    from aam_nb.model.aam import AamModel
    from aam_nb.training.objectives import SampleObjective
    torch.manual_seed(0)
    data, age = SampleDataset(STORE, target=np.arange(11.)), Column(name="age", task="regression")
    def first(augment):
        return SampleBatches(data, View(seed=7, augment=augment, identity=16), batch=6, steps=1)[0]
    batch, pooled = first(AugmentConfig(mix="reads")), first(AugmentConfig())
    config = ModelConfig(width=16, identity=16, patch=7, sample_width=16, head_width=8, dropout=0.,
                         head_dropout=0.)
    model = AamModel(config, 14, columns=(age,))
    found = SampleObjective(model, LossConfig(), mixup=.4).train_step(batch)["target"]
    out, share, own = model(batch).target[:, 0], batch.share, batch.target[:, 0]
    def each(y): return (out - y)**2
    wanted = (share*each(own) + (1 - share)*each(own[batch.partner])).sum()/6
    assert torch.allclose(found, wanted.detach(), rtol=1e-5)
    assert batch.partner is not None and pooled.partner is None and pooled.share is None


# Batches for looking

def test_plain_batches_are_in_order_whole_and_fixed():
    rows = [7, 3, 9, 0, 1]
    view = View(identity=16, metrics=("weighted",), mask=.2, patch=3, augment=VARIED) # Looking varies nothing
    source = PlainBatches(SampleDataset(STORE, rows), view, batch=2)
    assert [o.index.tolist() for o in source] == [[7, 3], [9, 0], [1]] and len(source) == 3
    for i, o in enumerate(source): assert same(o, source[i])
    assert (np.concatenate([reads_of(o) for o in source]) == STORE.counts(rows).toarray()).all()
    empty = PlainBatches(SampleDataset(STORE, []), batch=4)
    assert len(empty) == 0 and list(empty) == []


def test_hidden_bases_of_plain_batches_do_not_depend_on_the_batch():
    found = {}
    for size in (2, 5):
        for b in PlainBatches(DATA, View(mask=.3, patch=3), batch=size):
            for r, m in zip(b.rows.tolist(), b.masked.tolist(), strict=True):
                assert found.setdefault(r, m) == m


# Nothing is read whole

def test_batches_ask_for_no_text_and_no_table_of_the_whole_store(monkeypatch):
    def refuse(self, *args): raise AssertionError("the whole store was read")
    fresh = build_store(made())
    rows = asvs_in(fresh, range(11))
    known = known_places(fresh.keys, np.sort(fresh.keys[::2]))
    for name in ("sample_ids", "sequences", "tree", "depths"):
        monkeypatch.setattr(Store, name, property(refuse))
    for name in ("identity", "counts", "study"): monkeypatch.setattr(Store, name, refuse)
    data, looking = SampleDataset(fresh), View(identity=16, metrics=("unweighted",), hide=.3)
    training = replace(ALL, known=known, hide=.3)
    sources = (SampleBatches(data, training, batch=4, steps=6), PlainBatches(data, looking, batch=4),
               AsvBatches(fresh, rows, batch=9, steps=4), PlainAsvBatches(fresh, rows))
    for source in sources: assert len(list(source))
