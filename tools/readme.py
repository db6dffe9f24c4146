"""Write README.md from nbs/index.ipynb, without Quarto.

    python tools/readme.py           # write it
    python tools/readme.py --check   # fail when README.md differs from what would be written
"""
from __future__ import annotations

import json
import posixpath
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = "<!-- Written by tools/readme.py from nbs/index.ipynb: edit the notebook. -->\n\n"
LINK = re.compile(r"(\]\()([^)\s#]+)")


def link(target, repository):
    "Where a link of the notebook leads from the top of the repository."
    here = f"{repository}/blob/main/"
    if target.startswith(here): return target.removeprefix(here)
    return target if "://" in target else posixpath.normpath(posixpath.join("nbs", target))


def output(out):
    "One stored output as Markdown."
    data = out.get("data", {})
    if "text/markdown" in data: return "".join(data["text/markdown"])
    if "image/png" in data: raise ValueError("README.md holds no pictures: store none in nbs/index.ipynb")
    text = "".join(out.get("text") or data.get("text/plain", "")).rstrip()
    return f"```text\n{text}\n```" if text else ""


def cell(c, repository):
    "One cell as Markdown; nothing for a hidden one."
    text = "".join(c["source"]).strip()
    if c["cell_type"] == "markdown": return LINK.sub(lambda m: m[1] + link(m[2], repository), text)
    if c["cell_type"] != "code" or re.search(r"^#\|\s*hide\b", text, re.M): return ""
    code = re.sub(r"^#\|.*\n?", "", text, flags=re.M)
    return "\n\n".join(filter(None, [f"```python\n{code}\n```", *map(output, c.get("outputs", []))]))


def readme():
    "The text of README.md."
    project = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))["project"]
    cells = json.loads((ROOT/"nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = [cell(c, project["urls"]["Repository"]) for c in cells]
    return HEAD + "\n\n".join(filter(None, parts)) + "\n"


def main():
    "Write or compare."
    path, text = ROOT/"README.md", readme()
    if "--check" not in sys.argv:
        path.write_text(text, encoding="utf-8")
        return 0
    same = path.is_file() and path.read_text(encoding="utf-8") == text
    if not same: print("README.md is not what nbs/index.ipynb says. Run: python tools/readme.py")
    return int(not same)


if __name__ == "__main__": sys.exit(main())
