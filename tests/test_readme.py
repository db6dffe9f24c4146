"README.md is what the notebook says, and what it tells a newcomer to type is there."
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import readme as writer

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT/"README.md").read_text()


def commands(text):
    "Each command of a text's shell blocks, one for each part joined by &&."
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        for line in block.strip().splitlines():
            yield from (shlex.split(o, comments=True) for o in line.split("&&"))


def launches():
    "What README and how-to pages type to start several processes with a recipe."
    pages = [json.loads(o.read_text()) for o in sorted((ROOT/"nbs/howto").glob("*.ipynb"))]
    cells = [o for page in pages for o in page["cells"]]
    texts = [TEXT, *("".join(o["source"]) for o in cells if o["cell_type"] == "markdown")]
    found = [words for text in texts for words in commands(text.replace("\\\n", " "))]
    return [o for o in found if o[:2] == ["accelerate", "launch"] and "-m" in o]


def test_readme_is_written_from_the_notebook():
    assert TEXT == writer.readme(), "run: python tools/readme.py"


def test_the_two_commands_are_there():
    assert "pip install -c constraints.txt -e . && aam demo" in TEXT
    assert "pip install -c constraints.txt -e '.[dev]' && pytest" in TEXT
    assert "pytest" in (ROOT/".ci/run").read_text().splitlines(), "CI runs the README's test command"


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", TEXT)
    inside = [o.split("#")[0] for o in links if "://" not in o]
    assert len(inside) > 5
    assert not [o for o in inside if not (ROOT/o).exists()]


def parsed(words):
    "A command line as the real command line tool takes it, without running it."
    import typer

    from aam_nb.cli import app
    group = typer.main.get_command(app)
    context = group.make_context("aam", words[:1], resilient_parsing=True)
    name, command, rest = group.resolve_command(context, words)
    while hasattr(command, "commands"): # A group of commands, as in `aam cache store`
        context = command.make_context(name, rest[:1], parent=context, resilient_parsing=True)
        _, command, rest = command.resolve_command(context, rest)
    return name, command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("words", [o for o in commands(TEXT) if o[0] == "aam"], ids=lambda o: " ".join(o[:2]))
def test_aam_commands_parse(words):
    name, context = parsed(words[1:])
    given = {o.removeprefix("--").replace("-", "_") for o in words if o.startswith("--")}
    assert name == words[1] and given <= {k for k, v in context.params.items() if v not in (None, "", False)}


def test_a_flag_that_is_not_there_is_refused():
    with pytest.raises(Exception, match="no-such-flag"): parsed(["train", "--no-such-flag", "1"])


def test_launch_commands_are_there(): assert len(launches()) > 1


@pytest.mark.parametrize("words", launches(), ids=lambda o: " ".join(o[:4]))
def test_launch_commands_name_a_recipe_and_keys(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    from aam_nb.recipe import load_config
    module, recipe, *overrides = words[words.index("-m")+1:]
    config = load_config(recipe, tuple(overrides))
    assert (ROOT/"aam_nb"/(module.removeprefix("aam_nb.") + ".py")).is_file()
    assert config.data.table == "table.qza"


def test_extras_named_are_extras():
    import configparser
    settings = configparser.ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT/"settings.ini")
    for extra in re.findall(r"'\.\[(\w+)\]'", TEXT): assert f"{extra}_requirements" in settings["DEFAULT"]


@pytest.mark.slow
def test_demo_runs(tmp_path):
    done = subprocess.run([sys.executable, "-c", "from aam_nb.cli import main; main()", "demo", "--out",
                           str(tmp_path/"demo")],
                          capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path/"demo").rglob("*.html"))
