"A message says what to type in the language of whoever called: this command's flags, or Python."
import ast
import importlib
import inspect
import pkgutil
from dataclasses import fields
from pathlib import Path

import pytest
import typer

import aam_nb
from aam_nb.batches.loader import loader
from aam_nb.cli import app
from aam_nb.config import all_keys, Config
from aam_nb.core import AamError, Caller, caller, command, option, speaking
from aam_nb.train import AamCommand, COMMANDS

PACKAGE = Path(aam_nb.__file__).parent


def named_by(function):
    "The first argument of each call of a function of `core` in the package, with its place."
    for path in sorted(PACKAGE.rglob("*.py")):
        for o in ast.walk(ast.parse(path.read_text())):
            if not isinstance(o, ast.Call) or not o.args: continue
            if isinstance(o.func, ast.Name) and o.func.id == function:
                yield f"{path.relative_to(PACKAGE)}:{o.lineno}", o.args[0]


def commands(of=None, words=()):
    "Every command of the command line, by the words that call it."
    of = of or typer.main.get_command(app)
    if not hasattr(of, "commands"): return {" ".join(words): of}
    return {k: v for name, o in of.commands.items() for k, v in commands(o, (*words, name)).items()}


def public():
    "Every public object of the package, by name."
    out = {}
    for o in pkgutil.walk_packages(aam_nb.__path__, "aam_nb."):
        if o.name.endswith(("__main__", "_modidx")): continue
        module = importlib.import_module(o.name)
        out |= {k: getattr(module, k) for k in getattr(module, "__all__", ())}
    return out


def python_arguments():
    "The names of all arguments of public functions and methods, and of all settings."
    of_settings = {f.name for part in fields(Config) for f in fields(getattr(Config(), part.name))}
    functions = [o for o in public().values() if callable(o)]
    methods = [m for o in functions if inspect.isclass(o) for m in vars(o).values() if inspect.isfunction(m)]
    out = set(of_settings)
    for o in (*functions, *methods):
        try: out |= set(inspect.signature(o).parameters)
        except (ValueError, TypeError): pass
    return out


def test_every_option_that_a_message_names_exists():
    known = python_arguments()
    flags = {k for o in commands().values() for k in o.caller().flags}
    places = 0
    for place, name in named_by("option"):
        if not isinstance(name, ast.Constant): continue
        places += 1
        assert name.value in flags or name.value in all_keys(), f"{place}: no command takes {name.value}"
        assert name.value.split(".")[-1] in known, f"{place}: no function takes {name.value}"
    assert places > 0


def test_every_command_that_a_message_names_exists():
    known, found = public(), commands()
    for name, words in COMMANDS.items():
        assert name in known, name
        assert words.removeprefix("aam ") in found, words
    for place, name in named_by("command"):
        if not isinstance(name, ast.Constant): continue # `command` is also what a shell runs
        assert name.value in COMMANDS, f"{place}: {name.value} has no command"


def test_every_command_speaks_of_its_own_flags():
    for words, o in commands().items():
        assert isinstance(o, AamCommand), words
    flags = {k: o.caller().flags for k, o in commands().items()}
    assert flags["predict"]["data.sequences"] == flags["train"]["data.sequences"] == "--sequences FILE"
    assert "run.resume" in flags["train"] and "run.resume" not in flags["predict"]
    assert "data.target" not in flags["pretrain"]


def test_words_are_quoted_for_each_language():
    shell = Caller(flags={"data.where": "--where CONDITION", "run.overwrite": "--overwrite"},
                   commands=COMMANDS)
    assert option("data.where", "age > 3") == "where='age > 3'"
    with speaking(shell):
        assert option("data.where", "age > 3") == "--where 'age > 3'"
        assert option("data.where", ...) == "--where CONDITION" and option("data.where") == "--where"
        assert option("run.overwrite", True) == "--overwrite"
        assert option("run.transductive", True) == "run.transductive=true"
        assert option("data.missing") == "data.missing"
        assert command("build_store") == "aam cache store"
    assert caller() is None and command("build_store") == "build_store"


def test_an_error_ends_the_language_of_a_block():
    with pytest.raises(AamError), speaking(Caller(flags={}, commands={})): raise AamError("no")
    assert caller() is None


class Refusing:
    "A source whose batches are refused, wherever they are made."
    def __len__(self): return 1

    def __getitem__(self, step): raise AamError(f"Give {option('data.sequences', ...)}.")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_speak_the_language_of_their_parent(start):
    shell = Caller(flags={"data.sequences": "--sequences FILE"}, commands={})
    with speaking(shell), pytest.raises(AamError, match="Give --sequences FILE"):
        list(loader(Refusing(), workers=1, context=start))


def said(tree):
    "The texts of a module that are not docstrings, with their lines; braces of f-strings stand for values."
    holders = (ast.Module, ast.FunctionDef, ast.ClassDef)
    first = [o.body[0] for o in ast.walk(tree) if isinstance(o, holders) and o.body]
    docs = {id(o.value) for o in first if isinstance(o, ast.Expr)}
    for o in ast.walk(tree):
        if not isinstance(o, ast.Constant) or id(o) in docs: continue
        if isinstance(o.value, str): yield o.lineno, o.value


ELSEWHERE = {"cli.py", "train.py", "runs/demo.py", "inference/bundle.py", # Of commands
             "runs/notebook.py"} # Of Python alone


def test_no_message_writes_a_flag_or_a_function_by_hand():
    own = {o for c in commands().values() for p in c.params for o in p.opts if o.startswith("--")}
    functions = {*COMMANDS, "make_study", "read_tree", "read_table", "read_metadata", "read_sequences"}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if name in ELSEWHERE or path.name == "_modidx.py": continue
        for line, text in said(ast.parse(path.read_text())):
            words = set(text.replace(",", " ").replace(".", " ").replace("(", " ").split())
            if " " in text and words & (own | functions): wrong.append(f"{name}:{line}: {text}")
    assert not wrong, "Write these with core.option or core.command:\n" + "\n".join(wrong)
