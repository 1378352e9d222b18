"""Stories and writing prompts in, prompt–story pairs split by author out. Pure.

What is left out is counted by reason; what a person got wrong in the prompts file is an error that
names its line.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polaris.config import DataConfig
from polaris.data.book import Story
from polaris.errors import InputError
from polaris.text import length_sentence, target_from_prompt

_WORD = re.compile(r"\w+")
_MARKER = re.compile(
    r"<\|[^|<>\n]{1,40}\|>"
    r"|</?(?:think|tool_call|tool_response|s|bos|eos|pad|unk|(?:start|end)_of_turn)>"
    r"|\[/?INST\]|</?<SYS>>"
)
"""A chat template's control tokens: in a text they would end a turn or the thoughts."""


@dataclass(frozen=True)
class Source:
    """A story and the book it stands in."""

    story: Story
    book: str
    """The book's title."""
    sha256: str
    """Of the book's file."""
    rights: str

    @property
    def uid(self) -> str:
        """16 hexadecimal digits from book, place and title."""
        parts = "\0".join((self.sha256, self.story.href, self.story.title))
        return hashlib.sha256(parts.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class PromptRow:
    """One row of the prompts file; `where` is `FILE:LINE`."""

    where: str
    title: str
    prompt: str
    author: str | None = None
    reasoning: str = ""


@dataclass(frozen=True)
class Pairs:
    """The pairs, what was left out by reason, and what a person should know."""

    rows: list[dict[str, Any]]
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)


def parse_prompt(row: Mapping[str, Any], where: str) -> PromptRow:
    """Check a row `{title, author?, prompt, reasoning?}` of the prompts file.

    Raises InputError naming `where` and the field: not text, empty, with a length sentence of its own or
    with a chat template's control token.
    """
    unknown = set(row) - {"title", "author", "prompt", "reasoning"}
    if unknown:
        near = "expected title, author, prompt, reasoning"
        raise InputError(f"{where}: {min(unknown)}: unknown field; {near}")
    for name in ("title", "prompt"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InputError(f"{where}: {name}: {_kind(row.get(name))}; expected text that is not empty")
    for name in ("author", "reasoning"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise InputError(f"{where}: {name}: {_kind(row[name])}; expected text")
    prompt, reasoning = row["prompt"].strip(), (row.get("reasoning") or "").strip()
    named = target_from_prompt(prompt)
    if named is not None:
        raise InputError(
            f"{where}: prompt: asks for {named:,} words already, but the story's own length is the target;"
            " two targets: leave that sentence out"
        )
    for name, text in (("prompt", prompt), ("reasoning", reasoning)):
        if marker := _MARKER.search(text):
            raise InputError(f"{where}: {name}: holds the control token '{marker.group()}'; leave it out")
    return PromptRow(where, row["title"], prompt, row.get("author") or None, reasoning)


def pair(
    sources: Sequence[Source], prompts: Sequence[PromptRow] | None, settings: DataConfig, seed: int
) -> Pairs:
    """Return the pairs in reading order; `prompts` None makes plain ones from the titles.

    Raises InputError for a prompts row that matches no story, several, or one that another row has.
    """
    kept, counts, notes = _usable(sources, settings)
    counts["prompts_from_title"] = 0 if prompts is not None else len(kept)
    if prompts is None:
        notes.append("No prompts file is set (data.prompts): each prompt is made from its story's title.")
        chosen = {source.uid: _from_title(source) for source in kept}
    else:
        usable = {source.uid for source in kept}
        chosen = _matched(prompts, sources, usable)
        # A prompt of a story left out above is no fault of the prompts file.
        counts["prompts_of_stories_left_out"] = len(chosen.keys() - usable)
        counts["left_out_without_prompt"] = sum(source.uid not in chosen for source in kept)
        kept = [source for source in kept if source.uid in chosen]
    held_back = _validation_authors(kept, settings.validation_share, seed)
    rows = [
        _row(source, chosen[source.uid], settings.round_target_to, _author(source) in held_back)
        for source in kept
    ]
    counts["pairs"] = len(rows)
    counts["validation"] = sum(row["split"] == "validation" for row in rows)
    counts["train"] = len(rows) - counts["validation"]
    counts["without_reasoning"] = sum(not row["reasoning"] for row in rows)
    if settings.validation_share and not counts["validation"]:
        notes.append(
            f"validation_share {settings.validation_share} holds back no story: authors are not split, and"
            " no choice of them comes closer."
        )
    return Pairs(rows, counts, notes)


def _usable(
    sources: Sequence[Source], settings: DataConfig
) -> tuple[list[Source], dict[str, int], list[str]]:
    """Leave out what is too short, too long, marked with control tokens, or there before."""
    counts = {"stories": len(sources)}
    left = dict.fromkeys(("too_short", "too_long", "control_token", "duplicate"), 0)
    kept: list[Source] = []
    notes: list[str] = []
    seen: set[str] = set()
    uids: set[str] = set()
    for source in sources:
        story = source.story
        if source.uid in uids:
            raise InputError(f"{source.book}: '{story.title}' is twice at {story.href}; give each an id")
        uids.add(source.uid)
        text_hash = hashlib.sha256(normalised(story.text).encode("utf-8", "replace")).hexdigest()
        if story.words < settings.min_words:
            left["too_short"] += 1
        elif story.words > settings.max_words:
            left["too_long"] += 1
        elif marker := _MARKER.search(f"{story.title}\n{story.text}"):
            left["control_token"] += 1
            notes.append(f"'{story.title}' ({source.book}) is left out: it holds '{marker.group()}'.")
        elif text_hash in seen:
            left["duplicate"] += 1
        else:
            seen.add(text_hash)
            kept.append(source)
    return kept, counts | {f"left_out_{name}": number for name, number in left.items()}, notes


def normalised(text: str) -> str:
    """Return the text's words alone, in one case and form, so that typography makes no difference."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _from_title(source: Source) -> PromptRow:
    return PromptRow(source.book, source.story.title, f"Write a short story titled “{source.story.title}”.")


def _matched(
    prompts: Sequence[PromptRow], sources: Sequence[Source], usable: set[str]
) -> dict[str, PromptRow]:
    """Return each story's prompt by uid: of stories so named the usable one, else all of them."""
    by_title: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_title[normalised(source.story.title)].append(source)
    chosen: dict[str, PromptRow] = {}
    for row in prompts:
        found = by_title.get(normalised(row.title), [])
        if row.author is not None:
            found = [source for source in found if normalised(source.story.author) == normalised(row.author)]
        if not found:
            raise InputError(_no_match(row, sources))
        found = [source for source in found if source.uid in usable] or found
        if len(found) > 1 and found[0].uid in usable:
            raise InputError(_ambiguous(row, found))
        for source in found:
            if source.uid in chosen:
                first = chosen[source.uid].where
                raise InputError(
                    f"{row.where}: title '{row.title}' has a prompt already, from {first}; leave one out"
                )
            chosen[source.uid] = row
    return chosen


def _ambiguous(row: PromptRow, found: Sequence[Source]) -> str:
    told = f"{row.where}: title '{row.title}' is the title of {len(found)} stories"
    authors = sorted({source.story.author for source in found})
    if len(authors) > 1:
        return f"{told}, by {', '.join(authors)}; name one as author"
    places = ", ".join(f"{source.book} {source.story.href}" for source in found)
    return f"{told} by {authors[0]} ({places}); a prompt must belong to one, so leave this row out"


def _no_match(row: PromptRow, sources: Sequence[Source]) -> str:
    by = f" by '{row.author}'" if row.author else ""
    titles = {normalised(source.story.title): source.story for source in sources}
    near = difflib.get_close_matches(normalised(row.title), titles, n=1, cutoff=0.0)
    hint = f"; the nearest is '{titles[near[0]].title}' by '{titles[near[0]].author}'" if near else ""
    return f"{row.where}: title '{row.title}'{by} matches no story of data.books{hint}"


def _author(source: Source) -> str:
    """Return the key by which stories are held back together; a book of unknown author is its own."""
    return normalised(source.story.author) or f"\0{source.sha256}"


def _validation_authors(kept: Sequence[Source], share: float, seed: int) -> set[str]:
    """Choose whole authors, in an order from the seed, whose stories come closest to the share.

    Never all of them: something must be left to train on. Of two equally close choices the smaller
    counts, and of those the one made of the authors that come first.
    """
    sizes: dict[str, int] = defaultdict(int)
    for source in kept:
        sizes[_author(source)] += 1
    order = sorted(sizes, key=lambda author: hashlib.sha256(f"{seed}\0{author}".encode()).hexdigest())
    # The first choice of authors that reaches each number of stories (subset sums: exact, not greedy).
    reached: dict[int, tuple[str, ...]] = {0: ()}
    for author in order:
        for total, chosen in sorted(reached.items()):
            reached.setdefault(total + sizes[author], (*chosen, author))
    wanted = share * len(kept)
    total = min((n for n in reached if n < len(kept) or not n), key=lambda n: (abs(n - wanted), n))
    return set(reached[total])


def _row(source: Source, chosen: PromptRow, multiple: int, held_back: bool) -> dict[str, Any]:
    story = source.story
    target = max(multiple, (story.words + multiple // 2) // multiple * multiple)
    return {
        "uid": source.uid,
        "title": story.title,
        "author": story.author,
        "prompt": f"{chosen.prompt} {length_sentence(target)}",
        "story": story.text,
        "reasoning": chosen.reasoning,
        "target_word_count": target,
        "words": story.words,
        "provenance": {
            "book": source.book,
            "sha256": source.sha256,
            "href": story.href,
            "title": story.title,
            "author": story.author,
            "rights": source.rights,
        },
        "split": "validation" if held_back else "train",
    }


def _kind(value: object) -> str:
    return "missing" if value is None else "empty" if value in ("", [], {}) else f"a {type(value).__name__}"
