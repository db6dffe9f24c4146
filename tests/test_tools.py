"The tools that guard the project see what they guard against."
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import check_notebooks
import docs
import pages
import pytest

ROOT = Path(__file__).resolve().parent.parent
GOOD = ('<html><head><link rel="stylesheet" href="a.css"></head>'
        '<body id="top"><a href="sub/b.html#x">b</a><a href="#top">up</a></body></html>')


@pytest.fixture
def site(tmp_path):
    "Two pages that link to each other."
    (tmp_path/"sub").mkdir()
    (tmp_path/"a.html").write_text(GOOD)
    (tmp_path/"sub/b.html").write_text('<p id="x"><a href="../a.html">a</a>'
                                       '<a href="https://else.where/">out</a></p>')
    (tmp_path/"a.css").write_text("p { color: black; background: url(dot.png) }")
    return tmp_path


def test_a_good_site_has_no_problems(site):
    assert docs.problems(site) == []


@pytest.mark.parametrize("text, wanted", [
    ('<a href="nowhere.html">', "dead link nowhere.html"),
    ('<a href="a.html#none">', "no anchor a.html#none"), ('<a href="#none">', "no anchor #none"),
    ('<a href="https://our.site/docs/none.html">', "dead link https://our.site/docs/none.html"),
    ('<a href="/none.html">', "dead link /none.html"),
    ("<pre>Traceback (most recent call last)</pre>", "traceback"),
    ('<div class="cell-output cell-output-error">', "traceback"),
    ('<script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example/x.js"),
    ('<img src="//img.example/x.png">', "fetches"),
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
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    return path


def code(source, *outputs):
    return dict(cell_type="code", source=[source], outputs=list(outputs), metadata={}, execution_count=None)


def text(source): return dict(cell_type="markdown", source=[source], metadata={})


def test_pages_lose_their_number_and_links_follow(tmp_path):
    (tmp_path/"sub").mkdir()
    link = text("[next](11_data_metadata.ipynb), file 11_data_metadata.ipynb")
    notebook(tmp_path/"10_data_table.ipynb", [link])
    notebook(tmp_path/"sub/first.ipynb", [text("[back](../10_data_table.ipynb#read)")])
    (tmp_path/"sidebar.yml").write_text("- 10_data_table.ipynb\n- sub/first.ipynb\n")
    docs.without_numbers(tmp_path)
    assert "(data_metadata.ipynb), file 11_data_metadata.ipynb" in (tmp_path/"data_table.ipynb").read_text()
    assert "(../data_table.ipynb#read)" in (tmp_path/"sub/first.ipynb").read_text()
    assert (tmp_path/"sidebar.yml").read_text() == "- data_table.ipynb\n- sub/first.ipynb\n"


def test_formulas_become_mathml():
    page = docs.with_mathml('<script defer src="https://cdn/katex.min.js"></script>'
                            '<p><span class="math inline">\\(a &lt; b_1\\)</span></p>'
                            '<link rel="stylesheet" href="https://cdn/katex.min.css">'
                            '<span class="math display">\\[\\frac{1}{2}\\]</span>')
    assert "katex" not in page and page.count("<math") == page.count("</math>") == 2 and "\\frac" not in page
    assert 'display="block"' in page


def test_the_lead_of_a_page_survives():
    cells = pages.with_lead([pages.mk_cell("# Title\n\n> Subtitle\n\nA sentence.\n\n## Not the title",
                                           "markdown")])
    assert [c.source for c in cells] == ["# Title\n\n> Subtitle\n\n", "A sentence.\n\n## Not the title"]
    assert [c.source for c in pages.with_lead([pages.mk_cell("## No title", "markdown")])] == ["## No title"]


@pytest.mark.parametrize("cells, wanted", [
    ([text("<<<<<<< HEAD")], "conflict markers"),
    ([code("1/0", dict(output_type="error", ename="E", evalue="", traceback=[]))], "stores an error"),
    ([code("x", dict(output_type="display_data", data={"image/png": "A"*80_000}))], "picture of 60 kB"),
    ([text("a"*210_000)], "is 210 kB"),
])
def test_a_bad_notebook_is_found(tmp_path, cells, wanted):
    found = check_notebooks.problems(notebook(tmp_path/"10_bad.ipynb", cells))
    assert len(found) == 1 and wanted in found[0]


def test_raw_conflict_markers_are_found(tmp_path):
    path = tmp_path/"raw.ipynb"
    path.write_text('{"cells": [\n<<<<<<< HEAD\n]}')
    assert check_notebooks.problems(path) == ["holds conflict markers"]


def test_every_page_stands_in_the_sidebar_in_order():
    listed = re.findall(r"- (\S+\.ipynb)", (ROOT/"nbs/sidebar.yml").read_text())
    there = sorted(str(p.relative_to(ROOT/"nbs"))
                   for p in (ROOT/"nbs").rglob("*.ipynb") if not p.parts[-2].startswith("."))
    assert sorted(listed) == there
    numbered = [o for o in listed if o[0].isdigit()]
    assert numbered == sorted(numbered)


def git(folder, *words):
    "Run git in `folder` as nobody in particular, without this machine's settings."
    who = {f"GIT_{a}_{b}": "a@b.c" for a in ("AUTHOR", "COMMITTER") for b in ("NAME", "EMAIL")}
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *words], cwd=folder, env=env, capture_output=True, text=True)


def two_branches(folder, names):
    """A checkout set up by tools/setup.sh, in which two branches changed the same line of each file; the
    state before they merge."""
    git(folder, "init", "-q", "-b", "main")
    for name in (".gitattributes", ".gitconfig", "tools/setup.sh"):
        (folder/name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT/name, folder/name)
    for branch, line in ((None, "x = 1\n"), ("other", "x = 2\n"), ("main", "x = 3\n")):
        if branch: git(folder, "checkout", "-q", *(["-b"] if branch == "other" else []), branch)
        for name in names:
            (folder/name).parent.mkdir(exist_ok=True, parents=True)
            (folder/name).write_text(line)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", line)
    done = subprocess.run(["bash", "tools/setup.sh"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_generated_files_merge_without_conflict(tmp_path):
    two_branches(tmp_path, ["README.md", "aam_nb/_modidx.py", "aam_nb/data/table.py"])
    done = git(tmp_path, "-c", "core.hooksPath=/dev/null", "merge", "other")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path/"aam_nb/data/table.py").read_text() == (tmp_path/"README.md").read_text() == "x = 3\n"


def test_what_is_written_by_hand_still_conflicts(tmp_path):
    two_branches(tmp_path, ["aam_nb/__init__.py"])
    assert "CONFLICT" in git(tmp_path, "-c", "core.hooksPath=/dev/null", "merge", "other").stdout


def test_the_hook_after_a_merge_is_there(tmp_path):
    two_branches(tmp_path, ["README.md"])
    hook = tmp_path/".git/hooks/post-merge"
    assert os.access(hook, os.X_OK) and "nbdev-export" in hook.read_text()


def test_source_is_shown_where_the_reference_would_hide_it():
    shown = ["#| export\n@dataclass\nclass A:\n    x:int # Meaning", "#| export\ndef _f(x): return x"]
    hidden = ["#| export\ndef f(x): return x", "#| export\nimport os", "x = 1"]
    cells = pages.with_source([pages.mk_cell(o) for o in [*shown, *hidden]])
    assert [c.source.startswith("#| exports\n") for c in cells] == [True]*2 + [False]*3


def test_an_example_is_not_run_for_the_reference_but_its_imports_are():
    assert pages.for_reference("import os\nslow()\nfrom a import b") == "import os\nfrom a import b"
    guarded = "#| export\nif TYPE_CHECKING: import x\ny = 1"
    assert pages.for_reference(guarded) == guarded.replace("TYPE_CHECKING", "True")
    assert pages.for_reference("show_doc(f)") == "show_doc(f)"
    assert pages.for_reference("%matplotlib inline\nx") == ""
