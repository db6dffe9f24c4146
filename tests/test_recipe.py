"Recipes: what is shipped, overrides, and that a written configuration is read again as it was."
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.config import Config, config_from
from aam_nb.core import AamError
from aam_nb.recipe import (
    changed, find_recipe, full_recipe, listed_recipes, load_config, parse_override, recipe_head, recipes,
    to_toml)

SHIPPED = sorted(o.stem for o in recipes.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_holds_only_what_differs(name):
    written = tomllib.loads(find_recipe(name).read_text())
    keys = {f"{section}.{k}" for section, part in written.items() for k in part}
    assert keys == set(changed(load_config(name)))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_says_what_it_is_for_and_how_good_it_is(name):
    head = recipe_head(find_recipe(name))
    assert head.startswith(f"# {name}: ")
    for o in ("# Time: ", "# Score: ", "benchmarks/results/", "# Command: aam "): assert o in head


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_in_full_is_the_same_recipe(name, tmp_path):
    (tmp_path/"full.toml").write_text(full_recipe(name))
    assert load_config(tmp_path/"full.toml") == load_config(name)
    assert recipe_head(tmp_path/"full.toml") == recipe_head(find_recipe(name))


def test_recipes_are_listed_and_a_wrong_name_is_helped():
    assert [o.split(":")[0] for o in listed_recipes().splitlines()] == SHIPPED
    with pytest.raises(AamError, match="Did you mean 'small'"): find_recipe("smal")


def test_the_default_is_small():
    assert load_config("small") == Config() == load_config()


ODD = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=8)


@settings(max_examples=50)
@given(target=st.lists(ODD, min_size=1, max_size=3, unique=True),
       place=st.lists(ODD, min_size=2, max_size=2, unique=True), text=ODD, low=st.floats(-1e6, 0))
def test_a_written_configuration_is_read_as_it_was(target, place, text, low, tmp_path_factory):
    if set(target) & set(place): return
    columns = {o: {"loss": "huber", "bounds": [low, float("inf")]} for o in target}
    config = config_from({"data": {"target": target, "covariates": [place], "where": text},
                          "target": {"columns": columns, "balance": {text: {text: 2}},
                                     "class_weights": {text: .5}}})
    path = tmp_path_factory.getbasetemp()/"written.toml"
    path.write_text(to_toml(config).replace("\x7f", "\\u007f"), newline="\n")
    again = load_config(path)
    assert again.data == config.data and changed(again, config).keys() <= {"target.columns"}
    assert [again.of_target(o, "bounds") for o in target] == [config.of_target(o, "bounds") for o in target]


@pytest.mark.parametrize("text, found", [
    ("optim.lr=1e-4", {("optim", "lr"): 1e-4}), ("optim.lr=.5", {("optim", "lr"): .5}),
    ("optim.steps = 3", {("optim", "steps"): 3}), ("run.resume=true", {("run", "resume"): True}),
    ("data.where=is_infant == 1", {("data", "where"): "is_infant == 1"}),
    ("data.where='a'", {("data", "where"): "a"}),
    ("data.groups=2019", {("data", "groups"): "2019"}), ("data.target=2019", {("data", "target"): ["2019"]}),
    ("data.target=age, ph", {("data", "target"): ["age", "ph"]}),
    ("data.target='age, ph'", {("data", "target"): ["age, ph"]}),
    ('data.target=["a=b", "c"]', {("data", "target"): ["a=b", "c"]}),
    ('data.covariates="a/b"', {("data", "covariates"): ["a/b"]}),
    ("data.covariates=a/b", {("data", "covariates"): [["a", "b"]]}),
    ("target.bounds='age=0:'", {("target", "columns", "age", "bounds"): [0., float("inf")]}),
    ("target.ph.loss=huber", {("target", "ph", "loss"): "huber"}),
    ('target."a.b=c".loss=huber', {("target", "a.b=c", "loss"): "huber"}),
    ("target.class_weights.sick=2", {("target", "class_weights", "sick"): 2}),
    ("model.size=base", {("model", "size"): "base"})])
def test_what_an_override_sets(text, found):
    assert parse_override(text) == found


@pytest.mark.parametrize("text", ["steps=3", "optim.steps", "=3", ".steps=3", "optim.=3", "optim"])
def test_what_is_no_override_is_said(text):
    with pytest.raises(AamError, match="Write section.key=value"): parse_override(text)


def test_later_words_win_and_flags_win_over_all(tmp_path):
    text = '[data]\ntarget = ["a", "b"]\n[target]\nloss = "mae"\n[target.b]\nloss = "mse"\n'
    (tmp_path/"r.toml").write_text(text)
    words = ("target.loss=huber", "target.b.bounds=0:1", "optim.steps=3", "optim.steps=4", "run.seed=1")
    config = load_config(tmp_path/"r.toml", words, {"run.seed": 2})
    assert (config.optim.steps, config.run.seed) == (4, 2)
    assert [config.of_target(o, "loss") for o in "ab"] == ["huber", "mse"]
    assert config.of_target("b", "bounds") == (0., 1.)


def test_an_old_recipe_is_read_with_a_note(tmp_path, capsys):
    text = '[data]\ntarget = "age, ph"\n[target]\nbounds = "ph=0:14"\nquantiles = ".1, .5"\n'
    (tmp_path/"old.toml").write_text(text)
    config = load_config(tmp_path/"old.toml")
    assert config.targets == ("age", "ph") and config.of_target("ph", "bounds") == (0., 14.)
    said = capsys.readouterr().err
    assert said.startswith(f"note: {tmp_path}/old.toml writes ")
    assert "'data.target', 'target.bounds', 'target.quantiles' as text" in said


@pytest.mark.parametrize("text", ["[data", "\udcff"])
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path/"bad.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AamError, match="bad.toml is not valid TOML"): load_config(tmp_path/"bad.toml")
