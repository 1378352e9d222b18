"""Anthologies and a prompts file in, `pairs.jsonl` out.

Each book is kept as it was read under `book-SHA256.json`, so a run that dies reads no book twice.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from polaris.artifact import sha256_file
from polaris.data.book import Book, Story
from polaris.data.epub import read_epub
from polaris.data.pairs import Source, pair
from polaris.data.prompts import read_prompts
from polaris.errors import InputError
from polaris.runtime import get_logger, progress
from polaris.stage import StageContext

READER = 2
"""Version of what a kept book holds; another one is read again."""

log = get_logger("data")


def run(context: StageContext) -> None:
    """Read the books, pair their stories with prompts and write the pairs.

    Raises InputError for an unreadable book or prompts row, or if no pair is left; Stopped on a signal.
    """
    settings = context.config.data
    local = context.run.local
    prompts = read_prompts(local(settings.prompts)) if settings.prompts is not None else None
    sources: list[Source] = []
    not_stories = 0
    hashes: dict[str, Path] = {}
    with progress(len(settings.books), "books") as bar:
        for path in map(local, settings.books):
            context.stop.check()
            sha256 = _hash(path)
            if sha256 in hashes:
                raise InputError(f"data.books: {path} is the same file as {hashes[sha256]}; name it once")
            hashes[sha256] = path
            book = _book(context, path, sha256)
            sources += [Source(story, book.title, sha256, book.rights) for story in book.stories]
            not_stories += len(book.left_out)
            bar.advance(book=path.name, stories=len(book.stories))
    pairs = pair(sources, prompts, settings, context.config.seed)
    if not pairs.rows:
        raise InputError(f"data: no pair is left of {len(sources)} stories ({_left_out(pairs.counts)})")
    context.counts |= {"books": len(settings.books), "not_stories": not_stories, **pairs.counts}
    context.notes += pairs.notes
    context.output.put_rows("pairs.jsonl", pairs.rows)
    log.info("pairs", **pairs.counts)


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(f"data.books: {path} cannot be read: {error.strerror}") from None


def _book(context: StageContext, path: Path, sha256: str) -> Book:
    piece = f"book-{sha256}.json"
    kept = context.progress.get(piece)
    if kept is not None and (found := json.loads(kept))["reader"] == READER:
        return _from_json(found["book"])
    book = read_epub(path, name=str(path))
    context.progress.put(piece, json.dumps({"reader": READER, "book": asdict(book)}, sort_keys=True).encode())
    return book


def _from_json(raw: dict[str, object]) -> Book:
    parts: dict[str, object] = dict(raw)
    stories = [Story(**story) for story in parts.pop("stories")]  # type: ignore[attr-defined]
    return Book(**parts, stories=tuple(stories))  # type: ignore[arg-type]


def _left_out(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {number}" for name, number in counts.items() if name.startswith("left_out"))
