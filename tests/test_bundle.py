"A bundle is what was saved or is refused; what is altered on purpose and sealed again meets the same checks."
import json
import pickle
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_cases import predicted, small_bundle
from safetensors.torch import load_file, save_file

from aam_nb.core import AamError, keyed_rng
from aam_nb.disk import read_json, write_json, write_sealed
from aam_nb.inference.bundle import load_bundle, save_bundle
from aam_nb.seal import changes_since_seal, SEAL, seal_folder

FILES = ("README.md", "asvs.fasta", "codecs.json", "config.json", "model.safetensors", SEAL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Two bundles in one folder."
    top = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(("one", "two")): save_bundle(top/name, small_bundle(seed))
    return top


@pytest.fixture
def one(made, tmp_path): return Path(shutil.copytree(made/"one", tmp_path/"one"))


def change_tensors(folder, change):
    path = folder/"model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_json(folder, name, change):
    value = read_json(folder/name)
    change(value)
    (folder/name).write_text(json.dumps(value))


def put(key, value):
    "A change that sets what a path of keys names."
    def change(o):
        for k in key[:-1]: o = o[k]
        o[key[-1]] = value
    return change


def test_a_bundle_comes_back_and_its_files_follow_the_umask(made):
    found, wanted = load_bundle(made/"one"), small_bundle(0)
    assert sorted(o.name for o in (made/"one").iterdir()) == sorted(FILES)
    assert not changes_since_seal(made/"one")
    rights = {o.stat().st_mode & 0o777 for o in (made/"one").iterdir()}
    assert rights == {(made/"one").stat().st_mode & 0o666}
    assert found.targets == wanted.targets and found.covariates == wanted.covariates
    assert (found.known == wanted.known).all() and (found.samples == wanted.samples).all()
    assert predicted(found).rows.equals(predicted(wanted).rows)


# What happens to files by mistake

def flip(rng, folder, other):
    path = folder/FILES[rng.integers(len(FILES))]
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def cut(rng, folder, other):
    path = folder/FILES[rng.integers(len(FILES))]
    data = path.read_bytes()
    path.write_bytes(data[:rng.integers(len(data))])


def take_from_another(rng, folder, other): # Their README and configuration are equal
    name = ("model.safetensors", SEAL)[rng.integers(2)]
    shutil.copy(other/name, folder/name)


def exchange(rng, folder, other):
    a, b = (folder/FILES[i] for i in rng.choice(len(FILES), 2, replace=False))
    a.rename(folder/"c")
    b.rename(a)
    (folder/"c").rename(b)


def remove(rng, folder, other): (folder/FILES[rng.integers(len(FILES))]).unlink()


def add(rng, folder, other):
    name = ("notes.txt", ".hidden", "model.safetensors.bak", "more/x", "code.py")[rng.integers(5)]
    (folder/name).parent.mkdir(exist_ok=True)
    (folder/name).write_bytes(rng.bytes(rng.integers(9)))


def weights(rng, folder, other):
    def change(tensors):
        name = sorted(tensors)[rng.integers(len(tensors))]
        kinds = (lambda o: o.to(torch.float64), lambda o: o + 1, lambda o: torch.full_like(o, 7))
        tensors[name] = kinds[rng.integers(3)](tensors[name])
    change_tensors(folder, change)


def backwards(rng, folder, other):
    def change(tensors): tensors["known_asvs"] = tensors["known_asvs"].flip(0)
    change_tensors(folder, change)


def another_number(rng, folder, other):
    name = ("config.json", "codecs.json")[rng.integers(2)]
    text = (folder/name).read_text()
    at = [i for i, o in enumerate(text) if o.isdigit()]
    i = at[rng.integers(len(at))]
    (folder/name).write_text(text[:i] + str((int(text[i]) + 1) % 10) + text[i+1:])


MISHAPS = (flip, flip, flip, cut, take_from_another, exchange, remove, add, weights, backwards,
           another_number)


@pytest.mark.parametrize("n", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_altered_bundle_is_accepted(made, tmp_path, n):
    accepted = []
    for i in range(n):
        rng, what = keyed_rng("altered bundle", i), MISHAPS[i % len(MISHAPS)]
        folder = Path(shutil.copytree(made/"one", tmp_path/"altered"))
        what(rng, folder, made/"two")
        try: load_bundle(folder)
        except AamError: pass
        else: accepted.append((i, what.__name__))
        shutil.rmtree(folder)
    assert not accepted


def test_litter_of_desktops_is_no_change(one):
    for o in (".DS_Store", "Thumbs.db", ".nfs0001"): (one/o).touch()
    load_bundle(one)


def test_an_older_bundle_loads_with_a_note_and_a_new_one_keeps_its_seal(one, capsys):
    (one/SEAL).unlink()
    with pytest.raises(AamError, match="lacks seal.json"): load_bundle(one)
    change_json(one, "config.json", put(["format"], 2))
    load_bundle(one)
    assert "carries no seal" in capsys.readouterr().err
    seal_folder(one)
    load_bundle(one)
    assert "seal" not in capsys.readouterr().err


# What somebody alters and seals again

TENSORS = {
    "NaN or infinite": put(["encoder.centre"], torch.full((8,), torch.nan)),
    "first: 'encoder.centre'": lambda o: o.update({"encoder.centre": o["encoder.centre"].double()}),
    "first: 'encoder.scale'": lambda o: o.pop("encoder.scale"),
    "first: 'more'": put(["more"], torch.zeros(1)),
    "'known_asvs' is not a rising list": lambda o: o.update(known_asvs=o["known_asvs"].flip(0)),
    "'samples' is not a rising list": lambda o: o.update(samples=o["samples"][[0, 0, 1]]),
    "'samples' is not a rising list of whole": lambda o: o.update(samples=o["samples"].double()),
    "its linear path is for": lambda o: o.update(known_asvs=o["known_asvs"][1:]),
    "no sound tree": lambda o: o.update({"linear.tip": o["linear.tip"] - 9}),
}


@pytest.mark.parametrize("said", TENSORS)
def test_weights_are_checked_by_name(one, said):
    change_tensors(one, TENSORS[said])
    seal_folder(one)
    with pytest.raises(AamError, match=f"model.safetensors .*{said}"): load_bundle(one)


DEEP = {"a": 1}
for _ in range(50): DEEP = {"a": DEEP}
CODEC = ["targets", "codecs", 0]
JSON = [
    ("config.json", put(["format"], None)), ("config.json", put(["model"], None)),
    ("config.json", put(["model"], [])), ("config.json", lambda o: o.pop("model")),
    ("config.json", lambda o: o.pop("config")), ("config.json", put(["config"], [1])),
    ("config.json", lambda o: o.pop("about")), ("config.json", put(["about"], "none")),
    ("config.json", put(["config", "model"], 3)), ("config.json", put(["config", "model", "width"], "8")),
    ("config.json", put(["config", "model", "width"], 4096)),
    ("config.json", put(["config", "model", "layers"], 64)),
    ("config.json", put(["config", "model", "heads"], 3)), ("config.json", put(["config", "no"], {})),
    ("config.json", put(["config", "loss", "metric"], [["a"]])), ("config.json", put(["config"], DEEP)),
    ("config.json", put(["model", "bases"], -4)), ("config.json", put(["model", "bases"], 10**12)),
    ("config.json", put(["model", "bases"], True)), ("config.json", put(["model", "bases"], 0)),
    ("config.json", put(["model", "metrics"], [3])), ("config.json", put(["model", "metrics"], ["a.b"])),
    ("config.json", put(["model", "known"], 10**9)), ("config.json", put(["model", "branches"], 0)),
    ("config.json", put(["model", "counts"], "yes")), ("config.json", put(["model", "more"], 1)),
    ("codecs.json", lambda o: o.pop("targets")), ("codecs.json", put(["targets"], None)),
    ("codecs.json", put(["more"], 1)), ("codecs.json", put([*CODEC, "sd"], 0)),
    ("codecs.json", put([*CODEC, "sd"], True)), ("codecs.json", put([*CODEC, "mean"], "1")),
    ("codecs.json", put([*CODEC, "mean"], float("nan"))), ("codecs.json", put([*CODEC, "mean"], 10**400)),
    ("codecs.json", put([*CODEC, "name"], "weight")), ("codecs.json", put([*CODEC, "name"], ["age"])),
    ("codecs.json", put([*CODEC, "classes"], 3)), ("codecs.json", put([*CODEC, "task"], {})),
    ("codecs.json", lambda o: o["targets"]["codecs"].reverse()),
    ("codecs.json", lambda o: o["targets"]["codecs"][1]["classes"].append("d")),
    ("codecs.json", put(["covariates", "sd"], ["a"])), ("codecs.json", put(["covariates", "known"], [])),
    ("codecs.json", put(["covariates", "chains"], [[["diet"]]])),
    ("codecs.json", lambda o: o.pop("covariates")),
]


@pytest.mark.parametrize("i", range(len(JSON)))
def test_configuration_and_codecs_are_checked(one, i):
    name, change = JSON[i]
    change_json(one, name, change)
    seal_folder(one)
    with pytest.raises(AamError) as e: load_bundle(one)
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize("name", ["config.json", "codecs.json"])
@pytest.mark.parametrize("text", ["[]", "3", "null", '""', "{}", "[" * 100_000, "9" * 5000, ""])
def test_any_json_is_a_bundle_or_an_error(one, name, text):
    (one/name).write_text(text)
    seal_folder(one)
    with pytest.raises(AamError): load_bundle(one)


@pytest.mark.parametrize("files", [None, [], 3, {}, {"config.json": 3}, dict.fromkeys(FILES)])
def test_a_seal_that_is_sound_but_lists_something_else(one, files):
    write_sealed(one/SEAL, dict(files=files))
    with pytest.raises(AamError, match="lists no files|was altered|were altered|were added"): load_bundle(one)


@pytest.mark.parametrize("text", [">1\nTTTTTTTTTTTTTTTTTTTTTTTT\n", "twice", ">1\n!!\n", "\x00", "cut"])
def test_sequences_are_those_of_known_asvs(one, text):
    path = one/"asvs.fasta"
    own = path.read_text()
    path.write_text(dict(twice=own + own.replace(">", ">a"), cut=own[:-4] + "\n").get(text, text))
    seal_folder(one)
    with pytest.raises(AamError, match="asvs.fasta"): load_bundle(one)


def test_nothing_of_a_bundle_is_unpickled(one):
    seen, watch = [], [True]

    def hear(event, args):
        if watch and event.startswith("pickle"): seen.append(event)
    sys.addaudithook(hear)
    pickle.loads(pickle.dumps(Path))
    assert seen.pop() == "pickle.find_class" # The hook sees what it looks for
    load_bundle(one)
    watch.clear()
    assert not seen


def mark(bundle): return float(bundle.model.encoder.position.detach().sum())


def test_a_bundle_that_is_replaced_while_it_is_read_is_of_one_moment(made, tmp_path):
    bundles, stop = [small_bundle(o) for o in (0, 1)], threading.Event()
    wanted = {mark(o) for o in bundles}
    save_bundle(tmp_path/"b", bundles[0])

    def replace():
        n = 0
        while not stop.is_set(): save_bundle(tmp_path/"b", bundles[n := 1 - n])
    writer = threading.Thread(target=replace)
    writer.start()
    try: found = {mark(load_bundle(tmp_path/"b")) for _ in range(15)}
    finally:
        stop.set()
        writer.join()
    assert found <= wanted


def test_keys_are_saved_once_and_in_order(tmp_path):
    from dataclasses import replace
    bundle = small_bundle()
    twice = np.concatenate([bundle.samples[::-1], bundle.samples])
    found = load_bundle(save_bundle(tmp_path/"b", replace(bundle, samples=twice)))
    assert (found.samples == bundle.samples).all()
    write_json(tmp_path/"file", 1)
    with pytest.raises(AamError, match="is a file"): save_bundle(tmp_path/"file", bundle)
    with pytest.raises(AamError, match="letters. cannot be"): load_bundle("x"*5000)
