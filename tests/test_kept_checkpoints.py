"Three checkpoints are kept; a damaged one is passed over, and the run still ends bit for bit the same."
import os
import shutil

import pytest
import torch
from test_checkpoint import same, step, trained

from aam_nb.core import AamError
from aam_nb.training.checkpoint import kept_checkpoints, load_checkpoint, read_checkpoint, save_checkpoint


@pytest.fixture
def four(tmp_path):
    "Four saved steps, three of them kept."
    model, opt, ema = trained(steps=0)
    for i in range(4):
        step(model, opt, ema, i)
        save_checkpoint(tmp_path/"last", model, opt, ema, dict(step=i + 1), keep=3)
    return tmp_path


def end(folder):
    "The weights after ten steps, from the newest whole checkpoint on."
    model, opt, ema = trained(seed=1, steps=1)
    state, _ = load_checkpoint(folder/"last", model, opt, ema)
    for i in range(state["step"], 10): step(model, opt, ema, i)
    return state["step"], model.state_dict()


def names(folder): return sorted(o.name for o in folder.iterdir())


def flip(folder, name="model.safetensors"):
    "One flipped bit, in this checkpoint alone: its files may be linked to another's."
    data = bytearray((folder/name).read_bytes())
    data[-10] ^= 1
    (folder/name).unlink()
    (folder/name).write_bytes(data)


def test_three_are_kept_and_whole(four):
    assert names(four) == ["last", "last-2", "last-3"]
    assert [read_checkpoint(o)[0]["state"]["step"] for o in kept_checkpoints(four/"last")] == [4, 3, 2]


@pytest.mark.parametrize("harm", [flip, lambda o: flip(o, "state.json"), lambda o: (o/"state.json").unlink(),
                                  lambda o: os.truncate(o/"optimizer.safetensors", 100), shutil.rmtree,
                                  lambda o: (o/"state.json").write_text("[" * 100_000)])
def test_a_damaged_one_is_passed_over_and_both_are_named(four, harm, capsys):
    wanted = end(four)[1]
    harm(four/"last")
    found, weights = end(four)
    said = capsys.readouterr().err
    assert found == 3 and same(weights, wanted)
    both = f"{four/'last'} is damaged" in said and f"whole one, {four/'last-3'}" in said
    assert both or not (four/"last").exists()
    flip(four/"last-3")
    found, weights = end(four)
    assert found == 2 and same(weights, wanted)


def test_without_a_whole_one_the_newest_is_named(four):
    for o in ("last", "last-2", "last-3"): flip(four/o)
    with pytest.raises(AamError, match="last is damaged.*start anew"): end(four)


def test_a_run_that_goes_on_from_an_earlier_one_leaves_no_later_ones(four):
    flip(four/"last")
    model, opt, ema = trained(seed=1, steps=1)
    load_checkpoint(four/"last", model, opt, ema)
    shutil.move(four/"last-2", four/"last-9")
    save_checkpoint(four/"last", model, opt, ema, dict(step=4), keep=3)
    assert names(four) == ["last", "last-3"]
    save_checkpoint(four/"last", model, opt, ema, dict(step=5), keep=1)
    assert names(four) == ["last"]


def test_the_same_step_is_not_kept_twice(four):
    model, opt, ema = trained()
    for _ in range(2): save_checkpoint(four/"last", model, opt, ema, dict(step=4), keep=3)
    assert names(four) == ["last", "last-2", "last-3"]


def test_a_disk_without_links_gets_copies(four, monkeypatch):
    def no(*_): raise OSError("no links here")
    monkeypatch.setattr(os, "link", no)
    save_checkpoint(four/"last", *trained(), dict(step=5), keep=3)
    assert names(four) == ["last", "last-3", "last-4"] and read_checkpoint(four/"last-4")


def test_older_runs_have_one_and_go_on(tmp_path):
    save_checkpoint(tmp_path/"last", *trained(), dict(step=3))
    assert kept_checkpoints(tmp_path/"last") == [tmp_path/"last"] and end(tmp_path)[0] == 3
    assert kept_checkpoints(tmp_path/"other") == []
    assert torch.is_tensor(read_checkpoint(tmp_path/"last")[1]["model"]["0.weight"])
