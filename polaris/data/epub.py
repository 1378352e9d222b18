"""An EPUB 2 or 3 file in, its book of short stories out.

The container is read by `polaris.data.ocf`; which parts are stories, and their text, comes from
`polaris.data.xhtml`. A title is the story's own heading, else its label in the contents.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lxml import etree

from polaris.data.book import Book, Story
from polaris.data.ocf import Files, Package, authors_of, metadata, read_package
from polaris.data.xhtml import Block, blocks, join, local_name, story_elements
from polaris.errors import InputError
from polaris.text import count_words

__all__ = ["Book", "Story", "read_epub"]

_BY = re.compile(r"^by\s+", re.IGNORECASE)
# Pages that a book without types may list in its contents beside its stories.
_NO_STORIES = frozenset(
    (
        "cover",
        "title page",
        "titlepage",
        "copyright",
        "copyright page",
        "contents",
        "table of contents",
        "colophon",
    )
)


def read_epub(source: BinaryIO | Path, *, name: str) -> Book:
    """Read an EPUB and return its stories in reading order.

    `name` is what messages call the file. Front and back matter and novellas are listed in `left_out`.
    A document without types is cut where the contents point into it; one that the contents do not
    list and that starts without a heading continues the story before it.

    Raises InputError, naming the file, the entry and what was expected: not a zip, no container,
    DRM, a missing or oversized entry, malformed XML, no story.
    """
    try:
        with _opened(source, name) as archive:
            return _book(Files(archive, name))
    except OSError as error:
        if not isinstance(source, Path):
            raise
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error


def _opened(source: BinaryIO | Path, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        # A damaged directory also shows as an unknown version, a negative offset or undecodable names.
        raise InputError(f"{name}: expected an EPUB, which is a zip archive: {error}") from error


@dataclass
class _Draft:
    """A story being put together."""

    href: str
    label: str
    parts: list[Block] = field(default_factory=list)
    typed: bool = False


def _book(files: Files) -> Book:
    package = read_package(files)
    drafts: list[_Draft] = []
    left = list(package.passed_over)
    for path in package.spine:
        root = files.xml(path, expected="a document that the spine lists")
        body = root.find("{*}body")
        if body is None:
            raise InputError(f"{files.where(path)}: expected XHTML with a body, found <{local_name(root)}>")
        try:
            _read_document(body, path, package, drafts, left)
        except InputError as error:
            raise InputError(f"{files.where(path)}: {error}") from error
    authors = authors_of(package.opf)
    stories: list[Story] = []
    for draft in drafts:
        story = _story(draft, authors[0] if authors else "")
        if story.text:
            stories.append(story)
        else:
            left.append(f"{draft.href}: no text")
    if not stories:
        raise InputError(f"{files.name}: no story found; expected an anthology. Left out: {'; '.join(left)}")
    return Book(
        title=metadata(package.opf, "title") or Path(files.name).name,
        authors=authors,
        language=metadata(package.opf, "language") or "und",
        rights=metadata(package.opf, "rights"),
        stories=tuple(stories),
        left_out=tuple(left),
    )


def _read_document(
    body: etree._Element, path: str, package: Package, drafts: list[_Draft], left: list[str]
) -> None:
    """Append the document's stories to `drafts` and what is none to `left`."""
    labels = dict(reversed(package.contents))
    if path in package.not_stories:
        left.append(f"{path}: {package.not_stories[path]}")
        return
    found, skipped = story_elements(body)
    for element, reason in skipped:
        left.append(f"{_href(path, element)}: {reason}")
    for element in found:
        href = _href(path, element)
        if href in package.not_stories:
            left.append(f"{href}: {package.not_stories[href]}")
            continue
        label = labels.get(href) or labels.get(path) or Path(path).stem
        drafts.append(_Draft(href if len(found) > 1 else path, label, blocks(element), typed=True))
    if found or (skipped and skipped[0][0] is body):
        return
    parts = blocks(body, skip=[element for element, _ in skipped])
    if not parts:
        if not skipped:
            left.append(f"{path}: no text")
        return
    for draft in _cut(parts, path, package.contents):
        if draft.label.casefold() in _NO_STORIES:
            left.append(f"{draft.href}: {draft.label.casefold()}")
        elif draft.label:
            drafts.append(draft)
        elif drafts and not drafts[-1].typed:
            drafts[-1].parts.extend(draft.parts)
        else:
            left.append(f"{draft.href}: neither in the contents nor under a heading")


def _cut(parts: list[Block], path: str, contents: tuple[tuple[str, str], ...]) -> Iterator[_Draft]:
    """Yield an untyped document's pieces; one without a label continues what came before."""
    starts: dict[int, tuple[str, str]] = {}
    for target, label in contents:
        entry, _, fragment = target.partition("#")
        if entry == path:
            at = next((i for i, part in enumerate(parts) if fragment in part.ids), 0) if fragment else 0
            starts.setdefault(at, (target, label))
    first = parts[0].title if parts[0].kind == "heading" and not starts else ""
    starts.setdefault(0, (path, first))
    order = sorted(starts)
    for start, stop in zip(order, [*order[1:], len(parts)], strict=True):
        href, label = starts[start]
        yield _Draft(href, label, parts[start:stop])


def _story(draft: _Draft, author: str) -> Story:
    """Take the story's own heading and byline off its text."""
    parts, title = draft.parts, draft.label
    if parts and parts[0].kind == "heading" and parts[0].depth == 0:
        title = parts[0].title
        parts = parts[1:]
    bylines = [part.text for part in parts if part.kind == "byline"]
    text = join(part for part in parts if part.kind != "byline")
    byline = _BY.sub("", " ".join(bylines[0].split())) if bylines else author
    return Story(title=title, author=byline, text=text, href=draft.href, words=count_words(text))


def _href(path: str, element: etree._Element) -> str:
    return f"{path}#{element.get('id')}" if element.get("id") else path
