"Commands in several processes, as a launcher starts them; children never outlive a test."
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEAVE_OUT = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE")


@dataclass
class Done:
    status:int
    out:str
    err:str

    @property
    def own(self):
        "What the processes said themselves, without the launcher's report of their end."
        lines = self.err.splitlines()
        return "\n".join(o for o in lines if o.startswith(("error", "note", "warning", "aam:")))


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if k not in LEAVE_OUT}
    paths = os.pathsep.join([str(ROOT), str(ROOT/"tests"), kept.get("PYTHONPATH", "")])
    return kept | dict(PYTHONPATH=paths, OMP_NUM_THREADS="1", TQDM_DISABLE="1") | more


def started(words, world=2, **more):
    "Start `python WORDS` in some processes of this machine; ports are free ones."
    how = ["--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    launcher = ["-m", "torch.distributed.run", *how, "--nproc-per-node", str(world)] if world > 1 else []
    return subprocess.Popen([sys.executable, *launcher, *map(str, words)], env=environment(**more), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, cwd=ROOT)


def finished(child, seconds=120):
    "Wait for what `started` gave. All that it started is ended with it."
    try: out, err = child.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError): os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return Done(child.returncode, out, err)


def launched(words, world=2, seconds=120, **more):
    "The same in one call."
    return finished(started(words, world, **more), seconds)
