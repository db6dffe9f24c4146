"Unfinished work: whose it is, what becomes of it, and that nothing is lost to a kill or to other writers."
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import aam_nb.disk
from aam_nb.beside import at_work, beside, parts_beside, recovered
from aam_nb.core import AamError
from aam_nb.disk import whole_file, whole_folder
from aam_nb.lock import lock_path, writing_alone

WRITES = """
import sys
from aam_nb.beside import beside
beside(sys.argv[1], "part").mkdir()
print(flush=True)
input()
"""
HERE = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))


@pytest.fixture(params=["exchanged", "set aside"])
def replacing(request, monkeypatch):
    "Both ways in which a folder is replaced."
    if request.param == "set aside": monkeypatch.setattr(aam_nb.disk, "_exchange", lambda a, b: False)


def names(folder): return sorted(o.name for o in folder.iterdir())


def put(path, text="whole"):
    with whole_folder(path) as f: (f/"x").write_text(text)


def writer(path):
    "A process that works on a part of a place until it is killed."
    out = subprocess.Popen([sys.executable, "-c", WRITES, str(path)], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, env=HERE)
    out.stdout.readline()
    return out


def test_a_writers_part_is_left_alone_until_it_is_killed(tmp_path, replacing):
    put(tmp_path/"a")
    other = writer(tmp_path/"a")
    part, = parts_beside(tmp_path/"a")
    put(tmp_path/"a", "new")
    recovered(tmp_path/"a")
    assert at_work(part) and part.path.is_dir() and len(names(tmp_path)) == 2
    other.kill()
    time.sleep(.2) # A zombie until it is waited for: it works no more
    assert not at_work(part)
    other.communicate()
    assert (recovered(tmp_path/"a")/"x").read_text() == "new" and names(tmp_path) == ["a"]


def test_a_process_number_that_was_given_again_does_not_keep_a_part(tmp_path):
    mine = beside(tmp_path/"a", "part")
    begun = mine.name.split("-")[3]
    earlier = mine.with_name(mine.name.replace(f"-{begun}-", "-1-"))
    for o in (mine, earlier): o.mkdir()
    recovered(tmp_path/"a")
    assert names(tmp_path) == [mine.name]


@pytest.mark.parametrize("kind", ["part", "old"])
def test_what_earlier_versions_left_under_this_process_number_stops_nobody(tmp_path, replacing, kind):
    for text in ("old", "new"):
        left = tmp_path/f".a.{os.getpid()}.{kind}"
        left.mkdir()
        (left/"x").write_text("left")
        put(tmp_path/"a", text)
        assert (tmp_path/"a/x").read_text() == text and names(tmp_path) == ["a"]


def test_another_machine_is_trusted_for_a_day(tmp_path):
    part = beside(tmp_path/"a", "part")
    machine = part.name.split("-")[1]
    part = part.with_name(part.name.replace(machine, "0"*8))
    part.mkdir()
    (part/"x").touch()
    recovered(tmp_path/"a")
    assert part.is_dir()
    for age, left in ((80_000, [part.name]), (90_000, [])):
        for o in (part/"x", part): os.utime(o, (time.time() - age,)*2)
        recovered(tmp_path/"a")
        assert names(tmp_path) == left


def test_the_last_that_was_set_aside_is_put_back(tmp_path):
    for pid, text, age in ((10**9-1, "first", 9), (10**9-2, "last", 5), (10**9-3, "second", 7)):
        old = tmp_path/f".a.{pid}.old"
        old.mkdir()
        (old/"x").write_text(text)
        for o in (old/"x", old): os.utime(o, (time.time() - age,)*2)
    assert (recovered(tmp_path/"a")/"x").read_text() == "last" and names(tmp_path) == ["a"]


def test_what_belongs_to_others_stays(tmp_path):
    put(tmp_path/"a")
    mine = ["thesis.part", ".c.4711.part", ".a.old", ".a.mine.part", "a.999999999.part", ".a.lock.txt"]
    for o in mine: (tmp_path/o).write_text("mine")
    elsewhere = beside(tmp_path/"b", "old") # All that there is of b
    elsewhere.mkdir()
    ended = elsewhere.with_name(elsewhere.name.replace(f"-{os.getpid()}-", "-999999999-"))
    elsewhere.rename(ended)
    recovered(tmp_path/"a")
    assert names(tmp_path) == sorted([*mine, "a", ended.name])
    assert recovered(tmp_path/"b").is_dir() and names(tmp_path) == sorted([*mine, "a", "b"])


@pytest.mark.parametrize("write", [whole_file, whole_folder])
def test_threads_that_write_one_place_all_succeed(tmp_path, replacing, write):
    failed, start = [], threading.Barrier(4)

    def work(k):
        start.wait()
        for n in range(25):
            try:
                with write(tmp_path/"a") as p: (p if write is whole_file else p/"x").write_text(f"{k} {n}")
            except Exception as e: failed.append(e)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert not failed and names(tmp_path) == ["a"]
    assert (tmp_path/"a" if write is whole_file else tmp_path/"a/x").read_text().endswith(" 24")


def test_all_files_follow_the_umask(tmp_path):
    for mask, rights in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)):
        was = os.umask(mask)
        try:
            with whole_folder(tmp_path/"a") as f: (f/"private").touch(mode=0o600)
            with whole_file(tmp_path/"b") as p: p.touch(mode=0o600)
        finally: os.umask(was)
        assert {(tmp_path/o).stat().st_mode & 0o777 for o in ("a/private", "b")} == {rights}


def test_everything_reaches_the_disk_before_it_is_in_place(tmp_path, replacing, monkeypatch):
    flushed = []

    def note(at):
        flushed.append(Path(os.readlink(f"/proc/self/fd/{at}")).relative_to(tmp_path).parts)
    monkeypatch.setattr(os, "fsync", note)
    put(tmp_path/"a")
    part = flushed[1][0]
    assert flushed == [(part, "x"), (part,), ()] and part.endswith(".part")
    flushed.clear()
    with whole_file(tmp_path/"b") as p: p.touch()
    assert [o[1:] for o in flushed] == [("b",), (), ()]
    flushed.clear()
    with whole_folder(tmp_path/"a", flush=False) as f: (f/"x").touch()
    assert not flushed


def test_long_names_and_links_have_parts_too(tmp_path, replacing):
    long = tmp_path/("ä"*127)
    for text in ("old", "new"): put(long, text)
    assert (long/"x").read_text() == "new"
    set_aside = beside(long, "old")
    long.rename(set_aside.with_name(set_aside.name.replace(f"-{os.getpid()}-", "-999999999-")))
    assert (recovered(long)/"x").read_text() == "new" and names(tmp_path) == [long.name]
    (tmp_path/"link").symlink_to(long)
    put(tmp_path/"link", "through a link")
    assert (long/"x").read_text() == "through a link" and (tmp_path/"link").is_symlink()


def test_folders_files_and_devices_are_not_mistaken(tmp_path):
    (tmp_path/"file").write_text("mine")
    with pytest.raises(AamError, match="is a file"): put(tmp_path/"file")
    with pytest.raises(AamError, match="is a folder"), whole_file(tmp_path): pass
    with whole_file("/dev/null") as p: p.write_text("gone")
    assert not Path("/dev/null").is_file() and names(tmp_path) == ["file"]


def test_a_lock_that_nobody_holds_is_dropped(tmp_path):
    put(tmp_path/"a")
    lock_path(tmp_path/"a").touch()
    with writing_alone(tmp_path/"b"):
        for o in "ab": recovered(tmp_path/o)
        assert names(tmp_path) == [".b.lock", "a"]


def killed(kind, place, kills):
    "Kill a writer again and again; gives how often it wrote, and how many kills left something beside it."
    command = [sys.executable, str(Path(__file__).parent/"replaced.py"), kind, str(place), str(kills)]
    done = subprocess.run(command, env=HERE, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["file", "folder", "folder_aside"])
def test_twenty_kills_leave_the_old_or_the_new(tmp_path, kind):
    written, left = killed(kind, tmp_path/"a", 20)
    assert written > 10 and left > 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["bundle", "checkpoint", "store", "report", "folder_aside"])
def test_two_hundred_kills_leave_the_old_or_the_new(tmp_path, kind):
    written, left = killed(kind, tmp_path/"a", 200)
    assert written > 100 and left > 20
