"""A judge's reliability or validation as facts in, one self-contained HTML page each out."""

from __future__ import annotations

from typing import Any

import polaris
from polaris.report.judge_figures import reliability_figures, validation_figures
from polaris.report.page import environment, marked


def reliability_page(facts: dict[str, Any]) -> str:
    """Return the page of `polaris.judge.reliability.reliability`'s facts."""
    drawn = reliability_figures(facts)
    drawings = {
        "judges": [marked(judge) for judge in drawn["judges"]],
        "pairs": [marked(pair) for pair in drawn["pairs"]],
        **marked({"words": drawn["words"]}),
    }
    return _rendered("reliability.html.j2", facts, drawings)


def validation_page(facts: dict[str, Any]) -> str:
    """Return the page of `polaris.judge.validate.agreement`'s facts."""
    return _rendered("validation.html.j2", facts, marked(validation_figures(facts)))


def _rendered(template: str, facts: dict[str, Any], drawings: dict[str, Any]) -> str:
    page = environment().get_template(template)
    return page.render(**facts, drawings=drawings, version=polaris.__version__, caveat_of={}, colours={})
