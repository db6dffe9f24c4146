"A reader of HTML pages that checks how their elements nest, and where Chromium is."
import os
import re
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    "Collects elements and checks that they nest."
    def __init__(self, text):
        super().__init__()
        self.stack, self.all, self.text = [], [], []
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        node = dict(tag=tag, attrs=dict(attrs), inside=[], text="")
        self.all.append(node)
        if self.stack: self.stack[-1]["inside"].append(node)
        if tag not in VOID: self.stack.append(node)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID: self.handle_endtag(tag)

    def handle_endtag(self, tag): assert self.stack.pop()["tag"] == tag

    def handle_data(self, data):
        self.text.append(data)
        for o in self.stack: o["text"] += data

    def tags(self, name): return [o for o in self.all if o["tag"] == name]

    def attributes(self, *names):
        "Values of attributes by their names, over all elements."
        return [v for o in self.all for k, v in o["attrs"].items() if k in names]

    @property
    def ids(self): return self.attributes("id")

    @property
    def words(self): return " ".join("".join(self.text).split())


def inner_links(text):
    "What a page refers to inside itself."
    return set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text))
