"""XHTML bytes in; the elements that are stories, and their text as blocks, out.

Structure is read from `epub:type` (EPUB 3 Structural Semantics, with the z3998 and Standard Ebooks
vocabularies; prefixes are ignored) and from DPUB-ARIA roles, which say the same.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lxml import etree

from polaris.errors import InputError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


EPUB_TYPE = "{http://www.idpf.org/2007/ops}type"
SCENE_BREAK = "* * *"

LEFT_OUT = _names(
    "frontmatter backmatter cover titlepage title-page halftitlepage halftitle seriespage imprint imprimatur "
    "copyright-page colophon other-credits contributors dedication epigraph foreword preface introduction "
    "acknowledgments acknowledgements afterword appendix toc landmarks loi lot notes endnotes rearnotes "
    "footnotes glossary bibliography index errata non-fiction novella novel"
)
"""Types of bodies and sections that are no short story. A novella is left out by its own name."""

_STORY = "short-story"
_PERHAPS_STORY = frozenset({"fiction", "chapter"})
_SECTIONS = frozenset({"section", "article"})
_CONTAINERS = _SECTIONS | {"div", "main"}
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "hgroup"})
_BLOCKS = _names(
    "address article aside blockquote body caption center dd div dl dt figcaption figure footer form header "
    "li main ol p pre section table tbody td tfoot th thead ul"
)
_DROPPED = _names("audio head img math nav object rp rt script style svg template video")
_DROPPED_TYPES = _names(
    "noteref pagebreak footnote endnote rearnote note-group footnotes endnotes rearnotes backlink"
)
# Word joiner, byte order mark, zero-width space, soft hyphen and hair space only steer typesetting.
_TYPESETTING = dict.fromkeys(map(ord, "\u2060\ufeff\u200b\u00ad\u200a"))
_SPACE = re.compile(r"\s+")
_BREAK = re.compile(r"[*⁂\s]+")


@dataclass(frozen=True)
class Block:
    """One paragraph, heading, byline or scene break."""

    kind: Literal["text", "heading", "byline", "rule"]
    text: str
    title: str = ""
    """Of a heading: what it names, without number and subtitle."""
    depth: int = 0
    """How many sections lie between it and the element it was read from."""
    ids: tuple[str, ...] = ()
    """Identifiers met since the block before: where links into the document point."""


def parse_xml(data: bytes, *, where: str) -> etree._Element:
    """Parse without network, DTD or entity expansion and return the root.

    Raises InputError, naming `where` and the line, if `data` is malformed or declares entities.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise InputError(f"{where}, line {error.lineno}: expected well-formed XML: {error.msg}") from error
    dtd: Any = root.getroottree().docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise InputError(f"{where}: declares its own XML entities; expected XHTML without any")
    return root


def local_name(element: etree._Element) -> str:
    """Return the tag without its namespace; empty for what is no element (an entity)."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def types(element: etree._Element) -> frozenset[str]:
    """Return the semantic types of an element, without their prefixes."""
    named = element.get(EPUB_TYPE, "").split()
    roles = [role[4:] for role in element.get("role", "").split() if role.startswith("doc-")]
    return frozenset(name.rpartition(":")[2].lower() for name in named + roles)


def story_elements(body: etree._Element) -> tuple[list[etree._Element], list[tuple[etree._Element, str]]]:
    """Return the elements typed as stories, and those left out with the type that says so.

    The outermost story counts; in a part or a collection each nested one does. No story element
    and not all left out means that the document is untyped: its body is the text.
    """
    found: list[etree._Element] = []
    left: list[tuple[etree._Element, str]] = []

    def visit(element: etree._Element) -> None:
        kinds = types(element)
        is_body = local_name(element) == "body"
        if _STORY in kinds and not is_body:
            found.append(element)
        elif kinds & LEFT_OUT:
            left.append((element, min(kinds & LEFT_OUT)))
        elif not is_body and kinds & _PERHAPS_STORY and not _holds_story(element):
            found.append(element)
        else:
            for child in element:
                if local_name(child) in _CONTAINERS:
                    visit(child)

    visit(body)
    return found, left


def _holds_story(element: etree._Element) -> bool:
    return any(_STORY in types(inner) for inner in element.iterdescendants("{*}section", "{*}article"))


def blocks(element: etree._Element, *, skip: Iterable[etree._Element] = ()) -> list[Block]:
    """Return the element's text as blocks in order, without notes, page breaks, images and `skip`.

    Raises InputError on an entity that XHTML does not know.
    """
    reader = _Reader(skip)
    reader.inside(element)
    reader.flush()
    return reader.out


def join(parts: Iterable[Block]) -> str:
    """Return the blocks as one text: blank lines between them, scene breaks only between texts."""
    out: list[str] = []
    for part in parts:
        text = SCENE_BREAK if part.kind == "rule" or _BREAK.fullmatch(part.text) else part.text
        if text != SCENE_BREAK or (out and out[-1] != SCENE_BREAK):
            out.append(text)
    if out and out[-1] == SCENE_BREAK:
        out.pop()
    return "\n\n".join(out)


class _Reader:
    """Walks an element once, filling a buffer with inline text that each block boundary empties."""

    def __init__(self, skip: Iterable[etree._Element] = ()) -> None:
        self.out: list[Block] = []
        self._skip = set(skip)
        self._buffer: list[str] = []
        self._ids: list[str] = []
        self._depth = 0

    def flush(self) -> None:
        """End the paragraph at hand."""
        text = _tidy("".join(self._buffer))
        self._buffer.clear()
        if text:
            self._emit("text", text)

    def inside(self, element: etree._Element) -> None:
        """Read what an element holds."""
        self._say(element.text)
        for child in element:
            self._read(child)
            self._say(child.tail)

    def _emit(self, kind: Literal["text", "heading", "byline", "rule"], text: str, title: str = "") -> None:
        self.out.append(Block(kind, text, title, self._depth, tuple(self._ids)))
        self._ids.clear()

    def _say(self, text: str | None) -> None:
        if text:
            self._buffer.append(_SPACE.sub(" ", text.translate(_TYPESETTING)))

    def _mark(self, element: etree._Element) -> None:
        self._ids.extend(str(element.get(key)) for key in ("id", "name") if element.get(key))

    def _read(self, element: etree._Element) -> None:
        name = local_name(element)
        if not name:
            self._say(_entity(element))
            return
        self._mark(element)
        if name in _DROPPED or types(element) & _DROPPED_TYPES or element.get("hidden") is not None:
            return
        if element in self._skip:
            self.flush()
        elif name == "br":
            self._buffer.append("\n")
        elif name == "hr":
            self.flush()
            self._emit("rule", SCENE_BREAK)
        elif name in _HEADINGS:
            self._heading(element)
        elif _is_byline(element, name):
            self._whole(element)
            if text := _plain(element):
                self._emit("byline", text)
        elif name == "tr":
            self._row(element)
        elif name in _BLOCKS:
            self.flush()
            self._depth += name in _SECTIONS
            self.inside(element)
            self.flush()
            self._depth -= name in _SECTIONS
        else:
            self.inside(element)

    def _whole(self, element: etree._Element) -> None:
        """End the paragraph at hand and mark what lies in an element that is read as one block."""
        self.flush()
        for inner in element.iterdescendants("{*}*"):
            self._mark(inner)

    def _heading(self, element: etree._Element) -> None:
        self._whole(element)
        text = _plain(element)
        named = [part for part in element if "title" in types(part) or local_name(part) in _HEADINGS]
        named.sort(key=lambda part: "title" not in types(part))
        title = _plain(named[0]) if named else text
        if text:
            self._emit("heading", text, " ".join(title.split()))

    def _row(self, row: etree._Element) -> None:
        """Read a table row as one paragraph; in a play its first cell names the speaker."""
        self._whole(row)
        cells: list[str] = []
        for cell in row:
            text = _plain(cell) if local_name(cell) else ""
            if text and "persona" in types(cell) and text[-1] not in ".:,":
                text += ":"
            cells.append(text)
        if text := " ".join(filter(None, cells)):
            self._emit("text", text)


def _plain(element: etree._Element) -> str:
    """Return an element's text, its blocks as lines."""
    return "\n".join(block.text for block in blocks(element) if block.kind != "rule")


def _is_byline(element: etree._Element, name: str) -> bool:
    """Return whether this is the story's byline; an author named in an epigraph or a letter is none."""
    if name not in {"p", "div"}:
        return False
    if "byline" in element.get("class", "").split() or "byline" in types(element):
        return True
    quoted = next(element.iterancestors("{*}blockquote", "{*}cite"), None) is not None
    return "author" in types(element) and not quoted


def _entity(node: etree._Element) -> str:
    """Return the character that an unexpanded XHTML entity stands for."""
    text = html.unescape(node.text or "")
    if text.startswith("&") and len(text) > 1:
        raise InputError(f"unknown entity {text} in XHTML, line {node.sourceline}; expected an XHTML entity")
    return text


def _tidy(text: str) -> str:
    """Trim every line and keep at most one empty line between two."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(_without_double_gaps(lines)).strip("\n")


def _without_double_gaps(lines: list[str]) -> Iterator[str]:
    previous = ""
    for line in lines:
        if line or previous:
            yield line
        previous = line
