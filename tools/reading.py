"""How the project reads, in figures: packed and wide lines, long cells, cells without an example, large
files, tangled imports.

    python tools/reading.py                 a table of the figures
    python tools/reading.py --list          and each place
    python tools/reading.py --only data     the same for files and pages whose path holds `data`
    python tools/reading.py --root FOLDER   for another checkout, such as one of an earlier commit
"""
from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDE, ARGUMENTS, LONG_CELL, LONGEST_CELL, LONG_FILE, LONGEST_FILE = 110, 8, 15, 40, 400, 450
EXPORT = re.compile(r"^#\|\s*exports?\b", re.M)
COMPREHENSION = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
FUNCTION = ast.FunctionDef, ast.AsyncFunctionDef


def packed(text):
    "Numbers of the lines that hold a `;` between statements."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sorted({o.start[0] for o in tokens if o.type == tokenize.OP and o.string == ";"})


def wide(text, most=WIDE):
    "Numbers of the lines of more than `most` columns."
    return [i for i, line in enumerate(text.split("\n"), 1) if len(line) > most]


def nested(text):
    "Numbers of the lines where a comprehension begins that stands in another."
    found = set()
    for outer in ast.walk(ast.parse(text)):
        if not isinstance(outer, COMPREHENSION): continue
        inside = [o for o in ast.walk(outer) if o is not outer and isinstance(o, COMPREHENSION)]
        found |= {o.lineno for o in inside}
    return sorted(found)


def taken(function):
    "How many arguments a function takes, `self` and `cls` left out."
    a = function.args
    names = [o.arg for o in a.posonlyargs + a.args + a.kwonlyargs]
    return len([o for o in names if o not in ("self", "cls")])


def crowded(text):
    "Lines and names of the functions of more than eight arguments."
    functions = [o for o in ast.walk(ast.parse(text)) if isinstance(o, FUNCTION)]
    return [(o.lineno, o.name) for o in functions if taken(o) > ARGUMENTS]


def code(source):
    "A cell's code without the lines that only a notebook reads."
    return re.sub(r"(?m)^\s*[%!].*$", "", source)


def cells(page):
    "Kind and source of each cell of a page."
    return [(o["cell_type"], "".join(o["source"]))
            for o in json.loads(page.read_text(encoding="utf-8"))["cells"]]


def body_lines(source):
    "How many lines a cell has below its directives."
    return len([o for o in source.strip().split("\n") if not o.startswith("#|")])


def exported(page):
    "Number and source of each exported cell that defines something."
    found = [(i, s) for i, (kind, s) in enumerate(cells(page)) if kind == "code" and EXPORT.search(s)]
    kinds = (*FUNCTION, ast.ClassDef, ast.Assign, ast.AnnAssign)
    def defines(source): return any(isinstance(o, kinds) for o in ast.parse(code(source)).body)
    return [(i, s) for i, s in found if defines(s)]


def public(source):
    "Public names that a cell defines; for methods added with `@patch`, the methods' names."
    body = ast.parse(code(source)).body
    defined = [o.name for o in body if isinstance(o, (*FUNCTION, ast.ClassDef))]
    assigned = [t.id for o in body if isinstance(o, ast.Assign) for t in o.targets if isinstance(t, ast.Name)]
    return [o for o in defined + assigned if not o.startswith("_")]


def shown(page):
    """Numbers of the exported cells that are followed by an example, which names something that the cell
    defines."""
    all_cells, found = cells(page), set()
    places = [i for i, _ in exported(page)] + [len(all_cells)]
    for here, after in zip(places, places[1:]):
        examples = " ".join(s for kind, s in all_cells[here+1:after]
                            if kind == "code" and not EXPORT.search(s))
        if any(re.search(rf"\b{o}\b", examples) for o in public(all_cells[here][1])): found.add(here)
    return found


def bare(page):
    """Numbers and names of the exported cells with public functions or classes and no example right after
    them."""
    with_example, found = shown(page), []
    for i, source in exported(page):
        names = [o for o in public(source) if re.search(rf"(?m)^(def|class) {o}\b", source)]
        if names and i not in with_example: found.append((i, names[0]))
    return found


def inner_imports(path, root):
    "Modules of the package that a module imports, but for what stands there only for type checkers."
    here = ["aam_nb", *path.relative_to(root/"aam_nb").with_suffix("").parts]
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    checked = [t for t in ast.walk(tree) if isinstance(t, ast.If) and "TYPE_CHECKING" in ast.unparse(t.test)]
    skip = {id(n) for t in checked for n in ast.walk(t)}
    for node in ast.walk(tree):
        if id(node) in skip or not isinstance(node, ast.ImportFrom): continue
        stem = ".".join([*(here[:-node.level] if node.level else []), *filter(None, [node.module])])
        if stem.startswith("aam_nb.") and not (root/stem.replace(".", "/")).is_dir(): found.add(stem)
    return found


def circles(imports):
    "Modules that import each other, directly or by a longer way."
    def reached(start):
        seen, todo = set(), [start]
        while todo:
            new = imports.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen
    return sorted(o for o in imports if o in reached(o))


def sources(root, only):
    "Files of code by kind: the package, and what stands beside it."
    package = [p for p in sorted((root/"aam_nb").rglob("*.py")) if p.name != "_modidx.py"]
    beside = [p for d in ("tests", "tools", "benchmarks") for p in sorted((root/d).rglob("*.py"))]
    wanted = lambda paths: [p for p in paths if only in str(p.relative_to(root))]
    return dict(package=wanted(package), beside=wanted(beside))


def pages(root, only):
    "Notebooks, in order."
    found = sorted(p for p in (root/"nbs").rglob("*.ipynb") if not p.parts[-2].startswith("."))
    return [p for p in found if only in str(p.relative_to(root))]


def of_files(paths):
    "Figures of files of code: (lines in all, name of a figure -> places)."
    found, total = {}, 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        total += text.count("\n")
        places = {"lines with ;": packed(text), f"lines over {WIDE}": wide(text),
                  "lines over 120": wide(text, 120),
                  "nested comprehensions": nested(text)}
        for k, lines in places.items(): found.setdefault(k, []).extend(f"{path}:{o}" for o in lines)
        found.setdefault(f"functions of more than {ARGUMENTS} arguments",
                         []).extend(f"{path}:{i} {o}" for i, o in crowded(text))
        for most in (LONG_FILE, LONGEST_FILE):
            found.setdefault(f"files over {most} lines", []).extend([str(path)]*(text.count("\n") > most))
    return total, found


def of_examples(paths):
    "The same of the cells of pages that are not exported."
    found, total = {}, 0
    for page in paths:
        for i, (kind, source) in enumerate(cells(page)):
            if kind != "code" or EXPORT.search(source): continue
            text = code(source)
            total += text.count("\n") + 1
            for k, lines in {"lines with ;": packed(text), f"lines over {WIDE}": wide(text),
                             "nested comprehensions": nested(text)}.items():
                found.setdefault(k, []).extend(f"{page} cell {i} line {o}" for o in lines)
    return total, found


def of_cells(paths):
    "Figures of exported cells: (how many define something, name of a figure -> places)."
    found = {f"cells over {LONG_CELL} lines": [], f"cells over {LONGEST_CELL} lines": [],
             "cells without an example": []}
    total = 0
    for page in paths:
        defining = exported(page)
        total += len(defining)
        for i, source in defining:
            for most in (LONG_CELL, LONGEST_CELL):
                if body_lines(source) > most:
                    found[f"cells over {most} lines"].append(f"{page} cell {i}, {body_lines(source)} lines")
        found["cells without an example"] += [f"{page} cell {i} {o}" for i, o in bare(page)]
    return total, found


def show(title, total, found, unit, root, places):
    "Print the figures of one kind."
    print(f"\n{title}: {total:,} {unit}")
    for name, where in found.items():
        counted = not name.startswith(("files", "functions"))
        share = f"{100*len(where)/total:5.2f} %" if total and counted else " "*7
        print(f"  {len(where):6,}  {share}  {name}")
        if places: print(*(f"            {o.replace(str(root) + '/', '')}" for o in where), sep="\n")


def main():
    "Print all figures."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout")
    parser.add_argument("--only", default="", help="a part of a path")
    parser.add_argument("--list", action="store_true", help="name each place")
    args = parser.parse_args()
    root, files = args.root.absolute(), sources(args.root.absolute(), args.only)
    show("Package", *of_files(files["package"]), "lines", root, args.list)
    show("Exported cells", *of_cells(pages(root, args.only)), "cells that define something", root, args.list)
    show("Examples", *of_examples(pages(root, args.only)), "lines", root, args.list)
    show("Tests, tools and benchmarks", *of_files(files["beside"]), "lines", root, args.list)
    imports = {".".join(p.relative_to(root).with_suffix("").parts): inner_imports(p, root)
               for p in files["package"]}
    most = max(imports, key=lambda o: len(imports[o]), default=None)
    if most:
        print(f"\nMost imports: {most}, {len(imports[most])} modules; modules in import circles: "
              f"{len(circles(imports))}")


if __name__ == "__main__": sys.exit(main())
