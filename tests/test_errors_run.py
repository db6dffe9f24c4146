"The error analysis of a finished run: what is read back is what was written, and the folder is whole."
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from html_pages import Page
from made_up import made, small

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.distances import bray_curtis
from aam_nb.evaluation.error_analysis import errors
from aam_nb.evaluation.error_page import errors_html, write_errors
from aam_nb.evaluation.kept import read_evaluation
from aam_nb.evaluation.novelty import nearest, novelty, training_parts
from aam_nb.evaluation.verdict import write_evaluation
from aam_nb.runs.errors import errors_run
from aam_nb.runs.folder import open_run


@pytest.fixture(scope="module")
def study(): return small()


def with_repeat(e):
    "The same predictions, tested in a second repeat with the folds the other way round."
    last = e.fold.max()
    twice = lambda o: None if o is None else np.concatenate([o, o])
    return replace(e, ids=twice(e.ids), truth=twice(e.truth), groups=twice(e.groups),
                   interval=twice(e.interval), fold=np.concatenate([e.fold, 2*last + 1 - e.fold]),
                   predictions={k: twice(p) for k, p in e.predictions.items()})


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("groups", [0, 20])
def test_what_is_read_is_what_was_written(study, tmp_path, task, groups):
    e = with_repeat(made(study, task, groups=groups))
    again = read_evaluation(write_evaluation(e, tmp_path))
    assert repr(again) == repr(e) and again.alarm.fires == e.alarm.fires and again.notes == e.notes
    for name in ("ids", "truth", "groups", "fold"):
        a, b = getattr(again, name), getattr(e, name)
        assert (a is None and b is None) or np.array_equal(a, b), name
    assert list(again.predictions) == list(e.predictions)
    assert all(np.allclose(again.predictions[k], p, rtol=1e-5, atol=1e-5) for k, p in e.predictions.items())


def test_an_evaluation_of_another_version_is_read(study, tmp_path):
    folder = write_evaluation(made(study), tmp_path)
    about = json.loads((folder/"evaluation.json").read_text())
    del about["covariates"]
    (folder/"evaluation.json").write_text(json.dumps(about | {"a_field_of_tomorrow": 1}))
    assert read_evaluation(folder).covariates == ""


def test_damaged_evaluations_are_refused(study, tmp_path):
    with pytest.raises(AamError, match="no finished evaluation"): read_evaluation(tmp_path)
    folder = write_evaluation(made(study), tmp_path/"a")
    lines = (folder/"predictions.tsv").read_text().splitlines()
    (folder/"predictions.tsv").write_text("\n".join(lines[:-5]) + "\n")
    with pytest.raises(AamError, match="One of the two was replaced"): read_evaluation(folder)
    (folder/"predictions.tsv").write_text("sample_id\nS1\n")
    with pytest.raises(AamError, match="has no column"): read_evaluation(folder)


def test_novelty_is_that_of_the_training_part(study):
    e = with_repeat(made(study, groups=20))
    plain = replace(study, tree=None)
    found, parts, ids = novelty(e, plain), training_parts(e, plain), list(dict.fromkeys(e.ids))
    counts, far = study.table.counts.toarray(), bray_curtis(study.table.counts)
    for i, name in enumerate(ids[:12]):
        row, own = study.positions([name])[0], np.flatnonzero(e.ids == name)
        trains = [parts[e.fold[o]] for o in own]
        unseen = [counts[row][(counts[t] == 0).all(0)].sum()/counts[row].sum() for t in trains]
        assert found.unseen[i] == pytest.approx(np.mean(unseen))
        assert found.distance[i] == pytest.approx(np.mean([far[row, t].min() for t in trains]))
        assert found.near[i][0] == trains[0][far[row, trains[0]].argmin()]
        assert all(row not in t for t in trains)
        group = e.groups[own[0]]
        assert all(group not in e.groups[np.isin(e.ids, study.ids[t])] for t in trains)


def test_nearest_is_a_sort_cut_short():
    far = np.random.default_rng(0).integers(0, 9, (40, 30)).astype(float)
    best = np.sort(far, axis=1)[:, :7]
    assert (np.take_along_axis(far, nearest(far, 7), 1) == best).all()
    assert nearest(far, 99).shape == (40, 30) and nearest(far[:, :0], 3).shape == (40, 0)


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    "A run folder as `aam evaluate` leaves it, of two targets, without a model."
    out = tmp_path_factory.mktemp("runs")/"run"
    two = {"data": dict(target=["age", "site"], groups="subject"), "run": dict(out=str(out))}
    open_run(config_from(two))
    build_store(study, out/"store")
    for name, task in (("age", "regression"), ("site", "classification")):
        write_evaluation(replace(made(study, task, groups=20), target=name), out/name)
    return out


def test_each_evaluation_of_a_run_gets_its_folder(run):
    said = []
    pages = errors_run(run, say=said.append)
    assert pages == [run/o/"errors/errors.html" for o in ("age", "site")]
    assert len(said) == 2*5 and said[0].startswith("age, at original depth")
    wanted = {"samples", "subgroups", "swaps", "label_errors", "relations"}
    assert {o.stem for o in (run/"age/errors").glob("*.tsv")} == wanted
    wanted |= {"confusion", "roc", "precision", "reliability"}
    assert {o.stem for o in (run/"site/errors").glob("*.tsv")} == wanted
    again = errors_run(run, "jaccard", say=said.append)
    assert again == pages and "jaccard" in pages[0].read_text()


def test_tables_hold_every_sample_once_and_the_worst_first(run, study):
    if not (run/"age/errors").exists(): errors_run(run, say=lambda text: None)
    table = pd.read_csv(run/"age/errors/samples.tsv", sep="\t")
    assert sorted(table["sample_id"]) == sorted(study.ids)
    assert (table["error"].abs().diff().dropna() <= 1e-5).all()
    assert table["unseen_reads"].between(0, 1).all() and table["neighbours"].str.contains("P").all()
    counts = pd.read_csv(run/"site/errors/confusion.tsv", sep="\t", index_col=0)
    assert counts.to_numpy().sum() == len(study.ids)


def test_pictures_are_drawings_with_words(run):
    if not (run/"site/errors").exists(): errors_run(run, say=lambda text: None)
    for path in run.glob("*/errors/*.svg"):
        drawing = ET.fromstring(path.read_text())
        assert len(drawing.find("{http://www.w3.org/2000/svg}title").text) > 40, path.name
    page = Page((run/"site/errors/errors.html").read_text())
    assert len(page.tags("svg")) >= 4


def test_an_unknown_distance_is_named_and_nothing_is_written(run):
    before = sorted(run.rglob("*"))
    with pytest.raises(AamError, match="no distance between samples 'brey'"): errors_run(run, "brey")
    assert sorted(run.rglob("*")) == before


def test_what_fails_half_way_leaves_the_old_folder(study, tmp_path, monkeypatch):
    found = errors(made(study), study)
    write_errors(found, tmp_path/"errors")
    old = (tmp_path/"errors/errors.html").read_text()
    def fail(*a): raise OSError(28, "No space left on device")
    monkeypatch.setattr("aam_nb.evaluation.error_page.write_page", fail)
    with pytest.raises(AamError): write_errors(found, tmp_path/"errors")
    assert (tmp_path/"errors/errors.html").read_text() == old
    assert [o.name for o in tmp_path.iterdir()] == ["errors"]


def test_names_of_samples_are_text_on_the_page(study):
    hostile = replace(study, metadata=study.metadata.assign(clinic=["<b>&", "<i>"]*30))
    text = errors_html(errors(made(hostile, groups=20), hostile))
    assert "<b>&" not in text and "<i>" not in text
