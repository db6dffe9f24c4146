"The report is one well-formed file that fetches nothing, says the doubts first and can be read by everyone."
import os
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.depth import DepthAlarm
from aam_nb.evaluation.evaluation import Evaluation, coverage_text, interval_scores, score_all
from aam_nb.evaluation.html import STYLE, _shades
from aam_nb.evaluation.picture import COLORS, GREY, INK
from aam_nb.evaluation.plots import plot_intervals, plot_reliability, plot_training
from aam_nb.evaluation.report import report_html, write_report
from aam_nb.evaluation.verdict import verdict
from aam_nb.types import strings

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
VOID = {"meta", "link", "br", "img", "input", "hr"}


def made(study, task="regression", classes=3, depth=0, fires=False, groups=24, name="aam", tree=True, seed=0):
    "An evaluation made up from noise, without fitting anything."
    rng = np.random.default_rng(seed); n = len(study.ids); fold = 1 + np.arange(n) % 5
    names = [name, "trivial", "depth", "clr", "forest", "covariates"] + ["branch"]*tree
    if task == "regression": y = rng.uniform(0, 24, n); p = {o: y + rng.normal(0, 1 + i, n) for i, o in enumerate(names)}; labels = ()
    else:
        y = rng.integers(classes, size=n); labels = tuple(f"class {k}" for k in range(classes))
        p = {o: np.exp(2*np.eye(classes)[y] + rng.normal(0, 1 + i/2, (n, classes))) for i, o in enumerate(names)}
        p = {k: v/v.sum(1, keepdims=True) for k, v in p.items()}
    members = tuple(o for o in (name, "forest", "clr", "branch") if o in p); p["average"] = np.mean([p[o] for o in members], axis=0)
    group = None if not groups else strings([f"P{i % groups:03d}" for i in range(n)])
    scores, gaps = score_all(task, y, p, fold, group, draws=40)
    alarm = DepthAlarm(fires=fires, measure="AUC", value=.93 if fires else .52, chance=.5, depth=900, lost=7, samples=n)
    return Evaluation(target="state", task=task, classes=labels, model=name, ids=study.ids, truth=y, groups=group, fold=fold, predictions=p, scores=scores,
                      differences=gaps, alarm=alarm, members=members, depth=depth, warnings=(alarm.text,) if fires else (), notes=("a note",),
                      seconds=dict.fromkeys(names, 3.))


def spanned(study, wide=2., level=.9, **how):
    "The same with intervals of one width round the model's predictions."
    e = made(study, **how); span = e.predictions[e.model][:, None] + [-wide, wide]
    scores = e.scores | {e.model: e.scores[e.model] | interval_scores(e.truth, span, np.arange(len(span)))}
    return replace(e, interval=span, level=level, scores=scores)


@cache
def small(): return simulate(samples=60, asvs=40, groups=20, seed=0)


@pytest.fixture(scope="module")
def study(): return small()


class Page(HTMLParser):
    "Collects elements and checks that they nest."
    def __init__(self, text):
        super().__init__(); self.stack, self.all, self.text = [], [], []
        self.feed(text); assert not self.stack, self.stack
    def handle_starttag(self, tag, attrs):
        node = dict(tag=tag, attrs=dict(attrs), inside=[], text=""); self.all.append(node)
        if self.stack: self.stack[-1]["inside"].append(node)
        if tag not in VOID: self.stack.append(node)
    def handle_startendtag(self, tag, attrs): self.handle_starttag(tag, attrs); tag in VOID or self.handle_endtag(tag)
    def handle_endtag(self, tag): assert self.stack.pop()["tag"] == tag
    def handle_data(self, data):
        self.text.append(data)
        for o in self.stack: o["text"] += data
    def tags(self, name): return [o for o in self.all if o["tag"] == name]


PAGES = dict(
    numbers=lambda s: report_html(made(s), "Numbers", s, history=[dict(stage="target", step=i, loss=1/(i + 1), valid_loss=1/(i + 2)) for i in range(9)]),
    intervals=lambda s: report_html([spanned(s), spanned(s, depth=900, seed=1)], "Intervals", s),
    classes=lambda s: report_html(made(s, "classification"), "Classes", s),
    two=lambda s: report_html([made(s, "classification", 2, fires=True), made(s, "classification", 2, depth=900, seed=1)], "Two", s, notes=("7 lost",)),
    many=lambda s: report_html(made(s, "classification", 18, groups=0), "Many", s),
    alone=lambda s: report_html(made(s, groups=0, tree=False), "Alone", s))


@cache
def page_of(name): return PAGES[name](small())


@pytest.fixture(params=PAGES)
def page(request): return page_of(request.param)


def test_well_formed_and_named(page):
    p = Page(page); ids = [o["attrs"]["id"] for o in p.all if "id" in o["attrs"]]
    assert len(ids) == len(set(ids)) and p.tags("html")[0]["attrs"]["lang"] == "en" and p.tags("title")[0]["text"] and len(p.tags("h1")) == 1
    links = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page); assert links and set(links) <= set(ids)
    for o in p.tags("svg"): assert o["attrs"]["role"] == "img" and o["inside"][0]["tag"] == "title" and len(o["inside"][0]["text"]) > 25
    assert len(p.tags("svg")) >= 4 and all(any(i["tag"] == "figcaption" and i["text"] for i in o["inside"]) for o in p.tags("figure"))
    for o in p.tags("table"): assert o["inside"][0]["tag"] == "caption" and o["inside"][0]["text"]
    assert p.tags("table") and all(o["attrs"].get("scope") in ("col", "row") for o in p.tags("th"))
    levels = [int(o["tag"][1]) for o in p.all if re.fullmatch("h[1-6]", o["tag"])]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))


def test_fetches_and_runs_nothing(page):
    p = Page(page)
    assert not p.tags("script") and not p.tags("iframe") and not [k for o in p.all for k in o["attrs"] if k.startswith("on")]
    targets = [v for o in p.all for k, v in o["attrs"].items() if k in ("src", "href", "xlink:href", "action", "data")]
    assert targets and all(v.startswith(("#", "data:")) for v in targets)
    assert not re.search(r"@import|url\((?!#)", page) and "default-src 'none'" in page and "nan" not in "".join(p.text).lower().split()


def test_intervals_are_drawn_and_said(study):
    e = spanned(study); shown = plot_intervals(e); inside = int((np.abs(e.predictions["aam"] - e.truth) <= 2).sum())
    assert coverage_text(e) in shown.alt and coverage_text(e) in shown.caption
    assert f"shall hold 90 % of the true values and hold {100*inside/60:.3g} %" in shown.alt
    assert f"inside ({inside})" in shown.svg and f"outside ({60 - inside})" in shown.svg and plot_intervals(made(study)) is None
    thirds = [np.abs(e.predictions["aam"] - e.truth)[o] <= 2 for o in np.array_split(np.argsort(e.predictions["aam"], kind="stable"), 3)]
    assert ", ".join(f"{o.mean():.0%}" for o in thirds) in shown.alt
    page = page_of("intervals"); assert page.count("shall hold 90 %") >= 4 and "shall hold" not in page_of("numbers")


def test_one_line_a_sample_and_no_page_of_megabytes():
    "Lines are one path, and thousands of them are a picture."
    many = simulate(samples=3000, asvs=5, groups=100, seed=0)
    for n in (300, 3000):
        part = replace(many, table=many.table.samples(np.arange(n)), metadata=many.metadata.iloc[:n]); svg = plot_intervals(spanned(part, groups=0)).svg
        assert len(svg) < (60_000 if n == 300 else 200_000) and ("<image" in svg) == (n == 3000)


def test_reliability_says_the_error_of_the_scores(study):
    e = made(study, "classification"); shown = plot_reliability(e); page = page_of("classes")
    for o in ("aam", "forest"): assert f"{e.scores[o]['calibration_error'][0]:.3f}" in shown.caption
    assert shown.caption in page and "Calibration error" in page
    alone = replace(e, model=""); assert "Average of 4" in plot_reliability(alone).caption and "aam" not in plot_reliability(alone).caption


def test_small(page): assert len(page) < 400_000


def test_the_same_twice(): assert PAGES["alone"](small()) == page_of("alone")


def test_doubts_stand_first(study):
    two = page_of("two"); e = made(study, "classification", 2, depth=900, seed=1)
    warning, verdict_at, table = two.index("Sequencing depth alone predicts"), two.index(verdict(e)[0].replace("'", "&#x27;")), two.index("<table")
    assert warning < verdict_at < table and two.index("7 lost.") < verdict_at
    assert two.index("At 900 reads") < two.index("As they come") and "Scores at 900 reads" in two and "Scores as they come" in two
    one = report_html(made(study, "classification", 2, fires=True), "One", study)
    assert "no scores at a common depth" in one and "no scores at a common depth" not in two
    calm = page_of("numbers"); assert "Nothing here speaks against the numbers" in calm and "Warning" not in calm


def test_scores_and_sentence_are_the_evaluation_s(study):
    e = made(study); text = " ".join("".join(Page(page_of("numbers")).text).split())
    assert verdict(e)[0] in text
    for o in e.predictions: assert f"{e.scores[o]['mae'][0]:.2f}".replace("-", "\u2212") in text and e.title(o) in text


def test_hostile_names_are_text(study):
    bad = "<script>alert(1)</script>\"'&"; e = made(study, "classification", 3)
    renamed = {k: {(bad if o == "aam" else o): v for o, v in getattr(e, k).items()} for k in ("predictions", "scores", "differences", "seconds")}
    e = replace(e, classes=(bad, "b", "c"), target=bad, groups=strings([f"{bad}{i % 9}" for i in range(60)]), warnings=(bad,), notes=(bad,),
                model=bad, members=(bad, *e.members[1:]), **renamed)
    text = report_html(e, bad, study, history=[dict(stage=bad, step=i, loss=1.) for i in range(3)], notes=(bad,))
    assert "<script" not in text and not Page(text).tags("script") and bad in "".join(Page(text).text)


def test_large_study_stays_small():
    big = simulate(samples=3000, asvs=30, groups=300, length=40, depth=500, seed=0)
    text = report_html(made(big, groups=300), "Large", big); assert len(text.encode()) < 1_500_000
    assert text.count("<use") < 2_000                                # points became pictures


def luminance(color):
    v = [int(color[i:i+2], 16)/255 for i in (1, 3, 5)]
    return sum(w*(o/12.92 if o <= .04045 else ((o + .055)/1.055)**2.4) for w, o in zip((.2126, .7152, .0722), v, strict=True))


def contrast(a, b): x, y = sorted((luminance(a), luminance(b))); return (y + .05)/(x + .05)


def test_contrast_and_colour_blind_safe():
    hexes = lambda rule: re.findall(r"#[0-9a-f]{6}", rule)
    for text in (INK, GREY, "#00558c", "#8f3a00", *COLORS.values()): assert contrast(text, "#ffffff") >= 4.5
    assert contrast("#8f3a00", "#fdf4ec") >= 4.5 and contrast(GREY, "#f1f7fb") >= 4.5 and contrast(INK, "#fdf4ec") >= 7
    shades = ["#%02x%02x%02x" % tuple(map(int, o)) for o in re.findall(r"rgb\((\d+),(\d+),(\d+)\)", _shades())]
    assert len(shades) == 11 and all(contrast(INK, o) >= 4.5 for o in shades)
    assert set(hexes(STYLE)) - {INK, GREY} <= {"#d9dee3", "#0068a8", "#b84a00", "#00558c", "#fdf4ec", "#8f3a00", "#f1f7fb"}
    # seen without red-green sense (Vienot 1999, deuteranopia, linear light), the three methods still differ
    def seen(c):
        r, g, b = (((int(c[i:i+2], 16)/255 + .055)/1.055)**2.4 for i in (1, 3, 5)); m = .29275*r + .70725*g
        return np.array([m, m, -.02234*r + .02234*g + b])
    hues = [seen(COLORS[o]) for o in ("model", "forest", "average")]
    assert min(np.abs(a - b).max() for i, a in enumerate(hues) for b in hues[:i]) > .08


def test_refuses_what_does_not_belong_together(study):
    for pair in ([made(study), made(study)], [made(study), made(study, "classification", depth=9)], []):
        with pytest.raises(AamError, match="report takes"): report_html(pair, "t", study)


def test_write_is_whole_and_history_optional(study, tmp_path):
    path = write_report(made(study), tmp_path/"deep"/"report.html", "t", study); assert path.read_text().endswith("</html>\n")
    assert [o.name for o in path.parent.iterdir()] == ["report.html"] and plot_training([dict(step=1, mae=2.)]) is None


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
def test_chromium_shows_it_without_errors_or_requests(study, tmp_path):
    sync = pytest.importorskip("playwright.sync_api").sync_playwright
    files = {k: tmp_path/f"{k}.html" for k in ("two", "numbers")}
    for k, path in files.items(): path.write_text(page_of(k))
    with sync() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        for path in files.values():
            tab = browser.new_page(java_script_enabled=False, viewport=dict(width=420, height=900)); problems, asked = [], []
            tab.on("console", lambda m, problems=problems: problems.append(m.text)); tab.on("pageerror", lambda m, problems=problems: problems.append(str(m)))
            tab.on("request", lambda r, asked=asked: asked.append(r.url)); tab.goto(path.as_uri())
            assert not problems and [o for o in asked if not o.startswith("data:")] == [path.as_uri()]
            assert tab.locator("h1").inner_text() and tab.locator("figure svg").first.bounding_box()["width"] > 300
            tab.close()
        tab = browser.new_page(viewport=dict(width=420, height=900)); tab.goto(files["two"].as_uri())   # a telephone: no sideways scrolling
        assert tab.evaluate("document.documentElement.scrollWidth") <= 420
        tab.pdf(path=str(tmp_path/"print.pdf")); assert (tmp_path/"print.pdf").stat().st_size > 20_000
        browser.close()
