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
from aam_nb.data.simulate import simulate, write_study
from aam_nb.inference.bundle import load_bundle

TINY = ["model.width=16", "model.layers=1", "model.sample_width=16", "model.head_width=8", "model.identity=16", "pretrain_asv.steps=6",
        "pretrain_asv.batch=24", "optim.steps=12", "optim.batch=8", "optim.every=4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A simulated study on disk."
    folder = tmp_path_factory.mktemp("study")
    write_study(simulate(samples=40, asvs=40, groups=10, length=40, seed=6), folder)
    return folder


def flags(files, out, **change):
    "The flags everyone sets, some changed; None leaves one out."
    given = {"--table": files/"table.biom", "--metadata": files/"metadata.tsv", "--tree": files/"tree.nwk", "--target": "age",
             "--groups": "subject", "--out": out, **{f"--{k}": v for k, v in change.items()}}
    return [o for k, v in given.items() if v is not None for o in ((k,) if v is True else (k, str(v)))]


def aam(*words): return CliRunner().invoke(app, [str(w) for w in words])


def test_help_needs_no_heavy_package():
    code = "import sys, aam_nb.cli; print([m for m in ('torch', 'pandas', 'scipy', 'sklearn', 'h5py') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert "evaluate" in aam("--help").output and "--groups" in aam("train", "--help").output


def test_train_and_predict(files, tmp_path):
    done = aam("train", *TINY, *flags(files, tmp_path/"run")); assert done.exit_code == 0, done.output
    (tmp_path/"ids.txt").write_text("\n".join(load_ids(files)[3:6]))
    done = aam("predict", "--bundle", tmp_path/"run/bundle", "--table", files/"table.biom", "--samples", tmp_path/"ids.txt", "--out", tmp_path/"p.tsv")
    assert done.exit_code == 0, done.output
    lines = (tmp_path/"p.tsv").read_text().splitlines()
    assert [o.split("\t")[0] for o in lines] == ["sample_id", *load_ids(files)[3:6]]


def test_embed_writes_vectors(files, tmp_path):
    assert aam("train", *TINY, *flags(files, tmp_path/"run")).exit_code == 0
    common = ["--bundle", tmp_path/"run/bundle", "--table", files/"table.biom"]
    done = aam("embed", *common, "--out", tmp_path/"e.npz", "--level", "asv"); assert done.exit_code == 0, done.output
    with np.load(tmp_path/"e.npz", allow_pickle=False) as f: assert f["vectors"].shape == (len(f["names"]), 16) and set(f["names"][0]) <= set("ACGT")
    assert aam("embed", *common, "--out", tmp_path/"e.tsv").exit_code == 0
    assert [o.split("\t")[0] for o in (tmp_path/"e.tsv").read_text().splitlines()[1:]] == load_ids(files)
    again = aam("embed", *common, "--out", tmp_path/"e.tsv"); assert again.exit_code == 2 and "--overwrite" in again.stderr


def test_inspect_says_what_it_finds_and_needs_no_target(files, tmp_path):
    words = [str(o) for o in flags(files, tmp_path/"look", target=None, groups=None)]
    done = aam("inspect", *words); assert done.exit_code == 0, done.output
    assert "'subject'" in done.output and (tmp_path/"look/inspect.html").is_file() and (tmp_path/"look/findings.tsv").is_file()
    wrong = aam("inspect", *flags(files, tmp_path/"no", target="agee"))
    assert wrong.exit_code == 2 and "'age'" in wrong.stderr and not (tmp_path/"no").exists()


def test_cache_stores_shows_and_clears(files, tmp_path):
    source = [str(o) for o in flags(files, tmp_path/"store", target=None, groups=None)]
    done = aam("cache", "store", *source); assert done.exit_code == 0 and "Store(40 samples" in done.output, done.output
    run = aam("train", *TINY, *flags(files, tmp_path/"run", table=tmp_path/"store", metadata=None, tree=None)); assert run.exit_code == 0, run.output
    shown = aam("cache", "show", tmp_path/"run").output; assert "embeddings-" in shown and "Cache(1 entry" in shown
    assert "0.0 MB are free" in aam("cache", "clear", tmp_path/"run", "--older-than", 1).output and any((tmp_path/"run/cache").iterdir())
    assert aam("cache", "clear", tmp_path/"run").exit_code == 0 and "Cache(0 entries" in aam("cache", "show", tmp_path/"run").output
    none = aam("cache", "store", "--table", files/"table.biom"); assert none.exit_code == 2 and "--out" in none.stderr


def load_ids(files):
    from aam_nb.data.table import read_table
    return list(read_table(files/"table.biom").sample_ids)


def bad(name, files, folder):
    "A way to go wrong: the flags that differ, and what the error must say."
    meta = (files/"metadata.tsv").read_text(); lines = meta.splitlines(); head = lines[0].split("\t")
    at = head.index("age"); rows = [o.split("\t") for o in lines[1:]]; data = [r for r in rows if not r[0].startswith("#")]
    def write(rows): (folder/"m.tsv").write_text("\n".join("\t".join(r) for r in [head, *rows]) + "\n"); return dict(metadata=folder/"m.tsv")
    def column(values): return write([r[:at] + [v] + r[at+1:] for r, v in zip(data, values, strict=True)])
    if name == "not what its name says": (folder/"t.biom").write_text("hello"); return dict(table=folder/"t.biom"), "t.biom"
    if name == "truncated": b = (files/"table.biom").read_bytes(); (folder/"t.biom").write_bytes(b[:len(b)//2]); return dict(table=folder/"t.biom"), "t.biom"
    if name == "absent": return dict(table=folder/"none.biom"), "none.biom"
    if name == "hashes":
        (folder/"t.tsv").write_text("#OTU ID\tS1\tS2\n" + "".join(f"{i:032x}\t1\t2\n" for i in range(11, 14))); return dict(table=folder/"t.tsv"), "sequences"
    if name == "odd letters":
        (folder/"t.tsv").write_text("#OTU ID\tS1\tS2\nACGTZZ!ACGT\t1\t2\nACGTACGTAAT\t1\t2\n"); return dict(table=folder/"t.tsv"), "t.tsv"
    if name == "empty table": (folder/"t.tsv").write_text("#OTU ID\tS1\tS2\n"); return dict(table=folder/"t.tsv"), "t.tsv"
    if name == "duplicate ids": return write(data + data[:1]), data[0][0]
    if name == "covers no sample": return write([["X" + r[0], *r[1:]] for r in data]), "has a row in the metadata"
    if name == "covers half": return write(data[:len(data)//2]), "missing"
    if name == "text as a number": return column(["old"]*len(data)) | {"task": "regression"}, "number"
    if name == "one class": return column(["old"]*len(data)), "age"
    if name == "constant": return column(["3"]*len(data)), "age"
    if name == "all missing": return column([""]*len(data)), "missing"
    if name == "tree of others": (folder/"t.nwk").write_text("((AAAA:1,CCCC:1):1,GGGG:2);"); return dict(tree=folder/"t.nwk"), "is a tip of the tree"
    if name == "too deep": return dict(depth=10**7), "reads"
    if name == "one group": i = head.index("subject"); return write([r[:i] + ["one"] + r[i+1:] for r in data]), "one group"
    if name == "no such column": return dict(target="aeg"), "Did you mean 'age'"
    if name == "groups unsaid": return dict(groups=None), "--independent"
    if name == "no target": return dict(target=None), "--target"
    if name == "unwritable": return dict(out="/proc/none/run"), "writable"
    if name == "odd condition": return dict(where="age >"), "where"
    raise KeyError(name)


@pytest.mark.parametrize("name", [
    "not what its name says", "truncated", "absent", "hashes", "odd letters", "empty table", "duplicate ids", "covers no sample", "covers half",
    "text as a number", "one class", "constant", "all missing", "tree of others", "too deep", "one group", "no such column", "groups unsaid",
    "no target", "unwritable", "odd condition"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_bad_input_is_a_sentence_and_leaves_nothing(files, tmp_path, name, command):
    change, says = bad(name, files, tmp_path); out = tmp_path/"run"
    task = [f"data.task={change.pop('task')}"] if "task" in change else []
    done = aam(command, *TINY, *task, *flags(files, change.pop("out", out), **change))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and says in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("word, says", [("optim.stps=3", "Did you mean 'steps'"), ("optm.steps=3", "Did you mean 'optim'"),
                                        ("optim.steps=x", "wanted a whole number"), ("optim.lr=-1", "wanted 0.0 to 1.0")])
def test_a_wrong_key_is_named(files, tmp_path, word, says):
    done = aam("train", word, *flags(files, tmp_path/"run"))
    assert done.exit_code == 2 and says in done.stderr and not (tmp_path/"run").exists()


def test_a_killed_run_goes_on_to_the_same_weights(files, tmp_path):
    words = [*TINY, "optim.steps=400", "optim.every=5", "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    def run(out, *more):
        command = [sys.executable, "-m", "aam_nb.train", *words, *flags(files, out), *more]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed = run(tmp_path/"a"); last = tmp_path/"a/checkpoints/target/last"
    for _ in range(600):
        if last.exists() or killed.poll() is not None: break
        time.sleep(.1)
    killed.send_signal(signal.SIGKILL); killed.wait()
    assert last.exists() and not (tmp_path/"a/bundle").exists(), "the kill came too early or too late"
    assert run(tmp_path/"a", "--resume").wait() == 0 and run(tmp_path/"b").wait() == 0
    a, b = (load_bundle(tmp_path/o/"bundle").model.state_dict() for o in "ab")
    for k in a: np.testing.assert_array_equal(a[k].numpy(), b[k].numpy(), err_msg=k)


@pytest.mark.slow
def test_accelerate_launch_is_the_same_command(files, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "aam_nb.train"]
    subprocess.run([*launch, *TINY, *flags(files, tmp_path/"a"), "--threads", "1"], env=env, check=True, capture_output=True)
    assert aam("train", *TINY, *flags(files, tmp_path/"b"), "--threads", "1").exit_code == 0
    a, b = (load_bundle(tmp_path/o/"bundle").model.state_dict() for o in "ab")
    for k in a: np.testing.assert_allclose(a[k].numpy(), b[k].numpy(), atol=1e-6, err_msg=k)
