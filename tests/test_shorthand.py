"Short forms of the command line: what they stand for, with quotes and without, and in old files."
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.fields import toml_value
from aam_nb.shorthand import as_tables, names_in, nested_names_in, per_column, pieces, spelled_out

NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x7f"), min_size=1)


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_any_column_name_can_be_written_in_quotes(names):
    text = ", ".join(map(toml_value, names))
    assert names_in(text) == names
    assert nested_names_in(text.replace(", ", ",")) == names if ", " not in "".join(names) else True


@given(st.lists(st.text(st.characters(whitelist_categories=("L", "N")), min_size=1), max_size=4))
def test_plain_names_need_no_quotes(names):
    assert names_in(", ".join(names)) == names
    assert pieces("=".join(names), "=") == (names or [""])


@pytest.mark.parametrize("text, names", [
    ("Crohn's, healthy", ["Crohn's", "healthy"]), ('say "aah", b', ['say "aah"', "b"]), ('"a, b"', ["a, b"]),
    ("'a, b', c", ["a, b", "c"]), ("a,,b, ", ["a", "b"]), ("", []), ('"a\\"b, c"', ['a"b, c'])])
def test_quotes_count_only_around_a_whole_name(text, names):
    assert names_in(text) == names


@pytest.mark.parametrize("setting, text, value", [
    ("data.covariates", "diet, country / city", ["diet", ["country", "city"]]),
    ("data.covariates", '"a/b", c', ["a/b", "c"]),
    ("target.quantiles", ".1, .5", [.1, .5]),
    ("target.class_weights", '"a=b"=2, c=.5', {"a=b": 2., "c": .5}),
    ("target.class_weights", "none", "none"),
    ("target.balance", "", {}), ("target.balance", "site", {"site": {}}),
    ("target.balance", '"my: site": a=1', {"my: site": {"a": 1.}}),
    ("loss.metric", "unweighted,aitchison", ["unweighted", "aitchison"])])
def test_what_a_text_stands_for(setting, text, value):
    path = tuple(setting.split("."))
    assert spelled_out(*path, text) == {path: value}


def test_settings_of_single_columns_become_tables():
    assert per_column('mse, "a=b"=mae', "target.loss") == ("mse", {"a=b": "mae"})
    assert spelled_out("data", "task", "auto, site=classification") == {
        ("data", "task"): "auto", ("target", "columns", "site", "task"): "classification"}
    assert spelled_out("target", "bounds", "ph=0:14, age=0:") == {
        ("target", "columns", "ph", "bounds"): [0., 14.],
        ("target", "columns", "age", "bounds"): [0., float("inf")]}


@pytest.mark.parametrize("setting, text, says", [
    ("target.loss", "mse, mae", "2 values for all columns"), ("target.bounds", "14", "wanted LOW:HIGH"),
    ("target.bounds", "a:b", "wanted LOW:HIGH"), ("target.quantiles", "half", "wanted numbers"),
    ("target.class_weights", "a", "has 'a'; wanted NAME=WEIGHT"),
    ("target.class_weights", "a=-1", "0 or more"),
    ("target.class_weights", "a=1, a=2", "each name once"), ("target.class_weights", "a=nan", "0 or more"),
    ("target.balance", "site:", "wanted COLUMN"), ("target.balance", ":a=1", "wanted COLUMN")])
def test_what_cannot_be_read_is_named(setting, text, says):
    with pytest.raises(AamError, match=says): spelled_out(*setting.split("."), text)


def test_a_file_is_spelled_out_and_its_short_forms_are_named():
    given = {"data": {"target": "age, ph", "groups": "a, b", "depth": 5}, "run": 3,
             "target": {"loss": "mse, ph=huber", "ph": {"bounds": "0:14"},
                        "columns": {"age": {"loss": "mae"}}}}
    tables, short, wrong = as_tables(given)
    assert tables["data"] == {"target": ["age", "ph"], "groups": "a, b", "depth": 5} and tables["run"] == 3
    assert tables["target"]["columns"] == {
        "ph": {"loss": "huber", "bounds": [0., 14.]}, "age": {"loss": "mae"}}
    assert short == ["data.target", "target.loss"] and wrong == []
    assert as_tables({"data": {"target": "age"}, "target": {"class_weights": "none"}})[1] == []


def test_problems_of_a_file_are_collected():
    tables, short, wrong = as_tables({"target": {"loss": "a, b", "bounds": "x", "columns": {"y": 3}}})
    assert len(wrong) == 3 and "target.columns.y is 3" in wrong[2]
