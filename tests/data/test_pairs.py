from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from context import make_context, read_output, settings
from hypothesis import given
from hypothesis import strategies as st

from polaris.artifact import to_rows
from polaris.config import DataConfig
from polaris.data import stage
from polaris.data.book import Story
from polaris.data.pairs import Pairs, PromptRow, Source, normalised, pair, parse_prompt
from polaris.errors import InputError, Stopped
from polaris.text import count_words, target_from_prompt

WHERE = "prompts.jsonl:4"


def source(
    title: str, author: str = "Ann Lee", text: str | None = None, words: int = 12, book: str = "Tales"
) -> Source:
    told = (
        text
        if text is not None
        else " ".join([normalised(title).replace(" ", "_"), *["word"] * words][:words])
    )
    story = Story(title, author, told, href=f"{title}.xhtml", words=count_words(told))
    return Source(story, book, sha256=f"sha of {book}", rights="CC0")


def config(**changed: Any) -> DataConfig:
    return DataConfig(
        books=(Path("b"),), **{"min_words": 10, "max_words": 100, "round_target_to": 5} | changed
    )


def prompt(title: str, author: str | None = None, where: str = WHERE) -> PromptRow:
    return PromptRow(where, title, f"Of {title}.", author, reasoning="Hm.")


def paired(sources: list[Source], prompts: list[PromptRow] | None = None, **changed: Any) -> Pairs:
    return pair(sources, prompts, config(**changed), seed=1)


def titles(pairs: Pairs) -> list[str]:
    return [row["title"] for row in pairs.rows]


def test_a_pair_carries_prompt_target_and_provenance():
    [row] = paired([source("The Fox", words=12)], [prompt("the  fox")]).rows
    assert row == {
        "uid": source("The Fox").uid,
        "title": "The Fox",
        "author": "Ann Lee",
        "prompt": "Of the  fox. The story should be 10 words long.",
        "story": source("The Fox", words=12).story.text,
        "reasoning": "Hm.",
        "target_word_count": 10,
        "words": 12,
        "provenance": {
            "book": "Tales",
            "sha256": "sha of Tales",
            "href": "The Fox.xhtml",
            "title": "The Fox",
            "author": "Ann Lee",
            "rights": "CC0",
        },
        "split": "train",
    }
    assert len(row["uid"]) == 16


@given(words=st.integers(1, 5000), multiple=st.integers(1, 500))
def test_the_target_is_the_nearest_multiple_and_in_the_prompt(words, multiple):
    text = " ".join(["w"] * words)
    [row] = paired([source("A", text=text)], min_words=1, max_words=5000, round_target_to=multiple).rows
    target = row["target_word_count"]
    assert target % multiple == 0
    assert target == multiple or abs(target - words) * 2 <= multiple
    assert target_from_prompt(row["prompt"]) == target


def test_what_is_left_out_is_counted_by_reason():
    sources = [
        source("Short", words=9),
        source("Long", words=101),
        source("Fits", text="One two three four five six seven eight nine ten."),
        source("Copy", text="one two three—four five six\nseven eight NINE ten", book="Others"),
        source("Marked", text="one two three four five six seven eight nine ten <|im_end|>"),
        source("Thinks", text="one two three four five six </think> seven eight nine ten"),
        source("Unasked", words=20),
    ]
    pairs = paired(sources, [prompt("Fits"), prompt("Short"), prompt("Copy")])
    assert titles(pairs) == ["Fits"]
    left = {name: count for name, count in pairs.counts.items() if "left_out" in name}
    assert left == {
        "left_out_too_short": 1,
        "left_out_too_long": 1,
        "left_out_control_token": 2,
        "left_out_duplicate": 1,
        "left_out_without_prompt": 1,
        "prompts_of_stories_left_out": 2,
    }
    assert any("'Marked'" in note and "<|im_end|>" in note for note in pairs.notes)
    assert pairs.counts["stories"] == len(sources)


def test_without_a_prompts_file_the_title_makes_one_and_that_is_said():
    pairs = paired([source("The Fox")])
    assert pairs.rows[0]["prompt"].startswith("Write a short story titled “The Fox”. The story should be")
    assert pairs.counts["prompts_from_title"] == pairs.counts["without_reasoning"] == 1
    assert "data.prompts" in pairs.notes[0]


def test_a_row_of_no_story_names_line_title_and_the_nearest():
    with pytest.raises(InputError) as caught:
        paired([source("The Fox"), source("A Hen")], [prompt("The Foxes")])
    assert str(caught.value).startswith(f"{WHERE}: title 'The Foxes' matches no story")
    assert "nearest is 'The Fox' by 'Ann Lee'" in str(caught.value)


def test_the_author_decides_between_stories_of_one_title():
    sources = [source("Fox", "Ann Lee"), source("Fox", "Bo May", words=20, book="Others")]
    with pytest.raises(InputError, match="is the title of 2 stories, by Ann Lee, Bo May; name one as author"):
        paired(sources, [prompt("Fox")])
    assert [row["author"] for row in paired(sources, [prompt("Fox", "bo  MAY")]).rows] == ["Bo May"]
    with pytest.raises(InputError, match="by 'Cy Orr' matches no story"):
        paired(sources, [prompt("Fox", "Cy Orr")])


def test_a_usable_story_is_meant_before_one_of_its_title_that_is_not():
    sources = [source("Fox", words=5), source("Fox", words=20, book="Others")]
    assert [row["words"] for row in paired(sources, [prompt("Fox")]).rows] == [20]
    twins = [source("Fox", words=15), source("Fox", words=20, book="Others")]
    with pytest.raises(InputError, match=r"2 stories by Ann Lee \(Tales Fox.xhtml, Others Fox.xhtml\)"):
        paired(twins, [prompt("Fox")])


def test_two_rows_for_one_story_are_an_error():
    with pytest.raises(
        InputError, match=r"prompts.jsonl:9: title 'FOX' has a prompt already, from prompts.jsonl:4"
    ):
        paired([source("Fox")], [prompt("Fox"), prompt("FOX", where="prompts.jsonl:9")])


def test_two_stories_at_one_place_are_an_error():
    with pytest.raises(InputError, match="'Fox' is twice at Fox.xhtml"):
        paired([source("Fox"), source("Fox", words=20)])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "Of a fox."}, "title: missing"),
        ({"title": "Fox", "prompt": ""}, "prompt: empty"),
        ({"title": "Fox", "prompt": ["Of"]}, "prompt: a list"),
        ({"title": "Fox", "prompt": "Of a fox.", "reasoning": 3}, "reasoning: a int"),
        ({"title": "Fox", "prompt": "Of a fox.", "resoning": "Hm."}, "resoning: unknown field"),
        (
            {"title": "Fox", "prompt": "Of a fox, 1,500 words long."},
            "prompt: asks for 1,500 words already.*two targets",
        ),
        (
            {"title": "Fox", "prompt": "Of a fox.", "reasoning": "Hm. </think>"},
            "reasoning: holds .*'</think>'",
        ),
        ({"title": "Fox", "prompt": "Of <|im_start|>."}, "prompt: holds .*im_start"),
    ],
)
def test_a_bad_prompts_row_names_its_place_and_field(row, told):
    with pytest.raises(InputError, match=f"^{WHERE}: {told}"):
        parse_prompt(row, WHERE)


def test_reasoning_and_author_may_be_left_out():
    assert parse_prompt({"title": "Fox", "prompt": " Of a fox. "}, WHERE) == PromptRow(
        WHERE, "Fox", "Of a fox."
    )


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    share=st.floats(0, 0.95),
    seed=st.integers(0, 99),
)
def test_authors_are_held_back_whole_and_as_close_to_the_share_as_can_be(sizes, share, seed):
    sources = [
        source(f"Story {author} {n}", f"Author {author}")
        for author, size in enumerate(sizes)
        for n in range(size)
    ]
    pairs = pair(sources, None, config(validation_share=share), seed)
    assert pairs == pair(sources, None, config(validation_share=share), seed)
    splits: dict[str, set[str]] = {}
    for row in pairs.rows:
        splits.setdefault(row["author"], set()).add(row["split"])
    assert all(len(split) == 1 for split in splits.values())
    counted = Counter(row["split"] for row in pairs.rows)
    assert counted["train"] > 0
    sums = {0}
    for size in sizes:
        sums |= {total + size for total in sums}
    possible = [total for total in sums if total < len(sources)]
    wanted = share * len(sources)
    assert abs(counted["validation"] - wanted) == min(abs(total - wanted) for total in possible)
    if share == 0:
        assert counted["validation"] == 0


def test_the_seed_chooses_the_authors():
    sources = [source(f"Story {n}", f"Author {n}") for n in range(10)]
    chosen = set()
    for seed in range(8):
        rows = pair(sources, None, config(validation_share=0.1), seed).rows
        chosen.add(tuple(row["author"] for row in rows if row["split"] == "validation"))
    assert len(chosen) > 1


def test_a_share_that_no_author_comes_near_is_noted():
    pairs = paired([source("A"), source("B")], validation_share=0.4)
    assert pairs.counts["validation"] == 0
    assert any("validation_share 0.4 holds back no story" in note for note in pairs.notes)


def epub(path: Path, *stories: tuple[str, str], title: str = "Tales") -> Path:
    """Write the smallest EPUB with one document a story."""
    names = [f"s{number}.xhtml" for number in range(len(stories))]
    items = "".join(f'<item id="i{n}" href="{n}" media-type="application/xhtml+xml"/>' for n in names)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="u"><metadata'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="u">x</dc:identifier>'
        f"<dc:title>{title}</dc:title><dc:creator>Ann Lee</dc:creator><dc:language>en</dc:language>"
        f"<dc:rights>CC0</dc:rights></metadata><manifest>{items}</manifest><spine>"
        + "".join(f'<itemref idref="i{name}"/>' for name in names)
        + "</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("book.opf", package)
        for name, (heading, text) in zip(names, stories, strict=True):
            archive.writestr(
                name,
                '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">'
                f'<body><section epub:type="se:short-story"><h2>{heading}</h2><p>{text}</p></section></body>'
                "</html>",
            )
    return path


def data_settings(folder: Path, *books: str, **data: Any) -> dict[str, Any]:
    return settings(folder, data={"books": list(books), "min_words": 3, "max_words": 100, **data})


def test_the_stage_reads_books_and_writes_pairs_the_same_each_time(tmp_path, monkeypatch):
    epub(tmp_path / "one.epub", ("Fox", "The red fox slept."), ("Hen", "Two."))
    epub(tmp_path / "two.epub", ("Owl", "An owl saw it all."), title="Others")
    (tmp_path / "asked.jsonl").write_text(
        "\n" + json.dumps({"title": "Fox", "prompt": "Of a fox.", "reasoning": "Hm."}) + "\n"
    )
    config = data_settings(tmp_path, "one.epub", "two.epub", prompts="asked.jsonl")
    context = make_context(tmp_path, config, "data")
    stage.run(context)
    first = read_output(context, "pairs.jsonl")
    [row] = to_rows(first, "pairs")
    assert (row["title"], row["prompt"]) == ("Fox", "Of a fox. The story should be 50 words long.")
    assert (row["provenance"]["book"], row["provenance"]["rights"]) == ("Tales", "CC0")
    counts = context.counts
    assert (counts["books"], counts["stories"], counts["left_out_too_short"]) == (2, 3, 1)
    assert counts["left_out_without_prompt"] == 1
    assert len(context.progress.names("book-")) == 2

    def no_reading(*_: object, **__: object) -> None:
        raise AssertionError("a kept book is not read again")

    monkeypatch.setattr(stage, "read_epub", no_reading)
    again = make_context(tmp_path, config, "data")
    stage.run(again)
    assert read_output(again, "pairs.jsonl") == first
    assert again.counts == counts


def test_the_stage_names_line_and_field_of_a_bad_prompts_row(tmp_path):
    epub(tmp_path / "one.epub", ("Fox", "The red fox slept."))
    (tmp_path / "asked.jsonl").write_text('\n\n{"title": "Fox"}\n')
    context = make_context(tmp_path, data_settings(tmp_path, "one.epub", prompts="asked.jsonl"), "data")
    with pytest.raises(InputError, match=r"asked.jsonl:3: prompt: missing"):
        stage.run(context)


def test_the_stage_refuses_one_book_under_two_names_and_an_empty_harvest(tmp_path):
    epub(tmp_path / "one.epub", ("Fox", "The red fox slept."))
    (tmp_path / "two.epub").write_bytes((tmp_path / "one.epub").read_bytes())
    with pytest.raises(InputError, match="two.epub is the same file as .*one.epub"):
        stage.run(make_context(tmp_path, data_settings(tmp_path, "one.epub", "two.epub"), "data"))
    short = data_settings(tmp_path, "one.epub", min_words=90)
    with pytest.raises(InputError, match="no pair is left of 1 stories .*left_out_too_short: 1"):
        stage.run(make_context(tmp_path, short, "data"))


def test_a_signal_stops_between_books_and_keeps_those_read(tmp_path, monkeypatch):
    epub(tmp_path / "one.epub", ("Fox", "The red fox slept."))
    epub(tmp_path / "two.epub", ("Owl", "An owl saw it all."))
    context = make_context(tmp_path, data_settings(tmp_path, "one.epub", "two.epub"), "data")
    read = stage.read_epub

    def read_then_stop(path: Path, *, name: str):
        context.stop.signal = 15
        return read(path, name=name)

    monkeypatch.setattr(stage, "read_epub", read_then_stop)
    with pytest.raises(Stopped):
        stage.run(context)
    assert len(context.progress.names("book-")) == 1
