"The site shows all of its code, and its links, pictures and flags are what a reader can use."
import json
import shutil
from pathlib import Path

import docs
import pytest
from html_pages import CHROMIUM, Page, QUIET

ROOT = Path(__file__).resolve().parent.parent
BASE = "https://our.site/docs"
WIDE = "result = evaluate(study, " + ", ".join(f"argument_{i}='a value'" for i in range(20)) + ")"
COMMAND = "aam evaluate --table table.qza --tree tree.qza --metadata metadata.tsv --target age --groups mouse"
TABLE = ("<table class='dataframe'><tr><th></th><th>value</th><th>low</th><th>high</th></tr>"
         "<tr><td>aam</td><td>2.88</td><td>2.62</td><td>3.13</td></tr></table>")
# How far each block of code is wider than its box, the room beside a table's words, and the page's own width
MEASURE = """() => [
    Math.max(...[...document.querySelectorAll('pre')].map(o => o.scrollWidth - o.clientWidth)),
    Math.min(...[...document.querySelectorAll('main th')].map(
        o => parseFloat(getComputedStyle(o).paddingLeft))),
    document.documentElement.scrollWidth - document.documentElement.clientWidth]"""


def cells():
    "A page with wide code and output, a flag in the text, a table and a picture without words."
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    def out(kind, data): return dict(output_type="display_data", metadata={}, data={kind: data})
    def code(source, *outputs):
        return dict(cell_type="code", source=source, metadata={}, outputs=outputs, execution_count=1)
    text = f"# A page\n\n> Of a site\n\nWrite it to a folder with --out runs/age.\n\n```bash\n{COMMAND}\n```"
    printed = dict(output_type="stream", name="stdout", text="LEAK "*100)
    return [dict(cell_type="markdown", source=text, metadata={}), code(WIDE, printed),
            code("scores", out("text/html", TABLE)),
            dict(cell_type="markdown", source="First a look. The curve falls slowly.", metadata={}),
            code("plot()", out("image/png", png))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A small site with the project's own configuration and styles."
    build = pytest.importorskip("smalldocs.site").build
    proc = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT/"nbs/images", proc/"images")
    for o in ("_quarto.yml", "nbs/styles.css"): shutil.copy(ROOT/o, proc)
    names = {"nbdev.yml": f'website:\n  title: x\n  site-url: "{BASE}"\nproject:\n  output-dir: _docs\n',
             "sidebar.yml": "website:\n  sidebar:\n    contents:\n      - index.ipynb\n"}
    for name, text in names.items(): (proc/name).write_text(text)
    quarto = (proc/"_quarto.yml").read_text()
    (proc/"_quarto.yml").write_text(quarto[:quarto.index("    left:")] + quarto[quarto.index("  sidebar:"):])
    notebook = dict(cells=cells(), metadata={}, nbformat=4, nbformat_minor=5)
    (proc/"index.ipynb").write_text(json.dumps(notebook))
    build(proc, quiet=True)
    docs.finish(proc/"_docs", BASE)
    return proc/"_docs"


def test_flags_are_printed_as_they_are_typed(site):
    text = Page((site/"index.html").read_text()).words
    assert "a folder with --out runs/age" in text and "–out" not in text


def test_pictures_have_words_and_the_site_a_sign(site):
    page = Page((site/"index.html").read_text())
    assert [o["attrs"]["alt"] for o in page.tags("img")] == ["The curve falls slowly."]
    icon, = [o["attrs"]["href"] for o in page.tags("link") if o["attrs"].get("rel") == "icon"]
    assert (site/icon).is_file()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_no_code_is_cut_and_no_table_runs_together(site, width):
    sync = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        tab = browser.new_page(viewport=dict(width=width, height=900))
        tab.goto((site/"index.html").as_uri())
        code, room, page = tab.evaluate(MEASURE)
        browser.close()
    assert code <= 1 and room >= 6 and page <= 0


@pytest.mark.parametrize("link, wanted", [
    (BASE, "../index.html"), (f"{BASE}/", "../index.html"), (f"{BASE}/b/c.html#d", "../b/c.html#d"),
    (f"{BASE}/a/e.html.md", "e.html"), (f"{BASE}-other/x.html", f"{BASE}-other/x.html"), ("#d", "#d")])
def test_links_to_the_published_site_stay_on_this_one(tmp_path, link, wanted):
    page = docs.near(f'<a class="x" href="{link}">d</a>', tmp_path/"a/page.html", tmp_path, BASE)
    assert page == f'<a class="x" href="{wanted}">d</a>'


def test_words_that_a_picture_has_are_kept():
    page = '<p>One. Two &amp; "three".</p><img src="a"><img alt="own" src="b"><img alt="" src="c">'
    words = "Two &amp; &quot;three&quot;."
    assert docs.described(page) == (f'<p>One. Two &amp; "three".</p><img alt="{words}" src="a">'
                                    f'<img alt="own" src="b"><img alt="{words}" src="c">')


def test_the_home_page_and_the_page_of_the_report_show_a_report():
    for name, link in (("index", "images/report.png"), ("7_evaluation/80_report", "../images/report.png")):
        text = json.dumps(json.loads((ROOT/f"nbs/{name}.ipynb").read_text())["cells"])
        assert f"]({link})" in text, name
