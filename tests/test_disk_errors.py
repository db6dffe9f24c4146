"What a disk reports becomes a sentence with the file, the cause and the remedy; old content is untouched."
import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from aam_nb.core import AamError
from aam_nb.disk import file_digest, read_json, whole_file, whole_folder, write_json, write_tsv
from aam_nb.disk_errors import DiskError, error_number, reading, using_disk, writing
from aam_nb.lock import writing_alone

LONG = "S1,"*1700
FULL = "/dev/full"


@contextmanager
def small_files():
    "Files may have 10 kB, as on a disk that fills up: also the one that the tests' output may go to."
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, was[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, was)


def _hdf5(path):
    with h5py.File(path, "w") as f: f["x"] = np.arange(50_000)


BIG = {
    "text": lambda p: p.write_text("x"*50_000),
    "array": lambda p: np.save(p.with_suffix(".npy"), np.zeros(50_000)),
    "raw array": lambda p: np.zeros(50_000).tofile(p),
    "hdf5": _hdf5,
    "weights": lambda p: save_file({"x": np.zeros(50_000)}, p),
}


@pytest.mark.parametrize("kind", BIG)
def test_a_file_that_does_not_fit_is_said_and_the_old_one_stays(tmp_path, kind):
    write_json(tmp_path/"file", "old")
    with whole_folder(tmp_path/"folder") as f: write_json(f/"x", "old")
    said = "cannot be written: .*What was there before is untouched. .*run the same command again"
    with small_files():
        with pytest.raises(DiskError, match=f"file {said}"), whole_file(tmp_path/"file") as p: BIG[kind](p)
        with pytest.raises(DiskError, match=f"folder {said}"), whole_folder(tmp_path/"folder") as f:
            BIG[kind](f/"x")
    assert read_json(tmp_path/"file") == "old" == read_json(tmp_path/"folder/x")
    assert sorted(o.name for o in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_is_named():
    for write in (lambda: write_json(FULL, [1]), lambda: write_tsv(FULL, ["a"], [[1]])):
        with pytest.raises(DiskError, match="^/dev/full cannot be written: the disk is full.*Make"): write()


@pytest.mark.parametrize("use", [read_json, file_digest, lambda o: write_json(o, 1),
                                 lambda o: writing_alone(Path(o)).__enter__(),
                                 lambda o: whole_folder(o).__enter__(), lambda o: whole_file(o).__enter__()])
def test_a_path_of_thousands_of_letters_is_shown_in_part(use):
    said = r"^S1,S1,.*\(5,100 letters\) cannot be .*: its name is too long"
    with pytest.raises(DiskError, match=said) as e: use(LONG)
    assert len(str(e.value)) < 300


def test_deep_and_long_json_is_refused(tmp_path):
    path = tmp_path/"a.json"
    for text, said in (("["*200_000, "nested too deeply"), ("9"*5000, "a number has too many digits"),
                       ('{"a":'*50_000, "nested too deeply"), ("\x00", "not valid JSON")):
        path.write_text(text)
        with pytest.raises(AamError, match=f"a.json is .*{said}"): read_json(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(AamError, match="a.json is not valid JSON"): read_json(path)


NOBODY = """
    import os
    from aam_nb.disk import file_digest, read_json, write_json
    from aam_nb.disk_errors import DiskError
    os.setgid(65534)
    os.setuid(65534)
    for call in (lambda: read_json("secret"), lambda: file_digest("secret"), lambda: read_json("closed/a"),
                 lambda: write_json("closed/b", 1), lambda: write_json("c", 1)):
        try: call()
        except DiskError as e: print(e)
"""


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="needs the rights to become somebody else")
def test_what_may_not_be_used_is_named(tmp_path):
    (tmp_path/"secret").touch(mode=0o600)
    (tmp_path/"closed").mkdir(mode=0o700)
    for o in (tmp_path, *list(tmp_path.parents)[:-2]): o.chmod(o.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(NOBODY)], cwd=tmp_path, text=True,
                          capture_output=True, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    said = done.stdout.splitlines()
    assert len(said) == 5 and all("do not have the right" in o for o in said[:4]), (said, done.stderr)
    assert "not writable. Choose a place" in said[4], said


def test_other_errors_pass_unchanged(tmp_path):
    errors = KeyError("a"), AamError("b"), BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("c")
    for within in (reading, writing, using_disk):
        for error in errors:
            with pytest.raises(type(error)) as e, within(tmp_path): raise error
            assert e.value is error and not isinstance(e.value, DiskError)
    assert error_number(ValueError("errno")) is None


def test_the_file_that_fails_is_named_not_the_one_at_work(tmp_path):
    with pytest.raises(DiskError, match="/absent cannot be used: there is no such file"):
        with whole_file(tmp_path/"a") as p: p.write_text((tmp_path/"absent").read_text())
    with pytest.raises(DiskError, match="^runs/a cannot be used: too many files"), using_disk("runs/a"):
        raise OSError(errno.EMFILE, "Too many open files")
