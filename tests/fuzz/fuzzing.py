"""Altered inputs, each read in a child process. A reader may answer or raise `AamError`, within 5 seconds and
1 GiB, and it may not end its process.

A test gives `make(rng, folder)`, which writes one altered input and returns what the reader takes, and
`read`. The random generator has a key, so an input that was found once is found again by its number.
"""
import os
import resource
import shutil
import signal
import sys
import warnings
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest

from aam_nb.core import AamError, keyed_rng

SECONDS, BYTES, ENOUGH = 5, 2**30, 5 # For one input; faults after which a run ends
NUMBERS = [b"-1", b"0", b"1e400", b"nan", b"-inf", b"1_0", b"9"*400, b"0x10", b"\xd9\xa3", b"1.5",
           b"2147483648", b"18446744073709551616"]
TEXTS = [b"", b"\t", b"\n", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b",", b"[", b"{", b"(",
         b"\xe2\x80\xa8", b"null", b"true", b"#", b" "]

sizes = pytest.mark.parametrize("n", [200, pytest.param(20_000, marks=pytest.mark.slow)])


def flip(data, rng, words):
    "One bit the other way round."
    i = int(rng.integers(len(data)))
    return data[:i] + bytes([data[i] ^ (1 << int(rng.integers(8)))]) + data[i+1:]


def cut(data, rng, words):
    "The beginning only, as of a copy that was stopped."
    return data[:int(rng.integers(len(data)))]


def _piece(data, rng):
    "Where a piece of at most 64 bytes begins and ends."
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + 1 + int(rng.integers(64)))


def drop(data, rng, words):
    "Without a piece."
    start, end = _piece(data, rng)
    return data[:start] + data[end:]


def repeat(data, rng, words):
    "With a piece two to a hundred times."
    start, end = _piece(data, rng)
    return data[:start] + data[start:end]*int(rng.integers(2, 100)) + data[end:]


def swap(data, rng, words):
    "With a piece overwritten by another."
    (a, b), (c, d) = _piece(data, rng), _piece(data, rng)
    return data[:a] + data[c:d] + data[b:]


def insert(data, rng, words):
    "With a word of the format, a sign or an odd number between or in place of something."
    word = words[int(rng.integers(len(words)))]
    start, end = _piece(data, rng)
    return data[:start] + word + data[end if rng.random() < .5 else start:]


CHANGES = (flip, flip, cut, drop, repeat, swap, insert, insert, insert)


def altered(data, rng, words=()):
    "`data` after one to four changes. `words` are what the format knows, as bytes."
    known = [*words, *NUMBERS, *TEXTS]
    for _ in range(int(rng.integers(1, 5))):
        if not data: return data
        data = CHANGES[int(rng.integers(len(CHANGES)))](data, rng, known)
    return data


def altered_folder(source, folder, rng, words=(), only=None):
    "A copy of the folder `source` in `folder`, with one file altered; `only` chooses files by name."
    out = Path(folder)/"altered"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    files = sorted(o for o in out.rglob("*") if o.is_file() and (only is None or only(o.name)))
    one = files[int(rng.integers(len(files)))]
    one.write_bytes(altered(one.read_bytes(), rng, words))
    return out, one


def _too_long(number, frame): raise TimeoutError(f"more than {SECONDS} s")


def _limit():
    "Hold this process to its memory, and to one thread, since a fork has lost the others."
    used = int(Path("/proc/self/statm").read_text().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    if "torch" in sys.modules: sys.modules["torch"].set_num_threads(1)
    warnings.simplefilter("ignore")


def _answer(read, given):
    "What the reader does with one input, in words."
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try: read(given)
    except AamError: return "refused"
    except (Exception, RecursionError) as e: return f"{type(e).__name__}: {str(e)[:300]}"
    finally: signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def _child(pipe, read, make, folder, numbers, seed):
    _limit()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for i in numbers:
        pipe.send((i, None))
        given = make(keyed_rng(seed, "fuzz", i), folder)
        pipe.send((i, _answer(read, given)))
    os._exit(0)


def _told(pipe, found):
    "Note the answers of one child. Gives the last number that it began, and whether it fell silent."
    last = -1
    while True:
        if not pipe.poll(3*SECONDS): return last, True
        try: last, answer = pipe.recv()
        except EOFError: return last, False
        if answer: found[last] = answer


def _one_child(read, make, folder, numbers, seed, found):
    "Let a child read `numbers`. Gives those that are left when it ends early."
    context = get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(there, read, make, folder, numbers, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning) # A fork of a process with threads
        child.start()
    there.close()
    last, silent = _told(here, found)
    if silent: child.kill()
    child.join()
    if last in found: return range(last + 1, numbers.stop) if child.exitcode else range(0)
    found[last] = "hangs" if silent else f"ends its process ({child.exitcode})"
    return range(last + 1, numbers.stop)


def fuzz(read, make, folder, n, seed=0):
    "How often `n` altered inputs were read and refused. Fails with the numbers of all others."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found, left = {}, range(n)
    while len(left):
        left = _one_child(read, make, folder, left, seed, found)
        if sum(o not in ("read", "refused") for o in found.values()) >= ENOUGH: break
    faults = {i: o for i, o in found.items() if o not in ("read", "refused")}
    assert not faults, f"{len(faults)} of {len(found)} altered inputs (by number): {faults}"
    assert len(found) == n
    return Counter(found.values())
