"""Notebooks fit to commit: whole JSON, no conflict markers, no stored errors, small. Warns where a page reads
like a code dump.

    python tools/check_notebooks.py
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE, TUTORIAL, IMAGE = 200_000, 500_000, 50_000 # bytes
MARKER = re.compile(r"(?m)^(<{7} |>{7} )")


def problems(path):
    "What must be mended in one notebook, in words."
    text = path.read_text(encoding="utf-8")
    size = len(text.encode())
    if MARKER.search(text): return ["holds conflict markers"]
    try: cells = json.loads(text)["cells"]
    except (ValueError, KeyError): return ["is not a notebook"]
    if any(MARKER.search("".join(c["source"])) for c in cells): return ["holds conflict markers in its cells"]
    outputs = [o for c in cells for o in c.get("outputs", [])]
    limit = TUTORIAL if "tutorials" in path.parts else PAGE
    images = [len("".join(v)) * 3//4 for o in outputs
              for k, v in o.get("data", {}).items() if k.startswith("image/")]
    return [f"is {size/1000:.0f} kB; at most {limit//1000} kB"] * (size > limit) + \
        [f"holds a picture of {o/1000:.0f} kB; at most {IMAGE//1000} kB" for o in images if o > IMAGE] + \
        ["stores an error"] * any(o["output_type"] == "error" for o in outputs)


def doubts(path):
    "Why a page may read like a code dump, in words."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = [(c["cell_type"], "".join(c["source"])) for c in cells]
    exported = [s for kind, s in source if kind == "code" and re.search(r"^#\|\s*exports?\b", s, re.M)]
    words = sum(len(s.split()) for kind, s in source if kind == "markdown")
    long = [n for s in exported if (n := s.count("\n") + 1) > 50]
    return [f"{len(exported)} exported cells and {words} words of prose"] * (words < 25*len(exported)) + \
        [f"an exported cell of {n} lines" for n in long]


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
