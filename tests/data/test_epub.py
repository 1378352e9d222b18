from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from polaris.data import ocf
from polaris.data.epub import Book, read_epub
from polaris.errors import InputError
from polaris.text import count_words

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
METADATA = (
    "<dc:title>A Book</dc:title><dc:language>en</dc:language><dc:rights>CC0</dc:rights>"
    '<dc:creator id="a">Ann One</dc:creator><dc:creator id="b">Bea Two</dc:creator>'
    '<dc:creator id="c">Cy Editor</dc:creator><meta refines="#c" property="role">edt</meta>'
    '<meta refines="#b" property="role">ill</meta><meta refines="#b" property="role">aut</meta>'
)


def page(markup: str, kind: str = "") -> str:
    return (
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">'
        f'<head><title>t</title></head><body epub:type="{kind}">{markup}</body></html>'
    )


def opf(
    pages: list[str], *, metadata: str = METADATA, extra: str = "", spine: str = "", after: str = ""
) -> str:
    items = "".join(f'<item id="{p}" href="{p}" media-type="application/xhtml+xml"/>' for p in pages)
    refs = "".join(f'<itemref idref="{p}"/>' for p in pages)
    return (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        f'version="3.0"><metadata>{metadata}</metadata><manifest>{items}{extra}</manifest>'
        f"<spine {spine}>{refs}</spine>{after}</package>"
    )


def pack(entries: dict[str, str]) -> io.BytesIO:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"mimetype": "application/epub+zip", **entries}.items():
            archive.writestr(name, text)
    out.seek(0)
    return out


def epub3(pages: dict[str, str], nav: str = "", **rest: str) -> dict[str, str]:
    item = '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    return {
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": opf(list(pages), extra=item, **rest),
        "OPS/nav.xhtml": page(nav),
        **{f"OPS/{name}": text for name, text in pages.items()},
    }


def read(entries: dict[str, str]) -> Book:
    return read_epub(pack(entries), name="book.epub")


STORY = page('<article epub:type="se:short-story"><h2>Crows</h2><p>They came.</p></article>', "bodymatter")


def test_metadata_and_one_typed_story() -> None:
    book = read(epub3({"1.xhtml": STORY, "2.xhtml": page("<p>Printed in Y.</p>", "frontmatter")}))
    assert (book.title, book.authors, book.language, book.rights) == (
        "A Book",
        ("Ann One", "Bea Two"),
        "en",
        "CC0",
    )
    (story,) = book.stories
    assert (story.title, story.author, story.text, story.words) == ("Crows", "Ann One", "They came.", 2)
    assert story.href == "OPS/1.xhtml"
    assert book.left_out == ("OPS/2.xhtml: frontmatter",)


def test_bylines_headings_and_several_stories_in_one_document() -> None:
    one = (
        '<article id="x" epub:type="se:short-story"><hgroup><h2 epub:type="ordinal">I</h2>'
        '<p epub:type="title">Crows</p></hgroup><p class="byline">By\nPen Name</p><p>a</p>'
        "<h3>Part two</h3><p>b</p></article>"
    )
    two = '<article id="y" epub:type="se:short-story"><p epub:type="z3998:author">Q. R.</p><p>c</p></article>'
    nav = '<nav epub:type="toc"><ol><li><a href="1.xhtml#y">The <i>Second</i></a></li></ol></nav>'
    book = read(epub3({"1.xhtml": page(f'<section epub:type="part">{one}{two}</section>')}, nav))
    assert [(s.title, s.author, s.text, s.href) for s in book.stories] == [
        ("Crows", "Pen Name", "a\n\nPart two\n\nb", "OPS/1.xhtml#x"),
        ("The Second", "Q. R.", "c", "OPS/1.xhtml#y"),
    ]


def test_landmarks_leave_untyped_pages_out() -> None:
    nav = (
        '<nav epub:type="landmarks"><ol><li><a epub:type="copyright-page" href="c.xhtml">C</a></li>'
        '<li><a epub:type="bodymatter" href="1.xhtml">S</a></li></ol></nav>'
    )
    book = read(epub3({"c.xhtml": page("<h1>Mine</h1><p>All rights.</p>"), "1.xhtml": STORY}, nav))
    assert [s.title for s in book.stories] == ["Crows"]
    assert book.left_out == ("OPS/c.xhtml: copyright-page",)


def test_untyped_documents_are_cut_at_the_contents_and_go_on_without() -> None:
    nav = (
        '<nav epub:type="toc"><ol><li><a href="0.xhtml">Title Page</a></li>'
        '<li><a href="1.xhtml#a">First</a><ol><li><a href="1.xhtml#a2">Its part</a></li></ol></li>'
        '<li><a href="1.xhtml#b">Second</a></li></ol></nav>'
    )
    pages = {
        "0.xhtml": page("<h1>A Book</h1>"),
        "1.xhtml": page(
            '<p>Stray.</p><h2 id="a">First</h2><p>a1</p><h3 id="a2">ii</h3><p>a2</p>'
            '<h2><a id="b"/>Second</h2><p>b1</p>'
        ),
        "2.xhtml": page("<p>b2</p>"),
        "3.xhtml": page("<h2>Third</h2><p>c</p>"),
    }
    book = read(epub3(pages, nav))
    assert [(s.title, s.text) for s in book.stories] == [
        ("First", "a1\n\nii\n\na2"),
        ("Second", "b1\n\nb2"),
        ("Third", "c"),
    ]
    assert book.left_out == (
        "OPS/0.xhtml: title page",
        "OPS/1.xhtml: neither in the contents nor under a heading",
    )


def test_epub_2_with_ncx_and_guide() -> None:
    doctype = (
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">'
    )
    ncx = (
        '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap><navPoint><navLabel><text>One</text></navLabel>'
        '<content src="a%20b.xhtml"/><navPoint><navLabel><text>i</text></navLabel>'
        '<content src="a%20b.xhtml#i"/></navPoint></navPoint></navMap></ncx>'
    )
    entries = {
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": opf(
            ["c.xhtml", "a%20b.xhtml"],
            metadata='<dc:title>Old</dc:title><dc:creator xmlns:o="http://www.idpf.org/2007/opf" '
            'o:role="aut">Z</dc:creator>',
            extra='<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>',
            spine='toc="ncx"',
            after='<guide><reference type="cover" href="c.xhtml"/></guide>',
        ),
        "OPS/toc.ncx": ncx,
        "OPS/c.xhtml": page("<p>Cover</p>"),
        "OPS/a b.xhtml": doctype + page('<p>It&nbsp;was.</p><h3 id="i">i</h3><p>So.</p>'),
    }
    book = read(entries)
    assert [(s.title, s.author, s.text) for s in book.stories] == [("One", "Z", "It was.\n\ni\n\nSo.")]
    assert (book.language, book.rights, book.left_out) == ("und", "", ("OPS/c.xhtml: cover",))


def without(entry: str) -> dict[str, str]:
    entries = epub3({"1.xhtml": STORY})
    del entries[entry]
    return entries


def encrypted(algorithm: str, uri: str) -> dict[str, str]:
    listing = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" '
        'xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptedData>'
        f'<e:EncryptionMethod Algorithm="{algorithm}"/><e:CipherData><e:CipherReference URI="{uri}"/>'
        "</e:CipherData></e:EncryptedData></encryption>"
    )
    return {**epub3({"1.xhtml": STORY}), "META-INF/encryption.xml": listing}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            without("META-INF/container.xml"),
            'entry "META-INF/container.xml" is missing; expected an EPUB container',
        ),
        (without("OPS/book.opf"), 'entry "OPS/book.opf" is missing; expected the package document'),
        (without("OPS/1.xhtml"), 'entry "OPS/1.xhtml" is missing; expected a document that the spine lists'),
        (without("OPS/nav.xhtml"), 'entry "OPS/nav.xhtml" is missing'),
        ({"META-INF/container.xml": "<container/>"}, "expected a rootfile"),
        ({**epub3({}), "OPS/book.opf": opf([])}, "expected a spine"),
        (
            {**epub3({}), "OPS/book.opf": opf([]).replace("</spine>", '<itemref idref="gone"/></spine>')},
            'expected spine item "gone" in the manifest',
        ),
        (epub3({"1.xhtml": "<html>\n<p>"}), 'entry "OPS/1.xhtml", line 2: expected well-formed XML'),
        (epub3({"1.xhtml": "<html/>"}), 'entry "OPS/1.xhtml": expected XHTML with a body'),
        (epub3({"1.xhtml": page("<p>x</p>", "backmatter")}), "no story found.*OPS/1.xhtml: backmatter"),
        (
            encrypted("http://www.w3.org/2001/04/xmlenc#aes256-cbc", "OPS/1.xhtml"),
            '"OPS/1.xhtml" is encrypted',
        ),
        (
            epub3({"1.xhtml": '<!DOCTYPE h [<!ENTITY a "b">]>' + page("&a;")}),
            'entry "OPS/1.xhtml".*XML entities',
        ),
    ],
)
def test_what_is_wrong_is_named(entries: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=f"^book.epub: .*{message}") as caught:
        read(entries)
    assert caught.value.code == 3
    assert "\n" not in str(caught.value)


def test_obfuscated_fonts_are_no_drm() -> None:
    assert len(read(encrypted("http://www.idpf.org/2008/embedding", "OPS/f.otf")).stories) == 1


def test_not_a_zip_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^b: expected an EPUB, which is a zip archive"):
        read_epub(io.BytesIO(b"hello"), name="b")
    with pytest.raises(InputError, match="^b: cannot be read: No such file"):
        read_epub(tmp_path / "none.epub", name="b")


def test_an_entry_that_unpacks_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ocf.MAX_ENTRY_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(ocf, "MAX_ENTRY_BYTES", 10_000)
    with pytest.raises(
        InputError, match=r'entry "OPS/1.xhtml" unpacks to 2\d,\d+ bytes; expected at most 10,000'
    ):
        read(epub3({"1.xhtml": page("<p>" + "a " * 10_000 + "</p>")}))


def test_damaged_and_password_protected_entries() -> None:
    data = bytearray(pack(epub3({"1.xhtml": STORY})).getvalue())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo("OPS/1.xhtml")
    start = info.header_offset + 30 + len(info.filename)
    data[start : start + 20] = bytes(20)
    with pytest.raises(InputError, match='entry "OPS/1.xhtml" cannot be unpacked'):
        read_epub(io.BytesIO(data), name="b")
    data = bytearray(pack(epub3({"1.xhtml": STORY})).getvalue())
    data[data.index(b"PK\x01\x02", data.rindex(b"OPS/1.xhtml") - 60) + 8] |= 1
    with pytest.raises(InputError, match='entry "OPS/1.xhtml" is encrypted'):
        read_epub(io.BytesIO(data), name="b")


REAL = {
    # name: stories, novellas left out, stories of 1,000 to 4,000 words
    "saki_short-fiction": (142, 0, 123),
    "anton-chekhov_short-fiction_constance-garnett": (186, 6, 128),
    "edgar-allan-poe_short-fiction": (66, 0, 37),
    "h-p-lovecraft_short-fiction": (39, 2, 23),
    "sherwood-anderson_winesburg-ohio": (24, 0, 21),
}


@pytest.mark.parametrize("stem", REAL)
def test_real_anthologies(stem: str) -> None:
    shared = os.environ.get("POLARIS_SHARED")
    if not shared:
        pytest.skip("POLARIS_SHARED names no folder with real anthologies")
    path = Path(shared) / "anthologies" / f"{stem}.epub"
    if not path.exists():
        pytest.skip(f"{stem}.epub is not in the folder that POLARIS_SHARED names")
    book = read_epub(path, name=path.name)
    stories, novellas, middle = REAL[stem]
    assert len(book.stories) == stories
    assert sum(reason.endswith(": novella") for reason in book.left_out) == novellas
    assert sum(1000 <= story.words <= 4000 for story in book.stories) == middle
    assert len({story.href for story in book.stories}) == stories
    assert len(book.authors) == 1
    for story in book.stories:
        assert story.author == book.authors[0]
        assert story.title and story.words == count_words(story.text) > 400
        assert not story.text.startswith(story.title + "\n")
        assert not any(sign in story.text for sign in ("\u2060", "\u00a0", "  ", "Standard Ebooks", "↩"))
