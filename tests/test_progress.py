"Work that takes long says how far it is, now and then: the innermost piece of it, and not after its end."
import subprocess
import sys
import textwrap
import time

import pytest

import aam_nb.progress as page
from aam_nb.progress import following, Progress


@pytest.fixture
def heard(monkeypatch):
    "The lines that are told, one every tenth of a second."
    lines = []
    monkeypatch.setattr(page, "tell", lines.append)
    monkeypatch.setattr(page, "_clock", page._Clock(.1))
    return lines


def test_a_single_long_step_is_not_silent(heard):
    with Progress("forest", 3, unit="fold"): time.sleep(.9)
    assert len(heard) >= 3 and all(o.startswith("forest: fold 0 of 3, begun ") for o in heard)


def test_the_innermost_speaks_and_the_outer_one_after_it(heard, monkeypatch):
    clock = page._Clock(0.)
    monkeypatch.setattr(clock, "run", lambda: None) # Only asked here
    monkeypatch.setattr(page, "_clock", clock)
    with Progress("fold", 2) as outer:
        with Progress("target", 9) as inner:
            inner.update(3, numbers=dict(loss=.25))
            clock.speak()
        outer.update()
        clock.speak()
    clock.speak()
    first, second = heard
    assert first.startswith("target: step 3 of 9, loss 0.25, about ")
    assert second.startswith("fold: step 1 of 2, about ")


def test_what_is_over_forgotten_or_silent_says_nothing(heard):
    with Progress("quiet", 3, show=False): time.sleep(.4)
    with Progress("over", 3): pass
    Progress("forgotten", 3)
    time.sleep(.5)
    assert heard == []


def test_a_silent_piece_leaves_the_word_to_the_one_around_it(heard):
    with Progress("outer", 3), Progress("quiet", 3, show=False): time.sleep(.5)
    assert heard and all(o.startswith("outer") for o in heard)


def test_short_pieces_one_after_the_other_are_not_silent_together(heard):
    for _ in range(20):
        for _ in following(range(3), "short"): time.sleep(.05)
    assert len(heard) >= 5


def test_a_failure_ends_the_work(heard):
    with pytest.raises(ValueError, match="stop"), Progress("one", 3): raise ValueError("stop")
    assert page._clock.open == []


STAGE = """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    import aam_nb.progress as page
    from toy_batches import QUICK, Toy, cpu, fresh
    from aam_nb.sections import LossConfig
    from aam_nb.training.loop import Stage, fit
    from aam_nb.training.objectives import SampleObjective
    from aam_nb.training.track import RunLog
    page._clock.every = .3
    fit(SampleObjective(fresh(), LossConfig()), Toy(slow=.05), QUICK, cpu(), stage=Stage(log=RunLog()))
"""


def test_a_stage_without_a_terminal_says_its_step(root):
    command = [sys.executable, "-c", textwrap.dedent(STAGE), str(root/"tests")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    lines = [o for o in done.stderr.splitlines() if o.startswith("target: step ")]
    assert lines and " of " in lines[-1] and lines[-1].endswith("left") and "loss " in lines[-1]


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_a_bar_shows_whole_numbers_and_as_many_as_fit(width, monkeypatch, capsys):
    numbers = dict(loss=.51234, mask=1.3213, distance=.2042, count=.7731, valid=.6)
    with Progress("depth_1000 fold 3.2 target", 2000, show=True) as work:
        work.bar.dynamic_ncols = lambda file: (width, 20)
        work.update(150, items=4800, numbers=numbers)
        line, shown = str(work.bar), work.bar.postfix
    assert len(line) <= width
    whole = [f"{k} {v:.3g}" for k, v in numbers.items()]
    parts = [o for o in shown.split(", ") if o]
    assert all(o in whole or o.endswith("samples/s") for o in parts) and (shown in line)
    assert (len(parts) == 6) == (width == 200) and len(parts) >= (width > 80)


def test_without_a_width_nothing_is_left_out():
    with Progress("target", 2000, show=True) as work:
        work.bar.dynamic_ncols = lambda file: (None, None)
        work.update(150, items=4800, numbers={f"part{i}": i for i in range(40)})
        assert "part39 39" in str(work.bar)
