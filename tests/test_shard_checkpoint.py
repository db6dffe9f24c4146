"Checkpoints of shared-out models: any number of processes goes on, and what is kept is whole."
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from bundle_cases import predicted, small_bundle
from equal_cases import CPU, objective_of, source_of, weights_of
from shares import on_cpu

from aam_nb.core import AamError
from aam_nb.inference.bundle import load_bundle, save_bundle
from aam_nb.sections import OptimConfig
from aam_nb.training import shard_checkpoint
from aam_nb.training.checkpoint import kept_checkpoints, load_checkpoint, read_newest
from aam_nb.training.loop import fit, Stage
from aam_nb.training.ranks import ALONE, Elsewhere, several
from aam_nb.training.shard import local, sharded
from aam_nb.training.shard_checkpoint import load_shards, save_shards

OPTIM = OptimConfig(steps=9, lr=1e-3, every=3, ema=.9, chunk=5, freeze=False)


class Ends:
    "Batches that are no more from some step on, as when a machine goes down."
    def __init__(self, source, stop): self.source, self.stop = source, stop

    def __len__(self): return len(self.source)

    def __getitem__(self, i):
        if i == self.stop: raise EOFError
        return self.source[i]


def life(ranks, case, folder, shares, stop=None):
    "One life of a run: train, or go on, with a checkpoint after each step. Returns the weights at its end."
    objective, source = objective_of(case), source_of(case, OPTIM.steps, ranks)
    if stop is not None: source = Ends(source, stop)
    stage = Stage(folder=folder, resume=True, save_steps=1)
    try: fit(objective, source, OPTIM, on_cpu() if shares else CPU, None, stage, ranks=ranks)
    except EOFError: return None
    return weights_of(objective.model).tolist()


# Who goes on: how many processes, and whether they share the model out
HEIRS = dict(alone=(1, False), pair=(2, True), four=(4, True), copies=(2, False))


def lived(work, world, shares):
    "The end of a life in some processes, or in this one."
    return [work(ALONE)] if world == 1 and not shares else several(work, world)


@pytest.fixture(scope="module")
def wanted():
    "The weights of one process that nobody stopped, by case."
    return {o: torch.tensor(life(ALONE, o, None, False)) for o in ("asvs", "all at once")}


def near(found, wanted):
    return all(float((torch.tensor(o) - wanted).abs().max()) < 1e-9 for o in found)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    "The folders of runs of two processes with shards that ended before step 5, by case."
    folders = {o: tmp_path_factory.mktemp("stopped") for o in ("asvs", "all at once")}
    for case, folder in folders.items():
        work = partial(life, case=case, folder=folder, shares=True, stop=5)
        assert several(work) == [None, None]
        assert sorted(os.listdir(folder/"last")) == \
            ["index.json", "rank-0.safetensors", "rank-1.safetensors", "state.json"]
    return folders


@pytest.mark.parametrize("case,heir", [("asvs", "alone"), ("all at once", "alone"), ("all at once", "four"),
                                       pytest.param("asvs", "four", marks=pytest.mark.slow),
                                       pytest.param("asvs", "pair", marks=pytest.mark.slow),
                                       pytest.param("all at once", "copies", marks=pytest.mark.slow)])
def test_others_go_on_and_end_as_if_nothing_had_happened(case, heir, stopped, wanted, tmp_path):
    world, shares = HEIRS[heir]
    folder = shutil.copytree(stopped[case], tmp_path/"run")
    assert read_newest(folder/"last")[0]["state"]["step"] == 5
    assert near(lived(partial(life, case=case, folder=folder, shares=shares), world, shares), wanted[case])


def test_shards_go_on_from_one_process(wanted, tmp_path):
    assert life(ALONE, "all at once", tmp_path, False, stop=4) is None
    found = several(partial(life, case="all at once", folder=tmp_path, shares=True))
    assert near(found, wanted["all at once"])


def test_a_damaged_part_costs_the_way_back_to_the_checkpoint_before(stopped, wanted, tmp_path, capfd):
    folder = shutil.copytree(stopped["asvs"], tmp_path/"run")
    part = folder/"last/rank-1.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    assert near(several(partial(life, case="asvs", folder=folder, shares=True)), wanted["asvs"])
    assert "is damaged" in capfd.readouterr().err


def full_disk(ranks, folder):
    "The words of each process when the second one cannot write its part."
    shards = sharded(small_bundle().model, on_cpu())
    save_shards(folder, shards, state=dict(step=1), ranks=ranks)
    write = shard_checkpoint.write_own
    def failing(*args):
        if ranks.rank == 1: raise OSError(28, "No space left on device")
        return write(*args)
    shard_checkpoint.write_own = failing
    try: save_shards(folder, shards, state=dict(step=2), keep=3, ranks=ranks)
    except AamError as e: return [type(e).__name__, str(e), isinstance(e, Elsewhere)]
    return None


def test_a_full_disk_of_one_process_leaves_the_checkpoint_before(tmp_path):
    first, second = several(partial(full_disk, folder=tmp_path/"last"))
    assert first[2] and not second[2] and second[0] == "DiskError"
    for o in (first, second): assert "disk is full" in o[1] and f"{tmp_path}/last" in o[1]
    assert all(read_newest(o)[0]["state"]["step"] == 1 for o in kept_checkpoints(tmp_path/"last"))
    assert not [o for o in os.listdir(tmp_path) if o.endswith(".part")]


def elsewhere(ranks, folder):
    "What is said when a process does not see the folder of the main process."
    shards = sharded(small_bundle().model, on_cpu())
    if ranks.rank == 1: Path.is_dir = lambda self: False
    try: save_shards(folder, shards, ranks=ranks)
    except AamError as e: return str(e)
    return None


def test_a_folder_that_not_all_machines_see(tmp_path):
    for o in several(partial(elsewhere, folder=tmp_path/"last")):
        assert "Process 1 does not see" in o and "all machines share" in o
    assert not (tmp_path/"last").exists()


def moved(bundle):
    "The weights of a bundle, changed in a way that each row can take by itself."
    with torch.no_grad():
        for p in bundle.model.parameters(): local(p).mul_(1.2)
    return bundle


def numbers(bundle):
    "All that a bundle predicts, as numbers."
    found = predicted(bundle).rows.select_dtypes("number")
    return found.to_numpy().ravel().tolist()


def to_bundle(ranks, folder):
    "Predictions of a model that was shared out, saved, read again and joined."
    bundle = small_bundle()
    shards = sharded(bundle.model, on_cpu())
    moved(bundle)
    save_shards(folder, shards, ranks=ranks)
    with torch.no_grad():
        for p in shards.own.values(): p.zero_()
    load_shards(folder, shards, ranks=ranks)
    shards.join().eval()
    return numbers(bundle)


def test_checkpoint_to_bundle_to_predictions(tmp_path):
    wanted = torch.tensor(numbers(moved(small_bundle())))
    for o in several(partial(to_bundle, folder=tmp_path/"last")):
        assert float((torch.tensor(o) - wanted).abs().max()) < 1e-5
    bundle = small_bundle(seed=3)
    load_checkpoint(tmp_path/"last", bundle.model)
    found = numbers(load_bundle(save_bundle(tmp_path/"bundle", bundle)))
    assert float((torch.tensor(found) - wanted).abs().max()) < 1e-5 and len(found) >= 6
