"Tensors written in parts: what is read is what was written, by however many and for however many."
import json

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors import safe_open

from aam_nb.core import AamError
from aam_nb.training.checkpoint import kept_checkpoints, load_checkpoint, read_newest, save_checkpoint
from aam_nb.disk import file_digest, write_json, write_sealed
from aam_nb.training.shard_files import (
    by_group, by_name, index_of, own_file, own_rows, read_parts, rows_of, write_own)


def cuts(n, world):
    "Rows as PyTorch shares them out: equal parts, then a smaller one, then none."
    size = -(-n//world)
    starts = [min(size*k, n) for k in range(world)]
    return [(a, min(a + size, n) - a, n) for a in starts]


def tensors(n, seed=0):
    "Weights, a moment of each, a buffer and a counter."
    torch.manual_seed(seed)
    a, b = torch.randn(n, 3), torch.randn(2*n + 1).double()
    model = {"a.weight": a, "b": b, "scale": torch.tensor(2.), "buffer": torch.arange(4)}
    moments = {"exp_avg/a.weight": a*2, "exp_avg/b": b*2, "step/b": torch.tensor(5.)}
    return by_name(dict(model=model, optimizer=moments, best={"b": b*3}, average=None))


def rows_for(whole, world):
    "The rows of each process, by parameter."
    shared = {k.rpartition("/")[2]: len(v) for k, v in whole.items() if k in ("model/a.weight", "model/b")}
    return [{k: cuts(n, world)[rank] for k, n in shared.items()} for rank in range(world)]


def written(folder, whole, world):
    "Write tensors in parts; returns the index."
    rows = rows_for(whole, world)
    said = [write_own(folder, rank, own_rows(whole, rows[rank]), rows[rank]) for rank in range(world)]
    return json.loads(json.dumps(index_of(said)))


@given(n=st.integers(1, 9), writers=st.integers(1, 5), readers=st.integers(1, 5))
def test_any_number_writes_and_any_number_reads(n, writers, readers, tmp_path_factory):
    folder, whole = tmp_path_factory.mktemp("parts"), tensors(n)
    index = written(folder, whole, writers)
    found = read_parts(folder, index)
    assert found.keys() == whole.keys() and all(torch.equal(found[k], whole[k]) for k in whole)
    for rows in rows_for(whole, readers):
        part, wanted = read_parts(folder, index, rows), own_rows(whole, rows)
        assert all(torch.equal(part[k], wanted[k]) and part[k].dtype == whole[k].dtype for k in whole)


def test_each_row_is_in_one_file_and_wholes_are_in_the_first(tmp_path):
    whole = tensors(5)
    index = written(tmp_path, whole, 3)
    sizes = dict.fromkeys(whole, 0)
    for rank in range(3):
        with safe_open(tmp_path/own_file(rank), "pt") as f:
            for k in f.keys(): sizes[k] += f.get_tensor(k).numel()
            assert rank == 0 or "model/buffer" not in f.keys()
    assert sizes == {k: v.numel() for k, v in whole.items()}
    entry = index["tensors"]["optimizer/exp_avg/b"]
    assert entry["shape"] == [11] and entry["dtype"] == "float64" and entry["placement"] == "rows"
    assert [(o["start"], o["rows"]) for o in entry["parts"]] == [(0, 4), (4, 4), (8, 3)]
    assert index["tensors"]["optimizer/step/b"]["placement"] == "whole"


@pytest.mark.parametrize("total", [4, 6])
def test_tensors_of_another_size_are_refused(tmp_path, total):
    whole = tensors(5)
    index, rows = written(tmp_path, whole, 2), {"a.weight": (0, 2, total)}
    said = f"has 5 rows, the model has {total}"
    with pytest.raises(AamError, match=said): read_parts(tmp_path, index, rows)
    with pytest.raises(AamError, match=said): own_rows(whole, rows)


def test_gaps_and_overlaps_are_refused(tmp_path):
    whole = tensors(6)
    rows = rows_for(whole, 2)
    said = [write_own(tmp_path, rank, own_rows(whole, rows[rank]), rows[rank]) for rank in (0, 1)]
    for wrong in ([said[0], said[0]], [said[1], said[0]], [said[1]]):
        with pytest.raises(AamError, match="do not follow each other"): index_of(wrong)
    with pytest.raises(AamError, match="format 2; this version reads format 1"):
        read_parts(tmp_path, index_of(said) | dict(format=2))


def test_names_of_groups_and_moments():
    flat = by_name(dict(model={"a.b": 1}, optimizer={"exp_avg/a.b": 2}, best=None))
    assert by_group(flat) == {"model": {"a.b": 1}, "optimizer": {"exp_avg/a.b": 2}}
    rows = {"a.b": (1, 2, 3)}
    assert rows_of("model/a.b", (2, 4), rows) == rows_of("optimizer/exp_avg/a.b", (2, 4), rows) == (1, 2, 3)
    assert rows_of("optimizer/step/a.b", (), rows) is None and rows_of("model/c", (2,), rows) is None


def in_parts(folder, model, step, world=2):
    "A checkpoint in parts, as several processes write it."
    folder.mkdir()
    whole = by_name(dict(model=model.state_dict()))
    rows = [{k: cuts(len(v), world)[rank] for k, v in model.state_dict().items()} for rank in range(world)]
    said = [write_own(folder, rank, own_rows(whole, rows[rank]), rows[rank]) for rank in range(world)]
    write_json(folder/"index.json", index_of(said))
    files = {o.name: file_digest(o) for o in folder.iterdir()}
    write_sealed(folder/"state.json", dict(format=2, updates=0, state=dict(step=step), files=files))


def small(seed, width=3):
    "A small model."
    torch.manual_seed(seed)
    return torch.nn.Linear(width, 5)


def test_a_checkpoint_in_parts_loads_into_one_process(tmp_path):
    in_parts(tmp_path/"last", small(1), 4)
    model = small(0)
    state, best = load_checkpoint(tmp_path/"last", model)
    assert state == dict(step=4) and best is None and torch.equal(model.weight, small(1).weight)
    with pytest.raises(AamError, match="another model"): load_checkpoint(tmp_path/"last", small(0, 4))


def test_rows_of_a_checkpoint_of_one_process(tmp_path):
    save_checkpoint(tmp_path/"last", small(1), state=dict(step=1))
    rows, whole = dict(weight=(1, 2, 5), bias=(0, 4, 5)), small(1)
    found = read_newest(tmp_path/"last", rows)[1]["model"]
    assert torch.equal(found["weight"], whole.weight[1:3]) and torch.equal(found["bias"], whole.bias[:4])


@pytest.mark.parametrize("name", ["rank-0.safetensors", "rank-1.safetensors", "index.json", "state.json"])
def test_one_flipped_bit_costs_the_way_back_to_the_checkpoint_before(tmp_path, name, capfd):
    in_parts(tmp_path/"last-3", small(3), 3)
    in_parts(tmp_path/"last", small(4), 4)
    content = bytearray((tmp_path/"last"/name).read_bytes())
    content[len(content)//2] ^= 1
    (tmp_path/"last"/name).write_bytes(content)
    model = small(0)
    state, _ = load_checkpoint(tmp_path/"last", model)
    assert state["step"] == 3 and torch.equal(model.weight, small(3).weight)
    assert "is damaged" in capfd.readouterr().err
    assert len(kept_checkpoints(tmp_path/"last")) == 2


@pytest.mark.parametrize("name", ["rank-1.safetensors", "index.json"])
def test_a_missing_file_is_no_checkpoint(tmp_path, name):
    in_parts(tmp_path/"last", small(4), 4)
    (tmp_path/"last"/name).unlink()
    with pytest.raises(AamError, match="is damaged"): read_newest(tmp_path/"last")
