"The package in a notebook: names that are imported when used, and the commands' numbers without their files."
import html.parser
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aam_nb
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import read_tree
from aam_nb.inference.bundle import load_bundle
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.predict import predict_run
from aam_nb.runs.train import train_run

SMALL = {"model": dict(width=16, sample_width=16, layers=1), "pretrain_asv": dict(steps=3, batch=20, every=3),
         "optim": dict(steps=6, every=3)}
RUN = dict(folds=3, inner=2, threads=1, seed=7)


def quiet(text): pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    write_study(simulate(samples=40, asvs=40, groups=10, length=60, seed=1), folder/"data")
    return folder


@pytest.fixture(scope="module")
def study(files):
    "The study as a notebook reads it from the same files."
    given = study_files(files/"data")
    return make_study(read_table(given["table"]), read_metadata(given["metadata"]), read_tree(given["tree"]))


def config(files, out):
    data = dict(**study_files(files/"data"), target="age", groups="subject")
    return config_from({**SMALL, "data": data, "run": RUN | dict(out=str(out))})


@pytest.fixture(scope="module")
def found(study): return aam_nb.evaluate(study, "age", groups="subject", say=quiet, **SMALL, run=RUN)


@pytest.fixture(scope="module")
def model(study): return aam_nb.train(study, "age", groups="subject", say=quiet, **SMALL, run=RUN)


def rows(path): return pd.read_csv(path, sep="\t", index_col=0, dtype={"group": str})


def test_an_evaluation_has_the_commands_numbers(files, found):
    report = evaluate_run(config(files, files/"evaluate"), say=quiet)
    for name in ("scores", "predictions", "folds"):
        pd.testing.assert_frame_equal(getattr(found, name), rows(report.parent/f"{name}.tsv"))
    assert found.report.startswith("<!") and "<script src" not in found.report and "age" in found.report
    assert found.verdict and found.target == "age"


def test_a_training_has_the_commands_weights(files, model):
    import torch
    bundle = load_bundle(train_run(config(files, files/"train"), say=quiet))
    mine, its = model.bundle.model.state_dict(), bundle.model.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[k], its[k]) for k in mine)
    pd.testing.assert_frame_equal(model.predictions, rows(files/"train/predictions.tsv"))
    assert model.scores.keys() >= {"stack", "net", "forest"}


def test_predictions_are_the_commands(files, study, model):
    folder = model.save(files/"saved")
    table = files/"data/table.biom"
    wanted = predict_run(folder, table, files/"new.tsv", say=quiet).rows
    for bundle in (model, model.bundle, folder, str(folder)):
        for new in (study, study.table, table, str(table)):
            pd.testing.assert_frame_equal(aam_nb.predict(bundle, new), wanted)
    pd.testing.assert_frame_equal(model.predict(study, samples=study.ids[:2]), wanted.loc[study.ids[:2]])


def test_what_is_unseen_is_a_note(study, model, capsys):
    from dataclasses import replace

    from aam_nb.types import strings
    words = strings([o[:50] for o in study.table.sequences])
    model.predict(replace(study.table, sequences=words))
    assert "note: 40 of 40 samples have many reads" in capsys.readouterr().err
    model.predict(study)
    assert capsys.readouterr().err == ""


def test_several_targets_are_a_dictionary(study, files):
    two = make_study(study.table, study.metadata.assign(other=np.arange(40.)), study.tree)
    found = aam_nb.evaluate(two, ["age", "other"], "subject", say=quiet, **SMALL, out=files/"two", run=RUN)
    assert list(found) == ["age", "other"] and found["other"].target == "other"
    assert (files/"two/age/report.html").is_file(), "a folder that is named stays"
    assert len(found["age"].folds) == 40


def test_an_inspection_is_the_commands(study):
    looked = aam_nb.inspect(study, "age")
    assert "subject" in str(looked) and looked.alarms


def test_mistakes_are_named(study):
    with pytest.raises(AamError, match="Samples seem to belong to groups"): aam_nb.evaluate(study, "age")
    with pytest.raises(AamError, match="choose samples in make_study"):
        aam_nb.train(study, "age", "subject", data=dict(where="age > 3"))
    with pytest.raises(AamError, match="cannot be resumed"):
        aam_nb.evaluate(study, "age", "subject", run=dict(resume=True))
    with pytest.raises(AamError, match="no section"): aam_nb.train(study, "age", "subject", optin={})
    with pytest.raises(AamError, match="agee"): aam_nb.train(study, "agee", "subject")


class Page(html.parser.HTMLParser):
    "What a piece of HTML refers to, and whether its tags are closed."
    def __init__(self, text):
        super().__init__()
        self.open, self.outside = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag): assert self.open.pop() == tag


def test_what_a_notebook_shows_is_whole_and_escaped(study, found, model):
    from dataclasses import replace
    odd = study.metadata.rename(columns={"age": "<script>alert(1)</script>"})
    odd = replace(study, metadata=odd, notes=("a < b & c",)*9)
    for o in (study, study.table, odd, found, model, aam_nb.inspect(study, "age", "subject")):
        text = o._repr_html_()
        page = Page(text)
        assert not page.open and not page.outside and "<script" not in text and len(text) < 20_000
    assert "and 3 more" in odd._repr_html_() and "a &lt; b &amp; c" in odd._repr_html_()


def test_every_name_is_there_and_listed():
    assert set(aam_nb.__all__) <= set(dir(aam_nb)) and "__version__" in dir(aam_nb)
    assert all(callable(getattr(aam_nb, o)) for o in aam_nb.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"): _ = aam_nb.evaluat
    with pytest.raises(ImportError): from aam_nb import evaluat  # noqa: F401


@pytest.mark.parametrize("first", ["", "import aam_nb.cli"])
def test_train_is_the_function_whatever_came_first(first):
    code = "\n".join(["import aam_nb", first, "from aam_nb import train",
                      "print(train.__module__, aam_nb.train is train)", "import aam_nb.train",
                      "from aam_nb.train import main", "print(aam_nb.train is train, main.__module__)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=Path(aam_nb.__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["aam_nb.runs.notebook", "True", "True", "aam_nb.train"]
