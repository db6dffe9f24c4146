"The command line as a person meets it: help at once, errors as sentences, nothing left behind."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aam_nb.cli import app
from aam_nb.config import all_keys, FIRST
from aam_nb.data.simulate import simulate, write_study
from aam_nb.inference.bundle import load_bundle
from aam_nb.recipe import load_config
from aam_nb.train import config_from_flags, FLAGS

RECIPES = ["aam", "demo", "large_fsdp", "reference", "small"]
TINY = ["model.width=16", "model.layers=1", "model.sample_width=16", "model.head_width=8",
        "model.identity=16", "pretrain_asv.steps=6", "pretrain_asv.batch=24", "optim.steps=12",
        "optim.batch=8", "optim.every=4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A simulated study on disk."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=6), folder)
    return folder


def flags(files, out, **change):
    "The flags everyone sets, some changed; None leaves one out."
    given = {"--table": files/"table.biom", "--metadata": files/"metadata.tsv", "--tree": files/"tree.nwk",
             "--target": "age", "--groups": "subject", "--out": out}
    given |= {f"--{k}": v for k, v in change.items()}
    words = [(k,) if v is True else (k, str(v)) for k, v in given.items() if v is not None]
    return [o for pair in words for o in pair]


def aam(*words): return CliRunner().invoke(app, [str(w) for w in words])


def test_help_needs_no_heavy_package():
    heavy = ("torch", "pandas", "scipy", "sklearn", "h5py")
    for words in (["--help"], ["train", "--help"], ["train", "--help-all"], ["recipe", "small"]):
        code = ("import sys\nfrom aam_nb.cli import app\n"
                f"try: app({words!r})\nexcept SystemExit: pass\n"
                f"print(); print([m for m in {heavy!r} if m in sys.modules])")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip().splitlines()[-1] == "[]", words


def test_help_shows_flags_and_the_first_keys_and_all_of_them_when_asked():
    assert "evaluate" in aam("--help").output
    first, every = aam("train", "--help").output, aam("train", "--help-all").output
    assert "--groups" in first and "--groups" in every
    shown = [o for o in all_keys() if f"  {o}=" in first]
    assert shown == sorted(FIRST, key=all_keys().index)
    assert all(f"  {o}=" in every for o in all_keys())


def test_every_flag_sets_its_key():
    words = {"str": "x", "int": 7, "bool": True}
    alone = {"overwrite": "resume", "independent": "groups"}
    for name, (key, kind, _) in FLAGS.items():
        if name in ("device", "batch_size", "model", *alone): continue # Words with a meaning
        section, _, k = key.partition(".")
        found = getattr(getattr(config_from_flags(**{name: words[kind.__name__]}), section), k)
        assert found == (("x",) if name == "target" else words[kind.__name__]), name


def test_recipes_are_listed_and_printed_in_full(tmp_path):
    assert [o.split(":")[0] for o in aam("recipe").output.splitlines()] == RECIPES
    (tmp_path/"mine.toml").write_text(aam("recipe", "demo").output)
    assert load_config(tmp_path/"mine.toml") == load_config("demo")
    wrong = aam("recipe", "smal")
    assert wrong.exit_code == 2 and "Did you mean 'small'?" in wrong.stderr


def test_train_and_predict(files, tmp_path):
    done = aam("train", *TINY, *flags(files, tmp_path/"run"))
    assert done.exit_code == 0, done.output
    (tmp_path/"ids.txt").write_text("\n".join(load_ids(files)[3:6]))
    done = aam("predict", "--bundle", tmp_path/"run/bundle", "--table", files/"table.biom",
               "--samples", tmp_path/"ids.txt", "--out", tmp_path/"p.tsv")
    assert done.exit_code == 0, done.output
    lines = (tmp_path/"p.tsv").read_text().splitlines()
    assert [o.split("\t")[0] for o in lines] == ["sample_id", *load_ids(files)[3:6]]


def test_embed_writes_vectors(files, tmp_path):
    assert aam("train", *TINY, *flags(files, tmp_path/"run")).exit_code == 0
    common = ["--bundle", tmp_path/"run/bundle", "--table", files/"table.biom"]
    done = aam("embed", *common, "--out", tmp_path/"e.npz", "--level", "asv")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path/"e.npz", allow_pickle=False) as f:
        assert f["vectors"].shape == (len(f["names"]), 16) and set(f["names"][0]) <= set("ACGT")
    assert aam("embed", *common, "--out", tmp_path/"e.tsv").exit_code == 0
    lines = (tmp_path/"e.tsv").read_text().splitlines()
    assert [o.split("\t")[0] for o in lines[1:]] == load_ids(files)
    again = aam("embed", *common, "--out", tmp_path/"e.tsv")
    assert again.exit_code == 2 and "--overwrite" in again.stderr


def test_inspect_says_what_it_finds_and_needs_no_target(files, tmp_path):
    done = aam("inspect", *flags(files, tmp_path/"look", target=None, groups=None))
    assert done.exit_code == 0, done.output
    assert "'subject'" in done.output
    assert (tmp_path/"look/inspect.html").is_file() and (tmp_path/"look/findings.tsv").is_file()
    wrong = aam("inspect", *flags(files, tmp_path/"no", target="agee"))
    assert wrong.exit_code == 2 and "'age'" in wrong.stderr and not (tmp_path/"no").exists()


def test_cache_stores_shows_and_clears(files, tmp_path):
    done = aam("cache", "store", *flags(files, tmp_path/"store", target=None, groups=None))
    assert done.exit_code == 0 and "Store(40 samples" in done.output, done.output
    stored = flags(files, tmp_path/"run", table=tmp_path/"store", metadata=None, tree=None)
    run = aam("train", *TINY, *stored)
    assert run.exit_code == 0, run.output
    shown = aam("cache", "show", tmp_path/"run").output
    assert "embeddings-" in shown and "Cache(2 entries" in shown
    assert "0.0 MB are free" in aam("cache", "clear", tmp_path/"run", "--older-than", 1).output
    assert any((tmp_path/"run/cache").iterdir())
    assert aam("cache", "clear", tmp_path/"run").exit_code == 0
    assert "Cache(0 entries" in aam("cache", "show", tmp_path/"run").output
    none = aam("cache", "store", "--table", files/"table.biom")
    assert none.exit_code == 2 and "--out" in none.stderr


def load_ids(files):
    from aam_nb.data.table import read_table
    return list(read_table(files/"table.biom").sample_ids)


def written(path, text):
    "A path, with a text in it."
    path.write_text(text)
    return path


def rows_of(files):
    "Names of the columns of the metadata, and the rows of samples."
    head, *rows = (o.split("\t") for o in (files/"metadata.tsv").read_text().splitlines())
    return head, [o for o in rows if not o[0].startswith("#")]


def metadata(files, folder, change):
    "A metadata file whose rows a function has changed; it gets the names of the columns and the rows."
    head, rows = rows_of(files)
    lines = ["\t".join(o) for o in [head, *change(head, rows)]]
    return dict(metadata=written(folder/"m.tsv", "\n".join(lines) + "\n"))


def column(name, value):
    "A change of metadata: one value for all samples."
    def change(head, rows):
        at = head.index(name)
        return [[*o[:at], value, *o[at+1:]] for o in rows]
    return change


def renamed(head, rows):
    "A change of metadata: ids of other samples."
    return [["X" + o[0], *o[1:]] for o in rows]


def table(folder, text, name="t.tsv"): return dict(table=written(folder/name, text))


def truncated(files, folder):
    "A table that was copied halfway."
    whole = (files/"table.biom").read_bytes()
    (folder/"t.biom").write_bytes(whole[:len(whole)//2])
    return dict(table=folder/"t.biom")


HASHES = "#OTU ID\tS1\tS2\n" + "".join(f"{i:032x}\t1\t2\n" for i in range(11, 14))
ODD = "#OTU ID\tS1\tS2\nACGTZZ!ACGT\t1\t2\nACGTACGTAAT\t1\t2\n"
# Ways to go wrong: the flags that differ, from the study and an empty folder, and what the error must say.
BAD = {
    "not what its name says": (lambda f, d: table(d, "hello", "t.biom"), "t.biom"),
    "truncated": (truncated, "t.biom"),
    "absent": (lambda f, d: dict(table=d/"none.biom"), "none.biom"),
    "hashes": (lambda f, d: table(d, HASHES), "sequences"),
    "odd letters": (lambda f, d: table(d, ODD), "t.tsv"),
    "empty table": (lambda f, d: table(d, "#OTU ID\tS1\tS2\n"), "t.tsv"),
    "duplicate ids": (lambda f, d: metadata(f, d, lambda head, rows: rows + rows[:1]), None),
    "covers no sample": (lambda f, d: metadata(f, d, renamed), "has a row in the metadata"),
    "covers half": (lambda f, d: metadata(f, d, lambda head, rows: rows[:len(rows)//2]), "missing"),
    "text as a number": (lambda f, d: dict(metadata(f, d, column("age", "old")), task="regression"),
                         "number"),
    "one class": (lambda f, d: metadata(f, d, column("age", "old")), "age"),
    "constant": (lambda f, d: metadata(f, d, column("age", "3")), "age"),
    "all missing": (lambda f, d: metadata(f, d, column("age", "")), "missing"),
    "tree of others": (lambda f, d: dict(tree=written(d/"t.nwk", "((AAAA:1,CCCC:1):1,GGGG:2);")),
                       "is a tip of the tree"),
    "too deep": (lambda f, d: dict(depth=10**7), "reads"),
    "one group": (lambda f, d: metadata(f, d, column("subject", "one")), "one group"),
    "no such column": (lambda f, d: dict(target="aeg"), "Did you mean 'age'"),
    "groups unsaid": (lambda f, d: dict(groups=None), "--independent"),
    "no target": (lambda f, d: dict(target=None), "--target"),
    "unwritable": (lambda f, d: dict(out="/proc/none/run"), "writable"),
    "odd condition": (lambda f, d: dict(where="age >"), "where")}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_bad_input_is_a_sentence_and_leaves_nothing(files, tmp_path, name, command):
    make, says = BAD[name]
    change, out, first = make(files, tmp_path), tmp_path/"run", rows_of(files)[1][0][0]
    task = [f"data.task={change.pop('task')}"] if "task" in change else []
    done = aam(command, *TINY, *task, *flags(files, change.pop("out", out), **change))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and (says or first) in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("word, says", [
    ("optim.stps=3", "Did you mean 'steps'"), ("optm.steps=3", "Did you mean 'optim'"),
    ("optim.steps=x", "wanted a whole number"), ("optim.lr=-1", "wanted 0.0 to 1.0")])
def test_a_wrong_key_is_named(files, tmp_path, word, says):
    done = aam("train", word, *flags(files, tmp_path/"run"))
    assert done.exit_code == 2 and says in done.stderr and not (tmp_path/"run").exists()


def same_weights(one, other, **tolerance):
    "Raise where the bundles of two runs differ."
    a, b = (load_bundle(o/"bundle").model.state_dict() for o in (one, other))
    for k in a: np.testing.assert_allclose(a[k].numpy(), b[k].numpy(), err_msg=k, **tolerance)


def test_a_killed_run_goes_on_to_the_same_weights(files, tmp_path):
    words = [*TINY, "optim.steps=200", "optim.every=5", "run.save_steps=20", "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    def run(out, *more):
        command = [sys.executable, "-m", "aam_nb.train", *words, *flags(files, out), *more]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed, last = run(tmp_path/"a"), tmp_path/"a/checkpoints/target/last"
    for _ in range(600):
        if last.exists() or killed.poll() is not None: break
        time.sleep(.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert last.exists() and not (tmp_path/"a/bundle").exists(), "the kill came too early or too late"
    assert run(tmp_path/"a", "--resume").wait() == 0 and run(tmp_path/"b").wait() == 0
    same_weights(tmp_path/"a", tmp_path/"b", rtol=0, atol=0)


@pytest.mark.slow
def test_accelerate_launch_is_the_same_command(files, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1",
              "-m", "aam_nb.train"]
    words = [*launch, *TINY, *flags(files, tmp_path/"a"), "--threads", "1"]
    subprocess.run(words, env=env, check=True, capture_output=True)
    assert aam("train", *TINY, *flags(files, tmp_path/"b"), "--threads", "1").exit_code == 0
    same_weights(tmp_path/"a", tmp_path/"b", atol=1e-6)
