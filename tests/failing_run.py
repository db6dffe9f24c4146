"A command of `aam` in which one process fails at a given place: run by tests in several processes."
import os
import sys
import time
from pathlib import Path

from aam_nb.core import AamError

RANK, PHASE, HOW = sys.argv.pop(1).split(",")


def fail(*args, **how):
    Path(os.environ["FAILED_AT"]).write_text(str(time.time()))
    if HOW == "bug": raise MemoryError("no room")
    raise AamError("No space is left.")


def failing(owner, name, when=lambda *args: True):
    "Let a function fail in this process, when it is time."
    before = getattr(owner, name)
    def act(*args, **how): return fail() if when(*args) else before(*args, **how)
    setattr(owner, name, act)


def at_step_3(loop, *rest): return loop.state.step == 3


def prepared():
    from aam_nb.runs import prepare
    from aam_nb.training.loop import Loop
    if PHASE == "reading": failing(prepare, "load_study")
    if PHASE == "store": failing(prepare, "stored")
    if PHASE == "step": failing(Loop, "step", at_step_3)
    if PHASE == "validation": failing(Loop, "judge")
    if PHASE == "bundle":
        from aam_nb.runs import train
        failing(train, "keep_bundle")
    if PHASE == "fold":
        from aam_nb.runs import folds
        failing(folds, "fit_fold")


if os.environ["RANK"] == RANK: prepared()
from aam_nb.cli import main # noqa: E402

main()
