"A run goes on only with the inputs that it was started on, whichever of them it is and however it changed."
import shutil
from dataclasses import replace

import numpy as np
import pytest

from aam_nb.batches.build import build_store
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.study import make_study
from aam_nb.recipe import load_config
from aam_nb.runs.demo import demo_run
from aam_nb.runs.evaluate import evaluate_run
from aam_nb.runs.parts import choose_folds, choose_split
from aam_nb.runs.prepare import prepare
from aam_nb.runs.pretrain import pretrain_run
from aam_nb.runs.train import train_run

COMMANDS = dict(pretrain=pretrain_run, train=train_run, evaluate=evaluate_run)
SMALL = {"model": dict(width=8, layers=1, sample_width=8, head_width=8, identity=8, heads=2),
         "pretrain_asv": dict(steps=2, batch=8, every=2), "optim": dict(steps=2, batch=8, every=2),
         "augment": dict(rarefy=0., asv_dropout=0., mixup=0.),
         "run": dict(folds=2, inner=2, threads=1, watch=0., trackers=())}
FILES = dict(table="table.biom", metadata="metadata.tsv", tree="tree.nwk", sequences="sequences.fasta",
             distances="distances.npy")
SPLIT = "split.tsv"


def quiet(text): pass


def fasta(study): return "".join(f">{o}\n{o}\n" for o in study.table.sequences)


def distances(ids, folder, scale=1.):
    "An array of distances with its ids in a text beside it."
    places = np.arange(len(ids))*scale/len(ids)
    np.save(folder/"distances.npy", np.abs(places[:, None] - places))
    (folder/"distances.ids.txt").write_text("\n".join(ids))


def write_inputs(folder, seed=3):
    "A study with one of each kind of input."
    study = simulate(samples=24, asvs=20, groups=12, length=24, seed=seed)
    write_study(study, folder)
    (folder/"sequences.fasta").write_text(fasta(study))
    distances(study.ids, folder)
    parts = ["train"]*12 + ["valid"]*6 + ["test"]*6
    rows = [f"{o}\t{part}" for o, part in zip(study.ids, parts, strict=True)]
    (folder/SPLIT).write_text("\n".join(["sample_id\tpart", *rows]) + "\n")
    return study


def config_of(folder, out, command, **run):
    "A tiny run on those files."
    data = {k: str(folder/v) for k, v in FILES.items()}
    if command != "pretrain": data |= dict(target="age", groups="subject")
    if command == "train": data |= dict(split=str(folder/SPLIT))
    loss = dict(metric=["precomputed"], distance=.1)
    given = {"data": data, "loss": loss, "run": dict(out=str(out), **run)}
    return config_from(given, base=config_from(SMALL))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "A run of each command that was stopped before its first step, with its inputs in a folder of their own."
    top = tmp_path_factory.mktemp("runs")
    parts = dict(pretrain=None, train=choose_split, evaluate=choose_folds)
    for name, divide in parts.items():
        (top/name).mkdir()
        write_inputs(top/name)
        prepare(config_of(top/name, top/name/"run", name), divide, quiet, rarefied=name != "evaluate")
    return top


def altered(path):
    "Other content of the same kind, under the same name."
    folder = path.parent
    if path.suffix == ".biom": write_table(simulate(samples=24, asvs=20, groups=12, length=24).table, path)
    elif path.suffix == ".npy": distances([f"S{i:02d}" for i in range(24)], folder, scale=2.)
    elif path.suffix == ".nwk": path.write_text(path.read_text().replace("0.", "1.", 1))
    else: path.write_text(path.read_text() + "\n")


NAMES = [*FILES.values(), "distances.ids.txt"]
CASES = [(command, name) for command in COMMANDS for name in NAMES] + [("train", SPLIT)]


@pytest.mark.parametrize("change", ["altered", "gone"])
@pytest.mark.parametrize("command,name", CASES)
def test_another_input_is_refused_by_its_name(runs, command, name, change, tmp_path):
    shutil.copytree(runs/command, tmp_path/"saved")
    again = config_of(runs/command, runs/command/"run", command, resume=True)
    path, what = runs/command/name, "has changed" if change == "altered" else "is gone"
    try:
        altered(path) if change == "altered" else path.unlink()
        with pytest.raises(AamError, match=f"{name}' {what} since") as found:
            COMMANDS[command](again, say=quiet)
        assert f"{name.partition('.')[0]}={str(path)!r}" in str(found.value)
    finally:
        shutil.rmtree(runs/command)
        shutil.copytree(tmp_path/"saved", runs/command)


def test_the_same_inputs_written_again_go_on(runs):
    (runs/"train/metadata.tsv").write_text((runs/"train/metadata.tsv").read_text())
    assert train_run(config_of(runs/"train", runs/"train/run", "train", resume=True), say=quiet).is_dir()


@pytest.fixture
def started(tmp_path):
    "A training that starts from a bundle, and one on two stores."
    study = write_inputs(tmp_path)
    pretrain_run(config_of(tmp_path, tmp_path/"first", "pretrain"), say=quiet)
    build_store(study, tmp_path/"store")
    return study


def test_another_start_bundle_is_refused(tmp_path, started):
    how = dict(start=str(tmp_path/"first/bundle"), transductive=True)
    train_run(config_of(tmp_path, tmp_path/"second", "train", **how), say=quiet)
    again = config_of(tmp_path, tmp_path/"other", "pretrain", seed=5)
    pretrain_run(again, say=quiet)
    shutil.rmtree(tmp_path/"first/bundle")
    shutil.copytree(tmp_path/"other/bundle", tmp_path/"first/bundle")
    with pytest.raises(AamError, match="start=.*first/bundle' has changed"):
        train_run(config_of(tmp_path, tmp_path/"second", "train", resume=True, **how), say=quiet)


def test_another_store_is_refused_as_table_and_in_a_corpus(tmp_path, started):
    other = simulate(samples=20, asvs=20, groups=5, length=24, seed=9)
    ids = np.array([f"{o}b" for o in other.ids], object)
    other = replace(other, table=replace(other.table, sample_ids=ids), metadata=other.metadata.set_axis(ids))
    build_store(other, tmp_path/"other")

    def config(out, resume=False, **data):
        return config_from({"data": data, "run": dict(out=str(tmp_path/out), resume=resume)},
                           base=config_from(SMALL))
    cases = dict(one=dict(table=str(tmp_path/"store")),
                 two=dict(corpus=[str(tmp_path/"store"), str(tmp_path/"other")], table=""))
    for out, data in cases.items(): pretrain_run(config(out, **data), say=quiet)
    build_store(make_study(started.table, started.metadata), tmp_path/"store") # The same without its tree
    for out, data in cases.items():
        with pytest.raises(AamError, match="store' has changed"):
            pretrain_run(config(out, True, **data), say=quiet)


def test_a_run_of_an_earlier_version_goes_on_with_a_note(tmp_path):
    write_inputs(tmp_path)
    train_run(config_of(tmp_path, tmp_path/"run", "train"), say=quiet)
    for name in ("inputs.json", "finished.json"): (tmp_path/"run"/name).unlink()
    said = []
    train_run(config_of(tmp_path, tmp_path/"run", "train", resume=True), say=said.append)
    assert any("earlier version" in o for o in said)


@pytest.mark.slow
def test_a_demo_goes_on_with_its_own_files(tmp_path):
    short = ("pretrain_asv.steps=2", "optim.steps=2", "run.folds=2", "run.threads=1",
             f"run.out='{tmp_path/'demo'}'")
    demo_run(load_config("demo", short), say=quiet)
    shutil.rmtree(tmp_path/"demo/train")
    demo_run(load_config("demo", (*short, "run.resume=true")), say=quiet)
    assert (tmp_path/"demo/train/bundle").is_dir()


def test_another_study_in_memory_is_refused(tmp_path):
    made = [simulate(samples=24, asvs=20, groups=12, length=24, seed=o) for o in (3, 4)]

    def config(resume):
        given = {"data": dict(target="age", groups="subject"),
                 "run": dict(out=str(tmp_path/"run"), resume=resume)}
        return config_from(given, base=config_from(SMALL))
    train_run(config(False), say=quiet, study=made[0])
    assert train_run(config(True), say=quiet, study=made[0]).is_dir()
    with pytest.raises(AamError, match="study in memory is not"):
        train_run(config(True), say=quiet, study=made[1])


def test_a_run_that_was_killed_as_it_began_is_begun_again(tmp_path):
    write_inputs(tmp_path)
    (tmp_path/"run").mkdir()
    (tmp_path/"run/inputs.json").write_text("{}")
    assert train_run(config_of(tmp_path, tmp_path/"run", "train"), say=quiet).is_dir()
