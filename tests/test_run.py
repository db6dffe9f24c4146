"""From files to a bundle and back: what was trained is what predicts, and nothing depends on order, folder
or company."""
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam_nb.batches.cache import Cache
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.table import read_table
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.runs.cache import cache_run
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.predict import predict_run
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.train import train_run
from aam_nb.types import Table

SMALL = {"model": {"width": 16, "layers": 1, "sample_width": 16, "head_width": 8, "identity": 16},
         "pretrain_asv": {"steps": 6, "batch": 24}, "optim": {"steps": 12, "batch": 8, "every": 4},
         "run": {"folds": 3, "inner": 2, "refit": 0, "threads": 1, "watch": 0.}}
ATTENTION = {"sample": "attention", "sample_layers": 1, "readout": "attention", "patch": 4}


def quiet(text): pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A simulated study on disk."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=48, asvs=50, groups=12, length=40, seed=8), folder)
    return folder


def config(files, out, target="age", **sections):
    "A small configuration on that study."
    data = dict(table=str(files/"table.biom"), metadata=str(files/"metadata.tsv"),
                tree=str(files/"tree.nwk"), target=target, groups="subject")
    base = config_from(SMALL)
    given = {"data": data, "run": {"out": str(out)}}
    for k, v in sections.items(): given[k] = {**given.get(k, {}), **v}
    return config_from(given, base=base)


def numbers(frame):
    "The predicted numbers of a prediction, whatever the task."
    return frame[[c for c in frame.columns if c == "prediction" or c.startswith("probability_")]].to_numpy()


def shuffled(table, seed=0):
    "The same table with rows and columns in another order."
    rng = np.random.default_rng(seed)
    r, c = rng.permutation(len(table.sample_ids)), rng.permutation(len(table.sequences))
    return Table(counts=table.counts[r][:, c].tocsr(), sample_ids=table.sample_ids[r],
                 sequences=table.sequences[c])


@pytest.mark.parametrize("target", ["age", "site"])
@pytest.mark.parametrize("how", [dict(optim=dict(freeze=True)), dict(optim=dict(freeze=False, chunk=16)),
                                 dict(optim=dict(freeze=False, chunk=16), model=ATTENTION),
                                 dict(data=dict(depth=2000))],
                         ids=["frozen", "trained", "attention", "depth"])
def test_what_was_trained_predicts(files, tmp_path, target, how):
    bundle = train_run(config(files, tmp_path/"run", target, **how), say=quiet)
    told = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t", index_col=0)
    assert set(told.part) == {"valid", "test"}
    moved = tmp_path/"elsewhere"
    shutil.move(bundle, moved)
    table = read_table(files/"table.biom")
    again = predict_run(moved, files/"table.biom", tmp_path/"new.tsv", say=quiet).rows
    np.testing.assert_allclose(numbers(again.loc[told.index]), numbers(told), rtol=1e-5, atol=1e-5)
    other = predict_table(load_bundle(moved), shuffled(table), batch=5).rows
    np.testing.assert_allclose(numbers(other.loc[again.index]), numbers(again), rtol=1e-5, atol=1e-5)
    assert np.ptp(numbers(told)) > 1e-3 # a constant would pass all of the above


def test_original_units_and_labels(files, tmp_path):
    truth = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#")
    train_run(config(files, tmp_path/"age"), say=quiet)
    train_run(config(files, tmp_path/"site", "site"), say=quiet)
    age = pd.read_csv(tmp_path/"age/predictions.tsv", sep="\t", index_col=0)
    site = pd.read_csv(tmp_path/"site/predictions.tsv", sep="\t", index_col=0)
    np.testing.assert_allclose(age.true, truth.loc[age.index].age.astype(float), rtol=1e-6)
    assert truth.age.astype(float).min() - 20 < age.prediction.min()
    assert age.prediction.max() < truth.age.astype(float).max() + 20
    assert set(site.label) <= set(truth.site) and (site.true == truth.loc[site.index].site).all()
    np.testing.assert_allclose(site.filter(like="probability_").sum(axis=1), 1, atol=1e-6)


def test_groups_stay_whole_and_nothing_is_lost(files, tmp_path):
    train_run(config(files, tmp_path/"run"), say=quiet)
    split = pd.read_csv(tmp_path/"run/split.tsv", sep="\t", dtype=str)
    subject = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#", dtype=str).subject
    part = split.set_index("sample_id").iloc[:, 0]
    assert (part.groupby(subject).nunique() == 1).all() and len(part) == 48


def test_unscored_samples_keep_their_row(files, tmp_path):
    bundle = load_bundle(train_run(config(files, tmp_path/"run", data=dict(depth=1000)), say=quiet))
    table = read_table(files/"table.biom")
    counts = table.counts.tolil()
    counts[0] = 0
    counts[1] = 0
    counts[1, 3] = 7
    found = predict_table(bundle, replace(table, counts=counts.tocsr().astype(np.int32)),
                          ids=table.sample_ids[[1, 5, 0]])
    assert list(found.rows.index) == list(table.sample_ids[[1, 5, 0]])
    assert "7 reads" in found.rows.note.iloc[0] and found.rows.note.iloc[2] == "no reads"
    assert found.rows.prediction.isna().tolist() == [True, False, True]


def test_unseen_reads_are_counted(files, tmp_path):
    bundle = load_bundle(train_run(config(files, tmp_path/"run"), say=quiet))
    table = read_table(files/"table.biom")
    split = pd.read_csv(tmp_path/"run/split.tsv", sep="\t", index_col=0).iloc[:, 0]
    trained = np.isin(table.sample_ids, split.index[split == "train"])
    seen = np.asarray(table.counts[trained].sum(axis=0)).ravel() > 0
    wanted = 1 - np.asarray(table.counts[:, seen].sum(axis=1)).ravel()/table.depths
    np.testing.assert_allclose(predict_table(bundle, table).rows.unseen_reads, wanted, atol=1e-12)


def test_evaluation_scores_every_sample_once_and_goes_on(files, tmp_path):
    cfg = config(files, tmp_path/"run")
    report = evaluate_run(cfg, say=quiet)
    found = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t", dtype={"sample_id": str})
    assert report.is_file() and len(found) == 48 and found.sample_id.is_unique
    assert (found.groupby("group").fold.nunique() == 1).all()
    assert {"stack", "net", "trivial", "depth", "clr", "branch", "forest"} <= set(found.columns)
    folds = sorted((tmp_path/"run/folds").glob("*.npz"))
    before = [p.stat().st_mtime_ns for p in folds]
    evaluate_run(replace(cfg, run=replace(cfg.run, resume=True)), say=quiet)
    assert len(folds) == 3 and [p.stat().st_mtime_ns for p in folds] == before
    again = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t", dtype={"sample_id": str})
    np.testing.assert_allclose(again["stack"], found["stack"])


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    "A study on disk whose target is planted in depth alone: the younger half keeps a quarter of its reads."
    study = simulate(samples=48, asvs=50, groups=12, length=40, seed=8)
    folder = tmp_path_factory.mktemp("leaky")
    counts = study.table.counts.copy().tocsr()
    rng = np.random.default_rng(0)
    old = study.metadata.age.to_numpy(float)
    deep = old > np.median(old)
    for i in np.flatnonzero(~deep):
        a, b = counts.indptr[i:i+2]
        counts.data[a:b] = rng.multivariate_hypergeometric(counts.data[a:b], counts.data[a:b].sum()//4)
    counts.eliminate_zeros()
    write_study(replace(study, table=replace(study.table, counts=counts)), folder)
    return folder


def test_depth_leak_is_shown_beside_a_common_depth(leaky, tmp_path):
    "Evaluate warns and repeats at a common depth."
    heard = []
    evaluate_run(config(leaky, tmp_path/"run"), say=heard.append)
    assert any("warning" in o and "depth" in o for o in heard)
    level, = (tmp_path/"run").glob("depth_*/scores.tsv")
    assert level.parent.name.removeprefix("depth_") + " reads" in (tmp_path/"run/report.html").read_text()
    kept = json.loads((tmp_path/"run/evaluation.json").read_text())
    alone = [o for o in kept["warnings"] if "alone predicts" in o]
    assert kept["depth"] == 0 and len(alone) == 1, "one sentence says how far depth gets"


def test_a_depth_that_was_asked_for_is_at_the_top(leaky, tmp_path):
    "What was asked for is at the top, the study as it comes beside it, and nobody is told to do it."
    heard, out = [], tmp_path/"run"
    report = evaluate_run(config(leaky, out, data=dict(depth=700)), say=heard.append).read_text()
    top, beside = (json.loads((o/"evaluation.json").read_text()) for o in (out, out/"original_depth"))
    assert (top["depth"], beside["depth"]) == (700, 0) and beside["alarm"]["fires"]
    rows = [len(pd.read_csv(o/"predictions.tsv", sep="\t")) for o in (out, out/"original_depth")]
    assert rows == [top["samples"], 48]
    assert report.index("At 700 reads") < report.index("At original depth")
    said = " ".join([*heard, *top["warnings"], *beside["warnings"], report])
    assert "700 reads that you asked for" in said and "Look at a common depth" not in said
    assert "--depth" not in said
    for o in ("Scores at 700 reads", "Scores at original depth", ">Training</h2>"): assert o in report


def test_a_study_without_a_tree_works(files, tmp_path):
    bundle = train_run(config(files, tmp_path/"run", data=dict(tree="")), say=quiet)
    report = evaluate_run(config(files, tmp_path/"eval", data=dict(tree="")), say=quiet)
    assert load_bundle(bundle).model.bases == 40
    assert "branch" not in pd.read_csv(tmp_path/"eval/scores.tsv", sep="\t").method.tolist()
    assert "tree" in report.read_text()


def test_pretrained_bundle_starts_a_run(files, tmp_path):
    first = pretrain_run(config(files, tmp_path/"first", data=dict(target="", groups="")), say=quiet)
    named = dict(start=str(first), transductive=True)
    second = load_bundle(train_run(config(files, tmp_path/"second", run=named), say=quiet))
    for a, b in zip(load_bundle(first).model.encoder.state_dict().values(),
                    second.model.encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(AamError, match="another ASV encoder"):
        train_run(config(files, tmp_path/"third", run=named, model=dict(patch=4)), say=quiet)
    with pytest.raises(AamError, match="without a target"):
        predict_run(first, files/"table.biom", tmp_path/"p.tsv", say=quiet)
    going_on = config(files, tmp_path/"further", data=dict(target="", groups=""), run=dict(start=str(first)))
    further = load_bundle(pretrain_run(going_on, say=quiet))
    fresh = load_bundle(first).model.state_dict()
    assert not torch.equal(further.model.state_dict()["encoder.stem.weight"], fresh["encoder.stem.weight"])


def test_reported_samples_that_taught_the_bundle_are_refused(files, tmp_path):
    metadata = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#")
    half = sorted(metadata.subject.unique())[:6]
    where = {True: f"subject in ({', '.join(half)})", False: f"subject not in ({', '.join(half)})"}
    first = pretrain_run(config(files, tmp_path/"first", data=dict(where=where[True], target="", groups="")),
                         say=quiet)
    start = dict(start=str(first), folds=2)
    for command in (train_run, evaluate_run):
        with pytest.raises(AamError, match="was pretrained on .*transductive"):
            command(config(files, tmp_path/"no", run=start), say=quiet)
    assert not (tmp_path/"no").exists()
    fresh = train_run(config(files, tmp_path/"fresh", run=start, data=dict(where=where[False])), say=quiet)
    taught = load_bundle(fresh).taught_by(metadata.index)
    # the start's samples and its own training part
    assert taught[metadata.subject.isin(half)].all() and 0 < taught[~metadata.subject.isin(half)].mean() < 1
    report = evaluate_run(config(files, tmp_path/"named", run=dict(transductive=True, **start)), say=quiet)
    text = report.read_text()
    assert "Warning</strong> Transductive: " in text and "No reason was found to doubt" not in text
    assert text.count("Transductive: ") == 1 # Among the warnings, and not again among the notes


def test_transductive_pretraining_is_once_on_all_and_said(files, tmp_path):
    heard = []
    evaluate_run(config(files, tmp_path/"run", run=dict(transductive=True)), say=heard.append)
    assert any("pretrained on all samples" in o for o in heard)
    assert any("1 x 6 steps of pretrain_asv" in o for o in heard)
    log = pd.read_json(tmp_path/"run/metrics.jsonl", lines=True)
    assert log.stage.eq("pretrain_asv").any() and not log.stage.str.contains("fold . pretrain").any()


def test_sample_distances_pretrain_and_help(files, tmp_path):
    "UniFrac as second teacher, with a trained encoder: the chain of the recipe aam in small."
    cfg = config(files, tmp_path/"run",
                 model=dict(sample="attention", sample_layers=1, readout="attention", patch=1, identity=0),
                 pretrain_asv=dict(steps=0), pretrain_sample=dict(steps=6, batch=8, freeze=False, chunk=16),
                 optim=dict(steps=6, batch=8, freeze=False, chunk=16, every=3), loss=dict(distance=1.))
    bundle = load_bundle(train_run(cfg, say=quiet))
    assert bundle.model.metrics == ("unweighted",)
    bare = replace(cfg, data=replace(cfg.data, tree=""), run=replace(cfg.run, out=str(tmp_path/"b")))
    with pytest.raises(AamError, match="tree="): train_run(bare, say=quiet)


def test_same_seed_same_bundle_other_seed_another(files, tmp_path):
    weights = []
    for i, seed in enumerate((1, 1, 2)):
        bundle = load_bundle(train_run(config(files, tmp_path/str(i), run=dict(seed=seed)), say=quiet))
        weights.append(bundle.model.heads.state_dict()["target.linear.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_an_older_run_is_never_replaced_unasked(files, tmp_path):
    cfg = config(files, tmp_path/"run")
    train_run(cfg, say=quiet)
    before = (tmp_path/"run/bundle/model.safetensors").read_bytes()
    with pytest.raises(AamError, match="overwrite=True"): train_run(cfg, say=quiet)
    with pytest.raises(AamError, match="other choices"):
        train_run(replace(cfg, optim=replace(cfg.optim, steps=13), run=replace(cfg.run, resume=True)),
                  say=quiet)
    assert (tmp_path/"run/bundle/model.safetensors").read_bytes() == before
    train_run(replace(cfg, run=replace(cfg.run, overwrite=True)), say=quiet)


def test_write_table_round_trip_predicts_the_same(files, tmp_path):
    bundle = load_bundle(train_run(config(files, tmp_path/"run"), say=quiet))
    table = read_table(files/"table.biom")
    write_table(shuffled(table), tmp_path/"b.biom")
    a, b = predict_table(bundle, table).rows, predict_table(bundle, read_table(tmp_path/"b.biom")).rows
    np.testing.assert_allclose(b.prediction.loc[a.index], a.prediction, rtol=1e-5, atol=1e-5)


def test_order_of_the_table_changes_no_weight(files, tmp_path):
    write_table(shuffled(read_table(files/"table.biom")), tmp_path/"b.biom")
    runs = [train_run(config(files, tmp_path/name, data=data), say=quiet)
            for name, data in (("a", {}), ("b", {"table": str(tmp_path/"b.biom")}))]
    a, b = (load_bundle(o).model.state_dict() for o in runs)
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-4, atol=1e-5, msg=k)


def test_a_store_folder_trains_like_its_files(files, tmp_path):
    """The same weights and scores from files and from the store that was cached from them; nothing is
    stored again."""
    cfg = config(files, tmp_path/"files")
    train_run(cfg, say=quiet)
    store = cache_run(replace(cfg, run=replace(cfg.run, out=str(tmp_path/"store"))), say=quiet)
    train_run(config(files, tmp_path/"mapped", data=dict(table=str(store), metadata="", tree="")), say=quiet)
    a, b = (load_bundle(tmp_path/o/"bundle").model.state_dict() for o in ("files", "mapped"))
    for k in a: assert torch.equal(a[k], b[k]), k
    assert (tmp_path/"files/scores.json").read_text() == (tmp_path/"mapped/scores.json").read_text()
    assert (tmp_path/"files/store").is_dir() and not (tmp_path/"mapped/store").exists()
    told = [predict_run(tmp_path/"mapped/bundle", o, tmp_path/f"{i}.tsv", say=quiet).rows
            for i, o in enumerate((store, files/"table.biom"))]
    np.testing.assert_allclose(told[0].prediction, told[1].prediction.loc[told[0].index], rtol=1e-5)


def test_samples_of_a_store_can_be_chosen_later(files, tmp_path):
    cfg = config(files, tmp_path/"run")
    store = cache_run(replace(cfg, run=replace(cfg.run, out=str(tmp_path/"store"))), say=quiet)
    for name, more in (("a", {}), ("b", dict(table=str(store), metadata="", tree=""))):
        train_run(config(files, tmp_path/name, data={"where": "site == gut", **more}), say=quiet)
    assert (tmp_path/"a/scores.json").read_text() == (tmp_path/"b/scores.json").read_text()
    assert (tmp_path/"b/store").is_dir()


def test_embeddings_are_kept_and_used_again(files, tmp_path):
    shared = dict(cache=str(tmp_path/"kept"))
    evaluate_run(config(files, tmp_path/"a", run=shared), say=quiet)
    kept = {o.folder.name: o.folder.stat().st_mtime_ns for o in Cache(tmp_path/"kept").entries()}
    # embeddings and the ASV encoder once a fold, for all its inner models
    assert sorted(o.rpartition("-")[0] for o in kept) == ["asv_encoder"]*3 + ["embeddings"]*3 + ["tree"]
    evaluate_run(config(files, tmp_path/"b", run=shared), say=quiet)
    assert {o.folder.name: o.folder.stat().st_mtime_ns for o in Cache(tmp_path/"kept").entries()} == kept
    assert (tmp_path/"a/predictions.tsv").read_text() == (tmp_path/"b/predictions.tsv").read_text()


def test_studies_pretrain_side_by_side(files, tmp_path):
    other = tmp_path/"other"
    write_study(simulate(samples=24, asvs=30, groups=6, length=32, seed=9), other)
    stores = [str(cache_run(config(o, tmp_path/f"store{i}"), say=quiet))
              for i, o in enumerate((files, other))]
    given = dict(table="", metadata="", tree="", target="", groups="", temperature=2.)
    def side_by_side(*folders, **more): return {**given, "corpus": ", ".join(folders), **more}
    with pytest.raises(AamError, match="the same name"):
        pretrain_run(config(files, tmp_path/"no", data=side_by_side(stores[0], stores[0])), say=quiet)
    heard = []
    how = dict(data=side_by_side(*stores), pretrain_sample=dict(steps=4, batch=6))
    bundle = load_bundle(pretrain_run(config(files, tmp_path/"run", **how), say=heard.append))
    assert bundle.model.bases == 40 and "Corpus(2 studies" in heard[0]
    assert bundle.taught_by([o for p in (files, other) for o in read_table(p/"table.biom").sample_ids]).all()


def test_a_target_is_learned_from_several_studies(files, tmp_path):
    """Two halves of a study in two stores: the same samples as one table, each half with its own tree; a
    half can be left out."""
    metadata = pd.read_csv(files/"metadata.tsv", sep="\t", index_col=0, comment="#")
    half = ", ".join(sorted(metadata.subject.unique())[:6])
    where = {"a": f"subject in ({half})", "b": f"subject not in ({half})"}
    stores = [str(cache_run(config(files, tmp_path/name, data=dict(where=o)), say=quiet))
              for name, o in where.items()]
    data = dict(table="", metadata="", tree="", corpus=",".join(stores))
    heard = []
    bundle = load_bundle(train_run(config(files, tmp_path/"run", data=data), say=heard.append))
    assert "Corpus(2 studies, 48 samples" in heard[0]
    told = pd.read_csv(tmp_path/"run/predictions.tsv", sep="\t", index_col=0)
    again = predict_table(bundle, read_table(files/"table.biom")).rows
    np.testing.assert_allclose(again.prediction.loc[told.index], told.prediction, rtol=1e-5)
    evaluate_run(config(files, tmp_path/"eval", data={**data, "leave_out": "study"}), say=quiet)
    folds = pd.read_csv(tmp_path/"eval/folds.tsv", sep="\t", index_col=0)
    first = metadata.subject.isin(half.split(", ")).loc[folds.index]
    assert (folds.held_out == np.where(first, "a", "b")).all()
    assert folds.groupby("fold").held_out.nunique().eq(1).all() and len(folds) == 48
    with pytest.raises(AamError, match="their own metadata"):
        train_run(config(files, tmp_path/"no", data={**data, "tree": "x.nwk"}), say=quiet)


def test_given_distances_teach(files, tmp_path):
    """A matrix made elsewhere is the objective of stage 2; augmentation that would make it false is
    refused with all reasons at once."""
    table = read_table(files/"table.biom")
    x = table.counts.toarray().astype(float)
    far = np.abs(x[:, None] - x[None]).sum(-1)/1e3
    np.fill_diagonal(far, 0)
    pd.DataFrame(far, index=table.sample_ids, columns=table.sample_ids).to_csv(tmp_path/"d.tsv", sep="\t")
    how = dict(data=dict(distances=str(tmp_path/"d.tsv")), loss=dict(metric="precomputed"),
               pretrain_sample=dict(steps=4, batch=8))
    with pytest.raises(AamError, match="augment.rarefy.*\n.*augment.asv_dropout"):
        train_run(config(files, tmp_path/"no", **how), say=quiet)
    assert not (tmp_path/"no").exists()
    bundle = train_run(config(files, tmp_path/"run", augment=dict(rarefy=0., asv_dropout=0.), **how),
                       say=quiet)
    assert load_bundle(bundle).model.metrics == ("precomputed_unbounded",) and far.max() > 1
    log = pd.read_json(tmp_path/"run/metrics.jsonl", lines=True)
    assert log[log.stage == "pretrain_sample"].distance.gt(0).all()


def test_a_mix_that_cannot_be_made_is_refused_before_anything_is_written(files, tmp_path, monkeypatch):
    mixed = dict(augment=dict(mix="phylomix"))
    with pytest.raises(AamError, match="phylomix.*tree="):
        train_run(config(files, tmp_path/"no", data=dict(tree=""), **mixed), say=quiet)
    train_run(config(files, tmp_path/"yes", **mixed), say=quiet)
    monkeypatch.setitem(sys.modules, "skbio", None) # as where the extra is not installed
    with pytest.raises(AamError, match=r"aam_nb\[mix\]"):
        train_run(config(files, tmp_path/"no", **mixed), say=quiet)
    assert not (tmp_path/"no").exists()
