"""Build the documentation site from nbs/ into _docs/, and fail when a page shows a traceback, a dead link or
a request to another host.

    python tools/docs.py           # build and check
    python tools/docs.py --check   # check what stands in _docs/

Quarto renders where it is on the path; smalldocs, which is pure Python and part of the `docs` extra, renders
elsewhere.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pages import ROOT, processed

REMOTE = re.compile(r"""(?:@import\s*|url\()\s*(?:url\()?["']?((?:https?:)?//[^"')\s]+)""")
# as in 10_data_table.ipynb, whose page is data_table.html
NUMBER = re.compile(r"(?<!\w)\d+[a-zA-Z0-9]*_(?=\w+\.ipynb)")
KATEX = re.compile(r"<(script|link)\b[^>]*katex[^>]*>(\s*</script>)?")
TEX = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
LINK = re.compile(r"\]\([^)\s]*\)")
HREF = re.compile(r'(<a\b[^>]*?\bhref=")([^"]*)(")')
IMAGE = re.compile(r"<img\b(?![^>]*\balt=\"[^\"])[^>]*>")
SENTENCE = re.compile(r"<(p|figcaption|h\d)\b[^>]*>(.*?)</\1>", re.S)


def without_numbers(folder):
    "Give pages, and links to them, the names that Quarto gives: smalldocs knows no `output-file`."
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".yml":
            path.write_text(NUMBER.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")
        if path.suffix != ".ipynb": continue
        path.write_text(LINK.sub(lambda m: NUMBER.sub("", m[0]), path.read_text(encoding="utf-8")),
                        encoding="utf-8")
        path.rename(path.with_name(NUMBER.sub("", path.name)))


def with_mathml(page):
    """Formulas as MathML, which browsers draw by themselves, instead of TeX for a script from another
    host. Quarto is told the same."""
    from latex2mathml.converter import convert
    page = KATEX.sub("", page)
    def formula(m): return convert(unescape(m[2]), display="block" if m[1] == "display" else "inline")
    return TEX.sub(formula, page)


def by_smalldocs(proc):
    """Render with smalldocs; returns what it warned of, but for what we know of it and for links, which
    `problems` looks at."""
    from smalldocs.site import build
    without_numbers(proc)
    warnings = build(proc, quiet=True).warnings
    for path in sorted((proc/"_docs").rglob("*.html")):
        path.write_text(with_mathml(path.read_text(encoding="utf-8")), encoding="utf-8")
    known = ("format commonmark is not built", "unknown key format-links", "html-math-method",
             "output-file is not read", "broken link")
    def is_known(warning): return any(o in warning for o in known)
    return [o for o in warnings if not is_known(o)]


def by_quarto(proc):
    "Render with Quarto, which stops by itself at what it cannot read."
    subprocess.run(["quarto", "render", str(proc), "--no-execute"], check=True)
    return []


def near(page, path, site, base):
    "The page with links to the published site made relative, so that a local copy leads to itself."
    def relative(m):
        if not (m[2] == base or m[2].startswith(base + "/")): return m[0]
        inside, _, anchor = m[2][len(base):].lstrip("/").partition("#")
        to = os.path.relpath(site/(inside.removesuffix(".md") or "index.html"), path.parent)
        return m[1] + to.replace(os.sep, "/") + ("#" + anchor if anchor else "") + m[3]
    return HREF.sub(relative, page) if base else page


def described(page):
    "The page with words for pictures that have none: the last sentence before each, which leads to it."
    def with_alt(m):
        before = [re.sub(r"<[^>]+>|\s+", " ", o[1]) for o in SENTENCE.findall(page[:m.start()])]
        words = re.split(r"(?<=[.:?])\s+(?=[A-Z])", " ".join((before or ["Picture"])[-1].split()))
        alt = escape(unescape(words[-1]), quote=True)
        return re.sub(r'\s+alt="[^"]*"', "", m[0]).replace("<img", f'<img alt="{alt}"', 1)
    return IMAGE.sub(with_alt, page)


def finish(site, base):
    "What neither renderer does by itself, on every page of a site."
    for path in sorted(site.rglob("*.html")):
        page = path.read_text(encoding="utf-8")
        path.write_text(described(near(page, path, site, base)), encoding="utf-8")


def build(workers=2):
    "The site in _docs/; returns the renderer's warnings."
    os.chdir(ROOT)
    proc = processed(workers)
    warnings = by_quarto(proc) if shutil.which("quarto") else by_smalldocs(proc)
    finish(proc/"_docs", home())
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    shutil.move(proc/"_docs", ROOT/"_docs")
    return warnings


class Page(HTMLParser):
    "Anchors, links and fetched files of a page, and whether it shows a traceback."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched = set(), [], []
        self.traceback = "Traceback (most recent call last)" in text or "cell-output-error" in text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        "Sort one tag's addresses."
        a = dict(attrs)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio") and a.get("src"):
            self.fetched.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.fetched.append(a.get("href", ""))


def home():
    "Address of the published site: absolute links to it are our own pages."
    text = (ROOT/"nbs/nbdev.yml").read_text(encoding="utf-8")
    return re.search(r'site-url: "(.*?)"', text)[1].rstrip("/")


def dead(site, page, link, pages, base):
    "Why a link of `page` leads nowhere on this site, or None."
    ours = base and (link == base or link.startswith(base + "/"))
    url = urlsplit(link[len(base):] or "/" if ours else link)
    if url.scheme or url.netloc: return None
    folder = site if url.path.startswith("/") else page.parent
    path = (folder/unquote(url.path).lstrip("/")).resolve() if url.path else page
    if path.is_dir(): path = path/"index.html"
    if path.name.endswith(".html.md"):
        path = path.with_suffix("") # Quarto's Markdown twin, which smalldocs does not make
    if not path.is_file(): return f"dead link {link}"
    if url.fragment and path in pages and unquote(url.fragment) not in pages[path].ids:
        return f"no anchor {link}"


def problems(site, base=""):
    "What is wrong with the pages under `site`: what, and where."
    site = Path(site).resolve()
    found = {}
    pages = {p: Page(p.read_text(encoding="utf-8"))
             for p in sorted(site.rglob("*.html")) if "site_libs" not in p.parts}
    for path, page in pages.items():
        wrong = ["shows a traceback"] * page.traceback
        wrong += [f"fetches {o}" for o in page.fetched if urlsplit(o).netloc]
        wrong += [dead(site, path, o, pages, base) for o in dict.fromkeys(page.links)]
        for o in filter(None, wrong):
            found.setdefault(o, []).append(str(path.relative_to(site)))
    for css in sorted(site.rglob("*.css")):
        remote = REMOTE.findall(css.read_text(encoding="utf-8"))
        for o in remote: found.setdefault(f"fetches {o}", []).append(str(css.relative_to(site)))
    if not pages: found["no page was made"] = [str(site)]
    return [f"{o}: {', '.join(at[:3])}{f' and {len(at)-3} more' * (len(at) > 3)}" for o, at in found.items()]


def main():
    "Build, check, and say what was found."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only check the pages in _docs/")
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare notebooks")
    args = parser.parse_args()
    found = ([] if args.check else build(args.workers)) + problems(ROOT/"_docs", home())
    for o in found: print(o)
    print(f"{len(list((ROOT/'_docs').rglob('*.html')))} pages in _docs/, {len(found)} problems")
    return bool(found)


if __name__ == "__main__": sys.exit(main())
