"""A judge's repeats in, what the pages say of it out: the run report, and the pages of two commands."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from report_inputs import HOSTILE, length_context, report_context
from report_pages import Page, made, words
from score_rows import row, table

from polaris.judge.readings import Source, panel
from polaris.judge.reliability import reliability
from polaris.judge.validate import Pair, agreement
from polaris.report.judge_page import reliability_page, validation_page
from polaris.report.judge_plots import Cloud, against, differences, over_words, shares
from polaris.report.page import most

CAVEAT = f"This judge means nothing. {HOSTILE}"


def whole(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    links = {value for name, value in page.attributes if name.endswith("href")}
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    assert not {"script", "img", "link", "iframe"} & page.tags
    assert "None" not in page.text and "nan" not in re.findall(r"\bnan\b", page.text)
    return page


def test_a_run_with_repeats_says_what_they_tell(tmp_path: Path) -> None:
    html, data, page = made(report_context(tmp_path, repeats=3))
    part = data["evaluations"][0]["models"][1]["reliability"]
    assert part["repeats"] == 3 and part["repeated"] == 2
    text = words(page.text)
    assert "How far to trust the judge" in text and "of what differs between scores is the stories" in text
    assert "may differ by chance alone" in text
    assert '="#repeats-quality-' in html and "Label against label" in text
    assert {"judge", "glossary"} <= set(page.ids) and "Partial correlation" in text
    assert "unknown how far these scores repeat" not in text


def test_a_run_with_one_repeat_says_how_to_know(tmp_path: Path) -> None:
    html, data, page = made(report_context(tmp_path))
    assert data["evaluations"][0]["models"][1]["reliability"] is None
    text = words(page.text)
    assert "unknown how far these scores repeat" in text and "judges.judge.repeats: 3" in text
    assert "repeats-quality" not in html


def test_an_on_demand_page_has_the_section_too(tmp_path: Path) -> None:
    _, _, page = made(length_context(tmp_path))
    assert "unknown how far these scores repeat" in words(page.text) and "judge" in page.ids


def judged(*, seed: int = 1, stories: int = 12, repeats: int = 3, **changed: Any) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        row(f"s{n}", 10 + 6 * n + rng.randint(-9, 9), repeat, words=500 + 91 * n, level=n % 8, **changed)
        for n in range(stories)
        for repeat in range(repeats)
    ]


def reliable(*rows: list[dict[str, Any]]) -> dict[str, Any]:
    sources = [Source(f"f{place}", found) for place, found in enumerate(rows)]
    return reliability(panel(sources), seed=1, resamples=50)


def test_the_page_of_one_judge_is_whole() -> None:
    facts = reliable(judged())
    html = reliability_page(facts)
    page = whole(html)
    assert html == reliability_page(facts), "the same facts give the same page"
    for name in ("repeats-0", "differences-0", "words"):
        assert f'="#{name}-' in html, name
    assert "Between the judges" not in page.text and "with log target held fixed" in words(page.text)


def test_the_page_of_several_judges_is_whole_and_escapes_their_names() -> None:
    hostile = judged(seed=2, repeats=1, judge=f"x {HOSTILE}", caveat=CAVEAT)
    other = judged(seed=3, repeats=2, judge="third", rubric="story-quality/1/compact/11111111")
    page = whole(reliability_page(reliable(judged(), hostile, other)))
    text = words(page.text)
    assert "Between the judges" in text and "The judges used different rubrics" in text
    assert "are not to be trusted" in text and "This judge judged each story once" in text
    assert words(HOSTILE[:20]) in text


@pytest.mark.parametrize(
    "rows",
    [
        table({key: [40, 40] for key in "abcd"}),
        table({key: [40, 41, 40] for key in "abcd"}, words=None, target=None),
        [{**found, "judgement": {}} for found in judged()],
        judged(stories=2),
    ],
)
def test_what_cannot_be_told_is_said(rows: list[dict[str, Any]]) -> None:
    page = whole(reliability_page(reliable(rows)))
    assert re.search("cannot be told|no dimension scores", words(page.text))


def validated(pairs: int, *, upvotes: bool = True) -> dict[str, Any]:
    rng = random.Random(5)
    made = [
        Pair(f"p{n}", f"Prompt {n}", "a " * rng.randint(5, 50), "b " * rng.randint(5, 50), (9.0, 1.0 + n))
        for n in range(pairs)
    ]
    if not upvotes:
        made = [Pair(pair.id, pair.prompt, pair.chosen, pair.rejected) for pair in made]
    rows = [
        row(pair.id, rng.randint(0, 90), sample=side, words=None, target=None, caveat=CAVEAT)
        for pair in made
        for side in (0, 1)
    ]
    failed = [{"id": "p0", "sample": 1, "repeat": 0, "reason": f"not JSON {HOSTILE}"}]
    scores = [found for found in rows if (found["id"], found["sample"]) != ("p0", 1)]
    return agreement(made, Source("s", scores, failed), seed=1, resamples=50)


@pytest.mark.parametrize(("pairs", "upvotes"), [(40, True), (2, False), (1, True)])
def test_the_page_of_a_validation_is_whole(pairs: int, upvotes: bool) -> None:
    html = validation_page(validated(pairs, upvotes=upvotes))
    page = whole(html)
    text = words(page.text)
    assert "Position bias: none is possible" in text and "are not to be trusted" in text
    assert ("times the upvotes" in text) == (upvotes and pairs > 1)
    assert "1 × not JSON" in text
    assert ('="#agreement-' in html) == (pairs > 1)


def test_nothing_to_draw_is_no_drawing() -> None:
    none = [Cloud("a", [])]
    assert against("a", "alt", none, ("x", "y")) is None
    assert differences("a", "alt", none, None, "y") is None
    assert over_words("a", "alt", [Cloud("a", [(0, 5)])]) is None
    assert shares("a", "alt", []) is None


def test_drawings_of_many_and_of_few_points_are_in_the_pages_colours() -> None:
    many = [Cloud("<b>", [(n % 90, n % 70) for n in range(400)], 1)]
    for svg in (
        against("a", 'x "y"', many, ("x", "y"), 5.0),
        differences("b", "alt", many, (-3.0, 4.0), "unit", 0.5),
        over_words("c", "alt", [Cloud("one", [(812, 5.0)])]),
        over_words("d", "alt", [Cloud("some", [(900, 5.0), (1100, 7.0), (4000, 9.0)])]),
    ):
        assert svg is not None and not re.search(r"#[0-9a-f]{6}\b", svg) and "<style" not in svg
        assert "<b>" not in svg


def test_the_parts_are_in_the_order_of_the_links_to_them(tmp_path: Path) -> None:
    html, _, page = made(report_context(tmp_path, repeats=3))
    [nav] = re.findall(r"<nav.*?</nav>", html, re.DOTALL)
    links = re.findall(r'href="#([a-z]+)"', nav)
    sections = re.findall(r'<section id="([a-z]+)"', html)
    assert links == [name for name in sections if name in links] and len(links) > 6


def test_a_bar_of_spread_is_a_share_of_a_quarter_of_the_range() -> None:
    facts = reliable(judged())
    dimensions = facts["judges"][0]["dimensions"]
    for dimension, share in zip(dimensions, (0.124, 0.25, 0.6), strict=False):
        dimension["share"] = share
    html = reliability_page(facts)
    assert re.findall(r'<span style="width: ([0-9.]+)%"', html)[:3] == ["49.6", "100.0", "100"]
    assert "A full bar is a quarter of the dimension's range" in words(whole(html).text)


@pytest.mark.parametrize(
    ("share", "said"), [(0.9996, "More than 99 %"), (0.99, "About 99 %"), (0.5, "About 50 %")]
)
def test_no_judge_is_said_to_be_without_noise(share: float, said: str) -> None:
    assert words(most(share)) == said
    facts = reliable(judged())
    facts["judges"][0]["test_retest"]["icc"]["value"] = share
    text = words(whole(reliability_page(facts)).text)
    assert f"{said} of what differs between scores is the stories; the rest is the judge's own noise" in text
    assert f"ICC(1,1) {share:.3f}" in text


def test_the_number_of_repeats_is_told_as_it_is() -> None:
    rows = judged()
    text = words(whole(reliability_page(reliable(rows[:-1]))).text)
    assert "The mean of a story's 2 to 3 scores repeats better" in text
    assert "The mean of a story's 3 scores repeats better" in words(
        whole(reliability_page(reliable(rows))).text
    )


def test_a_gap_is_told_in_words_and_failures_are_few_lines() -> None:
    facts = validated(40)
    facts["mean_gap"] = -12.6
    facts["failures"] = {f"kind {'abcdefgh'[n]}": 9 - n for n in range(8)}
    text = words(whole(validation_page(facts)).text)
    assert "On average the chosen story scores 12.6 points lower than the rejected one." in text
    assert "5 × kind e" in text and "… 9 more in failures.jsonl" in text and "kind f" not in text
    assert "A coin agrees in 50 %" in text
