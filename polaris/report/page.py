"""The report's facts in, one self-contained HTML page out: no request, no script, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from polaris.report.figures import evaluation_figures
from polaris.report.judge_figures import run_figures
from polaris.report.training_figures import training_figures

TEMPLATE = "page.html.j2"
ABSENT = "–"
KINDS = ("story-quality", "length")
"""The kinds of evaluation that have a section."""


def render(facts: Mapping[str, Any], refresh: int | None = None) -> str:
    """Return the page. Stories, prompts, titles and reasons are untrusted: all of them are escaped.

    `refresh` are the seconds after which a browser shows the file anew; None for a page that stays.
    """
    colours = {model["name"]: model["colour"] for model in facts["models"]}
    drawings = {
        "training": _marked(training_figures(facts["trainings"])),
        "evaluations": {
            evaluation["name"]: marked(evaluation_figures(evaluation, colours))
            for evaluation in facts["evaluations"]
        },
        "judges": {
            evaluation["name"]: marked(run_figures(evaluation, colours))
            for evaluation in facts["evaluations"]
        },
    }
    kinds = {kind: [found for found in facts["evaluations"] if found["kind"] == kind] for kind in KINDS}
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            **facts,
            quality=kinds["story-quality"],
            length=kinds["length"],
            drawings=drawings,
            refresh=refresh,
            colours=colours,
            training_of={model["name"]: model["training"] for model in facts["models"]},
            models_judged={result["model"] for entry in facts["evaluations"] for result in entry["models"]},
            caveat_of={caveat["judge"]: caveat["text"] for caveat in facts["caveats"]},
            config_text=yaml.safe_dump(facts["config"], sort_keys=False, allow_unicode=True, width=88),
        )
    )


def environment() -> Environment:
    """Return what renders every page: texts are escaped, a name that is not there is an error."""
    found = Environment(
        autoescape=True,
        loader=FunctionLoader(_source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        number=number, signed=signed, percent=percent, most=most, duration=duration, moment=moment, size=size
    )
    return found


def marked(drawings: Mapping[str, str | None]) -> dict[str, Markup | None]:
    """Return drawings as markup that a page takes as it is."""
    return {key: Markup(svg) if svg else None for key, svg in drawings.items()}


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with a true minus and thousands separators; a dash where there is none."""
    if value is None:
        return ABSENT
    shown = f"{value:,.{digits}f}"
    # A value that rounds to zero has no sign.
    return shown.lstrip("-") if float(shown.replace(",", "")) == 0 else shown.replace("-", "−")


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference with its sign; one that rounds to zero has none."""
    shown = number(value, digits)
    return f"+{shown}" if value is not None and round(value, digits) > 0 else shown


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share (0–1) in per cent."""
    return ABSENT if share is None else f"{number(100 * share, digits)}\N{NO-BREAK SPACE}%"


def most(share: float) -> str:
    """Return a share (0–1) of what differs, in words that never claim all of it."""
    if share > 0.99:
        return f"More than {percent(0.99)}"
    return f"About {percent(share)}"


def duration(seconds: float | None) -> str:
    """Return seconds as the two largest units that matter."""
    if seconds is None:
        return ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def moment(value: str | None, seconds: bool = False) -> str:
    """Return an ISO 8601 time as date and minute, or second, in UTC as it was recorded."""
    if value is None:
        return ABSENT
    return datetime.fromisoformat(value).strftime("%-d %B %Y, %H:%M:%S" if seconds else "%-d %B %Y, %H:%M")


def size(count: float) -> str:
    """Return bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _marked(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**figure, "svg": Markup(figure["svg"]) if figure["svg"] else None} for figure in figures]


def _source(name: str) -> str:
    return files("polaris.report").joinpath(name).read_text(encoding="utf-8")
