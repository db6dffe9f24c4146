"""Notebooks fit to commit: whole JSON, no conflict markers, no stored errors, small, and code of one
statement a line within 110 columns and without nested comprehensions. Warns where a page reads like a code
dump: little prose, long cells, public names without an example.

    python tools/check_notebooks.py
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from reading import (LONG_CELL, LONGEST_CELL, WIDE, bare, body_lines, cells, code, exported, nested, packed,
                     wide)

ROOT = Path(__file__).resolve().parent.parent
PAGE, TUTORIAL, IMAGE = 200_000, 500_000, 50_000 # bytes
MARKER = re.compile(r"(?m)^(<{7} |>{7} )")


def problems(path):
    "What must be mended in one notebook, in words."
    text = path.read_text(encoding="utf-8")
    if MARKER.search(text): return ["holds conflict markers"]
    try: found = json.loads(text)["cells"]
    except (ValueError, KeyError): return ["is not a notebook"]
    if any(MARKER.search("".join(c["source"])) for c in found): return ["holds conflict markers in its cells"]
    return [*too_large(path, len(text.encode()), found), *in_code(path)]


def too_large(path, size, raw):
    "What makes a notebook too large, and stored errors."
    outputs = [o for c in raw for o in c.get("outputs", [])]
    limit = TUTORIAL if "tutorials" in path.parts else PAGE
    found = [f"is {size/1000:.0f} kB; at most {limit//1000} kB"]*(size > limit)
    for o in outputs:
        if o["output_type"] == "error": found.append("stores an error")
        pictures = [len("".join(v))*3//4 for k, v in o.get("data", {}).items() if k.startswith("image/")]
        found += [f"holds a picture of {n/1000:.0f} kB; at most {IMAGE//1000} kB" for n in pictures
                  if n > IMAGE]
    return found


def in_code(path):
    "Packed and wide lines and nested comprehensions of all code cells, with cell and line."
    found = []
    for i, (kind, source) in enumerate(cells(path)):
        if kind != "code": continue
        text = code(source)
        places = {"statements with ; between": packed(text), f"more than {WIDE} columns": wide(text),
                  "a comprehension within another": nested(text)}
        for what, lines in places.items(): found += [f"cell {i}, line {n}: {what}" for n in lines]
    return found


def doubts(path):
    "Why a page may read like a code dump, in words."
    shown = exported(path)
    words = sum(len(s.split()) for kind, s in cells(path) if kind == "markdown")
    found = [f"{len(shown)} exported cells and {words} words of prose"]*(words < 25*len(shown))
    sizes = {i: body_lines(s) for i, s in shown}
    found += [f"cell {i} has {n} lines; more than {LONGEST_CELL} want a reason" for i, n in sizes.items()
              if n > LONGEST_CELL]
    found += [f"cell {i} defines '{name}' and no example follows" for i, name in bare(path)]
    long = sum(n > LONG_CELL for n in sizes.values())
    if long > len(sizes)/2:
        found.append(f"{long} of {len(sizes)} exported cells have more than {LONG_CELL} lines")
    return found


def main():
    "Check all of nbs/."
    found = 0
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        if path.parts[-2].startswith("."): continue
        wrong = problems(path)
        found += len(wrong)
        name = path.relative_to(ROOT)
        for o in wrong: print(f"{name} {o}")
        if not wrong:
            for o in doubts(path): print(f"{name}: warning: {o}")
    return int(bool(found))


if __name__ == "__main__": sys.exit(main())
