"The tools that guard the project see what they guard against."
import json
import re
from pathlib import Path

import check_notebooks
import docs
import pages
import pytest

ROOT = Path(__file__).resolve().parent.parent
GOOD = '<html><head><link rel="stylesheet" href="a.css"></head><body id="top"><a href="sub/b.html#x">b</a><a href="#top">up</a></body></html>'


@pytest.fixture
def site(tmp_path):
    "Two pages that link to each other."
    (tmp_path/"sub").mkdir(); (tmp_path/"a.html").write_text(GOOD)
    (tmp_path/"sub/b.html").write_text('<p id="x"><a href="../a.html">a</a><a href="https://else.where/">out</a></p>')
    (tmp_path/"a.css").write_text("p { color: black; background: url(dot.png) }")
    return tmp_path


def test_a_good_site_has_no_problems(site):
    assert docs.problems(site) == []


@pytest.mark.parametrize("text, wanted", [
    ('<a href="nowhere.html">', "dead link nowhere.html"), ('<a href="a.html#none">', "no anchor a.html#none"), ('<a href="#none">', "no anchor #none"),
    ('<a href="https://our.site/docs/none.html">', "dead link https://our.site/docs/none.html"), ('<a href="/none.html">', "dead link /none.html"),
    ("<pre>Traceback (most recent call last)</pre>", "traceback"), ('<div class="cell-output cell-output-error">', "traceback"),
    ('<script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example/x.js"), ('<img src="//img.example/x.png">', "fetches"),
])
def test_a_bad_page_is_found(site, text, wanted):
    (site/"bad.html").write_text(text)
    found = docs.problems(site, "https://our.site/docs")
    assert len(found) == 1 and wanted in found[0] and "bad.html" in found[0]


def test_links_to_the_published_site_are_our_own(site):
    (site/"c.html").write_text('<a href="https://our.site/docs/sub/b.html#x">')
    assert docs.problems(site, "https://our.site/docs") == []


def test_a_font_from_another_host_is_found(site):
    (site/"a.css").write_text('@import url("https://fonts.example/css?family=X");')
    assert docs.problems(site) == ["fetches https://fonts.example/css?family=X: a.css"]


def test_no_page_is_a_problem(tmp_path):
    assert docs.problems(tmp_path)


def notebook(path, cells):
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))); return path


def code(source, *outputs): return dict(cell_type="code", source=[source], outputs=list(outputs), metadata={}, execution_count=None)


def text(source): return dict(cell_type="markdown", source=[source], metadata={})


def test_pages_lose_their_number_and_links_follow(tmp_path):
    (tmp_path/"sub").mkdir()
    notebook(tmp_path/"10_data_table.ipynb", [text("[next](11_data_metadata.ipynb), file 11_data_metadata.ipynb")])
    notebook(tmp_path/"sub/first.ipynb", [text("[back](../10_data_table.ipynb#read)")])
    (tmp_path/"sidebar.yml").write_text("- 10_data_table.ipynb\n- sub/first.ipynb\n")
    docs.without_numbers(tmp_path)
    assert "(data_metadata.ipynb), file 11_data_metadata.ipynb" in (tmp_path/"data_table.ipynb").read_text()
    assert "(../data_table.ipynb#read)" in (tmp_path/"sub/first.ipynb").read_text()
    assert (tmp_path/"sidebar.yml").read_text() == "- data_table.ipynb\n- sub/first.ipynb\n"


def test_the_lead_of_a_page_survives():
    cells = pages.with_lead([pages.mk_cell("# Title\n\n> Subtitle\n\nA sentence.\n\n## Not the title", "markdown")])
    assert [c.source for c in cells] == ["# Title\n\n> Subtitle\n\n", "A sentence.\n\n## Not the title"]
    assert [c.source for c in pages.with_lead([pages.mk_cell("## No title", "markdown")])] == ["## No title"]


@pytest.mark.parametrize("cells, wanted", [
    ([text("<<<<<<< HEAD")], "conflict markers"), ([code("1/0", dict(output_type="error", ename="E", evalue="", traceback=[]))], "stores an error"),
    ([code("x", dict(output_type="display_data", data={"image/png": "A"*80_000}))], "picture of 60 kB"), ([text("a"*210_000)], "is 210 kB"),
])
def test_a_bad_notebook_is_found(tmp_path, cells, wanted):
    found = check_notebooks.problems(notebook(tmp_path/"10_bad.ipynb", cells))
    assert len(found) == 1 and wanted in found[0]


def test_raw_conflict_markers_are_found(tmp_path):
    path = tmp_path/"raw.ipynb"; path.write_text('{"cells": [\n<<<<<<< HEAD\n]}')
    assert check_notebooks.problems(path) == ["holds conflict markers"]


def test_every_page_stands_in_the_sidebar_in_order():
    listed = re.findall(r"- (\S+\.ipynb)", (ROOT/"nbs/sidebar.yml").read_text())
    there = sorted(str(p.relative_to(ROOT/"nbs")) for p in (ROOT/"nbs").rglob("*.ipynb") if not p.parts[-2].startswith("."))
    assert sorted(listed) == there
    numbered = [o for o in listed if o[0].isdigit()]
    assert numbered == sorted(numbered)
