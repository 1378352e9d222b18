"""The anthology's Markdown files in, `anthology.epub` out: a valid EPUB 3.3, the same bytes each time.

    python examples/demo/build_epub.py           write the EPUB
    python examples/demo/build_epub.py --check   exit 1 if the EPUB on disk is another

The Markdown is a small subset: front matter (title, author), paragraphs, `*emphasis*`, `> ` lines of
verse and `* * *` scene breaks.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
EPUB = HERE / "anthology.epub"

BOOK_TITLE = "The Polaris Demo Anthology"
BOOK_ID = "urn:uuid:6f0d2c1e-7a54-4b5e-9c39-2f1a8d4e6b70"
MODIFIED = "2025-01-01T00:00:00Z"
RIGHTS = "CC0-1.0: dedicated to the public domain, https://creativecommons.org/publicdomain/zero/1.0/"
ZIP_TIME = (2025, 1, 1, 0, 0, 0)

CONTAINER = """<?xml version="1.0" encoding="utf-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
  <rootfiles>
    <rootfile full-path="EPUB/package.opf" media-type="application/oebps-package+xml"/>
  </rootfiles>
</container>
"""

CSS = """body { margin: 5%; line-height: 1.4; }
h1, h2, .byline, .subtitle { text-align: center; font-weight: normal; }
.byline { font-style: italic; margin-bottom: 2em; }
p { margin: 0; text-indent: 1.2em; }
.byline, .subtitle, h2 + p, .byline + p, hr + p { text-indent: 0; }
blockquote { margin: 1em 2em; }
blockquote p { text-indent: 0; }
hr { border: none; height: 2em; }
nav ol { list-style: none; padding: 0; }
"""

PAGE = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" \
epub:prefix="z3998: http://www.daisy.org/z3998/2012/vocab/structure/" xml:lang="en" lang="en">
<head>
<title>{title}</title>
<link rel="stylesheet" type="text/css" href="style.css"/>
</head>
<body epub:type="{part}">
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Source:
    """One story as its Markdown file has it."""

    slug: str
    title: str
    author: str
    body: str


def read_source(path: Path) -> Source:
    """Read one Markdown file; ValueError names it where the front matter is not as it should be."""
    match = re.fullmatch(r"---\ntitle: (.+)\nauthor: (.+)\n---\n\n(.+)", path.read_text("utf-8"), re.DOTALL)
    if match is None:
        raise ValueError(f"{path.name}: expected front matter with a title and an author, then the story")
    return Source(path.stem, match[1], match[2], match[3].strip())


def to_xhtml(markdown: str) -> str:
    """Return the story's paragraphs, verses and scene breaks as XHTML."""
    return "\n".join(_block(part.strip()) for part in re.split(r"\n{2,}", markdown))


def _block(part: str) -> str:
    if part == "* * *":
        return "<hr/>"
    lines = part.split("\n")
    if all(line.startswith("> ") for line in lines):
        verse = "<br/>\n".join(_inline(line[2:]) for line in lines)
        return f'<blockquote epub:type="z3998:verse"><p>{verse}</p></blockquote>'
    return f"<p>{'<br/>'.join(map(_inline, lines))}</p>"


def _inline(text: str) -> str:
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", escape(text, quote=False))


def page(title: str, part: str, body: str) -> str:
    """Return a whole XHTML document."""
    return PAGE.format(title=escape(title, quote=False), part=part, body=body)


def chapter(story: Source) -> str:
    """Return a story's document: one chapter with its heading and byline."""
    body = (
        f'<section id="{story.slug}" epub:type="chapter" role="doc-chapter">\n'
        f'<h2 epub:type="title">{escape(story.title, quote=False)}</h2>\n'
        f'<p class="byline" epub:type="z3998:author">by {escape(story.author, quote=False)}</p>\n'
        f"{to_xhtml(story.body)}\n</section>"
    )
    return page(story.title, "bodymatter z3998:fiction", body)


def title_page(authors: list[str]) -> str:
    """Return the title page."""
    body = (
        f'<section epub:type="titlepage">\n<h1>{BOOK_TITLE}</h1>\n'
        f'<p class="subtitle">Stories by {escape(", ".join(authors), quote=False)}</p>\n</section>'
    )
    return page(BOOK_TITLE, "frontmatter", body)


def colophon() -> str:
    """Return the colophon with the dedication to the public domain."""
    body = (
        '<section epub:type="colophon" role="doc-colophon">\n<h2>Colophon</h2>\n'
        "<p>These stories were written for the POLARIS project. The authors’ names are invented.</p>\n"
        "<p>Everything in this book is given to the public domain under "
        '<a href="https://creativecommons.org/publicdomain/zero/1.0/">CC0 1.0 Universal</a> '
        "(SPDX: CC0-1.0). Copy it, change it, sell it, train on it; no permission is needed.</p>\n</section>"
    )
    return page("Colophon", "backmatter", body)


def nav(stories: list[Source]) -> str:
    """Return the navigation document: contents and landmarks."""
    entries = [("title.xhtml", "Title Page")]
    entries += [(f"{story.slug}.xhtml", escape(story.title, quote=False)) for story in stories]
    entries += [("colophon.xhtml", "Colophon")]
    items = "\n".join(f'<li><a href="{href}">{label}</a></li>' for href, label in entries)
    body = (
        f'<nav id="toc" epub:type="toc" role="doc-toc">\n<h2>Contents</h2>\n<ol>\n{items}\n</ol>\n</nav>\n'
        '<nav id="landmarks" epub:type="landmarks" hidden="hidden">\n<h2>Landmarks</h2>\n<ol>\n'
        '<li><a href="title.xhtml" epub:type="titlepage">Title Page</a></li>\n'
        f'<li><a href="{stories[0].slug}.xhtml" epub:type="bodymatter">Stories</a></li>\n'
        '<li><a href="colophon.xhtml" epub:type="colophon">Colophon</a></li>\n</ol>\n</nav>'
    )
    return page("Contents", "frontmatter", body)


def package(stories: list[Source], authors: list[str]) -> str:
    """Return the package document."""
    creators = "\n".join(
        f'    <dc:creator id="author-{i}">{escape(author, quote=False)}</dc:creator>\n'
        f'    <meta refines="#author-{i}" property="role" scheme="marc:relators">aut</meta>'
        for i, author in enumerate(authors, 1)
    )
    pages = ["title", *(story.slug for story in stories), "colophon"]
    items = "\n".join(
        f'    <item id="page-{slug}" href="{slug}.xhtml" media-type="application/xhtml+xml"/>'
        for slug in pages
    )
    refs = "\n".join(f'    <itemref idref="page-{slug}"/>' for slug in pages)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="book-id" xml:lang="en">
  <metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
    <dc:identifier id="book-id">{BOOK_ID}</dc:identifier>
    <dc:title>{BOOK_TITLE}</dc:title>
    <dc:language>en</dc:language>
{creators}
    <dc:rights>{RIGHTS}</dc:rights>
    <meta property="dcterms:modified">{MODIFIED}</meta>
  </metadata>
  <manifest>
    <item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
    <item id="style" href="style.css" media-type="text/css"/>
{items}
  </manifest>
  <spine>
{refs}
  </spine>
</package>
"""


def build(stories: list[Source]) -> bytes:
    """Return the EPUB: entries in a fixed order, with a fixed time, uncompressed.

    Stored and not deflated, for the same bytes whatever zlib the machine has.
    """
    authors = list(dict.fromkeys(story.author for story in stories))
    entries = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "EPUB/package.opf": package(stories, authors),
        "EPUB/nav.xhtml": nav(stories),
        "EPUB/style.css": CSS,
        "EPUB/title.xhtml": title_page(authors),
        **{f"EPUB/{story.slug}.xhtml": chapter(story) for story in stories},
        "EPUB/colophon.xhtml": colophon(),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, text in entries.items():
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system = 3  # Unix on every machine, so that the bytes do not name this one
            info.external_attr = 0o100644 << 16
            archive.writestr(info, text.encode("utf-8"))
    return out.getvalue()


def main() -> int:
    """Write or check the EPUB and return the exit code."""
    parser = argparse.ArgumentParser(description="Pack the demo anthology into an EPUB.")
    parser.add_argument("--check", action="store_true", help="compare with the EPUB on disk; write nothing")
    check = parser.parse_args().check
    data = build([read_source(path) for path in sorted((HERE / "anthology").glob("*.md"))])
    if not check:
        EPUB.write_bytes(data)
    elif not EPUB.exists() or EPUB.read_bytes() != data:
        print(
            "anthology.epub differs from its sources: run python examples/demo/build_epub.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
