"The report is one well-formed file that fetches nothing, says the answer first and can be read by everyone."
import re
from dataclasses import replace
from functools import cache

import pytest
from made_up import made, small, with_intervals
from html_pages import CHROMIUM, inner_links, Page, QUIET

from aam_nb.core import AamError
from aam_nb.data.simulate import simulate
from aam_nb.evaluation.report import report_html, write_report
from aam_nb.evaluation.verdict import verdict
from aam_nb.types import strings

LOG = [dict(stage="target", step=i, loss=1/(i + 1), valid_loss=1/(i + 2)) for i in range(9)]


@pytest.fixture(scope="module")
def study(): return small()


def two_depths(s):
    "Two classes, where depth gives the target away."
    pair = made(s, "classification", 2, fires=True), made(s, "classification", 2, depth=900, seed=1)
    return report_html(pair, "Two", s, notes=("7 lost",))


def two_with_intervals(s):
    "A number with intervals at two depths."
    return report_html([with_intervals(s), with_intervals(s, depth=900, seed=1)], "Intervals", s)


PAGES = dict(
    numbers=lambda s: report_html(made(s), "Numbers", s, history=LOG),
    intervals=two_with_intervals,
    classes=lambda s: report_html(made(s, "classification"), "Classes", s),
    two=two_depths,
    many=lambda s: report_html(made(s, "classification", 18, groups=0), "Many", s),
    alone=lambda s: report_html(made(s, groups=0, tree=False), "Alone", s))


@cache
def page_of(name): return PAGES[name](small())


@pytest.fixture(params=PAGES)
def page(request): return page_of(request.param)


def test_well_formed_and_named(page):
    p, links = Page(page), inner_links(page)
    assert len(p.ids) == len(set(p.ids)) and links and links <= set(p.ids)
    assert p.tags("html")[0]["attrs"]["lang"] == "en"
    assert p.tags("title")[0]["text"] and len(p.tags("h1")) == 1
    levels = [int(o["tag"][1]) for o in p.all if re.fullmatch("h[1-6]", o["tag"])]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))


def test_pictures_and_tables_have_words(page):
    p = Page(page)
    for o in p.tags("svg"):
        first = o["inside"][0]
        assert o["attrs"]["role"] == "img" and first["tag"] == "title" and len(first["text"]) > 25
    def is_caption(node): return node["tag"] == "figcaption" and node["text"]
    assert len(p.tags("svg")) >= 4
    assert all(any(map(is_caption, o["inside"])) for o in p.tags("figure"))
    for o in p.tags("table"): assert o["inside"][0]["tag"] == "caption" and o["inside"][0]["text"]
    assert p.tags("table") and all(o["attrs"].get("scope") in ("col", "row") for o in p.tags("th"))


def test_fetches_and_runs_nothing(page):
    p = Page(page)
    on = [k for o in p.all for k in o["attrs"] if k.startswith("on")]
    assert not p.tags("script") and not p.tags("iframe") and not on
    targets = p.attributes("src", "href", "xlink:href", "action", "data")
    assert targets and all(o.startswith(("#", "data:")) for o in targets)
    assert not re.search(r"@import|url\((?!#)", page) and "default-src 'none'" in page
    assert "nan" not in "".join(p.text).lower().split()


def test_small(page): assert len(page) < 400_000


def test_the_same_twice(): assert PAGES["alone"](small()) == page_of("alone")


def test_the_answer_stands_first_and_doubts_before_tables(study):
    two, e = page_of("two"), made(study, "classification", 2, depth=900, seed=1)
    sentence = verdict(e)[0].replace("'", "&#x27;")
    assert two.index(sentence) < two.index("for caution") < two.index("Sequencing depth alone predicts")
    assert two.index("Sequencing depth alone predicts") < two.index("7 lost.") < two.index("<table")
    assert two.index("At 900 reads") < two.index("At original depth")
    assert "Scores at 900 reads" in two and "Scores at original depth" in two
    one = report_html(made(study, "classification", 2, fires=True), "One", study)
    assert "no scores at a common depth" in one and "no scores at a common depth" not in two
    calm = page_of("numbers")
    assert "No reason was found to doubt the scores" in calm and "Warning" not in calm


def test_a_check_names_its_weight_once(study):
    e = made(study, warnings=("leak (groups): 3 values.", "warning (tree): 9 %.", "Only 9 samples."))
    text = Page(report_html(e, "t", study)).words
    assert "Leak 3 values." in text and "Warning 9 %." in text and "Warning Only 9 samples." in text


def test_scores_and_sentence_are_the_evaluation_s(study):
    e, text = made(study), Page(page_of("numbers")).words
    assert verdict(e)[0] in text
    for o in e.predictions:
        assert f"{e.scores[o]['mae'][0]:.2f}".replace("-", "\u2212") in text and e.title(o) in text


def test_intervals_are_said_where_there_are_any():
    promise = "promise to hold 90 %"
    assert page_of("intervals").count(promise) >= 4 and promise not in page_of("numbers")


def test_hostile_names_are_text(study):
    bad, e = "<script>alert(1)</script>\"'&", made(study, "classification", 3)
    def renamed(field): return {(bad if k == "aam" else k): v for k, v in getattr(e, field).items()}
    fields = {o: renamed(o) for o in ("predictions", "scores", "differences", "seconds")}
    e = replace(e, classes=(bad, "b", "c"), target=bad, groups=strings([f"{bad}{i % 9}" for i in range(60)]),
                warnings=(bad,), notes=(bad,), model=bad, members=(bad, *e.members[1:]), **fields)
    history = [dict(stage=bad, step=i, loss=1.) for i in range(3)]
    text = report_html(e, bad, study, history=history, notes=(bad,))
    assert "<script" not in text and not Page(text).tags("script") and bad in "".join(Page(text).text)


def test_large_study_stays_small():
    big = simulate(samples=3000, asvs=30, groups=300, length=40, depth=500, seed=0)
    text = report_html(made(big, groups=300), "Large", big)
    assert len(text.encode()) < 1_500_000 and text.count("<use") < 2_000 # points became pictures


def test_refuses_what_does_not_belong_together(study):
    for pair in ([made(study), made(study)], [made(study), made(study, "classification", depth=9)], []):
        with pytest.raises(AamError, match="report takes"): report_html(pair, "t", study)


def test_write_is_whole(study, tmp_path):
    path = write_report(made(study), tmp_path/"deep"/"report.html", "t", study)
    assert path.read_text().endswith("</html>\n")
    assert [o.name for o in path.parent.iterdir()] == ["report.html"]


def shown_quietly(browser, path):
    "A page opens without errors and without asking for anything."
    tab = browser.new_page(java_script_enabled=False, viewport=dict(width=420, height=900))
    problems, asked = [], []
    tab.on("console", lambda m: problems.append(m.text))
    tab.on("pageerror", lambda m: problems.append(str(m)))
    tab.on("request", lambda r: asked.append(r.url))
    tab.goto(path.as_uri())
    assert not problems and [o for o in asked if not o.startswith("data:")] == [path.as_uri()]
    assert tab.locator("h1").inner_text() and tab.locator("figure svg").first.bounding_box()["width"] > 300
    tab.close()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
def test_chromium_shows_it_without_errors_or_requests(tmp_path):
    sync = pytest.importorskip("playwright.sync_api").sync_playwright
    files = {k: tmp_path/f"{k}.html" for k in ("two", "numbers")}
    for k, path in files.items(): path.write_text(page_of(k))
    with sync() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        for path in files.values(): shown_quietly(browser, path)
        tab = browser.new_page(viewport=dict(width=420, height=900)) # a telephone: no sideways scrolling
        tab.goto(files["two"].as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 420
        tab.pdf(path=str(tmp_path/"print.pdf"))
        assert (tmp_path/"print.pdf").stat().st_size > 20_000
        browser.close()
