"`run.checks` and `run.permutations`: what they leave in a run, and that a run goes on exactly."
import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from evaluated import make_small

from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.evaluation.guests import SHIFTS
from aam_nb.evaluation.validate import PlainFolds
from aam_nb.runs.checks import KeptAnswers
from aam_nb.runs.evaluate import evaluate_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "60 samples of 20 subjects from four clinics."
    folder = tmp_path_factory.mktemp("data")
    study = simulate(samples=60, asvs=50, groups=20, length=60, seed=1)
    clinic = "c" + study.metadata.subject.str[1:].astype(int).mod(4).astype(str)
    write_study(replace(study, metadata=study.metadata.assign(clinic=clinic)), folder)
    return study_files(folder)


def quick(data, out, **run):
    "The configuration of an evaluation that takes seconds."
    return config_from({
        "data": dict(**data, target="age", groups="subject"),
        "model": dict(width=16, sample_width=16, layers=1),
        "pretrain_asv": dict(steps=4, batch=40, every=4), "optim": dict(steps=6, every=3),
        "run": dict(out=str(out), folds=2, inner=2, threads=1, trackers=[], **run)})


EVERY = dict(checks=["shifts", "left_out", "random_folds", "curve"], permutations=4)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("run")/"run", []
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        page = evaluate_run(quick(data, out, **EVERY), say=said.append)
    return out, said, page.read_text()


def rows(path): return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def test_every_test_leaves_its_results(run):
    out, said, page = run
    shifts, checks = rows(out/"shifts.tsv"), json.loads((out/"checks.json").read_text())
    assert {o["reads"] for o in shifts} == set(SHIFTS)
    assert {"stack", "net", "forest", "clr"} <= {o["method"] for o in shifts}
    for o in shifts: assert np.isclose(float(o["loss"]), float(o["value"]) - float(o["before"]))
    scores = {o["method"]: float(o["value"]) for o in rows(out/"scores.tsv") if o["score"] == "mae"}
    for o in shifts: assert np.isclose(float(o["before"]), scores[o["method"]])
    assert len(checks["permutations"]["null"]) == 4 and checks["left_out"][0]["column"] == "clinic"
    assert set(checks["random"]["scores"]) == set(checks["curve"]["scores"]) >= {"forest", "clr", "branch"}
    for key in ("shifts", "folds", "curve", "permutations"): assert f'<section id="{key}"' in page
    told = [o for o in said if o.startswith("Further test")]
    assert len(told) == 4 and all(", about " in o for o in told)


def test_a_run_goes_on_where_it_was(run, data, monkeypatch, tmp_path):
    "Nothing is fitted again, and every file comes out as before."
    import shutil
    make_small(monkeypatch)
    out = tmp_path/"run"
    shutil.copytree(run[0], out)
    (out/"finished.json").unlink()
    answers = sorted((out/"checks").rglob("*.npz"))
    answers[3].write_bytes(b"PK damaged")
    lost, asked, ask = answers[3].stem, [], PlainFolds.ask
    def noted(self, name, k): return asked.append((name, k)) or ask(self, name, k)
    monkeypatch.setattr(PlainFolds, "ask", noted)
    import aam_nb.runs.folds as folds
    monkeypatch.setattr(folds, "fit_fold", lambda *a: pytest.fail("a net was fitted again"))
    evaluate_run(quick(data, out, resume=True, **EVERY), say=lambda text: None)
    for name in ("shifts.tsv", "predictions.tsv", "scores.tsv"):
        assert (out/name).read_bytes() == (run[0]/name).read_bytes(), name
    def plain(path):
        "The results without their times."
        found = json.loads((path/"checks.json").read_text())
        return {k: {a: b for a, b in v.items() if a != "seconds"} if isinstance(v, dict) else v
                for k, v in found.items()}
    assert plain(out) == plain(run[0])
    usual = 2*len({o["method"] for o in rows(out/"scores.tsv")} - {"stack", "net", "average"})
    assert len(asked) - usual in (1, 2), lost # the damaged answer, a permutation of two folds


@pytest.mark.slow
def test_guests_do_not_change_the_scores(run, data, tmp_path, monkeypatch):
    make_small(monkeypatch)
    evaluate_run(quick(data, tmp_path/"plain"), say=lambda text: None)
    before, after = rows(tmp_path/"plain"/"predictions.tsv"), rows(run[0]/"predictions.tsv")
    for a, b in zip(before, after, strict=True):
        for k in set(a) - {"sample_id", "group"}: assert np.isclose(float(a[k]), float(b[k]), atol=1e-5), k
    assert not (tmp_path/"plain"/"shifts.tsv").exists() and not (tmp_path/"plain"/"checks.json").exists()


def test_answers_are_kept_by_text(tmp_path):
    keep = KeptAnswers(tmp_path/"answers")
    assert "a b" not in keep and len(keep) == 0
    keep["a b"], keep["a_b"] = (np.arange(3), 1.), (np.arange(2), 2.)
    assert keep["a b"][1] == 1 and len(keep["a_b"][0]) == 2 and len(keep) == 2
    del keep["a b"]
    assert "a b" not in keep


def test_unknown_tests_are_named():
    with pytest.raises(AamError, match="run.checks names 'shift'.*shifts"):
        config_from({"run": dict(checks=["shift"])})
    with pytest.raises(AamError, match="run.permuted"): config_from({"run": dict(permuted="forrest")})
    with pytest.raises(AamError, match="permutations"): config_from({"run": dict(permutations=-1)})


def divided(data, folder, shared=0):
    "Two studies out of one, in files; some samples may be in both."
    from aam_nb.data.metadata import read_metadata
    from aam_nb.data.study import make_study
    from aam_nb.data.table import read_table
    from aam_nb.data.tree import read_tree
    whole = make_study(read_table(data["table"]), read_metadata(data["metadata"]), read_tree(data["tree"]))
    late = (whole.metadata.subject >= "P15").to_numpy()
    parts = dict(study=~late, other=late | (np.arange(60) < shared))
    for name, rows in parts.items():
        part = replace(whole, table=whole.table.samples(rows), metadata=whole.metadata[rows])
        if name == "other": part = replace(part, tree=None, tip=None)
        write_study(part, folder/name)
    found = study_files(folder/"other")
    return study_files(folder/"study") | dict(test_table=found["table"], test_metadata=found["metadata"])


def test_another_study_is_predicted_by_the_models_of_the_folds(data, tmp_path, monkeypatch):
    make_small(monkeypatch)
    said, files = [], divided(data, tmp_path)
    page = evaluate_run(quick(files, tmp_path/"run"), say=said.append).read_text()
    found = rows(tmp_path/"run"/"test_study"/"predictions.tsv")
    assert {o["group"] for o in found} == {f"P{i}" for i in range(15, 20)}
    errors = [abs(float(o["true"]) - float(o["forest"])) for o in found]
    scores = {(o["method"], o["score"]): o for o in rows(tmp_path/"run"/"test_study"/"scores.tsv")}
    assert np.isclose(np.mean(errors), float(scores["forest", "mae"]["value"]), atol=1e-4)
    assert {"stack", "net", "forest", "clr", "trivial"} <= {o for o, _ in scores}
    truth = np.median([float(o["true"]) for o in found])
    assert abs(float(found[0]["trivial"]) - truth) < 12 # the median of the study, not of the other one
    assert '<section id="outside"' in page and any("Another study is predicted" in o for o in said)
    notes = json.loads((tmp_path/"run"/"test_study"/"evaluation.json").read_text())["notes"]
    assert any("ASVs that no sample of the study has hold" in o for o in notes)


def test_a_sample_in_both_studies_is_refused_before_anything_is_written(data, tmp_path):
    files = divided(data, tmp_path, shared=3)
    with pytest.raises(AamError, match="in the study and in the test table: 3"):
        evaluate_run(quick(files, tmp_path/"run"), say=lambda text: None)
    assert not (tmp_path/"run").exists()


def test_a_test_table_needs_its_metadata(data):
    for files, message in ((dict(test_table="a.biom"), "no metadata.*test_metadata"),
                           (dict(test_metadata="a.tsv"), "none is given.*test_table")):
        with pytest.raises(AamError, match=message): evaluate_run(quick(data | files, "run"))
