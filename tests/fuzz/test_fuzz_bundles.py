"Altered bundles, with and without a new seal: read or refused, and what is read predicts or says why not."
import sys
from functools import cache
from pathlib import Path

import pytest
from fuzzing import altered_folder, fuzz, sizes

from aam_nb.inference.bundle import load_bundle, save_bundle
from aam_nb.seal import seal_folder

sys.path.append(str(Path(__file__).parents[1]))
from bundle_cases import predicted, small_bundle

JSON = [b'"format"', b'"model"', b'"bases"', b'"config"', b'"codecs"', b'"classes"', b'"levels"', b'"mean"',
        b'"sd"', b'"known"', b"{}", b"[]", b"[[", b"false", b'"pool"', b'"attention"', b"[1,2]", b'"age"',
        b'"clr"', b'"weights"', b'"kind"', b'"view"', b"{"*200, b"["*2000]
WEIGHTS = [b'"F64"', b'"I64"', b'"BOOL"', b'"shape":[', b'"data_offsets":[', b"\x00\x00\xc0\x7f", b"\xff"*8]


@cache
def seed_bundle(folder): return save_bundle(folder/"seed", small_bundle(stack=True))


def use(folder): predicted(load_bundle(folder))


def sealed_again(words, only):
    "What writes a copy with one altered file, sealed as if it had been meant."
    def make(rng, folder):
        out, _ = altered_folder(folder.parent/"seed", folder, rng, words, only)
        seal_folder(out)
        return out
    return make


@sizes
def test_an_altered_bundle_is_refused(tmp_path, n):
    def make(rng, folder): return altered_folder(seed_bundle(tmp_path), folder, rng)[0]

    def same(folder):
        "Some alterations change nothing, such as a piece put in place of the same piece."
        names = sorted(o.name for o in folder.iterdir())
        return all((folder/o).read_bytes() == (tmp_path/"seed"/o).read_bytes() for o in names)

    def read(folder):
        load_bundle(folder)
        assert same(folder), "an altered bundle was accepted"
    seed_bundle(tmp_path)
    assert fuzz(read, make, tmp_path/"f", n)["refused"] > .9*n


@sizes
@pytest.mark.parametrize("name, words", [("config.json", JSON), ("codecs.json", JSON),
                                         ("model.safetensors", WEIGHTS), ("stack.json", JSON),
                                         ("stack.safetensors", WEIGHTS), ("asvs.fasta", [b">1\n", b"N"])])
def test_an_altered_bundle_that_was_sealed_again(tmp_path, n, name, words):
    seed_bundle(tmp_path)
    found = fuzz(use, sealed_again(words, lambda o: o == name), tmp_path/"f", n)
    assert sum(found.values()) == n
