"How commands of several processes end: once said, all gone, with one status."
import threading

import pytest
from launches import launched
from torch.distributed import HashStore

from aam_nb.core import AamError
from aam_nb.runs import ending
from aam_nb.runs.ending import Notes, status_of
from aam_nb.training.ranks import Elsewhere


def pair():
    store = HashStore()
    return [Notes(store, rank=o, world=2) for o in range(2)]


def ends(notes, errors):
    "What each process ends with, all failing at once."
    found = [None]*len(notes)
    def end(i): found[i] = notes[i].ended(errors[i])
    threads = [threading.Thread(target=end, args=(i,)) for i in range(len(notes)) if errors[i] is not None]
    for o in threads: o.start()
    for o in threads: o.join(20)
    return found


KINDS = [(AamError("no file"), 2), (MemoryError(), 1), (SystemExit(143), 143), (KeyboardInterrupt(), 130),
         (SystemExit("no"), 1)]


@pytest.mark.parametrize("error, status", KINDS)
def test_an_error_of_all_is_told_by_the_main_process(error, status):
    main, other = ends(pair(), [error, error])
    assert main is error and isinstance(other, SystemExit) and other.code == status == status_of(error)


def test_an_error_of_one_is_told_by_that_one_with_its_number():
    main, other = ends(pair(), [Elsewhere("lost"), AamError("no file")])
    assert isinstance(main, SystemExit) and main.code == 2
    assert str(other) == "process 1 of 2, counted from 0: no file"


def test_a_fault_of_the_program_keeps_its_kind_and_names_the_process():
    main, other = ends(pair(), [Elsewhere("lost"), MemoryError("no room")])
    assert main.code == 1 and type(other) is MemoryError and "process 1 of 2" in other.__notes__[0]


def test_a_process_that_was_killed_is_spoken_for(monkeypatch):
    monkeypatch.setattr(ending, "_PATIENCE", .1)
    main, other = ends(pair(), [Elsewhere("lost"), None])
    assert isinstance(main, AamError) and "It was killed" in str(main)


@pytest.mark.parametrize("error", [Elsewhere("lost"), AamError("no file")])
def test_where_the_notes_went_with_a_killed_process_each_survivor_speaks(monkeypatch, error):
    def gone(*_): raise RuntimeError("connection refused")
    other = pair()[1]
    for name in ("first", "claim"): monkeypatch.setattr(other, name, gone)
    found = other.ended(error)
    assert isinstance(found, AamError) and "process 1 of 2" in str(found)
    assert ("It was killed" if isinstance(error, Elsewhere) else "no file") in str(found)


def test_the_watch_ends_who_does_not_end_by_itself(monkeypatch):
    monkeypatch.setattr(ending, "GRACE", .2)
    (main, other), over, said = pair(), threading.Event(), []
    other.claim(2)
    main.watch(over, said.append)
    other.watch(over, said.append) # It is the one that failed, and is on its way out
    over.set()
    main.watch(over, said.append)  # It has ended by itself
    assert said == [2]


def test_the_watch_ends_where_the_place_of_the_notes_has_gone(monkeypatch):
    monkeypatch.setattr(ending, "GRACE", .1)
    main, said = pair()[0], []
    def gone(): raise RuntimeError("connection refused")
    monkeypatch.setattr(main, "first", gone)
    main.watch(threading.Event(), said.append)
    assert said == [2]


def test_one_process_ends_as_ever():
    with pytest.raises(AamError, match="^no file$"), ending.ending(): raise AamError("no file")


def check_said_once(who, how, said):
    done = launched(["tests/failing_command.py", who, how])
    assert done.status
    assert [o for o in done.own.splitlines() if o.startswith("error")] == [said], done.err
    assert done.own.count("All are here") == ("parse" not in who) and "Elsewhere" not in done.err


ALL = "error: There is no file study.biom."
ONE = "error: process 1 of 2, counted from 0: There is no file study.biom."


def test_a_launched_command_says_an_error_once(): check_said_once("1,together", "error", ONE)


@pytest.mark.slow
@pytest.mark.parametrize("who, said", [("parse,0,1", ALL), ("0,1", ALL), ("1", ONE), ("0,busy", ALL),
                                       ("1,busy", ONE)])
def test_it_is_said_once_whatever_the_others_do(who, said): check_said_once(who, "error", said)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["0,1", "1", "1,busy", "0,together"])
def test_a_fault_of_the_program_shows_its_trace_once(who):
    done = launched(["tests/failing_command.py", who, "bug"])
    assert done.status and done.err.count("MemoryError: no room") == 1, done.err
    assert "Elsewhere" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("who", ["0", "1", "1,busy"])
def test_a_killed_process_takes_the_others_with_it(who):
    done = launched(["tests/failing_command.py", who, "killed"])
    assert done.status
    assert "SIGKILL" in done.err and done.own.count("error") <= 1 and "Elsewhere" not in done.err
