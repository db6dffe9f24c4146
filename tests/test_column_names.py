"Columns whose names hold commas, slashes, quotes and equals signs, on the command line and in recipes."
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.metadata import metadata_columns
from aam_nb.data.simulate import simulate
from aam_nb.batches.build import build_store
from aam_nb.recipe import load_config
from aam_nb.runs.columns import columns_named
from aam_nb.shorthand import names_in, nested_names_in, pieces
from aam_nb.train import config_from_flags

COLUMNS = ["Age, years (at visit)", "BMI kg/m2", "weight kg/m2", "status=x", "body site's", "host/subject id",
           "diet", "kind", "diet, kind", "a,b,c", "a", "b", 'say "so", then', "2019"]


@pytest.fixture
def metadata(tmp_path):
    quoted = ['"' + o.replace('"', '""') + '"' for o in COLUMNS]
    (tmp_path/"m.tsv").write_text("\t".join(["id", *quoted]) + "\nS1" + "\t1"*len(COLUMNS) + "\n")
    return str(tmp_path/"m.tsv")


@pytest.mark.parametrize("text, names", [
    ("Age, years (at visit)", ["Age, years (at visit)"]), ("BMI kg/m2", ["BMI kg/m2"]),
    ("status=x", ["status=x"]),
    ("body site's", ["body site's"]), ("diet, kind", ["diet, kind"]), ("kind, diet", ["kind", "diet"]),
    ("diet,kind", ["diet", "kind"]), ("'diet', 'kind'", ["diet", "kind"]), ("a,b,c", ["a,b,c"]),
    ("a,b", ["a", "b"]),
    ("a, Age, years (at visit), b", ["a", "Age, years (at visit)", "b"]), ("a,b,c,a", ["a,b,c", "a"]),
    ("'Age, years (at visit)', 'a'", ["Age, years (at visit)", "a"]), ('say "so", then', ['say "so", then']),
    ('"Age, years (at visit)"', ["Age, years (at visit)"]), ("2019", ["2019"]),
    ("BMI kg/m2, weight kg/m2", ["BMI kg/m2", "weight kg/m2"]),
])
def test_targets_by_flag_and_by_override(metadata, text, names):
    assert list(config_from_flags([], metadata=metadata, target=text).data.target) == names
    assert list(config_from_flags([f"data.target={text}"], metadata=metadata).data.target) == names


@pytest.mark.parametrize("text, chains", [
    ("BMI kg/m2", ["BMI kg/m2"]), ("diet, kind", ["diet, kind"]), ("diet/kind", [("diet", "kind")]),
    ("BMI kg/m2, weight kg/m2", ["BMI kg/m2", "weight kg/m2"]), ("diet/BMI kg/m2", [("diet", "BMI kg/m2")]),
    ("host/subject id, a", ["host/subject id", "a"]),
    ("diet/'host/subject id'", [("diet", "host/subject id")]),
    ("Age, years (at visit), BMI kg/m2", ["Age, years (at visit)", "BMI kg/m2"]),
])
def test_covariates(metadata, text, chains):
    config = config_from_flags([f"data.covariates={text}"], metadata=metadata, target="2019")
    assert list(config.data.covariates) == chains


@pytest.mark.parametrize("text", ["host/subject id", "'host/subject id'", '"host/subject id"'])
def test_groups_with_and_without_quotes(metadata, text):
    assert config_from_flags([], metadata=metadata, groups=text).data.groups == "host/subject id"
    config = config_from_flags([f"data.leave_out={text}"], metadata=metadata)
    assert config.data.leave_out == "host/subject id"


def test_settings_of_such_columns(metadata):
    words = ["data.target=Age, years (at visit), a", "target.loss='Age, years (at visit)'=huber, mse"]
    config = config_from_flags(words, metadata=metadata)
    assert [config.of_target(o, "loss") for o in config.targets] == ["huber", "mse"]


def test_recipes_and_stores_know_columns_too(metadata, tmp_path):
    (tmp_path/"r.toml").write_text(f'[data]\nmetadata = "{metadata}"\ntarget = "Age, years (at visit)"\n')
    assert load_config(tmp_path/"r.toml", columns_of=columns_named).data.target == ("Age, years (at visit)",)
    tiny = simulate(samples=6, asvs=12, groups=3, length=20, seed=1)
    tiny.metadata["Age, years"] = tiny.metadata["age"]
    build_store(tiny, tmp_path/"store")
    for data in (dict(table=str(tmp_path/"store")), dict(corpus=[str(tmp_path/"store")])):
        assert columns_named(data) == ["subject", "age", "site", "Age, years"]
    config = config_from_flags([], table=str(tmp_path/"store"), target="Age, years")
    assert config.data.target == ("Age, years",)


@pytest.mark.parametrize("data", [{}, dict(metadata="absent.tsv"), dict(metadata=7), dict(table="absent"),
                                  dict(corpus="x"), dict(metadata="a"*5000), dict(table="a\0b")])
def test_files_that_cannot_be_read_name_no_columns(data): assert columns_named(data) == []


def test_lists_stay_lists(metadata):
    config = config_from_flags(['data.target=["diet", "kind"]'], metadata=metadata)
    assert config.data.target == ("diet", "kind")


NAME = st.text(st.sampled_from("ab ,/'\"="), min_size=1, max_size=8).map(str.strip).filter(
    lambda o: o and not set(o) <= set(",/ ") and o[0] not in "'\"," and o[-1] != ",")


@given(st.lists(NAME, min_size=1, max_size=4, unique=True), st.data())
def test_any_single_column_is_found_by_its_own_name(columns, data):
    one = data.draw(st.sampled_from(columns))
    assert names_in(one, set(columns)) == [one] and nested_names_in(one, set(columns)) == [one]


@given(st.text("ab,/'\" ", max_size=30))
def test_without_columns_texts_are_cut_as_before(text):
    for mark in ",/": assert len(pieces(text, mark)) <= text.count(mark) + 1


def test_long_lists_of_names_take_no_time():
    import time
    text, begun = ",".join(f"c{i}" for i in range(100_000)), time.perf_counter()
    assert len(names_in(text, {f"c{i}" for i in range(1000)})) == 100_000 and time.perf_counter() - begun < 3


def test_the_header_of_metadata(metadata):
    assert metadata_columns(metadata) == COLUMNS
    with pytest.raises(AamError, match="There is no file"): metadata_columns("absent.tsv")
