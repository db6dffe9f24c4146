"A tree of a reference where a run names a tree: read, kept in a store, looked at, learned from, and watched."
from dataclasses import replace

import numpy as np
import pytest
from reference_folder import at_tips, gene, study
from typer.testing import CliRunner

from aam_nb.batches.store import open_store
from aam_nb.cli import app
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.reference import Reference
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.data.slices import by_slices
from aam_nb.data.tip_set import some_tips, write_tips
from aam_nb.data.tree import path_lengths
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.runs.cache import cache_run
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.inputs import changed_inputs, input_digests, named_inputs
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.samples import load_study
from aam_nb.runs.train import train_run
from aam_nb.training.log import read_log
from aam_nb.types import strings


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "The section [data] of a study whose ASVs are windows of genes, with their tip set for a tree."
    folder = tmp_path_factory.mktemp("files")
    made = study(genes=40)
    genes = strings([gene(o) for o in at_tips(made)])
    windows = [[*gene(o)[430:550]] for o in made.table.sequences]
    for i, o in enumerate(windows): o[i] = "G" if o[i] != "G" else "T" # Relatives may share a window
    reads = replace(made.table, sequences=strings(["".join(o) for o in windows]))
    write_study(replace(made, table=reads, tree=None, tip=None), folder/"data")
    tips = write_tips(folder/"some.tips.xz", some_tips(Reference(genes=genes, tree=made.tree)))
    return study_files(folder/"data") | dict(tree=str(tips), target=["age"], groups="subject")


def test_a_study_is_read_with_a_tree_of_its_asvs(files):
    found = load_study(config_from({"data": files}).data)
    assert (found.tip >= 0).all() and set(found.tree.tips) == set(found.table.sequences)
    assert any("The tree is one of a reference" in o for o in found.notes)


def text(table, path):
    "The same table as text, which is read at once."
    rows = zip(table.sequences, table.counts.T.toarray(), strict=True)
    lines = [["#OTU ID", *table.sample_ids], *([o, *map(str, reads)] for o, reads in rows)]
    path.write_text("".join("\t".join(o) + "\n" for o in lines))
    return str(path)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_store_has_the_tree_whether_the_table_is_read_at_once_or_by_slices(files, tmp_path, at_once):
    wanted, data = load_study(config_from({"data": files}).data), dict(files)
    assert by_slices(files["table"])
    if at_once: data["table"] = text(wanted.table, tmp_path/"table.tsv")
    out = cache_run(config_from({"data": data, "run": dict(out=str(tmp_path/"store"))}), lambda text: None)
    store = open_store(out)
    order = [list(wanted.table.sequences).index(o) for o in store.study().table.sequences]
    far = path_lengths(wanted.tree, wanted.tip[order])
    np.testing.assert_allclose(path_lengths(store.tree, store.tip), far)
    again = load_study(config_from({"data": dict(files, table=str(out))}).data)
    assert (again.tip >= 0).all() and len(again.tree.tips) == len(wanted.tree.tips)


def test_pretraining_and_evaluation_learn_along_it(files, tmp_path):
    few = dict(steps=4, batch=16, every=2)
    config = config_from({"data": dict(files), "pretrain_asv": few,
                          "run": dict(out=str(tmp_path/"pretrained"))})
    said = []
    bundle = load_bundle(pretrain_run(config, said.append))
    assert any("CC BY-SA 3.0" in o for o in bundle.about["notes"])
    assert any("tree" in k for k in read_log(tmp_path/"pretrained/metrics.jsonl")[0]), "it learns the tree"
    alone = dict(files, groups="", independent=True)
    evaluate_run(config_from({"data": alone, "pretrain_asv": few, "optim": few,
                              "run": dict(out=str(tmp_path/"run"), folds=2, inner=2)}), said.append)
    assert "branches" in (tmp_path/"run/scores.tsv").read_text(), "a baseline that needs a tree"
    assert "one of a reference" in (tmp_path/"run/report.html").read_text()


def test_a_model_on_its_branches_predicts_new_samples_without_any_tree(files, tmp_path):
    config = config_from({"data": dict(files, groups="", independent=True), "pretrain_asv": dict(steps=0),
                          "model": dict(linear="branches"), "optim": dict(steps=4, batch=16, every=2),
                          "run": dict(out=str(tmp_path/"run"))})
    bundle = load_bundle(train_run(config, lambda text: None))
    found = predict_table(bundle, load_study(replace(config.data, tree="")).table).rows
    assert bundle.model.linear.tip.max() > 0 and np.isfinite(found.iloc[:, 0].astype(float)).all()


def test_inspect_says_how_far_the_asvs_are(files):
    words = [o for k in ("table", "metadata", "tree") for o in (f"--{k}", files[k])]
    found = CliRunner().invoke(app, ["inspect", *words])
    assert found.exit_code == 0 and "each ASV stands at the nearest of its" in found.output


def test_reads_that_are_near_none_are_refused_before_a_folder_is_made(tmp_path):
    write_study(simulate(samples=20, asvs=20, groups=5, length=100, seed=1), tmp_path/"data")
    data = study_files(tmp_path/"data") | dict(tree="reference", target=["age"], groups="subject")
    config = config_from({"data": data, "run": dict(out=str(tmp_path/"run"))})
    with pytest.raises(AamError, match="Near no gene of the reference"):
        evaluate_run(config, lambda text: None)
    assert not (tmp_path/"run").exists()


def test_a_run_notices_other_tips(files, tmp_path):
    path = tmp_path/"my.tips.xz"
    path.write_bytes(b"one")
    config = config_from({"data": dict(files, tree=str(path))})
    begun = input_digests(config)
    assert begun[f"data.tree {path}"] and not changed_inputs(config, begun)
    path.write_bytes(b"two")
    assert len(changed_inputs(config, begun)) == 1
    shipped = dict(named_inputs(config_from({"data": dict(files, tree="reference")})))["data.tree"]
    assert shipped.endswith("shipped/reference.tips.xz")
