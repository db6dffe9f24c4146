"The package says the same of itself everywhere, installs from a wheel and in place, and needs what it says."
import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p for p in (ROOT/"aam_nb").rglob("*.py"))
# Where the module's name is not the distribution's
DISTRIBUTION = {"sklearn": "scikit-learn", "skbio": "scikit-bio", "biom": "biom-format"}


@pytest.fixture(scope="session")
def setup_py():
    "setup.py as a module; its `setup` call stands behind `__main__`."
    spec = importlib.util.spec_from_file_location("setup_py", ROOT/"setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def settings(setup_py): return setup_py.settings()


@pytest.fixture(scope="session")
def project(): return tomllib.loads((ROOT/"pyproject.toml").read_text())


def names(requirements):
    "Distribution names of requirements, in one spelling."
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", o)[0]).lower() for o in requirements}


def pins():
    "Name to version, as constraints.txt has it."
    lines = [o for o in (ROOT/"constraints.txt").read_text().splitlines() if o and not o.startswith("#")]
    return dict(o.split("==") for o in lines)


def test_settings_pyproject_and_package_agree(settings, project):
    import aam_nb
    assert aam_nb.__version__ == settings["version"]
    assert project["project"]["name"] == settings["lib_name"] == "aam_nb"
    assert project["project"]["description"] == settings["description"]
    urls = {"Repository": settings["repository"], "Documentation": settings["documentation"]}
    assert project["project"]["urls"] == urls
    both = {"version", "license", "dependencies", "optional-dependencies", "scripts", "requires-python"}
    assert both <= set(project["project"]["dynamic"]), "settings.ini holds it, so pyproject.toml must not"


def test_extras(settings, setup_py):
    extras = setup_py.extras(settings)
    assert set(extras) == {"track", "mlflow", "wandb", "tune", "explain", "mix", "export", "docs", "dev"}
    assert all(set(v) <= set(extras["dev"]) for v in extras.values()), "dev holds all"
    base = names(settings["requirements"].split())
    heavy = {"optuna", "captum", "onnx", "onnxruntime", "onnxscript", "tensorboard", "mlflow", "wandb",
             "scikit-bio", "nbdev", "pytest"}
    assert not base & heavy, "the base install carries only what the main job needs"


def test_constraints_pin_every_requirement(settings, setup_py):
    extras = [o for v in setup_py.extras(settings).values() for o in v]
    asked = names([*settings["requirements"].split(), *extras])
    assert asked <= names(pins()), f"not pinned: {sorted(asked - names(pins()))}"
    for o in setup_py.extras(settings)["dev"]:
        if "==" in o: assert pins()[o.split("==")[0]] == o.split("==")[1]


def test_the_tested_versions_are_allowed(settings, setup_py):
    packaging = pytest.importorskip("packaging.requirements")
    for o in [*settings["requirements"].split(), *setup_py.extras(settings)["dev"]]:
        asked = packaging.Requirement(o)
        assert asked.specifier.contains(pins()[re.sub(r"[-_.]+", "-", asked.name).lower()]), o


def imports(path):
    "Top-level names of the packages that a module imports anywhere, except for type checkers."
    tree = ast.parse(path.read_text())
    guards = [o for o in ast.walk(tree) if isinstance(o, ast.If) and "TYPE_CHECKING" in ast.unparse(o.test)]
    typing = {id(n) for guard in guards for n in ast.walk(guard)}
    for node in ast.walk(tree):
        if id(node) in typing: continue
        if isinstance(node, ast.Import): yield from (o.name.split(".")[0] for o in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_base_requirements_cover_imports(path, settings):
    outside = {o for o in imports(path) if o not in sys.stdlib_module_names and o != "aam_nb"}
    asked = names(DISTRIBUTION.get(o, o) for o in outside)
    assert asked <= names(settings["requirements"].split()), "use need(module, extra), or require it"


def test_every_base_requirement_is_used(settings):
    used = names(DISTRIBUTION.get(o, o) for p in MODULES for o in imports(p))
    assert names(settings["requirements"].split()) <= used


def needed():
    "Each `need(module, extra)` of the package: file, module, extra."
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node, "func", None)
            name = getattr(called, "id", getattr(called, "attr", ""))
            if isinstance(node, ast.Call) and name == "need":
                words = [*node.args, *(k.value for k in node.keywords)]
                yield path.name, *(ast.literal_eval(o) for o in words)


def test_missing_packages_name_the_extra_that_brings_them(settings, setup_py):
    extras = setup_py.extras(settings)
    for file, module, extra in needed():
        assert extra in extras, f"{file}: no extra {extra}"
        top = module.split(".")[0]
        brought = names(extras[extra])
        there = DISTRIBUTION.get(top, top) in brought or top == "torch" and "tensorboard" in brought
        assert there, f"{file}: {extra} does not bring {module}"


def copy_of_the_project(folder):
    "What git holds or would hold, so that building leaves nothing behind."
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        source, to = ROOT/name, folder/name
        if not source.is_symlink() and not source.is_file(): continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink(): to.symlink_to(os.readlink(source))
        else: to.write_bytes(source.read_bytes())
    return folder


def build(folder, kind):
    "Build by the backend that pyproject.toml names; no network, no second environment."
    code = ("from setuptools.build_meta import *\nimport sys\n"
            f"print(build_{kind}(sys.argv[1]), file=sys.stderr)")
    command = [sys.executable, "-c", code, str(folder.parent)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder.parent/done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    project = copy_of_the_project(tmp_path_factory.mktemp("wheel")/"project")
    return build(project, "wheel")


def test_wheel_holds_the_package_and_nothing_else(wheel):
    held = zipfile.ZipFile(wheel).namelist()
    listed = {str(p.relative_to(ROOT)) for p in MODULES}
    assert listed <= set(held), sorted(listed - set(held))
    assert shipped() and {f"aam_nb/recipes/{o}.toml" for o in shipped()} <= set(held)
    bundle = {f"aam_nb/{o.relative_to(ROOT/'aam_nb')}" for o in (ROOT/"aam_nb/shipped").rglob("*.*")}
    assert {"aam_nb/shipped/NOTICE.md", "aam_nb/shipped/reference/model.safetensors"} <= bundle <= set(held)
    assert {o.split("/")[0] for o in held} == {"aam_nb", wheel.name.rsplit("-py3", 1)[0] + ".dist-info"}


def test_wheel_metadata(wheel, settings):
    held = zipfile.ZipFile(wheel)
    info = wheel.name.rsplit("-py3", 1)[0] + ".dist-info"
    text = held.read(f"{info}/METADATA").decode()
    assert re.search(r"^License(-Expression)?: BSD-3-Clause$", text, re.M)
    assert f"Requires-Python: >={settings['min_python']}" in text
    assert "Provides-Extra: dev" in text
    assert "aam = aam_nb.cli:main" in held.read(f"{info}/entry_points.txt").decode()
    assert any(o.endswith("LICENSE") for o in held.namelist())


# This checkout may itself be installed in place: take it off the path, then look from where the build lies.
LOOK = """
import site, sys
sys.meta_path[:] = [o for o in sys.meta_path if "editable" not in repr(o)]
sys.path[:] = [sys.argv[1]] + [o for o in sys.path if o not in ("", sys.argv[2])]
for o in [o for o in sys.modules if o.startswith("__editable__")]: del sys.modules[o]
site.addsitedir(sys.argv[1])
import aam_nb.recipe as recipe
print(recipe.__file__)
print(*sorted(p.stem for p in recipe.recipes.glob("*.toml")))
"""


def installed(site, cwd):
    "The file of aam_nb.recipe and the recipes that it finds, when only `site` holds the package."
    command = [sys.executable, "-c", LOOK, str(site), str(ROOT)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    file, found = done.stdout.split("\n")[:2]
    return Path(file), found.split()


def shipped(): return sorted(p.stem for p in (ROOT/"recipes").glob("*.toml"))


def test_installed_wheel_finds_its_recipes(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path/"site")
    file, found = installed(tmp_path/"site", tmp_path)
    assert file.is_relative_to(tmp_path/"site") and found == shipped()


def test_editable_install_finds_its_recipes(tmp_path):
    project = copy_of_the_project(tmp_path/"project")
    zipfile.ZipFile(build(project, "editable")).extractall(tmp_path/"site")
    file, found = installed(tmp_path/"site", tmp_path)
    assert file.is_relative_to(project) and found == shipped()


def test_console_script_is_installed():
    scripts = importlib.metadata.entry_points(group="console_scripts")
    found = [o for o in scripts if o.value == "aam_nb.cli:main"]
    if not found: pytest.skip("aam_nb is not installed here")
    assert found[0].name == "aam" and callable(found[0].load())
