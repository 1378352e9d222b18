"""3,000 stories judged against a FAKE endpoint with faults: measured, target and ok, line by line.

    python benchmarks/judge.py [--calls 3000] [--concurrency 32] [--latency 0.2] [--json FILE] [--out FOLDER]
    python benchmarks/judge.py --limit-rate 2400

What is measured is the product: `polaris stage judge.writer.quality run.yaml` in a process of its own, on a
generated run whose stories lie finished in a `file://` store, asking `benchmarks/judge_server.py` in another
process. That server answers after 200 ms and faults by a seed: 5 % 429 with Retry-After, 2 % 500, 1 % dropped
connections, and 2 % truncated JSON: half of them answers that break off inside their JSON, half of them
responses that break off inside their body. Its scores are a function of the story, so every row is compared.

First part: time from the first request to the end of the process, at most 1.15 × the ideal of
`judge_log.ideal_s`. Second part: killed (SIGKILL) when half of the answers are given, and run again: only
calls without a stored answer may be made; an answer that was given and not yet stored when the kill came is
bought again, at most `concurrency` of them. With `--limit-rate` instead: an endpoint that lets so many
requests a minute in and answers the others 429, and a client that is not told of it.

Exit code 1 if a target is missed. All processes share this machine, so a busy one misses the time; the CPU
time a call is printed beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from checks import Check, show
from judge_log import Call, ideal_s, paid, refused_shares
from judge_server import ANSWERED, Asked, answer_of, quote_validity_of, scores_of, story_key

from polaris.artifact import Artifact, Manifest, Output
from polaris.run import Run, open_run
from polaris.runtime import die_with_parent
from polaris.text import count_words

INSTANCE = "judge.writer.quality"
MOST_OF_IDEAL = 1.15
MOST_REFUSED = 0.2
"""Share of 429s that the client's own rule calls too much."""
WARM_UP_S = 10.0
"""A client that is not told of a limit needs some time to find it."""
_WORDS = """
    the a of and to in was her his it that on with for as at by from had not but they she he one all were door
    lamp river salt bread winter engine letter orchard uncle ferry hinge ledger copper window stair harbour
    widow clerk kettle ash ribbon gravel fever mirror thread crow bridge wool map café naïve carried opened
    counted forgot mended waited sold kept lied crossed listened burned folded answered cold late narrow
    bitter plain borrowed yellow crooked patient hollow loud early thin quiet second
"""
_VOCABULARY = _WORDS.split()


@dataclass(frozen=True)
class Ended:
    """A stage's process that is over."""

    code: int
    started: float
    ended: float
    cpu_s: float


def story_of(seed: int, number: int) -> str:
    """Return a story of 1,500 to 2,000 words, in sentences and paragraphs."""
    chance = random.Random(f"{seed}:{number}")
    words = chance.choices(_VOCABULARY, k=chance.randint(1500, 2000))
    sentences = [" ".join(words[at : at + 13]).capitalize() + "." for at in range(0, len(words), 13)]
    return "\n\n".join(" ".join(sentences[at : at + 6]) for at in range(0, len(sentences), 6))


def make_run(folder: Path, url: str, given: argparse.Namespace) -> tuple[Run, dict[str, str]]:
    """Write a configuration and its finished stories; return the run, and the stories by row id."""
    folder.mkdir(parents=True)
    (folder / "no-book.epub").write_bytes(b"never read")
    (folder / "prompts.jsonl").write_text('{"id": "p", "prompt": "Of a ferry.", "target_word_count": 1750}\n')
    endpoint = {"kind": "endpoint", "url": url, "api_key_env": "BENCH_KEY", "model": "m"}
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 8.0}
    evaluation = {"kind": "story-quality", "prompts": "prompts.jsonl", "models": ["writer"], "judge": "judge"}
    config = {
        "run": "bench",
        "store": {"url": "store"},
        "models": {
            "writer": {**endpoint, "identity": "fake/writer"},
            "reader": {**endpoint, "identity": "fake/reader", **prices},
        },
        "data": {"books": ["no-book.epub"]},
        "judges": {"judge": {"model": "reader", "concurrency": given.concurrency}},
        "evaluations": {"quality": evaluation},
        # Never reached: the books are kept, as a long run keeps them.
        "execute": {"work_dir": "work", "budget_usd": 1000},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    run = open_run(path)
    stories = {f"s{number:05d}": story_of(given.seed, number) for number in range(given.calls)}
    prompt = {
        "sample": 0,
        "prompt": "Of a ferry. The story should be 1,750 words long.",
        "target_word_count": 1750,
    }
    rows = [
        {"id": name, **prompt, "story": text, "words": count_words(text)} for name, text in stories.items()
    ]
    finish(run, "generate.writer.quality", rows)
    return run, stories


def finish(run: Run, name: str, rows: list[dict[str, Any]]) -> None:
    """Make an instance's artifact of its stories."""
    instance, at = run.instance(name), "2026-01-01T00:00:00+00:00"
    output = Output(run.store, run.prefix(name), "bench")
    output.put_rows("stories.jsonl", rows)
    manifest = Manifest(
        run=run.config.run,
        instance=name,
        kind=instance.kind,
        digest=instance.digest,
        attempt="bench",
        objects=tuple(output.entries.values()),
        identity=dict(instance.identity),
        config={},
        upstream={},
        versions={},
        started=at,
        finished=at,
        seconds=0.0,
    )
    output.commit(manifest)


class Server:
    """The FAKE endpoint's process, as its starter sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def answers(self) -> int:
        """Return how many whole answers were given so far."""
        return int(self._get("count")["answers"])

    def log(self) -> tuple[list[Asked], float]:
        """Return every request so far, and the server's CPU seconds."""
        found = self._get("log")
        return [Asked(**asked) for asked in found["log"]], float(found["cpu_s"])

    def _get(self, name: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/{name}") as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextlib.contextmanager
def served(given: argparse.Namespace, *, per_minute: int = 0) -> Iterator[Server]:
    """Run the FAKE endpoint; with a rate limit it makes no other fault."""
    script = Path(__file__).with_name("judge_server.py")
    command = [sys.executable, str(script), "--latency", str(given.latency), "--seed", str(given.seed)]
    command += ["--retry-after", str(given.retry_after), "--per-minute", str(per_minute)]
    command += ["--no-faults"] if per_minute else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield Server(process.stdout.readline().strip())
        finally:
            process.stdin.close()
            process.wait()


def judge(run: Run, log: Path, *, kill_when: Callable[[], bool] | None = None) -> Ended:
    """Run the stage's program to its end, or kill it once `kill_when()`, asked again and again, says so."""
    command = [sys.executable, "-m", "polaris", "stage", INSTANCE, str(run.path)]
    environment = os.environ | {"BENCH_KEY": "no-key-is-needed", "POLARIS_LOG": "json"}
    started, ended_pid = time.monotonic(), 0
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, preexec_fn=die_with_parent
        )
        while not ended_pid:
            ended_pid, status, used = os.wait4(process.pid, os.WNOHANG if kill_when else 0)
            if not ended_pid and kill_when and kill_when():
                process.kill()
                kill_when = None
            if kill_when:
                time.sleep(0.02)
    ended, process.returncode = time.monotonic(), os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, started, ended, used.ru_utime + used.ru_stime)


def check_rows(run: Run, stories: dict[str, str]) -> list[Check]:
    """Compare every row with the function that the endpoint scores by."""
    manifest = run.manifest(INSTANCE)
    if manifest is None:
        return [Check("stories scored or failed", 0, f"= {len(stories)}", False)]
    artifact = Artifact(run.store, manifest)
    rows, failures = artifact.rows("scores.jsonl"), artifact.rows("failures.jsonl")
    told = [row["id"] for row in rows] + [row["id"] for row in failures if row["reason"]]
    wrong = sum(not _right(row, stories[row["id"]]) for row in rows)
    whole = sorted(told) == sorted(stories)
    return [
        Check("stories scored, or failed with a reason", len(told), f"= {len(stories)}, each once", whole),
        Check("scored wrongly", wrong, "= 0", wrong == 0),
        Check(
            "failed, each with its reason",
            len(failures),
            "few: invalid twice",
            len(failures) <= 0.01 * len(stories) + 1,
        ),
    ]


def _right(row: dict[str, Any], story: str) -> bool:
    wanted, found = scores_of(story), row["judgement"]
    return (
        found["positive"] | found["negative"] == wanted.dimensions
        and (found["bonus"], found["penalty"]) == (wanted.bonus, wanted.penalty)
        and row["overall"] == wanted.overall
        and abs(row["quote_validity"] - quote_validity_of(story)) < 1e-9
    )


def throughput(folder: Path, given: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Judge all stories once."""
    with served(given) as server:
        run, stories = make_run(folder, server.url, given)
        ended = judge(run, folder / "stage.log")
        log, server_cpu_s = server.log()
    if not log:
        return [Check("requests made", 0, "> 0", False)], {}
    wall_s = ended.ended - min(asked.arrived for asked in log)
    work_s, waiting_s = ideal_s(log, given.latency, given.concurrency)
    ratio, manifest = wall_s / (work_s + waiting_s), run.manifest(INSTANCE)
    bought, booked = sum(paid(log).values()), manifest.cost["calls"] if manifest else 0
    figures = {
        "requests": len(log),
        "by_what": {what: sum(asked.what == what for asked in log) for what in sorted({a.what for a in log})},
        "wall_s": wall_s,
        "ideal_work_s": work_s,
        "ideal_waiting_s": waiting_s,
        "process_wall_s": ended.ended - ended.started,
        "client_cpu_s": ended.cpu_s,
        "client_cpu_ms_a_request": 1000 * ended.cpu_s / len(log),
        "server_cpu_s": server_cpu_s,
        "counts": manifest.counts if manifest else {},
        "cost": manifest.cost if manifest else {},
    }
    return [
        Check("exit code", ended.code, "= 0", ended.code == 0),
        *check_rows(run, stories),
        Check("answers booked", booked, f"= {bought} given", booked == bought),
        Check("wall / ideal", ratio, f"<= {MOST_OF_IDEAL}", ratio <= MOST_OF_IDEAL, timing=True),
    ], figures


def resumed(folder: Path, given: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Judge half of the stories, be killed, and judge again."""
    with served(given) as server:
        run, stories = make_run(folder, server.url, given)
        killed = judge(run, folder / "killed.log", kill_when=lambda: server.answers() >= given.calls / 2)
        # An answer that was due while the process died still says whether there was somebody to take it.
        time.sleep(2 * given.latency)
        before, _ = server.log()
        stored = stored_calls(run, stories)
        ended = judge(run, folder / "again.log")
        log, _ = server.log()
    after = log[len(before) :]
    again = {(asked.story, asked.turn) for asked in after}
    twice = sum(count - 1 for count in paid(log).values())
    lost = sum((paid(before) - Counter(stored)).values())
    figures = {
        "answers_before": sum(paid(before).values()),
        "stored": len(stored),
        "requests_after": len(after),
    }
    enough = 0.4 * given.calls <= sum(paid(before).values()) < len(stories)
    return [
        Check("killed: exit code, by SIGKILL", killed.code, "= -9", killed.code == -9),
        Check("killed: answers given before", sum(paid(before).values()), "about half", enough),
        Check("again: exit code", ended.code, "= 0", ended.code == 0),
        *(Check(f"again: {c.name}", c.measured, c.target, c.ok) for c in check_rows(run, stories)),
        Check("again: calls made that had a stored answer", len(again & stored), "= 0", not again & stored),
        Check("given but not stored at the kill", lost, f"<= {given.concurrency}", lost <= given.concurrency),
        Check("answers paid twice", twice, f"<= those {lost}", twice <= lost),
    ], figures


def stored_calls(run: Run, stories: dict[str, str]) -> set[Call]:
    """Return the calls whose answers lie in the store, known by their text alone."""
    known: dict[str, Call] = {}
    for story in stories.values():
        for turn in (1, 2):
            text = answer_of(story, turn)
            known[text] = known[text[: len(text) // 2]] = (story_key(story), turn)
    kept = (json.loads(run.store.get(info.key)) for info in run.store.list("cache/judge/"))
    return {known[answer["text"]] for answer in kept}


def limited(folder: Path, given: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Judge all stories at an endpoint that lets only so many requests a minute in."""
    with served(given, per_minute=given.limit_rate) as server:
        run, stories = make_run(folder, server.url, given)
        ended = judge(run, folder / "limited.log")
        log, _ = server.log()
    shares = refused_shares(log, 5.0)
    first = min(asked.arrived for asked in log)
    late = [asked.what == "limited" for asked in log if asked.arrived - first > WARM_UP_S]
    share = sum(late) / len(late) if late else 0.0
    answers = sum(asked.what in ANSWERED for asked in log)
    rate = answers / (max(asked.answered for asked in log) - first) * 60
    figures = {
        "requests": len(log),
        "refused_share": sum(asked.what == "limited" for asked in log) / len(log),
        "shares_by_5_s": [{"until_s": at, "requests": n, "refused": part} for at, n, part in shares],
        "client_cpu_s": ended.cpu_s,
        "counts": manifest.counts if (manifest := run.manifest(INSTANCE)) else {},
    }
    low, fast = share <= MOST_REFUSED, rate >= 0.8 * given.limit_rate
    return [
        Check("limited: exit code", ended.code, "= 0", ended.code == 0),
        *(Check(f"limited: {c.name}", c.measured, c.target, c.ok) for c in check_rows(run, stories)),
        Check(f"limited: share of 429 after {WARM_UP_S:g} s", share, f"<= {MOST_REFUSED}", low, timing=True),
        Check("limited: answers a minute", rate, f">= 0.8 x {given.limit_rate}", fast, timing=True),
    ], figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=3000, help="stories")
    parser.add_argument("--concurrency", type=int, default=32, help="the judge's setting")
    parser.add_argument("--latency", type=float, default=0.2, help="the endpoint's, seconds")
    parser.add_argument("--retry-after", type=float, default=1.0, help="what its 429s ask for, seconds")
    parser.add_argument("--seed", type=int, default=1, help="of stories and faults")
    parser.add_argument("--limit-rate", type=int, help="requests a minute: measure the rate limit instead")
    parser.add_argument("--json", type=Path, help="file for checks and figures")
    parser.add_argument("--out", type=Path, help="new folder to keep runs and logs in; default: none is kept")
    given = parser.parse_args()
    checks: list[Check] = []
    figures: dict[str, Any] = {"settings": {name: str(value) for name, value in vars(given).items()}}
    # Above the two processes of this benchmark the machine had something else to do.
    figures["load_before"] = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = given.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for part in (limited,) if given.limit_rate else (throughput, resumed):
            found, figures[part.__name__] = part((folder / part.__name__).absolute(), given)
            checks += found
    show(checks)
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(
            json.dumps({"checks": [asdict(check) for check in checks], "figures": figures}, indent=1)
        )
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
