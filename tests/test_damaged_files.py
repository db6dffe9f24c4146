"""Damage to a file is refused or harmless. The seeds hold ids, numbers and compressed parts, so that it
reaches every reader."""
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_forms import as_json, as_tsv, qza, sound, table

from aam_nb.core import AamError
from aam_nb.data.biom import write_table
from aam_nb.data.sequences import read_sequences
from aam_nb.data.table import read_table


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    rng = np.random.default_rng(3)
    t = table(rng.integers(0, 3, (5, 8)) * rng.integers(1, 90, (5, 8)))
    write_table(t, folder/"t.biom")
    fasta = "".join(f">asv{i}\n{o}\n" for i, o in enumerate(t.sequences))
    return {"biom": (folder/"t.biom").read_bytes(), "json": json.dumps(as_json(t)).encode(),
            "tsv": as_tsv(t).encode(), "fasta": fasta.encode(),
            "qza": qza(folder/"t.qza", (folder/"t.biom").read_bytes()).read_bytes(),
            "biom.gz": gzip.compress((folder/"t.biom").read_bytes(), mtime=0)}


@st.composite
def damage(draw):
    "Places (as shares of a file), what is done there, and where the file ends."
    hits = draw(st.lists(st.tuples(st.floats(0, .999999), st.integers(0, 255), st.booleans()), max_size=8))
    return hits, draw(st.one_of(st.just(1.), st.just(1.), st.floats(0, 1)))


def damaged(data, how):
    hits, end = how
    out = bytearray(data)
    full = [i for i, o in enumerate(data) if o]
    for where, value, anywhere in hits: # HDF5 is mostly zeros: most hits go where there is something
        i = int(where*len(out)) if anywhere else full[int(where*len(full))]
        out[i] = value
    return bytes(out[:int(end*len(out))])


@settings(max_examples=150)
@given(how=damage())
@pytest.mark.parametrize("kind", ["biom", "json", "tsv", "fasta", "qza", "biom.gz"])
def test_damage_is_refused_or_harmless(seeds, tmp_path_factory, kind, how):
    path = tmp_path_factory.getbasetemp()/f"damaged.{kind}"
    path.write_bytes(damaged(seeds[kind], how))
    try: out = read_sequences(path) if kind == "fasta" else read_table(path)
    except AamError as e:
        assert path.name in str(e)
        return
    if kind != "fasta": sound(out)


@pytest.mark.parametrize("place, value", [(8, 255), (8, 1), (4, 1), (0, 0)])
def test_a_damaged_heap_of_ids_ends(seeds, tmp_path, place, value):
    "The HDF5 library hangs or crashes on some of these; so the ids are read without it."
    data = bytearray(seeds["biom"])
    heap = data.find(b"GCOL")
    for k in range(16, 400, 16): # The heads of the heap's objects
        again = bytearray(data)
        again[heap + k + place] = value
        (tmp_path/"h.biom").write_bytes(again)
        try: sound(read_table(tmp_path/"h.biom"))
        except AamError as e: assert "h.biom" in str(e)
