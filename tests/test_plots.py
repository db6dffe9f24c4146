"Pictures say the numbers that they show, stay small, and can be told apart by everyone."
import re
from dataclasses import replace

import numpy as np
import pytest
from made_up import made, small, with_intervals

from aam_nb.data.simulate import simulate
from aam_nb.evaluation.class_plots import plot_reliability
from aam_nb.evaluation.data_plots import fold_titles, plot_training
from aam_nb.evaluation.evaluation import coverage_text
from aam_nb.evaluation.html import shades, STYLE
from aam_nb.evaluation.picture import COLORS, GREY, INK
from aam_nb.evaluation.plots import plot_intervals
from aam_nb.evaluation.report import report_html


@pytest.fixture(scope="module")
def study(): return small()


def test_intervals_are_drawn_and_said(study):
    e = with_intervals(study)
    shown, inside = plot_intervals(e), np.abs(e.predictions["aam"] - e.truth) <= 2
    assert coverage_text(e) in shown.alt and coverage_text(e) in shown.caption
    assert f"promise to hold 90 % of the true values and hold {100*inside.mean():.3g} %" in shown.alt
    assert f"inside ({inside.sum()})" in shown.svg and f"outside ({60 - inside.sum()})" in shown.svg
    thirds = [inside[o] for o in np.array_split(np.argsort(e.predictions["aam"], kind="stable"), 3)]
    assert ", ".join(f"{o.mean():.0%}" for o in thirds) in shown.alt and plot_intervals(made(study)) is None


def test_one_line_a_sample_and_no_page_of_megabytes():
    "Lines are one path, and thousands of them are a picture."
    many = simulate(samples=3000, asvs=5, groups=100, seed=0)
    for n in (300, 3000):
        part = replace(many, table=many.table.samples(np.arange(n)), metadata=many.metadata.iloc[:n])
        svg = plot_intervals(with_intervals(part, groups=0)).svg
        assert len(svg) < (60_000 if n == 300 else 200_000) and ("<image" in svg) == (n == 3000)


def test_reliability_says_the_error_of_the_scores(study):
    e = made(study, "classification")
    shown, page = plot_reliability(e), report_html(e, "Classes", study)
    for o in ("aam", "forest"): assert f"{e.scores[o]['calibration_error'][0]:.3f}" in shown.caption
    alone = plot_reliability(replace(e, model="")).caption
    assert shown.caption in page and "Calibration error" in page
    assert "Average of 4" in alone and "aam" not in alone


def test_training_needs_a_loss():
    assert plot_training([dict(step=1, mae=2.)]) is None
    assert "loss from 2.00 to 1.00" in plot_training([dict(step=i, loss=2. - i) for i in range(2)]).alt


def test_folds_are_named_by_repeat(study):
    e = made(study)
    twice = replace(e, ids=np.tile(e.ids, 2), fold=np.concatenate([e.fold, e.fold + 5]))
    assert fold_titles(e) == list("12345") and fold_titles(twice)[4:6] == ["1.5", "2.1"]


def luminance(color):
    "How light a colour is, 0 to 1, as of WCAG."
    v = [int(color[i:i+2], 16)/255 for i in (1, 3, 5)]
    linear = [o/12.92 if o <= .04045 else ((o + .055)/1.055)**2.4 for o in v]
    return sum(w*o for w, o in zip((.2126, .7152, .0722), linear, strict=True))


def contrast(a, b):
    x, y = sorted((luminance(a), luminance(b)))
    return (y + .05)/(x + .05)


def test_contrast():
    for text in (INK, GREY, "#00558c", "#8f3a00", *COLORS.values()): assert contrast(text, "#ffffff") >= 4.5
    assert contrast("#8f3a00", "#fdf4ec") >= 4.5 and contrast(GREY, "#f1f7fb") >= 4.5
    assert contrast(INK, "#fdf4ec") >= 7
    steps = [list(map(int, o)) for o in re.findall(r"rgb\((\d+),(\d+),(\d+)\)", shades())]
    assert len(steps) == 11 and all(contrast(INK, "#%02x%02x%02x" % tuple(o)) >= 4.5 for o in steps)
    used = set(re.findall(r"#[0-9a-f]{6}", STYLE))
    assert used - {INK, GREY} <= {"#d9dee3", "#0068a8", "#b84a00", "#00558c", "#fdf4ec", "#8f3a00", "#f1f7fb"}


def without_red_and_green(color):
    "A colour as seen with deuteranopia, in linear light (Vienot 1999)."
    r, g, b = (((int(color[i:i+2], 16)/255 + .055)/1.055)**2.4 for i in (1, 3, 5))
    m = .29275*r + .70725*g
    return np.array([m, m, -.02234*r + .02234*g + b])


def test_the_three_methods_differ_for_the_colour_blind():
    hues = [without_red_and_green(COLORS[o]) for o in ("model", "forest", "average")]
    assert min(np.abs(a - b).max() for i, a in enumerate(hues) for b in hues[:i]) > .08
