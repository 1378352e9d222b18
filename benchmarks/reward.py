"""The reward's terms of long stories, ours and computed as they are written down: measured, target and ok.

    python benchmarks/reward.py [--repeats 41] [--stories 4] [--seed 3479] [--json FILE]

`direct_terms` below is the recipe's §3 word for word: each term on its own, and for the local repetition each
4-gram is compared with the 63 before it, one after the other, as the authors' release does (there twice a
story; here once). Both compute the same terms of the same generated stories in the same process; the values
must agree to 1e-12. In each repeat every length is timed once by each, in an order that changes, so that what
else the machine does falls on both. Times are CPU time of this thread.

Targets: at 12,000 words the median of `direct / ours` over the repeats is at least 10; and ours grows
linearly from 1,000 to 12,000 words: the slope of log time over log words is at most 1.15. Beside them,
without a target, `ours and the scan`: our terms, and the window scan on our tokens besides, which tells how
much of `direct` is the scan and how much are its other terms. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import linear_regression, median, quantiles

from checks import Check, show

from polaris.reward.composite import score_story
from polaris.reward.shape import tokens_and_words

LENGTHS = (1000, 2000, 4000, 8000, 12000)
LEAST_RATIO = 10.0
MOST_SLOPE = 1.15
TOLERANCE = 1e-12
Terms = tuple[float, ...]
"""words, blank, length penalty, length reward, self-repetition."""


def make_story(words: int, seed: int) -> str:
    """Return a story-like text of so many words: Zipf's law over made-up words, sentences and paragraphs.

    Of 12,000 words some 2,400 are different, and 2,100 marks stand between them: about as in real prose. One
    sentence in forty comes again, half of these at once, so that no term is idle.
    """
    draw = random.Random(seed)
    sounds = [head + body for head in "bdfgklmnprstv" for body in "aeiou"]
    names = ["".join(draw.choices(sounds, k=draw.choice((1, 1, 2, 2, 3)))) for _ in range(40_000)]
    told: list[list[str]] = []
    text: list[str] = []
    left = words
    while left > 0:
        if told and draw.random() < 1 / 40:
            sentence = told[-1] if draw.random() < 0.5 else draw.choice(told)
        else:
            # A word's frequency falls with its rank.
            sentence = [names[int(len(names) ** draw.random()) - 1] for _ in range(draw.randint(4, 24))]
        sentence = sentence[:left]
        left -= len(sentence)
        told.append(sentence)
        spoken = draw.random() < 0.2
        line = " ".join(sentence).capitalize().replace(" ", ", ", draw.randint(0, 2))
        text.append(f"\u201c{line}!\u201d" if spoken else f"{line}.")
        text.append("\n\n" if draw.random() < 0.2 else " ")
    return "".join(text).strip()


def our_terms(text: str, target: int) -> Terms:
    """Return the terms as the product computes them."""
    found = score_story(text, target, None)
    assert found.blank is not None and found.length is not None
    assert found.length_reward is not None and found.repetition is not None
    return found.words, found.blank, found.length, found.length_reward, found.repetition


def direct_terms(text: str, target: int) -> Terms:
    """Return the terms as the recipe writes them, with its default limits."""
    words = len(re.findall(r"\w+", html.unescape(text)))
    visible = len(re.findall(r"\S", text)) / max(1, len(text))
    blank = float(visible < 0.10 or words < 150)
    target = max(150, target)
    lower = int(min(1000, max(350, 0.15 * target)))
    upper = int(min(1500, max(600, 0.25 * target)))
    low, high = target - lower, target + upper
    penalty = reward = 0.0
    if words < low:
        penalty = min(1.0, 1 - words / max(1, low))
    elif words > high:
        penalty = min(1.0, words / high - 1)
    elif not blank:
        reward = 1 - (abs(words - target) / (lower if words < target else upper))
    return words, blank, penalty, reward, direct_repetition(text)


def direct_repetition(text: str) -> float:
    """Return the self-repetition of a text by counting, and by scanning the window of every gram."""
    tokens = [token.lower() for token in re.findall(r"\w+|[^\s]", text)]
    grams = [tuple(tokens[at : at + 4]) for at in range(len(tokens) - 3)]
    again = sum(count - 1 for count in Counter(grams).values())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines_again = sum(count - 1 for count in Counter(lines).values())
    ngram, local = (number / max(1, len(grams)) for number in (again, scanned(grams)))
    share = lines_again / max(1, len(lines))
    return min(1.5, 0.8 * (0.7 * max(0.0, ngram - 0.08) + 0.3 * local) + 0.4 * share)


def scanned(grams: Sequence[tuple[str, ...]]) -> int:
    """Count the grams that are among the 63 before them, looking at one after the other."""
    return sum(
        any(gram == earlier for earlier in grams[max(0, at - 63) : at]) for at, gram in enumerate(grams)
    )


def our_terms_and_the_scan(text: str, target: int) -> Terms:
    """Return our terms, and look through all windows besides."""
    tokens = tokens_and_words(text)[0]
    scanned(list(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False)))
    return our_terms(text, target)


WAYS: dict[str, Callable[[str, int], Terms]] = {
    "ours": our_terms,
    "direct": direct_terms,
    "ours and the scan": our_terms_and_the_scan,
}


def difference(stories: Sequence[str], target: int) -> float:
    """Return the largest difference of a term between the two implementations."""
    return max(
        abs(ours - direct)
        for story in stories
        for ours, direct in zip(our_terms(story, target), direct_terms(story, target), strict=True)
    )


def measure(stories: dict[int, list[str]], repeats: int, seed: int) -> dict[str, dict[int, list[float]]]:
    """Return CPU seconds a story, by way, length and repeat."""
    times: dict[str, dict[int, list[float]]] = {way: {words: [] for words in stories} for way in WAYS}
    order = [(way, words) for way in WAYS for words in stories]
    shuffle = random.Random(seed).shuffle
    for _ in range(repeats):
        shuffle(order)
        for way, words in order:
            begun = time.thread_time()
            for story in stories[words]:
                WAYS[way](story, words)
            times[way][words].append((time.thread_time() - begun) / len(stories[words]))
    return times


def slope(times: dict[int, list[float]]) -> float:
    """Return the least-squares slope of log median time over log words: 1 is linear."""
    points = [(math.log(words), math.log(median(seconds))) for words, seconds in times.items()]
    return linear_regression(*zip(*points, strict=True)).slope


def median_interval(values: Sequence[float], seed: int, resamples: int = 2000) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the median."""
    draw = random.Random(seed)
    medians = [median(draw.choices(values, k=len(values))) for _ in range(resamples)]
    cuts = quantiles(medians, n=40)
    return cuts[0], cuts[-1]


def show_times(times: dict[str, dict[int, list[float]]], ratios: dict[int, list[float]], seed: int) -> None:
    """Print what each way takes at each length, side by side."""
    print(f"{'words':>6}" + "".join(f"{way + ', ms':>24}" for way in times) + f"{'direct / ours [95 %]':>30}")
    for words, found in ratios.items():
        low, high = median_interval(found, seed)
        row = f"{words:>6}" + "".join(f"{median(times[way][words]) * 1e3:>24.3f}" for way in times)
        print(row + f"{median(found):>14.1f} [{low:.1f}, {high:.1f}]".rjust(30))
    print("slope " + "".join(f"{slope(times[way]):>24.3f}" for way in times))
    print()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=41, help="times that each length is measured")
    parser.add_argument("--stories", type=int, default=4, help="stories of each length")
    parser.add_argument("--seed", type=int, default=3479, help="of the stories and the order")
    parser.add_argument("--json", type=Path, help="file for checks and figures")
    given = parser.parse_args()
    stories = {
        words: [make_story(words, given.seed + number) for number in range(given.stories)]
        for words in LENGTHS
    }
    largest = max(difference(found, words) for words, found in stories.items())
    times = measure(stories, given.repeats, given.seed)
    ours, direct, with_scan = (times[way] for way in WAYS)
    ratios = {
        words: [one / other for one, other in zip(direct[words], ours[words], strict=True)]
        for words in LENGTHS
    }
    first, last = LENGTHS[0], LENGTHS[-1]
    ratio, grown = median(ratios[last]), slope(ours)
    checks = [
        Check("largest difference", largest, f"<= {TOLERANCE}", largest <= TOLERANCE, False),
        Check(f"direct / ours at {last:,} words", ratio, f">= {LEAST_RATIO:g}", ratio >= LEAST_RATIO, True),
        Check("slope of log time over log words", grown, f"<= {MOST_SLOPE}", grown <= MOST_SLOPE, True),
    ]
    show_times(times, ratios, given.seed)
    show(checks)
    figures = {
        "settings": {name: str(value) for name, value in vars(given).items()},
        "seconds": {
            way: {words: median(seconds) for words, seconds in found.items()} for way, found in times.items()
        },
        "ratio": {
            words: [median(found), *median_interval(found, given.seed)] for words, found in ratios.items()
        },
        "slope": {way: slope(found) for way, found in times.items()},
        "with_scan_to_ours": median(with_scan[last]) / median(ours[last]),
        "per_word_last_to_first": median(ours[last]) / last / (median(ours[first]) / first),
    }
    print(f"our terms and the scan besides: {figures['with_scan_to_ours']:.1f} times ours at {last:,} words")
    print(f"time a word at {last:,} / at {first:,} words: {figures['per_word_last_to_first']:.2f}")
    if given.json:
        told = {"checks": [asdict(check) for check in checks], "figures": figures}
        given.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
