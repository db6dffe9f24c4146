"How much memory there is: control groups of both versions, in trees of files as Linux writes them."
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from aam_nb.core import AamError
from aam_nb.training import memory, probe
from aam_nb.training.memory import allowed, cgroup_room, forget_peak, neighbours, peak, resident
from aam_nb.training.probe import Watched, alone_environ, trial_of, watched

V2 = {"memory.max": "{limit}", "memory.current": "{used}", "memory.stat": "anon 5\ninactive_file {cached}\n"}
V1 = {"memory.limit_in_bytes": "{limit}", "memory.usage_in_bytes": "{used}",
      "memory.stat": "inactive_file 1\ntotal_inactive_file {cached}\n"}


def put(folder, files, limit, used=0, cached=0):
    "The files of one control group."
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder/name).write_text(text.format(limit=limit, used=used, cached=cached) + "\n")


def machine(tmp_path, groups):
    "A machine whose process is in these groups."
    (tmp_path/"proc/self").mkdir(parents=True)
    (tmp_path/"proc/self/cgroup").write_text("\n".join(groups) + "\n")
    return tmp_path/"sys/fs/cgroup"


def test_version_2_takes_the_tightest_level(tmp_path):
    top = machine(tmp_path, ["0::/system.slice/slurmd/job_9/step_0"])
    put(top/"system.slice/slurmd/job_9/step_0", V2, "max", 10)
    put(top/"system.slice/slurmd/job_9", V2, 8_000, 3_000, 500)
    put(top/"system.slice", V2, 100_000, 4_000)
    assert cgroup_room(tmp_path) == 5_500


def test_version_1_and_a_container_whose_path_is_of_the_machine_outside(tmp_path):
    top = machine(tmp_path, ["12:cpu,cpuacct:/x", "4:memory:/docker/abc", "1:name=systemd:/x", "0::/"])
    put(top/"memory", V1, 6_000, 2_000, 100)
    assert cgroup_room(tmp_path) == 4_100
    put(top/"memory/docker/abc", V1, 3_000, 2_950)
    assert cgroup_room(tmp_path) == 50


def test_no_limit_no_files_and_no_linux(tmp_path):
    assert cgroup_room(tmp_path) is None
    top = machine(tmp_path, ["4:memory:/a", "0::/b"])
    assert cgroup_room(tmp_path) is None
    put(top/"memory/a", V1, 9223372036854771712, 5)
    put(top/"b", V2, "max")
    assert cgroup_room(tmp_path) is None
    put(top/"unified/b", V2, 77, 99)
    assert cgroup_room(tmp_path) == 0


def test_a_broken_file_is_no_limit(tmp_path):
    top = machine(tmp_path, ["0::/a", "nonsense"])
    put(top/"a", V2, "a lot")
    assert cgroup_room(tmp_path) is None


def test_what_a_process_may_hold(tmp_path, monkeypatch):
    top = machine(tmp_path, ["0::/"])
    put(top, V2, 2*10**9, 10**9)
    assert allowed(root=tmp_path) == 9*10**8 and allowed(given=.5, root=tmp_path) == int(.97*5e8)
    assert allowed(given=50., root=tmp_path) == 9*10**8 # A limit above what is free does not hold
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert neighbours() == 3 and allowed(root=tmp_path) == 3*10**8
    put(top, V2, 10**9, 9*10**8)
    with pytest.raises(AamError, match="Only 30 MB of memory are free on cpu"): allowed(root=tmp_path)


def test_a_gpu_says_what_is_free(monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7*10**9, 8*10**9))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4") # Each process has a GPU of its own
    assert allowed("cuda:1") == int(6.3e9) and allowed("cuda", given=2.) == int(.97*2e9)


@pytest.mark.skipif(not memory._FORGET.exists(), reason="only Linux starts a peak anew")
def test_the_peak_is_kept_by_the_system():
    forget_peak()
    before = peak()
    np.ones(2**23).sum()
    assert 60*2**20 < peak() - before < 70*2**20
    forget_peak()
    assert peak() < before + 10*2**20 and resident(2**22 + 1) == 0


def test_the_peak_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path/"none")
    monkeypatch.setattr(memory, "_FORGET", tmp_path/"none/none")
    forget_peak()
    assert peak() >= .5*resident()


def started(code): return [sys.executable, "-c", code]


def test_a_watched_process_is_gone_when_it_is_over_and_when_somebody_stops_us(monkeypatch, tmp_path):
    forever = f"import os, time\nopen({str(tmp_path/'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(99)"
    def stop(child, *more):
        while not (tmp_path/"pid").exists(): time.sleep(.01)
        raise KeyboardInterrupt
    monkeypatch.setattr(probe, "_watch", stop)
    with pytest.raises(KeyboardInterrupt): watched(started(forever), limit=10**9)
    with pytest.raises(ProcessLookupError): os.kill(int((tmp_path/"pid").read_text()), 0)


def test_how_a_watched_process_may_end():
    late = watched(started("import time; time.sleep(60)"), limit=10**9, seconds=.3)
    assert late.ended == "late" and late.seconds < 20
    with pytest.raises(AamError, match="took more than"): trial_of([3], late, 10**9)
    killed = watched(started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), limit=10**9)
    assert killed.ended == "over" and trial_of([3, 5], killed, 10**9).fails == 3
    silent = watched(started("raise SystemExit(3)"), limit=10**9)
    with pytest.raises(AamError, match="hold 3 at once could not be tried: it said nothing"):
        trial_of([3], silent, 10**9)
    noise = watched(started("print('hello\\n[1]\\n{\"peak\": 5}\\n{\"pea', end='')"), limit=10**9)
    assert noise.lines == [{"peak": 5}]


def test_a_watched_process_knows_nothing_of_launchers(monkeypatch):
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "ACCELERATE_USE_FSDP", "TORCHELASTIC_RUN_ID"}
    for k in names: monkeypatch.setenv(k, "1")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = watched(started(code), limit=10**9, environ={"MINE": "yes"}).lines[0]
    assert seen["MINE"] == "yes" and "PATH" in seen
    assert not names & set(seen)
    assert set(alone_environ()) <= set(os.environ)


def test_a_step_that_memory_ran_out_in_does_not_fit():
    lines = [{"base": 5}, {"peak": 10}, {"full": "out of memory"}]
    trial = trial_of([4, 8], Watched(ended="done", seen=0, lines=lines), 100)
    assert (trial.fits, trial.fails, trial.base) == (4, 8, 5)
    lines = lines[:2] + [{"peak": 101}, {"learned": 1}]
    over = trial_of([4, 8], Watched(ended="done", seen=0, lines=lines), 100)
    assert (over.fits, over.fails) == (4, 8)


@pytest.mark.parametrize("share", [.3, .9])
def test_addresses_are_not_memory(share):
    "Why there is no limit on addresses: a process may ask for ten times what it uses."
    code = "import numpy as np, time\nheld = [np.empty(2**24) for _ in range(8)]\ntime.sleep(%s)" % share
    found = watched(started(code), limit=400*10**6)
    assert found.ended == "done" and 0 < found.seen < 200*10**6
    limited = subprocess.run(["bash", "-c", f"ulimit -v 400000; {sys.executable} -c '{code}'"],
                             capture_output=True, text=True, timeout=60)
    assert limited.returncode and "emory" in limited.stderr
