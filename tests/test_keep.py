"Members come back from files as they were, predict tables of other ASVs, and are refused where damaged."
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.stack import members
from aam_nb.stack.features import Features, Fold
from aam_nb.stack.keep import beside, pack, pack_reads, unpack, unpack_reads
from aam_nb.stack.members import fit_forest, MEMBERS, possible_members
from aam_nb.types import strings

TRAIN, TEST = np.arange(60), np.arange(60, 90)


@pytest.fixture(scope="module")
def study(): return simulate(samples=90, asvs=120, groups=30, seed=3)


def question(study, classes=0):
    age = study.metadata["age"].to_numpy(float)
    y = np.digitize(age, [6, 12]) if classes else age
    return Fold(features=Features(study), y=y, train=TRAIN, test=TEST, classes=classes,
                groups=study.metadata["subject"].to_numpy(object), threads=1)


def fitted(fold):
    "All members of a study, and a random forest."
    found = {o: MEMBERS[o].fit(fold) for o in possible_members(fold.features.study)}
    return {**found, "forest": fit_forest(fold, "relative", False, 20)}


def table_of_its_own(study, rows, seed=0):
    "Samples in a table without the ASVs that they lack, and with the others in another order."
    table = study.table.samples(rows)
    there = np.flatnonzero(np.asarray(table.counts.sum(0)).ravel())
    order = np.random.default_rng(seed).permutation(there)
    return replace(table, counts=table.counts[:, order], sequences=table.sequences[order])


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("classes", [0, 3, 4])
def test_a_kept_member_predicts_as_in_the_fold(study, tmp_path, monkeypatch, tree, classes):
    "Through a file, and on a table of its own; 4 classes have one that nobody belongs to."
    monkeypatch.setattr(members, "EXTRA", 20)
    study = study if tree else replace(study, tree=None, tip=None)
    fold = question(study, classes)
    made = fitted(fold)
    arrays, settings = pack(made)
    save_file({**arrays, **pack_reads(study, TRAIN)}, tmp_path/"stack.safetensors")
    (tmp_path/"stack.json").write_text(json.dumps(settings, allow_nan=False))
    arrays = load_file(tmp_path/"stack.safetensors")
    back = unpack(arrays, json.loads((tmp_path/"stack.json").read_text()))
    b = beside(unpack_reads(arrays), table_of_its_own(study, TEST))
    assert list(back) == list(made) and not b.unknown.any()
    for name, m in back.items():
        wanted = made[name].predict(fold.features, TEST, TRAIN)
        np.testing.assert_allclose(m.predict(b.features, b.rows, b.train), wanted, atol=1e-8, err_msg=name)


def test_foreign_asvs_have_no_branch_unless_they_are_given_one(study, monkeypatch):
    "With the tip of their kin, branches are as if the ASVs had never been renamed."
    monkeypatch.setattr(members, "EXTRA", 20)
    fold = question(study)
    known, table = unpack_reads(pack_reads(study, TRAIN)), table_of_its_own(study, TEST)
    names = {o: o + "ACGT" for o in table.sequences[::3]}
    at = dict(zip(study.table.sequences, study.tip))
    renamed = replace(table, sequences=strings([names.get(o, o) for o in table.sequences]))
    assert len(set(renamed.sequences)) == len(renamed.sequences)
    bare, placed = beside(known, renamed), beside(known, renamed, {names[o]: at[o] for o in names})
    foreign = np.isin(table.sequences, list(names))
    wanted = table.counts[:, foreign].sum(1)/table.depths.reshape(-1, 1)
    np.testing.assert_allclose(bare.unknown, np.asarray(wanted).ravel())
    for name in ("branch", "rbf", "log_unifrac", "extra_trees"):
        m = MEMBERS[name].fit(fold)
        as_it_was = m.predict(fold.features, TEST, TRAIN)
        found = m.predict(placed.features, placed.rows, placed.train)
        np.testing.assert_allclose(found, as_it_was, atol=1e-8)
        lost = m.predict(bare.features, bare.rows, bare.train)
        assert np.isfinite(lost).all() and np.abs(lost - as_it_was).max() > .01


@pytest.fixture(scope="module")
def packed(study):
    fold = question(study, 3)
    return pack(dict(forest=fit_forest(fold, "branch", True, 5), rbf=MEMBERS["rbf"].fit(fold)))


FAR = 10**6


@pytest.mark.parametrize("name,change", [
    ("forest/left", lambda x: x*0), ("forest/right", lambda x: x + FAR), ("forest/left", lambda x: x - FAR),
    ("forest/root", lambda x: x + FAR), ("forest/root", lambda x: x[:0]),
    ("forest/value", lambda x: x[:, :2]),
    ("forest/value", lambda x: x[:3]), ("forest/threshold", lambda x: x*np.nan),
    ("forest/feature", lambda x: x[1:]), ("rbf/weights", lambda x: x*np.inf),
    ("rbf/weights", lambda x: x[:, 0]),
    ("rbf/weights", lambda x: x[:, :2]), ("rbf/intercept", lambda x: x.astype(int)),
    ("rbf/columns", lambda x: np.array([-1]))])
def test_damaged_arrays_are_refused(packed, name, change):
    arrays, settings = packed
    lost = {k: v for k, v in arrays.items() if k != name}
    for wrong in ({**arrays, name: change(arrays[name])}, lost):
        with pytest.raises(AamError, match="is damaged"): unpack(wrong, settings)


@pytest.mark.parametrize("change", [dict(kind="pickle"), dict(kind=None), dict(known=[0, 1, 7]),
                                    dict(known=None)])
def test_damaged_settings_are_refused(packed, change):
    arrays, settings = packed
    wrong = {"rbf": {**settings["rbf"], **change}}
    with pytest.raises(AamError, match="is damaged"): unpack(arrays, wrong)


@pytest.mark.parametrize("name,change", [
    ("asv", lambda x: x + 1000), ("indptr", lambda x: x[::-1]), ("counts", lambda x: x[1:]),
    ("lengths", lambda x: x[1:]), ("letters", lambda x: x + 128), ("stop", lambda x: x + 1000),
    ("start", lambda x: x - 1), ("tip", lambda x: x[1:])])
def test_damaged_reads_are_refused(study, name, change):
    reads = pack_reads(study, TRAIN)
    with pytest.raises(AamError, match="reads are damaged"):
        unpack_reads({**reads, f"reads/{name}": change(reads[f"reads/{name}"])})


@pytest.mark.slow
def test_the_members_of_a_real_study_are_small(data_dir, tmp_path):
    "All of ecam_infant, with its reads, under 30 MB; and predictions are those of the fold."
    from aam_nb.data.metadata import read_metadata
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    d = data_dir/"ecam_infant"
    s = make_study(read_table(d/"table.biom"), read_metadata(d/"metadata.tsv"), read_tree(d/"tree.nwk"),
                   where="is_infant == 1")
    known = s.metadata["month_of_life"].notna()
    s = replace(s, table=s.table.samples(known.to_numpy()), metadata=s.metadata[known])
    rows = np.arange(len(s.ids))
    fold = Fold(features=Features(s), y=s.metadata["month_of_life"].to_numpy(float), train=rows,
                test=rows[:50], groups=s.metadata["host_subject_id"].astype(str).to_numpy(object), threads=1)
    made = {o: MEMBERS[o].fit(fold) for o in possible_members(s)}
    arrays, settings = pack(made)
    save_file({**arrays, **pack_reads(s, rows)}, tmp_path/"stack.safetensors")
    assert (tmp_path/"stack.safetensors").stat().st_size < 30e6
    arrays = load_file(tmp_path/"stack.safetensors")
    b = beside(unpack_reads(arrays), s.table.samples(fold.test))
    for name, m in unpack(arrays, settings).items():
        wanted = made[name].predict(fold.features, fold.test, rows)
        np.testing.assert_allclose(m.predict(b.features, b.rows, b.train), wanted, atol=1e-6, err_msg=name)
