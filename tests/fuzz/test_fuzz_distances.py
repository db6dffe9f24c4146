"Files of distances in each of their forms, altered: read or refused."
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzzing import altered, fuzz, sizes

from aam_nb.data.distance_files import read_distances

sys.path.append(str(Path(__file__).parents[1]))
from table_forms import qza

HDF5 = [b"TREE", b"SNOD", b"HEAP", b"OHDR", b"\x89HDF", b"matrix", b"order", b"\xff"*8, b"\x01\x00\x00\x00"]
TEXT = [b"\t", b"\n", b"S1", b"nan", b"-1", b"1e400", b"\r\n", b"0.0"]
NUMPY = [b"\x93NUMPY", b"'descr'", b"'<f8'", b"'|O'", b"'shape'", b"(9, 9)", b"(6,)", b"PK\x05\x06",
         b"PK\x01\x02"]
IDS = [f"S{i}" for i in range(6)]


def seed_matrix():
    points = np.random.default_rng(5).random((6, 3))
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def as_text():
    rows = ["\t" + "\t".join(IDS)]
    for name, row in zip(IDS, seed_matrix(), strict=True):
        rows.append("\t".join([name, *map("{:.6g}".format, row)]))
    return ("\n".join(rows) + "\n").encode()


def seed(form, folder):
    "The bytes of a sound file."
    path = folder/f"seed{form}"
    if form == ".tsv": return as_text()
    if form == ".qza": qza(path, as_text(), "DistanceMatrix", "distance-matrix.tsv")
    elif form == ".npz": np.savez(path, matrix=seed_matrix(), ids=np.array(IDS))
    elif form == ".npy": np.save(path, seed_matrix())
    else:
        with h5py.File(path, "w") as f:
            f["matrix"], f["order"] = seed_matrix(), np.array(IDS, dtype="S")
    return path.read_bytes()


def sound(path):
    "Whatever is read are distances."
    found = read_distances(path)
    if len(found) > 50: return
    out = found.between(found.ids)
    assert np.isfinite(out).all() and (out >= 0).all() and out.shape == (len(found), len(found))


WORDS = {".h5": HDF5, ".tsv": TEXT, ".qza": TEXT, ".npy": NUMPY, ".npz": NUMPY}


@sizes
@pytest.mark.parametrize("form", WORDS)
def test_distances(tmp_path, n, form):
    data = seed(form, tmp_path)
    (tmp_path/"d.ids.txt").write_text("\n".join(IDS))
    def make(rng, folder):
        path = folder/f"d{form}"
        path.write_bytes(altered(data, rng, WORDS[form]))
        return path
    found = fuzz(sound, make, tmp_path, n)
    assert found["refused"] > n/20
