"The figures of how the project reads count what they say they count."
import json

import check_notebooks
import pytest
import reading


def page(path, *cells):
    "A notebook with these cells: markdown where a cell begins with #, code otherwise."
    kinds = ["markdown" if o.startswith("# ") else "code" for o in cells]
    made = [dict(cell_type=k, source=o.splitlines(True), metadata={}, outputs=[]) for k, o in zip(kinds,
                                                                                                  cells)]
    path.write_text(json.dumps(dict(cells=made, metadata={}, nbformat=4, nbformat_minor=5)))
    return path


def test_packed_lines_are_statements_and_not_texts():
    text = 'a = 1; b = 2\nc = "one; two" # three; four\nif a: d = 3; e = 4\n'
    assert reading.packed(text) == [1, 3]


def test_wide_lines_are_counted_in_columns():
    assert reading.wide("x"*110 + "\n" + "y"*111) == [2]


@pytest.mark.parametrize("text, lines", [
    ("[a for a in b]", []), ("[[a for a in b] for b in c]", [1]), ("x = {k: [o for o in v]\n     for k, v in "
                                                                   "y}", [1]),
    ("[a for a in f(b for b in c)]", [1]), ("[a for a in b]\n[c for c in d]", [])])
def test_nested_comprehensions(text, lines):
    assert reading.nested(text) == lines


def test_crowded_functions_leave_self_out():
    few = "def f(self, a, b, c, d, e, f, g, h): pass\n"
    many = "def g(a, b, c, d, e, f, g, h, *, i): pass\n"
    assert reading.crowded(few + many) == [(2, "g")]


def test_an_example_names_what_the_cell_before_defines(tmp_path):
    made = page(tmp_path/"a.ipynb", "# Title", "#| export\ndef shown(): pass", "shown()",
                "#| export\ndef bare(): pass",
                "1 + 1", "#| export\ndef _private(): pass", "#| export\nclass Late: pass")
    assert [name for _, name in reading.bare(made)] == ["bare", "Late"]
    assert len(reading.exported(made)) == 4


def test_lines_of_a_cell_leave_directives_out():
    assert reading.body_lines("#| export\na = 1\nb = 2\n") == 2


def test_circles_are_found_over_any_way():
    assert reading.circles(dict(a={"b"}, b={"c"}, c={"a"}, d={"a"})) == ["a", "b", "c"]
    assert reading.circles(dict(a={"b"}, b={"c"}, c=set())) == []


@pytest.mark.parametrize("source, wanted", [
    ("a = 1; b = 2", "cell 1, line 1: statements with ; between"),
    ("x = 1\n" + "y"*111, "cell 1, line 2: more than 110 columns"),
    ("[[a for a in b] for b in c]", "cell 1, line 1: a comprehension within another")])
def test_what_ci_refuses_in_the_code_of_a_page(tmp_path, source, wanted):
    assert check_notebooks.problems(page(tmp_path/"bad.ipynb", "# Title", source)) == [wanted]
    assert check_notebooks.problems(page(tmp_path/"good.ipynb", "# Title; with a word", "a = 1")) == []


def test_what_ci_warns_of(tmp_path):
    long = "#| export\ndef long():\n" + "    x = 1\n"*41
    found = check_notebooks.doubts(page(tmp_path/"a.ipynb", "# Title", long))
    assert any("42 lines" in o for o in found) and any("'long'" in o
                                                       for o in found) and any("words of prose" in o
                                                                               for o in found)


def test_the_project_itself_is_read():
    package = reading.sources(reading.ROOT, "")["package"]
    total, found = reading.of_files(package)
    assert total > 5000 and not found["lines with ;"]
    assert not found[f"files over {reading.LONGEST_FILE} lines"]
    imports = {str(p): reading.inner_imports(p, reading.ROOT) for p in package}
    assert max(map(len, imports.values())) > 5
