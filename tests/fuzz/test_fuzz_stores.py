"Stores, altered as files and as arrays with digests that fit: read or refused, never the end of the process."
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzzing import altered_folder, fuzz, sizes

from aam_nb.batches.arrays import study_arrays
from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.build import build_store
from aam_nb.batches.manifest import describe_arrays, make_manifest
from aam_nb.batches.sample_batches import PlainBatches
from aam_nb.batches.samples import asvs_in, SampleDataset
from aam_nb.batches.store import open_store
from aam_nb.batches.view import View
from aam_nb.batches.write import write_arrays, write_manifest
from aam_nb.data.distances import sample_distances
from aam_nb.disk import sealed

sys.path.append(str(Path(__file__).parents[1]))
from small_stores import made

WORDS = [b'"arrays"', b'"shape"', b'"type"', b'"<i4"', b'"|O"', b'"|S9"', b'"digest"', b'"version"', b"[7]",
         b"'fortran_order': True", b"'shape': (9999999999,)", b"'descr': '<i8'", b"\x93NUMPY"]
NO_NUMBERS = [np.nan, np.inf, -1.]
ODD = [-1, 0, 1, 2**31 - 1, -2**31, 30, 27, 7, 255]
VIEW = View(identity=8, metrics=("unweighted",), mask=.2)


def use(folder):
    "Open a store and use all of it."
    store = open_store(folder)
    study = store.study()
    assert (store.depths == np.asarray(study.table.counts.sum(1)).ravel()).all()
    store.identity(8)
    samples = SampleDataset(store, np.flatnonzero(store.depths))
    if len(samples) > 1: PlainBatches(samples, VIEW, batch=4)[0]
    if store.tree is None: return
    sample_distances(study.table.counts, "unweighted", store.tree, store.tip)
    AsvBatches(store, asvs_in(store, samples.rows), VIEW, batch=4, steps=1)[0]


def files(folder):
    "What writes a copy of a store with one file altered."
    build_store(made(), folder/"whole")
    return lambda rng, out: altered_folder(folder/"whole", out, rng, WORDS)[0]


def sealed_again(folder):
    "The same, with a manifest whose seal fits again, where it still is one."
    make = files(folder)
    def write(rng, out):
        path = make(rng, out)/"manifest.json"
        try: path.write_text(json.dumps(sealed(json.loads(path.read_text()))))
        except (ValueError, AttributeError, TypeError): pass
        return path.parent
    return write


def other_numbers(array, rng):
    "An array with one to four entries set to odd numbers, another one's, or a missing number."
    flat = array.copy().reshape(-1)
    for i in rng.integers(0, flat.size, int(rng.integers(1, 5))):
        odd = flat[int(rng.integers(flat.size))] if rng.random() < .4 else ODD[int(rng.integers(len(ODD)))]
        if flat.dtype.kind == "S": flat[i] = str(odd).encode() if isinstance(odd, int) else odd
        elif flat.dtype == np.uint8: flat[i] = int(odd) % 256
        elif flat.dtype.kind == "f" and rng.random() < .3: flat[i] = NO_NUMBERS[rng.integers(3)]
        else: flat[i] = odd
    return flat.reshape(array.shape)


def other_shape(array, rng):
    "An array with entries lost, doubled or in another order, or of another type."
    how = int(rng.integers(4))
    if how == 0: return array[:max(1, len(array) - int(rng.integers(1, 4)))]
    if how == 1: return np.concatenate([array, array[:int(rng.integers(1, 4))]])
    if how == 2: return rng.permutation(array)
    if array.dtype.kind not in "iuf": return array[::-1]
    return array.astype(["<i8", "<f8", "<i4"][int(rng.integers(3))])


def arrays_again(folder):
    "What writes a store of altered arrays, all of its digests those of what it holds."
    arrays = study_arrays(made())
    def write(rng, out):
        shutil.rmtree(out/"store", ignore_errors=True)
        (out/"store").mkdir()
        name = sorted(arrays)[int(rng.integers(len(arrays)))]
        change = other_numbers if rng.random() < .7 else other_shape
        now = arrays | {name: np.ascontiguousarray(change(arrays[name], rng))}
        write_arrays(out/"store", [now])
        write_manifest(out/"store", make_manifest(describe_arrays(now)))
        return out/"store"
    return write


@sizes
@pytest.mark.parametrize("made_by", [files, sealed_again, arrays_again])
def test_stores(tmp_path, n, made_by):
    found = fuzz(use, made_by(tmp_path), tmp_path/"altered", n)
    assert found["refused"] > n/2
