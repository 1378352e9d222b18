"""What a run has spent and what is left to do in; its cost so far and a forecast out. All pure.

A forecast counts judge calls: a training's are counted in `polaris.train.forecast`; in an evaluation each
judgement of each story is one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from polaris.chat import Prices
from polaris.execute.manifests import Object
from polaris.release.objects import Snapshot, moment
from polaris.train.forecast import COMPLETION_TOKENS as COMPLETION_TOKENS
from polaris.train.forecast import PROMPT_TOKENS as PROMPT_TOKENS
from polaris.train.forecast import call_said, part_said, price_said
from polaris.train.job import COST

TOKENS_A_WORD = 1.4
"""Tokens of one word of a story."""
STEPS_AVERAGED = 10
"""So many last steps tell how long the next ones take."""


@dataclass(frozen=True)
class Spent:
    """What paid calls were and cost; calls that the cache answered are none."""

    calls: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Return the sum, field by field."""
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(cls, cost: Mapping[str, Any]) -> Spent:
        """Take what a manifest's `cost`, or a row like it, says."""
        return cls(*(float(cost.get(f.name) or 0.0) for f in fields(cls)))

    @classmethod
    def of_steps(cls, rows: Iterable[Mapping[str, Any]]) -> Spent:
        """Sum up the rows of training metrics."""
        return sum((cls.of({f: row.get(key) for f, key in COST.items()}) for row in rows), cls())


@dataclass(frozen=True)
class Work:
    """One instance, or one model's server: what it spent, and what is left of it.

    `asked` is the model that is paid for its calls ('' for none), `tier` how it is asked, `calls_left` None
    where nobody can tell yet. `tokens_left` are known for stories, whose targets say how long they get.
    `saved` are the US$ that batch and flex saved, about. Times are seconds.
    """

    name: str
    state: str
    asked: str = ""
    spent: Spent = Spent()
    calls_left: float | None = 0.0
    tokens_left: tuple[float, float] | None = None
    wall_s: float | None = None
    gpu_s: float | None = None
    gpu_s_left: float | None = None
    tier: Literal["standard", "flex", "batch"] = "standard"
    saved: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """A work's calls to come, their tokens and US$; None where they cannot be told."""

    work: Work
    to_come: Spent | None


@dataclass(frozen=True)
class Costs:
    """Every work with its forecast, the sums, and what they rest on, a sentence each."""

    rows: list[Forecast]
    spent: Spent
    saved: float
    to_come: Spent
    gpu_hours: float | None
    gpu_hours_left: float | None
    assumptions: list[str] = field(default_factory=list)


def forecast(
    works: Sequence[Work],
    prices: Mapping[str, Prices],
    *,
    prompt_tokens: float = PROMPT_TOKENS,
    completion_tokens: float = COMPLETION_TOKENS,
) -> Costs:
    """Price what is left by what calls to the same model took so far, else by the given tokens a call."""
    rows: list[Forecast] = []
    said: list[str] = []
    for work in works:
        if work.calls_left is None:
            rows.append(Forecast(work, None))
            continue
        if not work.calls_left:
            rows.append(Forecast(work, Spent()))
            continue
        reads, writes = work.tokens_left or (0.0, 0.0)
        if work.tokens_left is None:
            a_call, why = _tokens_a_call(work.asked, works, (prompt_tokens, completion_tokens))
            reads, writes = a_call[0] * work.calls_left, a_call[1] * work.calls_left
            said.append(why)
        price = prices.get(work.asked, Prices())
        usd = price.usd(round(reads), round(writes), tier=work.tier)
        rows.append(Forecast(work, Spent(work.calls_left, reads, writes, usd)))
    for name in _asked(works):
        tiers = {work.tier for work in works if work.asked == name and work.calls_left != 0}
        said.append(price_said(name, prices.get(name, Prices()), tiers))
    hours = [work.gpu_s / 3600 for work in works if work.gpu_s is not None]
    left = [work.gpu_s_left / 3600 for work in works if work.gpu_s_left is not None]
    return Costs(
        rows,
        sum((work.spent for work in works), Spent()),
        sum(work.saved for work in works),
        sum((row.to_come for row in rows if row.to_come), Spent()),
        sum(hours) if hours else None,
        sum(left) if left else None,
        list(dict.fromkeys(said)),
    )


def _tokens_a_call(
    asked: str, works: Sequence[Work], given: tuple[float, float]
) -> tuple[tuple[float, float], str]:
    same = [work.spent for work in works if work.asked == asked and work.tokens_left is None]
    seen = sum((spent for spent in same if spent.prompt_tokens), Spent())
    if seen.calls:
        found = seen.prompt_tokens / seen.calls, seen.completion_tokens / seen.calls
        of = f"measured over {seen.calls:,.0f} calls of this run"
    else:
        found, of = given, "assumed (--prompt-tokens, --completion-tokens): this run has made no call yet"
    return found, call_said(asked, found, of)


def _asked(works: Sequence[Work]) -> list[str]:
    return list(dict.fromkeys(work.asked for work in works if work.asked))


def cheaper(name: str, counts: Mapping[str, float], spent: Spent, price: Prices) -> tuple[float, list[str]]:
    """Return about what batch and flex saved an instance, US$, and a sentence on each.

    `counts` are its manifest's. Its calls count as equally long: their costs are not kept one by one.
    """
    found = {"by batch": counts.get("batch_calls", 0), "by flex": counts.get("flex_calls", 0)}
    said = [
        f"{name}: {calls:,.0f} of {spent.calls:,.0f} calls {how} at {part_said(price)}"
        for how, calls in found.items()
        if calls
    ]
    share = min(1.0, sum(found.values()) / spent.calls) if spent.calls else 0.0
    return spent.usd / (1 - share * (1 - price.half_price_tier)) - spent.usd, said


def training_seconds_left(rows: Sequence[Mapping[str, Any]], steps_left: int) -> float | None:
    """Return the seconds of the steps to come, by the mean of the last ones; None before the first."""
    times = [float(row["step_seconds"]) for row in rows[-STEPS_AVERAGED:] if row.get("step_seconds")]
    return sum(times) / len(times) * steps_left if times else None


def story_tokens(targets: Sequence[int], max_tokens: int) -> float:
    """Return the tokens of stories of these targets in words, reasoning not counted."""
    return sum(min(max_tokens, target * TOKENS_A_WORD) for target in targets)


def gpus_of(spec: Object) -> int:
    """Return how many GPUs a pod asks for: every extended resource that ends in `/gpu`."""
    found = 0
    sidecars = [one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or []), *sidecars]:
        resources = container.get("resources") or {}
        asked = (resources.get("requests") or {}) | (resources.get("limits") or {})
        found += sum(int(count) for name, count in asked.items() if name.endswith("/gpu"))
    return found


def template_gpus(template: Object | None) -> int:
    """Return the GPUs of all pods of a Job's or Deployment's manifest together."""
    spec = (template or {}).get("spec") or {}
    pods = int(spec.get("parallelism") or spec.get("replicas") or 1)
    return pods * gpus_of(((spec.get("template") or {}).get("spec")) or {})


def pods_time(pods: Sequence[Object], snapshot: Snapshot) -> tuple[float, float] | None:
    """Return the time that pods ran, seconds, together and by GPU; None without pods.

    A pod's time is from when its node took it until its last container ended. Pods at the same time count
    once in the first figure, each in the second.
    """
    spans = []
    for pod in pods:
        begun = moment(pod.get("status", {}).get("startTime"))
        if begun is not None:
            spans.append((begun, _ended(pod) or snapshot.now, gpus_of(pod["spec"])))
    if not spans:
        return None
    total, reached = 0.0, min(begun for begun, _, _ in spans)
    for begun, ended, _ in sorted(spans, key=lambda span: span[0]):
        total += max(0.0, (ended - max(begun, reached)).total_seconds())
        reached = max(reached, ended)
    return total, sum((ended - begun).total_seconds() * gpus for begun, ended, gpus in spans)


def _ended(pod: Object) -> Any:
    if pod["status"].get("phase") not in ("Succeeded", "Failed"):
        return None
    states = [status.get("state") or {} for status in pod["status"].get("containerStatuses") or []]
    times = [moment((state.get("terminated") or {}).get("finishedAt")) for state in states]
    return max((time for time in times if time), default=None) or moment(pod["status"]["startTime"])


def at_least(work: Work, seconds: float, gpus: int) -> Work:
    """Return a work whose time is that of the stages that used it, where its pods tell of less."""
    wall = max(work.wall_s or 0.0, seconds)
    gpu = max(work.gpu_s or 0.0, seconds * gpus)
    return replace(work, wall_s=wall, gpu_s=gpu if gpus else work.gpu_s)
