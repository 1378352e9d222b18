from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from polaris.data.epub import Book, read_epub
from polaris.text import count_words, target_from_prompt

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture(scope="module")
def book() -> Book:
    return read_epub(DEMO / "anthology.epub", name="anthology.epub")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO / name).read_text("utf-8").splitlines()]


def check(folder: Path) -> int:
    return subprocess.run(
        [sys.executable, folder / "build_epub.py", "--check"], capture_output=True, check=False
    ).returncode


def test_stories(book: Book) -> None:
    lengths = [story.words for story in book.stories]
    assert len(book.stories) >= 12
    assert all(250 <= words <= 600 for words in lengths)
    assert sum(words <= 290 for words in lengths) >= 6
    assert book.authors == tuple(dict.fromkeys(story.author for story in book.stories))
    assert len(book.authors) == 5
    assert len({story.title for story in book.stories}) == len(book.stories)
    assert "CC0-1.0" in book.rights
    assert book.left_out == ("EPUB/title.xhtml: titlepage", "EPUB/colophon.xhtml: colophon")


def test_text_is_that_of_the_sources(book: Book) -> None:
    for story, path in zip(book.stories, sorted((DEMO / "anthology").glob("*.md")), strict=True):
        _, front, source = path.read_text("utf-8").split("---\n", 2)
        assert front == f"title: {story.title}\nauthor: {story.author}\n"
        assert story.text == re.sub(r"\*(?! )(.+?)\*|^> ", r"\1", source.strip(), flags=re.MULTILINE)


def test_epub_is_reproducible_and_checked(tmp_path: Path) -> None:
    assert check(DEMO) == 0
    copy = tmp_path / "demo"
    shutil.copytree(DEMO, copy)
    source = copy / "anthology" / "04-grit.md"
    source.write_text(source.read_text("utf-8").replace("Wenna", "Wanda"), "utf-8")
    assert check(copy) == 1
    (copy / "anthology.epub").unlink()
    assert check(copy) == 1


def test_mimetype_comes_first_and_stored() -> None:
    with zipfile.ZipFile(DEMO / "anthology.epub") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read(first) == b"application/epub+zip"


def test_prompts_match_the_stories_one_to_one(book: Book) -> None:
    prompts = rows("prompts.jsonl")
    assert [(row["title"], row["author"]) for row in prompts] == [(s.title, s.author) for s in book.stories]
    for row in prompts:
        assert set(row) == {"title", "author", "prompt", "reasoning"}
        assert count_words(row["prompt"]) <= 90
        assert 60 <= len(row["reasoning"].split()) <= 120
        assert row["title"].casefold() not in row["prompt"].casefold()


def test_no_prompt_says_how_long(book: Book) -> None:
    for row in [*rows("prompts.jsonl"), *rows("heldout.jsonl"), *rows("length.jsonl")]:
        assert target_from_prompt(row["prompt"]) is None
        assert not re.search(r"\d|\bwords\b|\bpages\b", row["prompt"])


def test_heldout_prompts(book: Book) -> None:
    held = rows("heldout.jsonl")
    assert len({row["id"] for row in held}) == len(held) == 6
    for row in held:
        assert set(row) == {"id", "prompt", "target_word_count"}
        assert 100 <= int(row["target_word_count"]) <= 250
    assert not {row["prompt"] for row in held} & {row["prompt"] for row in rows("prompts.jsonl")}


def test_length_prompts_have_small_targets_of_their_own() -> None:
    asked = rows("length.jsonl")
    assert [row["target_word_count"] for row in asked] == [60, 120]
    assert not {row["id"] for row in asked} & {row["id"] for row in rows("heldout.jsonl")}
