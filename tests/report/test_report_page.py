"""Numbers in, the page's way of writing them out."""

from __future__ import annotations

import pytest

from polaris.report.page import duration, moment, number, percent, signed, size


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(None), "–"),
        (number(-12.34), "−12.3"),
        (number(-0.04), "0.0"),
        (number(1388, 0), "1,388"),
        (signed(3.21), "+3.2"),
        (signed(-3.21), "−3.2"),
        (signed(0.0), "0.0"),
        (signed(0.04), "0.0"),
        (signed(-0.04), "0.0"),
        (signed(None), "–"),
        (percent(0.125, 1), "12.5\N{NO-BREAK SPACE}%"),
        (percent(None), "–"),
        (duration(None), "–"),
        (duration(3.24), "3.2 s"),
        (duration(59.99), "1 min 0 s"),
        (duration(42.0), "42 s"),
        (duration(3599.9), "1 h 0 min"),
        (duration(172_800), "48 h 0 min"),
        (moment(None), "–"),
        (moment("2026-06-09T10:15:00+00:00"), "9 June 2026, 10:15"),
        (size(123), "123 B"),
        (size(123_456), "121 KiB"),
        (size(18 * 1024**3), "18.0 GiB"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected
