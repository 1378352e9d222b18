"""A read anthology: what every reader returns and what pairs are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Story:
    """One story, as plain text."""

    title: str
    author: str
    """The story's own byline, else the book's first author, else empty."""
    text: str
    """Paragraphs, parted by blank lines; a line break inside one is a line of verse; a scene break
    is a line `* * *`. The story's own heading and byline are not in it, sub-headings are."""
    href: str
    """Where the book has it: entry path, with `#id` where the entry holds several stories."""
    words: int
    """`polaris.text.count_words` of `text`."""


@dataclass(frozen=True)
class Book:
    """One anthology: its metadata and its stories in reading order."""

    title: str
    authors: tuple[str, ...]
    language: str
    """BCP 47, `und` where the book does not say."""
    rights: str
    stories: tuple[Story, ...]
    left_out: tuple[str, ...] = ()
    """What was not taken for a story, each as `href: reason`, so that nothing goes in silence."""
