"""A report's context in, its page, its JSON and the parsed page out."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from context import read_output

from polaris.report.stage import run
from polaris.stage import StageContext

VOID = {"meta", "br", "img", "link", "input", "hr", "use", "path", "rect", "line", "circle"}


class Page(HTMLParser):
    """Collects tags, attributes and the text outside of style; raises for a tag closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def made(context: StageContext) -> tuple[str, dict[str, Any], Page]:
    run(context)
    html = read_output(context, "report.html").decode()
    return html, json.loads(read_output(context, "report.json")), Page(html)


def words(text: str) -> str:
    return " ".join(text.split())
