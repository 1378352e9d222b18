"""An EPUB's zip archive in; its package document, spine and contents out.

Source: EPUB 3.3 (OCF, package document, navigation document) and EPUB 2.0.1 (guide, NCX).
"""

from __future__ import annotations

import lzma
import posixpath
import zipfile
import zlib
from dataclasses import dataclass
from urllib.parse import unquote

from lxml import etree

from polaris.data.xhtml import LEFT_OUT, local_name, parse_xml, types
from polaris.errors import InputError

MAX_ENTRY_BYTES = 64 * 1024 * 1024
"""An entry that unpacks to more is taken for a zip bomb."""

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_DC = "http://purl.org/dc/elements/1.1/"
_OPF = "http://www.idpf.org/2007/opf"
_FONT_OBFUSCATION = frozenset({"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"})
_DOCUMENTS = frozenset({"application/xhtml+xml", "text/html"})


@dataclass(frozen=True)
class Files:
    """The archive's entries, read within bounds."""

    archive: zipfile.ZipFile
    name: str

    def has(self, entry: str) -> bool:
        """Return whether the archive has that entry."""
        return entry in self.archive.NameToInfo

    def where(self, entry: str) -> str:
        """Return how a message names that entry."""
        return f'{self.name}: entry "{entry}"'

    def xml(self, entry: str, *, expected: str) -> etree._Element:
        """Return the parsed entry's root.

        Raises InputError if it is missing, encrypted, too large, damaged or malformed.
        """
        if not self.has(entry):
            raise InputError(f"{self.where(entry)} is missing; expected {expected}")
        info = self.archive.getinfo(entry)
        if info.flag_bits & 1:
            raise InputError(f"{self.where(entry)} is encrypted; expected an EPUB without DRM or password")
        if info.file_size > MAX_ENTRY_BYTES:
            found = f"unpacks to {info.file_size:,} bytes"
            raise InputError(f"{self.where(entry)} {found}; expected at most {MAX_ENTRY_BYTES:,}")
        try:
            # A bounded read: the size in the directory may be a lie.
            with self.archive.open(info) as stream:
                data = stream.read(MAX_ENTRY_BYTES + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            NotImplementedError,
            ValueError,  # a negative offset in a damaged directory
        ) as error:
            raise InputError(f"{self.where(entry)} cannot be unpacked: {error}") from error
        return parse_xml(data, where=self.where(entry))


@dataclass(frozen=True)
class Package:
    """What the package document and the contents say."""

    opf: etree._Element
    spine: tuple[str, ...]
    """Entry paths of the documents in reading order."""
    contents: tuple[tuple[str, str], ...]
    """(entry path with or without `#id`, label) in order."""
    not_stories: dict[str, str]
    """Entry path with or without `#id` → the type that the landmarks or the guide give it."""
    passed_over: tuple[str, ...]
    """Spine items that are no documents to read, as `path: reason`."""


def read_package(files: Files) -> Package:
    """Follow the container to the package document and read spine, contents and landmarks.

    Raises InputError on DRM and on whatever is missing or malformed on the way.
    """
    container = files.xml(_CONTAINER, expected="an EPUB container that names the package document")
    _refuse_drm(files)
    rootfile = container.find(".//{*}rootfile[@full-path]")
    if rootfile is None:
        raise InputError(f"{files.where(_CONTAINER)}: expected a rootfile with a full-path")
    base = str(rootfile.get("full-path"))
    opf = files.xml(base, expected="the package document that the container names")
    manifest = {str(item.get("id")): item for item in opf.findall("{*}manifest/{*}item[@href]")}
    spine: dict[str, None] = {}
    passed: list[str] = []
    for ref in opf.findall("{*}spine/{*}itemref"):
        if (item := manifest.get(ref.get("idref", ""))) is None:
            raise InputError(f'{files.where(base)}: expected spine item "{ref.get("idref")}" in the manifest')
        path = _resolve(base, str(item.get("href")))
        if "nav" in item.get("properties", "").split():
            passed.append(f"{path}: toc")
        elif item.get("media-type") not in _DOCUMENTS:
            passed.append(f"{path}: {item.get('media-type')}")
        elif ref.get("linear") == "no":
            passed.append(f"{path}: not linear")
        else:
            spine[path] = None
    if not spine and not passed:
        raise InputError(f"{files.where(base)}: expected a spine that lists documents")
    contents, not_stories = _navigation(files, base, opf, manifest)
    return Package(opf, tuple(spine), tuple(contents), not_stories, tuple(passed))


def _navigation(
    files: Files, base: str, opf: etree._Element, manifest: dict[str, etree._Element]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the contents, and what landmarks and guide say is no story."""
    contents: list[tuple[str, str]] = []
    marks = [
        (base, ref.get("href", ""), {ref.get("type", "").lower()})
        for ref in opf.findall("{*}guide/{*}reference")
    ]
    nav = next((item for item in manifest.values() if "nav" in item.get("properties", "").split()), None)
    if nav is not None:
        path = _resolve(base, str(nav.get("href")))
        for part in files.xml(path, expected="the navigation document").iterfind(".//{*}nav"):
            for link in part.iterfind(".//{*}a[@href]"):
                if "toc" in types(part) and not _is_subheading(link):
                    label = " ".join("".join(map(str, link.itertext())).split())
                    contents.append((_resolve(path, str(link.get("href"))), label))
                elif "landmarks" in types(part):
                    marks.append((path, str(link.get("href")), set(types(link))))
    spine = opf.find("{*}spine[@toc]")
    ncx = manifest.get(str(spine.get("toc"))) if spine is not None else None
    if not contents and ncx is not None:
        path = _resolve(base, str(ncx.get("href")))
        for point in files.xml(path, expected="the NCX that the spine names").iterfind(".//{*}navPoint"):
            target = point.find("{*}content")
            if target is not None and not _is_subheading(target):
                label = " ".join((point.findtext("{*}navLabel/{*}text") or "").split())
                contents.append((_resolve(path, target.get("src", "")), label))
    no_story = {_resolve(at, href): min(kinds & LEFT_OUT) for at, href, kinds in marks if kinds & LEFT_OUT}
    return contents, no_story


def _is_subheading(link: etree._Element) -> bool:
    """Whether an entry of the contents lies under one that points into the same document."""
    entry = link.getparent()
    above = entry.getparent() if entry is not None else None
    if above is not None and local_name(above) == "ol":
        above = above.getparent()
    parent = above.find("{*}a[@href]") if above is not None else None
    if parent is None and above is not None:
        parent = above.find("{*}content[@src]")
    if parent is None:
        return False
    ours, theirs = (str(each.get("href") or each.get("src")) for each in (link, parent))
    return ours.partition("#")[0] == theirs.partition("#")[0]


def _refuse_drm(files: Files) -> None:
    """Raise InputError if anything but a font is encrypted."""
    if not files.has(_ENCRYPTION):
        return
    for entry in files.xml(_ENCRYPTION, expected="the list of encrypted entries").iterfind(
        ".//{*}EncryptedData"
    ):
        method = entry.find("{*}EncryptionMethod")
        if method is None or method.get("Algorithm") not in _FONT_OBFUSCATION:
            target = entry.find(".//{*}CipherReference")
            uri = target.get("URI") if target is not None else "?"
            raise InputError(
                f'{files.where(_ENCRYPTION)}: "{uri}" is encrypted; expected an EPUB without DRM'
            )


def _resolve(base: str, href: str) -> str:
    """Return the entry path, with its fragment, that `href` means in the entry `base`."""
    path, _, fragment = href.partition("#")
    path = unquote(path.partition("?")[0])
    entry = posixpath.normpath(posixpath.join(posixpath.dirname(base), path)) if path else base
    return f"{entry}#{unquote(fragment)}" if fragment else entry


def metadata(opf: etree._Element, term: str) -> str:
    """Return the first Dublin Core element of that name, or an empty string."""
    return " ".join((opf.findtext(f"{{*}}metadata//{{{_DC}}}{term}") or "").split())


def authors_of(opf: etree._Element) -> tuple[str, ...]:
    """Return the creators in order, without those whose roles leave out author."""
    roles: dict[str, set[str]] = {}
    for meta in opf.iterfind("{*}metadata/{*}meta[@refines]"):
        if meta.get("property") == "role":
            roles.setdefault(str(meta.get("refines"))[1:], set()).add((meta.text or "").strip())
    names: dict[str, None] = {}
    for creator in opf.iterfind(f"{{*}}metadata//{{{_DC}}}creator"):
        given = roles.get(creator.get("id", "")) or {creator.get(f"{{{_OPF}}}role") or "aut"}
        text = " ".join((creator.text or "").split())
        if "aut" in given and text:
            names[text] = None
    return tuple(names)
