"""A stack through the commands: what was trained is what predicts, foreign ASVs are placed and said, and
nothing that is judged is ever seen."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from bundle_cases import predicted, small_bundle
from safetensors.numpy import load_file, save_file

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.simulate import simulate
from aam_nb.inference.bundle import load_bundle, save_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.runs.evaluate import evaluate_run, fold_predictions
from aam_nb.runs.folds import fit_fold
from aam_nb.runs.members import lacks_members, members_say
from aam_nb.runs.predict import predict_run
from aam_nb.runs.train import train_run
from aam_nb.seal import seal_folder
from aam_nb.stack.features import Features
from aam_nb.stack.with_net import without_stack
from aam_nb.data.targets import Targets
from aam_nb.training.bench import Bench
from aam_nb.training.parallel import make_accelerator
from aam_nb.types import strings

STUDY = simulate(samples=54, asvs=50, groups=18, length=40, seed=8)
SMALL = {"model": dict(width=16, layers=1, sample_width=16, head_width=8, identity=16),
         "pretrain_asv": dict(steps=6, batch=24), "optim": dict(steps=12, batch=8, every=4),
         "run": dict(folds=3, inner=2, refit=0, threads=1, watch=0., trackers=[])}


def quiet(text): pass


def config_of(out="", target="age", **more):
    data = dict(target=target, groups="subject")
    return config_from({"data": data, "run": dict(out=str(out), **more)}, base=config_from(SMALL))


def bench_of(study, **more):
    config = config_of(**more)
    return Bench(config=config, store=build_store(study), metadata=study.metadata,
                 accelerator=make_accelerator(config.run))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run with its bundle, which holds the model that was scored."
    out = tmp_path_factory.mktemp("trained")/"run"
    return train_run(config_of(out, "age, site"), say=quiet, study=STUDY).parent


def test_predict_says_what_the_scored_stack_said(trained, tmp_path):
    "Through files, for the held-out samples, with several targets."
    write_table(STUDY.table, tmp_path/"t.biom")
    found = predict_run(trained/"bundle", tmp_path/"t.biom", tmp_path/"p.tsv", say=quiet).rows
    wanted = pd.read_csv(trained/"predictions.tsv", sep="\t", dtype={"sample_id": str}).set_index("sample_id")
    columns = [o for o in wanted.columns if o.startswith(("age:pred", "age:low", "age:high", "site:prob"))]
    assert len(columns) > 5
    said = found.loc[wanted.index, columns].astype(float)
    np.testing.assert_allclose(said, wanted[columns], atol=1e-5, rtol=1e-5)
    scores = json.loads((trained/"scores.json").read_text())
    assert set(scores["age"]) >= {"stack", "net", "forest", "trivial"}


def test_the_stack_is_not_the_net(trained):
    bundle = load_bundle(trained/"bundle")
    with_stack, net = (predict_table(o, STUDY.table).rows for o in (bundle, replace(bundle, stack=None)))
    assert np.abs(with_stack["age:prediction"] - net["age:prediction"]).max() > .1
    assert "net" in bundle.stack.of["age"].pool.names
    assert "a stack of net" in (trained/"bundle/README.md").read_text()


def foreign_table(share, seed=0):
    "The table with some of its ASVs changed in one to three bases, or, a quarter of these, in all."
    rng, out = np.random.default_rng(seed), []
    n = len(STUDY.table.sequences)
    which = set(rng.choice(n, int(share*n), replace=False))
    for i, o in enumerate(STUDY.table.sequences):
        letters = np.array(list(o))
        if i in which:
            at = rng.choice(len(o), len(o) if i % 4 == 0 else rng.integers(1, 4), replace=False)
            letters[at] = rng.choice(list("ACGT"), len(at))
        out.append("".join(letters))
    return replace(STUDY.table, sequences=strings(out))


def test_foreign_asvs_without_a_tree_are_placed_and_said(trained, tmp_path):
    table, said = foreign_table(.3), []
    new = ~np.isin(table.sequences, STUDY.table.sequences)
    assert .2 < new.mean() < .4
    write_table(table, tmp_path/"t.biom")
    found = predict_run(trained/"bundle", tmp_path/"t.biom", tmp_path/"p.tsv", say=said.append)
    share = np.asarray(table.counts[:, new].sum(1)).ravel()/table.depths
    placed = found.placed
    assert len(placed.tips) + placed.lost == new.sum() and len(placed.tips) > .5*new.sum()
    assert np.isfinite(found.rows["age:prediction"].astype(float)).all()
    assert (found.rows.unseen_reads.to_numpy(float) >= share - 1e-6).all()
    assert any(f"{len(placed.tips)} took the place of their nearest relative" in o for o in said)


def test_the_order_of_a_table_and_its_company_change_nothing(trained):
    bundle = load_bundle(trained/"bundle")
    whole = predict_table(bundle, STUDY.table).rows
    some = predict_table(bundle, STUDY.table, ids=STUDY.ids[[40, 3, 20]]).rows
    np.testing.assert_allclose(some["age:prediction"], whole.loc[some.index, "age:prediction"], rtol=1e-6)


def parts(study=STUDY):
    "Rows of an outer fold by group, and its inner folds."
    number = np.unique(study.metadata.subject, return_inverse=True)[1]
    train, test = np.flatnonzero(number % 3), np.flatnonzero(number % 3 == 0)
    a, b = train[number[train] % 2 == 0], train[number[train] % 2 == 1]
    return train, test, [(a, b), (b, a)]


def groups(): return STUDY.metadata.subject.to_numpy(object)


def answered(study, hidden):
    "What all of an outer fold says: targets of test rows, and reads of `hidden` ones, may not matter."
    (train, test, inner), bench = parts(), bench_of(study, refit=1)
    found = fit_fold(bench, train, test, inner, 1)
    found |= members_say(bench, Features(study), groups(), train, test, inner)
    out = fold_predictions(bench, groups(), train, test, found, "age")
    kept = ~np.isin(test, hidden)
    say = {k: out[k][kept] for k in ("test", "low", "high")}
    say |= {"net": out["beside"]["net"][kept], "said": out["oof"]}
    return say | {k: found[k] for k in ("oof", "member_oof_0")}, out["why"]


def test_what_is_tested_is_seen_nowhere():
    """Scaling, choice of ASVs, early stopping, pretraining, stacking, calibration: with noise for the targets
    of test samples, and for the reads of some, all else is the same to the bit."""
    test = parts()[1]
    hidden, rng = test[::2], np.random.default_rng(0)
    counts, metadata = STUDY.table.counts.toarray(), STUDY.metadata.copy()
    counts[hidden] = rng.poisson(50, (len(hidden), counts.shape[1])) + 1
    metadata.iloc[test, metadata.columns.get_loc("age")] = rng.uniform(0, 99, len(test))
    noisy = replace(STUDY, metadata=metadata,
                    table=replace(STUDY.table, counts=type(STUDY.table.counts)(counts.astype(np.int32))))
    (before, why), (after, again) = answered(STUDY, hidden), answered(noisy, hidden)
    assert why == again
    for k, v in before.items(): assert np.array_equal(v, after[k]), k


def test_a_seen_sample_would_be_noticed():
    "The same check fails where one test sample is among those that train."
    train, test, inner = parts()
    wider = np.sort(np.append(train, test[0]))
    (a, b), one = inner[0], test[0]
    with_one = [(np.append(a, one), b), (b, np.append(a, one))]
    bench, seen = bench_of(STUDY), []
    for age in (1., 90.):
        metadata = STUDY.metadata.copy()
        metadata.iloc[test[0], metadata.columns.get_loc("age")] = age
        own = replace(bench, metadata=metadata)
        seen.append(members_say(own, Features(STUDY), None, wider, test[1:], with_one)["member_test_0"])
    assert np.abs(seen[0] - seen[1]).max() > .01


def test_inner_folds_without_groups_are_refused():
    train, test, _ = parts()
    inner = [(train[::2], train[1::2]), (train[1::2], train[::2])]
    with pytest.raises(AamError, match="groups on both sides"):
        members_say(bench_of(STUDY), Features(STUDY), groups(), train, test, inner)


MORE = simulate(samples=120, asvs=60, groups=40, length=40, seed=0)


def stack_r2(study):
    "R2 over three folds by group of a stack whose net says the mean."
    number = np.unique(study.metadata.subject, return_inverse=True)[1]
    group = study.metadata.subject.to_numpy(object)
    y, p = study.metadata.age.to_numpy(float), np.zeros(len(number))
    for k in range(3):
        train, test = np.flatnonzero(number % 3 != k), np.flatnonzero(number % 3 == k)
        half = number[train] % 2 == 0
        inner = [(train[half], train[~half]), (train[~half], train[half])]
        bench = bench_of(study)
        found = members_say(bench, Features(study), group, train, test, inner)
        found |= dict(test=np.zeros((1, len(test), 1)), oof=np.zeros((len(train), 1)))
        p[test] = fold_predictions(bench, group, train, test, found, "age")["test"]
    return 1 - ((p - y)**2).sum()/((y - y.mean())**2).sum()


def test_dealt_labels_show_no_skill():
    "Ages dealt out among subjects, twice; the true ages are predicted."
    found = []
    for seed in range(2):
        subjects = np.unique(MORE.metadata.subject)
        to = dict(zip(subjects, np.random.default_rng(seed).permutation(subjects), strict=True))
        of = {k: v.age.to_numpy() for k, v in MORE.metadata.groupby("subject")}
        ages = np.concatenate([np.resize(of[to[k]], len(v)) for k, v in of.items()])
        order = np.argsort(MORE.metadata.subject.to_numpy(), kind="stable")
        metadata = MORE.metadata.copy()
        metadata.loc[metadata.index[order], "age"] = ages
        found.append(stack_r2(replace(MORE, metadata=metadata)))
    assert np.mean(found) < .1, found
    assert stack_r2(MORE) > .2


def test_a_fold_that_lacks_members_gets_them_and_keeps_its_net(tmp_path):
    "An evaluation that was begun with the net alone."
    evaluate_run(config_of(tmp_path/"net", model="net"), say=quiet, study=STUDY)
    evaluate_run(config_of(tmp_path/"run"), say=quiet, study=STUDY)
    path = tmp_path/"run/folds/as_it_comes_2.npz"
    wanted, kept = (tmp_path/"run/predictions.tsv").read_bytes(), dict(np.load(path))
    bare = {k: v for k, v in kept.items() if "member" not in k}
    assert lacks_members(bench_of(STUDY), bare) and not lacks_members(bench_of(STUDY), kept)
    np.savez(path, **{**bare, "seconds": np.array(99.)})
    (tmp_path/"run/finished.json").unlink()
    evaluate_run(config_of(tmp_path/"run", resume=True), say=quiet, study=STUDY)
    assert (tmp_path/"run/predictions.tsv").read_bytes() == wanted
    assert np.array_equal(np.load(path)["oof"], bare["oof"]) and float(np.load(path)["seconds"]) > 99
    alone = pd.read_csv(tmp_path/"net/predictions.tsv", sep="\t")
    both = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t")
    assert np.array_equal(alone["net"], both["net"]) and {"net:low", "average"} <= set(alone.columns)
    notes = json.loads((tmp_path/"run/evaluation.json").read_text())["notes"]
    assert any("How the stack was put together in fold" in o for o in notes)


@pytest.mark.parametrize("target,why", [
    (dict(loss="quantile"), "'quantile'"), (dict(loss="asymmetric"), "'asymm"),
    (dict(weights="how"), "weights"), (dict(class_weights="balanced"), "")])
def test_other_questions_are_for_the_net_alone(target, why):
    config = config_from({"target": target}, base=config_of())
    codec = Targets.fit(STUDY.metadata, config).codecs[0]
    assert bool(why) == bool(without_stack(config, codec)) and why in without_stack(config, codec)


@pytest.fixture
def kept(tmp_path): return save_bundle(tmp_path/"bundle", small_bundle(stack=True))


def test_a_stack_comes_back_and_predicts_the_same(kept):
    frame = predicted(load_bundle(kept)).rows
    pd.testing.assert_frame_equal(frame, predicted(small_bundle(stack=True)).rows)
    assert not frame["age:prediction"].equals(predicted(small_bundle()).rows["age:prediction"])


@pytest.mark.parametrize("name,change", [
    ("0:clr/weights", lambda x: x[:-1]), ("0:clr/columns", lambda x: x + 10**6), ("0:rows", lambda x: x + 10),
    ("0:extra_trees/feature", lambda x: np.where(x < 0, x, 10**6).astype(x.dtype)),
    ("1:extra_trees/value", lambda x: x[:, :1]), ("reads/tip", lambda x: x + 10**6),
    ("reads/tips", lambda x: x*0 + 2*10**9), ("reads/counts", lambda x: -x),
    ("reads/length", lambda x: x*np.nan), ("reads/lengths", lambda x: x*0),
    ("0:rows", lambda x: x.astype(float))])
def test_a_hostile_array_is_refused(kept, name, change):
    arrays = load_file(kept/"stack.safetensors")
    save_file({**arrays, name: np.ascontiguousarray(change(arrays[name]))}, kept/"stack.safetensors")
    seal_folder(kept)
    with pytest.raises(AamError, match="damaged|does not describe"): load_bundle(kept)


def test_half_a_stack_is_refused(kept):
    (kept/"stack.json").unlink()
    seal_folder(kept)
    with pytest.raises(AamError, match="stack.safetensors without what belongs to it"): load_bundle(kept)
