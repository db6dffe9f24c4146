"The fuzzer finds each kind of fault, so that its silence means something."
import os
import signal
import time

import pytest
from fuzzing import altered, fuzz

from aam_nb.core import AamError, keyed_rng


def number(rng, folder): return int(rng.integers(100))


def refuses_odd(given):
    if given % 2: raise AamError(f"{given} is odd.")


def test_reads_and_refusals_are_counted(tmp_path):
    found = fuzz(refuses_odd, number, tmp_path, 50)
    assert found["read"] + found["refused"] == 50 and min(found.values()) > 10


def ends(given):
    if given > 90: os.kill(os.getpid(), signal.SIGKILL)


def foreign(given):
    if given > 90: raise KeyError(given)


def large(given):
    if given > 90: bytearray(2**31)


FAULTS = [(ends, "ends its process"), (foreign, "KeyError"), (large, "MemoryError")]


@pytest.mark.parametrize("read, word", FAULTS)
def test_faults_are_found_and_the_rest_is_still_read(tmp_path, read, word):
    with pytest.raises(AssertionError, match=word): fuzz(read, number, tmp_path, 50)


def slow(given):
    if given == 7: time.sleep(60)


def test_a_reader_that_hangs_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzzing.SECONDS", 1)
    with pytest.raises(AssertionError, match="TimeoutError"): fuzz(slow, number, tmp_path, 200)


def test_alterations_have_a_key_and_are_of_many_kinds():
    data = bytes(range(200))
    out = [altered(data, keyed_rng(1, i), [b"WORD"]) for i in range(300)]
    assert out == [altered(data, keyed_rng(1, i), [b"WORD"]) for i in range(300)]
    assert len({len(o) for o in out}) > 50 and any(b"WORD" in o for o in out) and data not in out[:5]
