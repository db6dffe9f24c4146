"Files that are whole or absent, seals, digests and tables of text."
import hashlib
import json
import os

import numpy as np
import pandas as pd
import pytest

from aam_nb.core import AamError, digest
from aam_nb.disk import (
    file_digest, is_sealed, read_json, read_sealed, sealed, whole_file, whole_folder, write_json,
    write_frame, write_sealed, write_tsv)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    for write, read in ((whole_file, lambda p: p.read_text()), (whole_folder, lambda p: (p/"x").read_text())):
        path = tmp_path/write.__name__
        for text in ("old", "new"):
            with write(path) as p: (p if write is whole_file else p/"x").write_text(text)
            assert read(path) == text
        with pytest.raises(RuntimeError), write(path) as p:
            (p if write is whole_file else p/"x").write_text("half")
            raise RuntimeError
        assert read(path) == "new"
    assert sorted(o.name for o in tmp_path.iterdir()) == ["whole_file", "whole_folder"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(AamError, match="Choose a place you can write to"), whole_file(tmp_path/"file/x") as p:
        p.touch()


def test_json_holds_plain_values(tmp_path):
    write_json(tmp_path/"a.json", dict(n=np.int64(3), x=np.arange(2), at=tmp_path))
    assert read_json(tmp_path/"a.json") == dict(n=3, x=[0, 1], at=str(tmp_path))
    with pytest.raises(TypeError, match="cannot write set"): write_json(tmp_path/"b.json", {1, 2})
    (tmp_path/"c.json").write_text("{")
    with pytest.raises(AamError, match="c.json is not valid JSON"): read_json(tmp_path/"c.json")


def test_a_seal_breaks_when_anything_changes(tmp_path):
    path = tmp_path/"s.json"
    write_sealed(path, dict(step=4, loss=np.float64(.1), names=("a", "b"), none=None))
    assert read_sealed(path) == sealed(dict(step=4, loss=.1, names=["a", "b"], none=None))
    text = path.read_text()
    for old, new in (("4", "5"), ('"a"', '"c"'), ('"step"', '"stop"'), ("null", "0")):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(AamError, match="does not match its seal"): read_sealed(path)


def test_the_seals_of_stores_and_of_older_checkpoints_hold():
    rest = dict(format=1, state=dict(b=1, a=[.5, None]))
    assert is_sealed(rest | dict(seal=digest(rest)))
    assert is_sealed(rest | dict(seal=digest(json.dumps(rest, sort_keys=True))))
    assert not is_sealed(rest) and not is_sealed(rest | dict(seal="")) and not is_sealed([1])


def test_a_digest_is_that_of_the_bytes(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path/"x").write_bytes(data)
    assert file_digest(tmp_path/"x") == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert file_digest(None) is None
    with pytest.raises(AamError, match="cannot be opened"): file_digest(tmp_path)


def test_a_table_of_text_keeps_its_columns(tmp_path):
    rows = [("a\tb", 1, float("nan")), ("c\r\nd", None, np.float64(.5)), ("é", "", "x")]
    write_tsv(tmp_path/"t.tsv", ("name", "n", "x"), iter(rows))
    assert (tmp_path/"t.tsv").read_bytes().decode() == "name\tn\tx\na b\t1\t\nc d\tNone\t0.5\né\t\tx\n"


def test_frames_keep_nine_digits_and_are_whole_or_absent(tmp_path):
    frame = pd.DataFrame(dict(age=[1/3, float("nan")], note=["", "no reads"]), index=["S1", "S2"])
    write_frame(tmp_path/"a.tsv", frame, "sample_id")
    assert (tmp_path/"a.tsv").read_text() == "sample_id\tage\tnote\nS1\t0.333333333\t\nS2\t\tno reads\n"
    again = pd.read_csv(tmp_path/"a.tsv", sep="\t", index_col=0)
    assert np.float32(again.age.iloc[0]) == np.float32(1/3)
    with pytest.raises(AttributeError): write_frame(tmp_path/"b.tsv", None, "sample_id")
    assert [o.name for o in tmp_path.iterdir()] == ["a.tsv"]
