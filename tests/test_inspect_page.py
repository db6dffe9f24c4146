"The page of an inspection is well formed, fetches nothing, and says findings first."
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from html_pages import CHROMIUM, inner_links, Page, QUIET
from planted import look, small, with_again, with_columns

from aam_nb.data.split import split_independent
from aam_nb.data.tokens import sequence_keys
from aam_nb.evaluation.findings import SEVERITIES
from aam_nb.evaluation.inspect_page import inspection_html, write_inspection


@cache
def planted():
    "An inspection of a study with a copy, a run that follows the site and a sample of the pretraining."
    s = with_again(small(), 7, "<b>again</b>", subject="P99")
    s = with_columns(s, run=np.where(s.metadata["site"] == "skin", "R<1>", "R2"))
    s = replace(s, notes=("a note & more",))
    return look(s, "site", "subject", split=split_independent(s.ids), pretrained=sequence_keys(["S003"]))


@cache
def pages():
    s = small()
    bare = look(replace(s, metadata=None, tree=None, tip=None))
    return dict(planted=inspection_html(planted(), "<script>alert(1)</script>"),
                calm=inspection_html(look(s, "age", "subject")), bare=inspection_html(bare),
                unguarded=inspection_html(look(s, "site")))


@pytest.mark.parametrize("name", ["planted", "calm", "bare", "unguarded"])
def test_page_is_well_formed_and_fetches_nothing(name):
    text = pages()[name]
    p, links = Page(text), inner_links(text)
    assert len(p.ids) == len(set(p.ids)) and len(p.tags("h1")) == 1 and links and links <= set(p.ids)
    assert not p.tags("script") and not p.tags("b") and "Inspection by aam_nb" in text
    assert all(o.startswith(("#", "data:")) for o in p.attributes("src", "href"))
    for o in p.tags("svg"): assert o["inside"][0]["tag"] == "title" and len(o["inside"][0]["text"]) > 25
    assert "nan" not in "".join(p.text).lower().split()
    assert len(text) < 300_000 and "default-src 'none'" in text


def test_page_says_findings_first_and_what_to_do():
    text = Page(pages()["planted"]).words
    for o in planted().findings: assert " ".join(o.text.split()) in text and o.todo in text
    assert text.index("samples on both sides") < text.index("Reads per sample") and "a note & more" in text
    assert "Nothing was found that would make a score too good" in pages()["calm"]


def test_written_files(tmp_path):
    found = planted()
    folder = write_inspection(found, tmp_path/"a"/"b").parent
    assert sorted(o.name for o in folder.iterdir()) == ["alike.tsv", "findings.tsv", "inspect.html"]
    rows = pd.read_csv(folder/"findings.tsv", sep="\t")
    assert list(rows.severity) == [o.severity for o in found.findings]
    assert list(rows.finding) == [o.text for o in found.findings]
    pairs = pd.read_csv(folder/"alike.tsv", sep="\t")
    assert list(pairs.iloc[0]) == ["S007", "<b>again</b>", 0]


def test_printed_it_is_facts_and_findings():
    found, said = planted(), str(planted())
    assert all(str(o) in said for o in found.findings) and said.startswith("table ")
    assert found.verdict in said and found.verdict in repr(found)
    assert sorted(found.findings, key=lambda o: SEVERITIES.index(o.severity)) == list(found.findings)


def test_the_same_twice():
    first, again = (inspection_html(look(small(), "site", "subject", seed=3)) for _ in range(2))
    assert first == again


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
def test_chromium_shows_the_page(tmp_path):
    sync = pytest.importorskip("playwright.sync_api").sync_playwright
    path, problems = tmp_path/"inspect.html", []
    path.write_text(pages()["planted"])
    with sync() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        tab = browser.new_page(viewport=dict(width=420, height=900))
        tab.on("console", lambda m: problems.append(m.text))
        tab.goto(path.as_uri())
        assert not problems and tab.evaluate("document.documentElement.scrollWidth") <= 420
        assert tab.locator("figure svg").first.bounding_box()["width"] > 300
        browser.close()
