"A run from an encoder of a reference in two processes, and one that goes on, end with the constants of one."
import pytest
import torch
from launches import launched

from aam_nb.data.simulate import simulate, study_files, write_study
from aam_nb.inference.bundle import load_bundle


@pytest.mark.slow
def test_two_processes_and_a_run_that_goes_on_have_the_same_constants(tmp_path):
    write_study(simulate(samples=40, asvs=60, groups=10, length=100, seed=6), tmp_path/"data")
    given = study_files(tmp_path/"data") | dict(target="age", groups="subject")
    words = ["-m", "aam_nb.train", *(f"data.{k}={v}" for k, v in given.items() if k != "tree"),
             "run.start=reference", "optim.steps=6", "optim.batch=8", "optim.every=3", "run.threads=1"]
    found = {}
    for name, world in (("one", 1), ("two", 2)):
        out = tmp_path/name
        done = launched([*words, f"run.out={out}"], world, seconds=240)
        assert done.status == 0, done.err
        found[name] = load_bundle(out/"bundle").model.encoder
    (tmp_path/"one/finished.json").unlink()
    done = launched([*words, f"run.out={tmp_path/'one'}", "run.resume=true"], 1, seconds=240)
    assert done.status == 0, done.err
    found["again"] = load_bundle(tmp_path/"one/bundle").model.encoder
    for o in ("two", "again"):
        assert torch.equal(found[o].centre, found["one"].centre) and found[o].scale == found["one"].scale
