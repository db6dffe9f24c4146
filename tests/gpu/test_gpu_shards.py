"FSDP2 through Accelerate on one GPU: the losses of a run that shares nothing."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
SCRIPT = Path(__file__).with_name("shard_losses.py")


def run(folder, launched=True, **settings):
    "What the script found, as started by torchrun or by hand."
    folder.mkdir()
    (folder/"settings.json").write_text(json.dumps(settings))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"] if launched else []
    command = [sys.executable, *launcher, str(SCRIPT), str(folder/"out.json"), str(folder/"settings.json")]
    environ = dict(os.environ, PYTHONPATH=str(SCRIPT.parents[2]))
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder/"out.json").read_text())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "The losses without shards, by precision."
    folder = tmp_path_factory.mktemp("plain")
    return {o: run(folder/o, launched=False, precision=o) for o in ("fp32", "bf16")}


@pytest.mark.parametrize("precision,more,near", [("fp32", {}, 1e-3), ("bf16", {}, 2e-2),
                                                 ("fp32", dict(offload=True, recompute=True), 1e-3)])
def test_shards_on_one_gpu_lose_as_one_that_shares_nothing(plain, precision, more, near, tmp_path):
    found = run(tmp_path/"run", shard="fsdp", precision=precision, **more)
    assert found["way"] == "FSDP" and found["kind"] == "AamModel" and found["device"].startswith("cuda")
    assert found["files"] == ["index.json", "rank-0.safetensors", "state.json"]
    for stage in ("asvs", "samples"):
        a, b = np.array(found[stage]), np.array(plain[precision][stage])
        assert len(a) == 8 and abs(a/b - 1).max() < near, (stage, a, b)


def test_asked_for_without_a_launcher_is_an_error(tmp_path):
    with pytest.raises(AssertionError, match="Start one process for each GPU"):
        run(tmp_path/"run", launched=False, shard="fsdp")
