"""Who may import whom, and what no module may do.

The table is the one of nbs/explain/design.ipynb: a chapter imports only from chapters before it, and within a
chapter from lower numbers.
"""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ["data", "batches", "model", "training", "tuning", "stack", "inference", "evaluation", "export",
            "runs"]
START = {"core", "disk_errors", "lock", "beside", "disk", "seal", "progress", "registry", "fields",
         "sections", "shorthand", "config", "recipe", "card", "types"}
# These know nothing of files beyond checkpoints, nor of processes
QUIET = {f"training.{o}" for o in ("losses", "metrics", "schedule", "optim", "shard_files", "checkpoint")}
# A module, or a chapter, and what it may import beside the pages of the start: modules, or whole chapters
# with a star
MAY = {
    "data": {"data.*"},
    "batches": {"data.*", "batches.*"},
    "model": {"data.tokens", "model.*"},
    "training": {"data.*", "batches.*", "model.*", "training.*"},
    "tuning": {"data.*", "batches.*", "model.*", "training.*", "tuning.*"},
    "stack": {"data.*", "stack.*"},
    "inference": {"data.*", "batches.*", "model.*", "training.*", "stack.*", "inference.*"},
    "evaluation": {"data.*", "batches.*", "model.*", "training.*", "stack.*", "inference.*", "evaluation.*"},
    "export": {"data.*", "batches.*", "model.*", "training.*", "stack.*", "inference.*", "export.*"},
    "runs": {f"{o}.*" for o in CHAPTERS},
    "train": {"runs.*"}, "cli": {"*"},
    **{o: QUIET | {"data.tokens"} for o in QUIET},
    **{o: set() for o in START},
}


def modules():
    "Module name below aam_nb -> its syntax tree."
    paths = [p for p in (ROOT/"aam_nb").rglob("*.py") if not p.name.startswith("_")]
    return {".".join(p.relative_to(ROOT/"aam_nb").with_suffix("").parts): ast.parse(p.read_text())
            for p in sorted(paths)}


def numbers():
    "Module name -> number of its notebook: the chapter's, then the page's."
    found = {}
    for path in (ROOT/"nbs").glob("[0-9]_*/[0-9]*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            m = re.search(r"#\|\s*default_exp\s+(\S+)", "".join(cell["source"]))
            if m: found[m[1]] = (int(path.parent.name[0]), int(path.name[:2]))
    return found


def running(tree):
    "All nodes but those that only a type checker reads."
    skip = {id(n) for t in ast.walk(tree) if isinstance(t, ast.If) and "TYPE_CHECKING" in ast.unparse(t.test)
            for n in ast.walk(t)}
    return [n for n in ast.walk(tree) if id(n) not in skip]


def inside(name, tree):
    """Modules of the package that a module imports, anywhere in it, but for what stands only for type
    checkers."""
    here = ["aam_nb", *name.split(".")]
    for node in running(tree):
        if isinstance(node, ast.Import): found = [o.name for o in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = here[:-node.level] if node.level else []
            stem = ".".join([*start, *filter(None, [node.module])])
            is_module = stem.count(".") and not is_chapter(stem)
            found = [stem] if is_module else [f"{stem}.{o.name}" for o in node.names]
        else: continue
        ours = [o for o in found if o.startswith("aam_nb.") and not o.startswith("aam_nb._")]
        yield from (o.removeprefix("aam_nb.") for o in ours)


def is_chapter(name): return (ROOT/name.replace(".", "/")).is_dir()


def allowed(name, other):
    "Whether the table lets `name` import `other`."
    may = START | MAY[name if name in MAY else name.split(".")[0]]
    return bool({other, other.split(".")[0] + ".*", "*"} & may)


TREES = modules()


@pytest.mark.parametrize("name", TREES)
def test_imports_follow_the_table(name):
    wrong = [o for o in inside(name, TREES[name]) if not allowed(name, o)]
    assert not wrong, f"aam_nb.{name} imports {wrong}"


@pytest.mark.parametrize("name", TREES)
def test_imports_go_to_lower_numbers(name):
    number = numbers()
    wrong = [o for o in inside(name, TREES[name]) if number.get(o, (99, 0)) >= number[name]]
    assert not wrong, f"notebook {number[name]} imports {wrong}"


@pytest.mark.parametrize("name", TREES)
def test_private_names_stay_at_home(name):
    taken = [o.name for n in ast.walk(TREES[name]) if isinstance(n, ast.ImportFrom) and n.level
             for o in n.names]
    wrong = [o for o in taken if o.startswith("_")]
    assert not wrong, f"aam_nb.{name} takes {wrong} from other pages"


def test_the_table_is_not_empty_of_meaning():
    assert allowed("model.aam", "data.tokens") and not allowed("model.aam", "data.table")
    assert not allowed("batches.collate", "model.aam")
    assert not allowed("core", "data.files") and not allowed("training.losses", "training.loop")
    assert allowed("training.loop", "training.losses")
    assert not allowed("evaluation.validate", "runs.train") and not allowed("runs.train", "cli")
    assert allowed("cli", "runs.train")
    assert not list(inside("data.x", ast.parse("import numpy, os.path")))
    assert list(inside("data.x", ast.parse("from ..core import few\nfrom . import table\n"
                                           "from aam_nb.types import Table\nimport aam_nb.train"))) == \
        ["core", "data.table", "types", "train"]


def outside(tree):
    "Packages that a module imports, but for what stands only for type checkers."
    for node in running(tree):
        if isinstance(node, ast.Import): yield from (o.name.split(".")[0] for o in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split(".")[0]


@pytest.mark.parametrize("name", TREES)
def test_only_training_knows_accelerate(name):
    if not name.startswith("training."): assert "accelerate" not in outside(TREES[name])


@pytest.mark.parametrize("name", [o for o in TREES if o.startswith("model.")])
def test_the_model_knows_nothing_of_files(name):
    assert not {"pathlib", "os", "h5py", "biom", "safetensors", "pandas"} & set(outside(TREES[name]))


HEAVY = {"torch", "skbio", "sklearn", "biom", "h5py", "pandas", "matplotlib", "accelerate", "mlflow",
         "optuna", "captum", "onnx", "scipy"}


def loaded(code):
    "Heavy packages that are in memory after running `code` in a process of its own."
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\nprint(*{HEAVY!r} & set(sys.modules))"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.split())


def test_importing_the_package_is_light():
    assert not loaded("import aam_nb")


def test_importing_data_pages_needs_no_heavy_package():
    pages = [o for o in TREES if o.startswith("data.")]
    assert loaded("".join(f"import aam_nb.{o}\n" for o in pages)) <= {"scipy"}


FORBIDDEN = {
    "eval": "runs text", "exec": "runs text", "compile": "runs text", "__import__": "runs text",
    "pickle": "runs code when it reads", "joblib": "runs code when it reads",
    "dill": "runs code when it reads", "marshal": "runs code when it reads",
    "shelve": "runs code when it reads", "cloudpickle": "runs code when it reads",
    "torch.load": "reads pickles", "torch.save": "writes pickles", "yaml.load": "runs code when it reads",
    "os.system": "runs a shell",
    "np.random.seed": "sets a global seed", "torch.manual_seed": "sets a global seed",
    "random.seed": "sets a global seed",
}


def forbidden(tree):
    "What a module uses that no module may, with the line."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).replace("numpy.", "np.")
            # as the layers' own dropout needs
            keyed = called == "torch.manual_seed" and ast.unparse(node.args[0]).startswith("draw_key(")
            if called in FORBIDDEN and not keyed: yield node.lineno, called
            for k in node.keywords:
                off = isinstance(k.value, ast.Constant) and k.value.value is False
                if k.arg in ("allow_pickle", "shell") and not off: yield node.lineno, k.arg
        if isinstance(node, ast.Import):
            yield from ((node.lineno, o.name) for o in node.names if o.name.split(".")[0] in FORBIDDEN)
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in FORBIDDEN:
            yield node.lineno, node.module


@pytest.mark.parametrize("name", TREES)
def test_no_module_runs_what_it_reads(name):
    assert not list(forbidden(TREES[name]))


def test_forbidden_things_are_seen():
    bad = ("import pickle\nfrom joblib import load\nnp.load(f, allow_pickle=True)\n"
           "torch.load(f)\neval('1')\nyaml.load(f)\n"
           "torch.manual_seed(0)\nmodel.eval()\nnp.load(f, allow_pickle=False)\n"
           "torch.manual_seed(draw_key(7))")
    wanted = ["pickle", "joblib", "allow_pickle", "torch.load", "eval", "yaml.load", "torch.manual_seed"]
    assert [o[1] for o in sorted(forbidden(ast.parse(bad)))] == wanted


def public(tree):
    "Public functions, classes and methods, with the class they belong to."
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"): continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{o.name}", o)
                        for o in node.body if isinstance(o, kinds) and not o.name.startswith("_"))


@pytest.mark.parametrize("name", TREES)
def test_public_names_have_a_docstring(name):
    bare = [at for at, node in public(TREES[name])
            if not ast.get_docstring(node) and not at.endswith(".forward")]
    assert not bare, f"aam_nb.{name}: {bare}"


@pytest.mark.parametrize("name", TREES)
def test_functions_stay_short(name):
    long = [(n.name, n.end_lineno - n.lineno + 1)
            for n in ast.walk(TREES[name]) if isinstance(n, ast.FunctionDef)
            and n.end_lineno - n.lineno >= 50]
    assert not long, f"aam_nb.{name}: {long}"
