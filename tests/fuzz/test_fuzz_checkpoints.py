"Altered checkpoints, with and without a new seal: taken or refused, and what is taken trains on."
import sys
from functools import cache
from pathlib import Path

import pytest
from fuzzing import altered_folder, fuzz, sizes

from aam_nb.core import AamError
from aam_nb.disk import file_digest, read_json, write_sealed
from aam_nb.training.checkpoint import load_checkpoint, save_checkpoint

sys.path.append(str(Path(__file__).parents[1]))
from test_checkpoint import same, step, trained

WORDS = [b'"format"', b'"files"', b'"state"', b'"updates"', b'"model.safetensors"', b'"seal"', b'"F64"',
         b'"I64"', b'"shape":[', b'"data_offsets":[', b"exp_avg/", b"{}", b"[]", b"["*2000,
         b"\x00\x00\xc0\x7f"]


@cache
def seed(folder):
    model, opt, ema = trained()
    save_checkpoint(folder/"seed", model, opt, ema, dict(step=3, history=[1., None]), model.state_dict())
    return folder/"seed", model.state_dict()


def use(folder):
    "Take it over and train a step."
    model, opt, ema = trained(seed=1)
    load_checkpoint(folder, model, opt, ema)
    step(model, opt, ema, 5)


def sealed_again(source):
    "What writes a copy with one altered file, sealed as if it had been meant."
    def make(rng, folder):
        out, one = altered_folder(source, folder, rng, WORDS)
        try: written = read_json(out/"state.json")
        except ValueError: return out
        if isinstance(written, dict):
            files = written.get("files")
            if isinstance(files, dict) and one.name in files: files[one.name] = file_digest(one)
            write_sealed(out/"state.json", written)
        return out
    return make


@sizes
def test_an_altered_checkpoint_is_refused(tmp_path, n):
    source, wanted = seed(tmp_path)

    def read(folder):
        model, opt, ema = trained(seed=1)
        load_checkpoint(folder, model, opt, ema)
        assert same(model.state_dict(), wanted), "an altered checkpoint was accepted"
    found = fuzz(read, lambda rng, folder: altered_folder(source, folder, rng, WORDS)[0], tmp_path/"f", n)
    assert found["refused"] > .9*n


@sizes
def test_an_altered_checkpoint_that_was_sealed_again(tmp_path, n):
    found = fuzz(use, sealed_again(seed(tmp_path)[0]), tmp_path/"f", n)
    assert found["refused"] > n/10


def test_a_checkpoint_without_the_count_of_its_average_is_refused(tmp_path):
    "One letter of a key, found by altering 20,000 checkpoints that were sealed again."
    source, _ = seed(tmp_path)
    written = read_json(source/"state.json")
    written["updateq"] = written.pop("updates")
    write_sealed(source/"state.json", written)
    with pytest.raises(AamError, match="does not say how often its average was updated"): use(source)
