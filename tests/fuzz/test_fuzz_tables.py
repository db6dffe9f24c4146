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


TOP = "Representative_Sequence\ttotal\t"


def _lines(t, cells):
    "One line for each ASV: its sequence, and what `cells` makes of its reads."
    rows = zip(t.sequences, t.counts.T.toarray(), strict=True)
    return [f"{o}\t{row.sum()}\t{cells(row)}" for o, row in rows]


def count_table(folder):
    t = seed_table()
    head = TOP + "\t".join(t.sample_ids)
    return "\n".join([head, *_lines(t, lambda row: "\t".join(map(str, row)))]).encode()


def packed_table(folder):
    t = seed_table()
    numbered = "#" + "\t".join(f"{i + 1},{o}" for i, o in enumerate(t.sample_ids))
    head = ["#Compressed Format: groupIndex,abundance.", numbered, TOP + "\t".join(t.sample_ids)]
    def pairs(row): return "\t".join(f"{i + 1},{n}" for i, n in enumerate(row) if n)
    return "\n".join([*head, *_lines(t, pairs)]).encode()


def shared(folder):
    t = seed_table()
    rows = zip(t.sample_ids, t.counts.toarray(), strict=True)
    lines = [f"0.03\t{o}\t{len(row)}\t" + "\t".join(map(str, row)) for o, row in rows]
    return "\n".join(["label\tGroup\tnumOtus\t" + "\t".join(t.sequences), *lines]).encode()


def quoted(folder):
    "As R writes it, with a column of text and a sum."
    t = seed_table()
    names = [f'"{o}"' for o in (*t.sample_ids, "total", "taxonomy")]
    rows = zip(t.sequences, t.counts.T.toarray(), strict=True)
    lines = [",".join([f'"{o}"', *map(str, row), str(row.sum()), '"k__B, p__F"']) for o, row in rows]
    return "\n".join([",".join(['""', *names]), *lines]).encode()


def lying(folder):
    "Samples as rows."
    t = seed_table()
    rows = zip(t.sample_ids, t.counts.toarray(), strict=True)
    lines = [";".join([o, *map(str, row)]) for o, row in rows]
    return "\n".join([";".join(["id", *(o*3 for o in t.sequences)]), *lines]).encode()


WORDS = [b"#OTU ID", b"taxonomy", b"total", b"sequence", b"S1\tS2", b"1,6", b"0.05", b"label", b"#1,S0", b";",
         TOP.encode(), b"#Compressed Format:", b"ACGTACGTACGTACGTACGTACGT"]
OTHERS = [("t.qza", artefact, [b"PK\x01\x02", b"PK\x03\x04", b"metadata.yaml", b"../", b"/etc/"]),
          ("old.biom", old_biom, JSON), ("dense.json", dense_biom, JSON)]
OTHERS += [("t.txt", o, WORDS) for o in (tsv, count_table, packed_table, shared, quoted, lying)]


@sizes
@pytest.mark.parametrize("name, seed, words", OTHERS)
def test_other_forms(tmp_path, n, name, seed, words):
    reads(written(tmp_path, name, seed(tmp_path)))
    found = fuzz(reads, maker(seed(tmp_path), name, words), tmp_path, n)
    assert found["refused"] > n/20
