"A distance from outside the package: one record, used by its name, from training to predictions."
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from aam_nb.batches.build import build_store
from aam_nb.batches.collate import collate
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.core import AamError
from aam_nb.data.distances import Metric
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import branch_abundance
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import predict_table
from aam_nb.model.heads import distance_head
from aam_nb.recipe import load_config
from aam_nb.registry import metrics, registered
from aam_nb.runs.train import train_run
from aam_nb.training.log import read_log

SHORT = ["pretrain_asv.steps=0", "pretrain_sample.steps=6", "pretrain_sample.batch=8", "optim.steps=6",
         "optim.batch=8", "loss.distance=1", "model.width=16", "model.layers=1", "model.sample_width=16",
         "run.threads=1"]


def hellinger(counts, **_):
    "Distances between square roots of read shares, divided by the largest that there can be."
    share = np.sqrt(counts.toarray()/np.maximum(counts.sum(axis=1), 1))
    return cdist(share, share)/np.sqrt(2)


def branches_apart(counts, *, tree, tip, **_):
    "The share of branches below which only one of two samples has reads, however long they are."
    present = branch_abundance(tree, tip, counts) > 0
    return np.nan_to_num(cdist(present, present, "jaccard"))


HELLINGER = Metric(name="hellinger", bounded=True, between=hellinger)
BRANCHES = Metric(name="branches", needs_tree=True, bounded=True, squared=True, between=branches_apart)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "The folder of a small simulated study."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=8), folder)
    return folder


def configured(study, out, *words):
    "A short training on that study, with some overrides."
    files = [f"data.table={study}/table.biom", f"data.metadata={study}/metadata.tsv",
             f"data.tree={study}/tree.nwk"]
    wanted = ["data.target=age", "data.groups=subject", f"run.out={out}"]
    return load_config(None, (*files, *wanted, *SHORT, *words))


def test_a_distance_is_learned_before_and_beside_the_target(study, tmp_path):
    with registered(metrics, HELLINGER, BRANCHES):
        config = configured(study, tmp_path/"run", "loss.metric=hellinger, branches")
        bundle = load_bundle(train_run(config, say=lambda text: None))
        predicted = predict_table(bundle, read_table(study/"table.biom"))
    heads = bundle.model.heads["distance"]
    assert bundle.model.metrics == ("hellinger", "branches")
    assert [o.squared for o in heads.values()] == [False, True]
    assert predicted.rows.prediction.notna().all() and len(predicted.rows) == 40
    log = {o["stage"]: o for o in read_log(tmp_path/"run"/"metrics.jsonl")}
    assert np.isfinite([log["pretrain_sample"][f"valid_{o}_spearman"] for o in bundle.model.metrics]).all()
    assert np.isfinite([log["target"][f"distance:{o}"] for o in bundle.model.metrics]).all()


def test_a_batch_and_the_head_take_the_numbers_of_the_record(study):
    store = build_store(simulate(samples=6, asvs=40, groups=6, seed=8))
    wanted = hellinger(store.study().table.counts)
    with registered(metrics, HELLINGER):
        batch = collate([SampleDataset(store)[i] for i in range(6)], store, View(metrics=("hellinger",)))
        head = distance_head("hellinger", 8, 4)
    np.testing.assert_allclose(batch.distance[0].numpy(), wanted, atol=1e-6)
    assert head.bounded and not head.squared


def test_a_distance_that_nobody_registered_is_refused(study, tmp_path):
    with pytest.raises(AamError, match="loss.metric names 'hellinger'; wanted one of unweighted"):
        configured(study, tmp_path, "loss.metric=hellinger")
    with registered(metrics, HELLINGER):
        with pytest.raises(AamError, match="named 'hellinger' already"): metrics.add(HELLINGER)
    with pytest.raises(AamError, match="named 'jaccard' already"):
        metrics.add(replace(HELLINGER, name="jaccard"))
    with pytest.raises(AamError, match="cannot be named 'my distance'"):
        replace(HELLINGER, name="my distance")
    assert "hellinger" not in metrics and metrics["jaccard"].between is not hellinger


def test_a_distance_along_a_tree_needs_one(study, tmp_path):
    with registered(metrics, BRANCHES):
        config = configured(study, tmp_path/"run", "data.tree=", "loss.metric=branches")
        with pytest.raises(AamError, match="'branches' is a distance along a tree"):
            train_run(config, say=print)
