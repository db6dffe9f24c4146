"""Notebooks as a documentation renderer takes them: exported cells replaced by their reference, in _proc/.

This is nbdev's own preparation with a few changes, each said where it stands. It is a module of its own
because the workers find `prepare` by its module's name.
"""
from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.quarto import refresh_quarto_yml

ROOT = Path(__file__).resolve().parent.parent
TITLE = re.compile(r"(# .+\n+(?:> .+\n*)*)")
# nbdev links private names too, to a reference that has no place for them
PRIVATE = re.compile(r"\[(`_\w+`)\]\([^)]*#_\w+\)")
EXPORTED = re.compile(r"^#\|\s*(export|exports|exporti|exec_doc)\b", re.M)
EXPORT = re.compile(r"^#\|\s*export\s*$", re.M)


def for_reference(source):
    "What of a cell the reference needs: all of an exported cell and of `show_doc`, else its imports alone."
    if EXPORTED.search(source) or source.lstrip().startswith(("show_doc", "#| echo: false")):
        return source.replace("if TYPE_CHECKING:", "if True:")
    try: body = ast.parse(source).body
    except SyntaxError: return ""
    return "\n".join(ast.unparse(o) for o in body if isinstance(o, (ast.Import, ast.ImportFrom)))


class RunForDocs(exec_show_docs):
    """Runs what the reference needs. Beyond nbdev: imports that are there for annotations only, since
    `show_doc` looks their names up; and of an example no more than its imports, so that its stored output
    stands."""
    def __call__(self, cell):
        "Run one cell."
        if cell.cell_type != "code" or not cell.source: return
        source, outputs = cell.source, cell.get("outputs", [])
        cell.source = for_reference(source)
        if cell.source: super().__call__(cell)
        cell.source = source
        if "show_doc" not in source: cell.outputs = outputs


class Filter(FilterDefaults):
    "nbdev's processors with `RunForDocs`."
    def base_procs(self):
        "In nbdev's order."
        return [RunForDocs if o is exec_show_docs else o for o in super().base_procs()]


def with_lead(cells):
    """nbdev takes title and subtitle from the first markdown cell and drops what follows there; give that
    a cell of its own."""
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and (m := TITLE.match(cell.source)):
            cell.source, rest = m[1], cell.source[m.end():].strip()
            return [*cells[:i+1], mk_cell(rest, "markdown"), *cells[i+1:]] if rest else cells
    return cells


def with_source(cells):
    """Show the source where the reference would hide what the page talks about: dataclasses, because a
    field's meaning is the comment beside it, and cells that define private names only."""
    for cell in cells:
        if cell.cell_type != "code" or not EXPORT.search(cell.source): continue
        names = [o.name for o in ast.parse(cell.source).body
                 if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
        private = names and all(o.startswith("_") for o in names)
        if private or "@dataclass" in cell.source: cell.source = EXPORT.sub("#| exports", cell.source)
    return cells


def prepare(source, to):
    "One notebook as a renderer takes it: exported cells replaced by their reference."
    os.environ["IN_TEST"] = "1"  # nbdev's word for: do not export from here
    notebook = read_nb(source)
    notebook.cells = with_source(with_lead(notebook.cells))
    for i, cell in enumerate(notebook.cells): cell.idx_ = i
    Filter()(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown": cell.source = PRIVATE.sub(r"\1", cell.source)
    write_nb(notebook, to)


def processed(workers):
    "All of nbs/ as a renderer takes it, in _proc/."
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT)) # travels to the workers, which import the package
    refresh_quarto_yml()
    proc = ROOT/"_proc"
    shutil.rmtree(proc, ignore_errors=True)
    shutil.copytree(ROOT/"nbs", proc, ignore=shutil.ignore_patterns(".*", "*.ipynb"))
    names = sorted(p.relative_to(ROOT/"nbs") for p in (ROOT/"nbs").rglob("*.ipynb")
                   if not p.parts[-2].startswith("."))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(prepare, [ROOT/"nbs"/o for o in names], [proc/o for o in names]))
    return proc
