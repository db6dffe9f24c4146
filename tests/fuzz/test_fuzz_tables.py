"Count tables in each of their forms, altered: read or refused, and never the end of the process."
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzzing import altered, fuzz, sizes

from aam_nb.data.biom import write_table
from aam_nb.data.slices import open_table
from aam_nb.data.table import read_table

sys.path.append(str(Path(__file__).parents[1]))
from table_forms import as_json, as_tsv, qza, sound, table

HDF5 = [b"GCOL", b"TREE", b"SNOD", b"HEAP", b"\x89HDF", b"OHDR", b"sample", b"observation", b"\xff"*8,
        b"\xff\xff", b"\x01\x00\x00\x00"]
JSON = [b'"shape"', b'"rows"', b'"id"', b'"data"', b"[[", b"]]", b'"sparse"', b'"dense"', b"[0,0,1]", b":",
        b"{"*200, b"["*200]


def seed_table():
    rng = np.random.default_rng(3)
    return table(rng.integers(0, 3, (5, 8)) * rng.integers(1, 90, (5, 8)))


def written(folder, name, data):
    path = folder/name
    path.write_bytes(data)
    return path


def maker(data, name, words):
    "What writes one altered copy of `data`."
    return lambda rng, folder: written(folder, name, altered(data, rng, words))


def reads(path):
    "Whatever is read is a sound table."
    sound(read_table(path))


def slices(path):
    "The same, by slices."
    with open_table(path) as t:
        for i in range(len(t)): t.counts(i, i + 1)


def hdf5(folder):
    write_table(seed_table(), folder/"seed.biom")
    return (folder/"seed.biom").read_bytes()


@sizes
@pytest.mark.parametrize("read", [reads, slices])
def test_hdf5(tmp_path, n, read):
    found = fuzz(read, maker(hdf5(tmp_path), "t.biom", HDF5), tmp_path, n)
    assert found["refused"] > n/20


def artefact(folder):
    return qza(folder/"seed.qza", hdf5(folder)).read_bytes()


def old_biom(folder): return json.dumps(as_json(seed_table())).encode()


def dense_biom(folder): return json.dumps(as_json(seed_table(), dense=True)).encode()


def tsv(folder): return as_tsv(seed_table()).encode()


OTHERS = [("t.qza", artefact, [b"PK\x01\x02", b"PK\x03\x04", b"metadata.yaml", b"../", b"/etc/"]),
          ("old.biom", old_biom, JSON), ("dense.json", dense_biom, JSON),
          ("t.tsv", tsv, [b"#OTU ID", b"taxonomy", b"S1\tS2"])]


@sizes
@pytest.mark.parametrize("name, seed, words", OTHERS)
def test_other_forms(tmp_path, n, name, seed, words):
    found = fuzz(reads, maker(seed(tmp_path), name, words), tmp_path, n)
    assert found["refused"] > n/20
