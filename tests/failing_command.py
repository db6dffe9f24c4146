"A command that fails as it is told: run by tests in several processes."
import os
import sys
import time

import typer

from aam_nb.config import Config
from aam_nb.core import AamError, note
from aam_nb.train import shown

WHO, HOW = sys.argv[1].split(","), sys.argv[2]
RANK = int(os.environ["RANK"])


def fail():
    if HOW == "error": raise AamError("There is no file study.biom.")
    if HOW == "bug": raise MemoryError("no room")
    if HOW == "stop": raise KeyboardInterrupt
    if HOW == "killed": os.kill(os.getpid(), 9)


def work(config):
    from aam_nb.runs.processes import join
    if "parse" in WHO: fail()
    ranks = join(config.run)[1]
    note("All are here.")
    if str(RANK) in WHO:
        if "together" in WHO:
            with ranks.together(): fail()
        fail()
    elif "busy" in WHO: time.sleep(300)
    elif "together" in WHO:
        with ranks.together(): pass
    ranks.wait()


try: shown(work, Config())
except typer.Exit as e: sys.exit(e.exit_code)
