"Configurations: lists and tables, every problem at once, and what earlier versions wrote."
from dataclasses import asdict, fields

import pytest

from aam_nb.config import all_keys, check_quantiles, Config, config_from, explained, FIRST, limits, STAGES
from aam_nb.core import AamError
from aam_nb.fields import fits
from aam_nb.sections import DataConfig, ModelConfig, OptimConfig, SIZES, TargetConfig


def test_lists_of_files_become_tuples_and_names_are_literal():
    data = DataConfig(target=["a, b", "c=d"], covariates=["diet", ["country", "city"]])
    assert data.target == ("a, b", "c=d") and data.covariates == ("diet", ("country", "city"))
    assert DataConfig(target="age, ph").target == ("age, ph",) and DataConfig(corpus="").corpus == ()


def test_whole_numbers_are_numbers_and_switches_are_not():
    assert type(OptimConfig(lr=1).lr) is float and OptimConfig(steps=3).steps == 3
    for wrong in (dict(steps=1.5), dict(steps=True), dict(lr="1"), dict(lr=False), dict(freeze=1)):
        with pytest.raises(AamError, match="wanted"): OptimConfig(**wrong)
    assert not fits(True, float) and not fits(("a", 1), tuple[str, ...]) and fits((), tuple[str, ...])


@pytest.mark.parametrize("text, tables", [
    (dict(data=dict(target="age, ph")), dict(data=dict(target=["age", "ph"]))),
    (dict(data=dict(target="a,b", task="regression, b=classification")),
     dict(data=dict(target=["a", "b"], task="regression"), target=dict(b=dict(task="classification")))),
    (dict(data=dict(target="a,b"), target=dict(loss="mse, b=huber", bounds="b=0:14")),
     dict(data=dict(target=["a", "b"]), target=dict(b=dict(loss="huber", bounds=[0, 14])))),
    (dict(data=dict(target="a"), target=dict(bounds="0:")),
     dict(data=dict(target=["a"]), target=dict(bounds=[0, float("inf")]))),
    (dict(data=dict(covariates="diet, country/city")),
     dict(data=dict(covariates=["diet", ["country", "city"]]))),
    (dict(model=dict(pools="clade, mean")), dict(model=dict(pools=["clade", "mean"]))),
    (dict(loss=dict(metric="unweighted, jaccard")), dict(loss=dict(metric=["unweighted", "jaccard"]))),
    (dict(target=dict(balance="run: a=3, b=1")), dict(target=dict(balance=dict(run=dict(a=3., b=1.))))),
    (dict(target=dict(class_weights="gut=1")), dict(target=dict(class_weights=dict(gut=1.)))),
    (dict(data=dict(corpus="one,two")), dict(data=dict(corpus=["one", "two"])))], ids=str)
def test_texts_of_earlier_versions_are_what_they_were(text, tables, capsys):
    assert config_from(text) == config_from(tables)
    assert capsys.readouterr().err == "", "only a file is worth a note"
    config_from(text, source="old.toml")
    assert capsys.readouterr().err.startswith("note: old.toml writes ")
    config_from(tables, source="new.toml")
    assert capsys.readouterr().err == ""


def test_a_column_may_have_the_name_of_a_key():
    own = {"columns": {"loss": {"loss": "mae"}}}
    config = config_from({"data": {"target": ["loss", "x"]}, "target": own})
    assert config.of_target("loss", "loss") == "mae" and config.of_target("x", "loss") == "mse"


def test_a_column_has_its_own_settings_above_the_common_ones():
    base = config_from({"data": {"target": ["a", "b"]}, "target": {"loss": "mae", "a": {"loss": "mse"}}})
    later = config_from({"target": {"loss": "huber", "a": {"bounds": [0, 1]}}}, base=base)
    assert [later.of_target(o, "loss") for o in "ab"] == ["mse", "huber"]
    assert [later.of_target(o, "bounds") for o in "ab"] == [(0., 1.), (None, None)]


def test_the_tables_of_a_configuration_make_it_again():
    config = config_from({"data": {"target": ["a", "b"], "covariates": ["c", ["d", "e"]]},
                          "target": {"b": {"bounds": [0, None]}, "balance": {"f": {"g": 2}}}})
    assert config_from(asdict(config)) == config


@pytest.mark.parametrize("given, says", [
    (dict(target=dict(aeg=dict(loss="mae"))), "'aeg', which is not among age .data.target.. Did you"),
    (dict(target=dict(age=dict(lss="mae"))), "no key target.age.lss; wanted.*Did you mean 'loss'"),
    (dict(target=dict(age=dict(loss="hubert"))), "target.age.loss is 'hubert'; wanted one of mse"),
    (dict(target=dict(age=dict(bounds=[3]))), "wanted two rising numbers"),
    (dict(target=dict(bounds=[5, 1])), "wanted two rising numbers"),
    (dict(target=dict(bounds=["a", "b"])), "wanted two numbers"),
    (dict(target=dict(balance=dict(a={}, b={}))), "wanted one column"),
    (dict(target=dict(balance=dict(a=dict(b=-1)))), "gives 'b' the weight -1; wanted 0 or more"),
    (dict(target=dict(class_weights=dict(a=-1))), "gives 'a' the weight -1; wanted 0 or more"),
    (dict(target=dict(quantiles=[.9, .5])), "wanted rising numbers"),
    (dict(augment=dict(also=["bloom"])), "augment.also names 'bloom'"),
    (dict(run=dict(baselines=["florest"])), "run.baselines names 'florest'.*Did you mean 'forest'"),
    (dict(run=dict(baselines=["rbf", "rbf"])), "run.baselines names 'rbf' twice"),
    (dict(run=dict(trackers=["wandbb"])), "run.trackers names 'wandbb'"),
    (dict(model=dict(sample="mamba")), "model.sample names 'mamba'"),
    (dict(data=dict(target=["age", "age"])), "data.target names a column twice"),
    (dict(model=dict(size="huge")), "wanted one of tiny, small"),
    (dict(data=3), "data is 3; wanted a table of keys")], ids=str)
def test_what_cannot_be_is_refused_with_its_reason(given, says):
    with pytest.raises(AamError, match=says):
        config_from({"data": {"target": ["age"]}} | given)


def test_all_problems_come_in_one_message():
    with pytest.raises(AamError) as e:
        config_from({"optim": {"lr": -1., "bach": 3}, "modle": {}, "target": {"loss": "a, b"},
                     "model": {"width": 30}})
    for o in ("optim.lr", "optim.bach", "[modle]", "target.loss", "model.width"): assert o in str(e.value)


def test_stages_are_named_as_they_are_given():
    for stage in STAGES:
        with pytest.raises(AamError, match=f"{stage}.steps is -1"): config_from({stage: {"steps": -1}})


def test_sizes_are_sizes_of_the_model():
    known = {o.name for o in fields(ModelConfig)}
    for name, size in SIZES.items():
        assert set(size) <= known
        assert config_from({"model": {"size": name}}) == Config(model=ModelConfig(**size))


def test_every_key_has_a_meaning_and_the_first_are_among_them():
    keys = all_keys()
    assert set(FIRST) <= set(keys) and len(FIRST) == 15 and len(keys) > 130
    lines = explained(keys).splitlines()
    assert len(lines) == 2*len(keys) and all(o.strip() for o in lines)


def test_limits_and_quantiles():
    assert limits(()) == (None, None) and limits((None, 1)) == (None, 1.)
    assert limits((0, float("inf"))) == (0., None)
    assert check_quantiles((.1, .5)) == (.1, .5)
    for wrong in ((), (.1, .9), (.5, .1), (0., .5), (.5, 1.), (.5, .5)):
        with pytest.raises(AamError, match="cannot be used"): check_quantiles(wrong)
    assert TargetConfig().quantiles == (.05, .5, .95)
