"""Notebooks as a documentation renderer takes them: exported cells replaced by their reference, in _proc/.

This is nbdev's own preparation with three changes, each said where it stands. It is a module of its own because the workers find
`prepare` by its module's name.
"""
from __future__ import annotations

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
EXPORT = re.compile(r"^#\|\s*export\s*$", re.M)


class RunForDocs(exec_show_docs):
    "Runs what the reference needs, also imports that are there for annotations only: `show_doc` looks their names up."
    def __call__(self, cell):
        "Run one cell."
        source = cell.source
        if source and cell.cell_type == "code": cell.source = source.replace("if TYPE_CHECKING:", "if True:")
        super().__call__(cell)
        cell.source = source


class Filter(FilterDefaults):
    "nbdev's processors with `RunForDocs`."
    def base_procs(self):
        "In nbdev's order."
        return [RunForDocs if o is exec_show_docs else o for o in super().base_procs()]


def with_lead(cells):
    "nbdev takes title and subtitle from the first markdown cell and drops what follows there; give that a cell of its own."
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and (m := TITLE.match(cell.source)):
            cell.source, rest = m[1], cell.source[m.end():].strip()
            return [*cells[:i+1], mk_cell(rest, "markdown"), *cells[i+1:]] if rest else cells
    return cells


def with_fields(cells):
    "Show the source of dataclasses: a field's meaning is the comment beside it, which a signature does not hold."
    for cell in cells:
        if cell.cell_type == "code" and "@dataclass" in cell.source: cell.source = EXPORT.sub("#| exports", cell.source)
    return cells


def prepare(source, to):
    "One notebook as a renderer takes it: exported cells replaced by their reference."
    os.environ["IN_TEST"] = "1"  # nbdev's word for: do not export from here
    notebook = read_nb(source)
    notebook.cells = with_fields(with_lead(notebook.cells))
    for i, cell in enumerate(notebook.cells): cell.idx_ = i
    Filter()(notebook); write_nb(notebook, to)


def processed(workers):
    "All of nbs/ as a renderer takes it, in _proc/."
    if str(ROOT) not in sys.path: sys.path.insert(0, str(ROOT)) # travels to the workers, which import the package
    refresh_quarto_yml()
    proc = ROOT/"_proc"
    shutil.rmtree(proc, ignore_errors=True)
    shutil.copytree(ROOT/"nbs", proc, ignore=shutil.ignore_patterns(".*", "*.ipynb"))
    names = sorted(p.relative_to(ROOT/"nbs") for p in (ROOT/"nbs").rglob("*.ipynb") if not p.parts[-2].startswith("."))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(prepare, [ROOT/"nbs"/o for o in names], [proc/o for o in names]))
    return proc
