"""Numbers in, inline drawings out: deterministic, escaped, in the page's colours, never empty."""

from __future__ import annotations

import math
import re

import pytest

from polaris.report.plots import Interval, Line, Panel, Points, curves, intervals, lengths

STEPS = [0, 1, 2]


def drawn(**changed: object) -> str:
    panel = Panel("reward", (Line("mean", [0.1, None, 0.3], 1, [0.1, 0.1, 0.1]), Line("b", [1, 2, 3])))
    svg = curves("reward", "Reward & more", STEPS, [panel])
    assert svg is not None
    return svg


def test_the_same_numbers_give_the_same_text_without_date_or_metadata() -> None:
    assert drawn() == drawn()
    assert "metadata" not in drawn() and "<style" not in drawn() and "<!DOCTYPE" not in drawn()
    assert not re.search(r"\b20\d\d-\d\d-\d\d", drawn())


def test_colours_and_font_are_the_pages() -> None:
    svg = drawn()
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert "var(--ink)" in svg and "var(--s2)" in svg and "var(--sans)" in svg
    assert "DejaVu" not in svg


def test_texts_are_text_and_escaped() -> None:
    svg = intervals("scores", 'a "quoted" <alt>', [Interval("<b>$x$ & y</b>", 3.0, 1.0, 5.0)], "points")
    assert svg is not None
    assert "&lt;b&gt;$x$ &amp; y&lt;/b&gt;" in svg
    assert 'aria-label="a &quot;quoted&quot; &lt;alt&gt;"' in svg


def test_ids_carry_the_figures_name() -> None:
    ids = re.findall(r'\bid="([^"]*)"', drawn())
    assert ids and all(name.startswith("reward-") for name in ids)
    assert set(re.findall(r"url\(#([^)]*)\)", drawn())) <= set(ids)


@pytest.mark.parametrize(
    "panel",
    [
        Panel("t", ()),
        Panel("t", (Line("a", [None, None, None]),)),
        Panel("t", (Line("a", [math.nan, math.inf, None]),)),
        Panel("t", (Line("a", [0.0, 0.0, -1.0]),), log=True, limit=("limit", 0.1)),
    ],
)
def test_nothing_to_show_is_no_drawing(panel: Panel) -> None:
    assert curves("x", "alt", STEPS, [panel]) is None


def test_one_step_and_a_log_scale_with_holes_are_drawn() -> None:
    assert curves("x", "alt", [7], [Panel("t", (Line("a", [0.5]),), zero=True)])
    svg = curves(
        "x", "alt", STEPS, [Panel("t", (Line("a", [0.0, 0.001, 0.01]),), log=True, limit=("limit", 0.05))]
    )
    assert svg is not None and "mathdefault" not in svg and ">0.01<" in svg


def test_lengths_show_cut_stories_apart() -> None:
    svg = lengths("l", "alt", [Points("base", [(100, 90, False), (200, 0, True)])])
    assert svg is not None and "base, cut off" in svg
    assert lengths("l", "alt", [Points("base", [])]) is None


def test_an_interval_of_one_story_is_a_point() -> None:
    assert intervals("i", "alt", [Interval("one", 3.0, None, None, 0, [3.0])], "points")
    assert intervals("i", "alt", [], "points") is None
