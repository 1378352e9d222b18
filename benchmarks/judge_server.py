"""Judge's requests in, answers with faults out: a FAKE OpenAI-compatible endpoint in a process of its own.

    python benchmarks/judge_server.py --latency 0.2 --seed 1

It prints its URL and serves until its standard input ends. Each request gets its number as it arrives, and
the seed and the number alone decide what is done to it, `SHARES` says how often; whatever it is, it is done
after the latency. The answer is a pure function of the story in the request (`scores_of`), so a client's
scores can be checked one by one. `GET /log` tells everything that was asked and answered, `GET /count` the
number of whole answers so far.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

SHARES = {"429": 0.05, "500": 0.02, "drop": 0.01, "half answer": 0.01, "half body": 0.01}
"""Share of requests by what is done to them; the others are answered.

`drop` closes the connection without a word. Truncated JSON comes in both its forms: `half answer` is a whole
response that finished with `stop` and whose content breaks off in the middle of its JSON; `half body` is a
response that breaks off itself, half of what its Content-Length promises.
"""
ANSWERED = frozenset({"answer", "half answer"})
"""What a client gets, and pays for, as an answer."""
MAXIMA = {
    **{"P1": 15, "P2": 20, "P3": 15, "P4": 15, "P5": 20, "P6": 15},
    **{"N1": 15, "N2": 20, "N3": 15, "N4": 15, "N5": 15, "N6": 20, "N7": 15, "N8": 8, "N9": 8, "N10": 20},
}
"""The rubric's dimensions and highest scores, written out: what is checked must not check itself."""
CATCH_ALL = 8

_STORY = re.compile(r"^--- BEGIN STORY (\w+) ---\n(.*)\n--- END STORY \1 ---$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Scores:
    """What the judge finds in one story; `overall` by the recipe's formula, written out here once more."""

    dimensions: dict[str, int]
    bonus: int | None
    penalty: int | None
    false_quotes: int
    """Of its dimensions' quotes, so many are not in the story."""

    @property
    def overall(self) -> int:
        """Positive − negative + bonus − penalty under both composite rules, −159 to 108."""
        positive = sum(value for key, value in self.dimensions.items() if key.startswith("P"))
        negative = sum(value for key, value in self.dimensions.items() if key.startswith("N"))
        bonus = 0 if negative > positive / 2 else self.bonus or 0
        penalty = min(self.penalty or 0, 3) if positive > 1.5 * negative else self.penalty or 0
        return max(-159, min(108, positive - negative + bonus - penalty))


def scores_of(story: str) -> Scores:
    """Return the scores of a story: digits of its SHA-256."""
    digest = hashlib.sha256(story.encode()).digest()
    values = {key: digest[at] % (most + 1) for at, (key, most) in enumerate(MAXIMA.items())}
    bonus, penalty = (value % (2 * CATCH_ALL) for value in digest[16:18])
    return Scores(
        values,
        bonus if bonus <= CATCH_ALL else None,
        penalty if penalty <= CATCH_ALL else None,
        digest[18] % 3,
    )


def answer_of(story: str, turn: int) -> str:
    """Return the answer in the rubric's full form, with a quote for each dimension.

    `turn` is 1, or 2 for the answer to a request for repair: the scores are the same, the text is not.
    """
    scores, words = scores_of(story), story.split()
    found: dict[str, Any] = {}
    for at, (key, score) in enumerate(scores.dimensions.items()):
        begin = (at * 83) % (len(words) - 9)
        quote = " ".join(words[begin : begin + 9])
        if at < scores.false_quotes:
            quote = f"no such words as these {quote[::-1]}"
        note = f"Turn {turn}. What the story does here is done {score} times over, and it can be pointed at."
        found[key] = {"quotes": [quote], "note": note, "score": score}
    for key, value in (("bonus", scores.bonus), ("penalty", scores.penalty)):
        found[key] = value if value is None else _catch_all(value, " ".join(words[:9]))
    return json.dumps(found)


def _catch_all(score: int, quote: str) -> dict[str, Any]:
    moment, why = "The opening.", "That dimension looks at the whole story, and this is one moment."
    return {"moment": moment, "quotes": [quote], "nearest": "P2", "why": why, "score": score}


def quote_validity_of(story: str) -> float:
    """Return the share of the answer's quotes that are in the story."""
    scores = scores_of(story)
    quotes = len(MAXIMA) + (scores.bonus is not None) + (scores.penalty is not None)
    return (quotes - scores.false_quotes) / quotes


def story_key(story: str) -> str:
    """Return the name by which the log knows a story."""
    return hashlib.sha256(story.encode()).hexdigest()[:16]


def fault_of(seed: int, number: int) -> str:
    """Return what is done to a request: a name in `SHARES`, or `answer`."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8], "big") / 2**64
    for name, share in SHARES.items():
        if drawn < share:
            return name
        drawn -= share
    return "answer"


@dataclass
class Asked:
    """One request; times are of the machine's monotonic clock, so that another process may compare them."""

    number: int
    story: str
    turn: int
    arrived: float
    what: str
    """A name in `SHARES`, `answer`, or `limited`: a 429 because of the rate limit."""
    answered: float = 0.0
    delivered: bool = False
    """There was still somebody to take the answer."""
    retry_after_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class State:
    """The server's settings and what it was asked."""

    latency_s: float
    retry_after_s: float
    seed: int
    faults: bool
    per_minute: int
    """Requests answered a minute, spread evenly, with one second's worth at once; 0 is no limit."""
    log: list[Asked] = field(default_factory=list)
    tokens: float = 0.0
    filled: float = 0.0

    def admit(self, now: float) -> bool:
        """Take a token for one request, if there is one."""
        if not self.per_minute:
            return True
        per_s = self.per_minute / 60
        self.tokens = min(per_s, self.tokens + (now - (self.filled or now - 1)) * per_s)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Connection(asyncio.Protocol):
    """One client's connection; HTTP/1.1 with Content-Length, which is what the SDK sends."""

    transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a request as soon as it is whole."""
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self.buffer[:head_end])
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        end = head_end + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) < end:
            return
        body = bytes(self.buffer[head_end + 4 : end])
        del self.buffer[:end]
        if head.startswith(b"POST"):
            self._ask(body)
        elif b"/count " in head:
            self._send(
                200, {"answers": sum(asked.what in ANSWERED and asked.delivered for asked in self.state.log)}
            )
        else:
            log = [asdict(asked) for asked in self.state.log]
            self._send(200, {"log": log, "cpu_s": time.process_time()})

    def _ask(self, body: bytes) -> None:
        now, state = time.monotonic(), self.state
        messages = json.loads(body)["messages"]
        found = _STORY.search(messages[1]["content"])
        story = found[2] if found else ""
        number = len(state.log)
        asked = Asked(
            number, story_key(story), len(messages) // 2, now, "answer", prompt_tokens=len(body) // 4
        )
        state.log.append(asked)
        wait_s = state.latency_s
        if not state.admit(now):
            # A real endpoint refuses before it works, so at once: the hardest case for a client.
            asked.what, wait_s = "limited", 0.0
        elif state.faults:
            asked.what = fault_of(state.seed, number)
        asyncio.get_running_loop().call_later(wait_s, self._answer, asked, story)

    def _answer(self, asked: Asked, story: str) -> None:
        asked.answered, asked.delivered = time.monotonic(), not self.transport.is_closing()
        if not asked.delivered:
            return
        if asked.what == "drop":
            self.transport.abort()
        elif asked.what in ("429", "limited"):
            asked.retry_after_s = self.state.retry_after_s
            error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
            self._send(429, error, f"retry-after: {asked.retry_after_s:g}\r\n")
        elif asked.what == "500":
            self._send(500, {"error": {"message": "fault injected"}})
        else:
            text = answer_of(story, asked.turn)
            asked.completion_tokens = len(text) // 4
            said = text[: len(text) // 2] if asked.what == "half answer" else text
            self._send(200, _completion(said, asked), half=asked.what == "half body")

    def _send(self, status: int, content: dict[str, Any], headers: str = "", *, half: bool = False) -> None:
        data = json.dumps(content).encode()
        headers = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n{headers}"
        self.transport.write(
            f"HTTP/1.1 {status} X\r\n{headers}\r\n".encode() + (data[: len(data) // 2] if half else data)
        )
        if half:
            self.transport.close()


def _completion(text: str, asked: Asked) -> dict[str, Any]:
    return {
        "id": f"fake-{asked.number}",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": asked.completion_tokens,
            "total_tokens": asked.prompt_tokens + asked.completion_tokens,
        },
    }


async def _serve(state: State) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    # Whoever started it holds its standard input, and closes it by ending, however it ends.
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.2, help="seconds before each answer")
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds that a 429 asks for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-faults", action="store_true", help="none of the faults; the rate limit stays")
    parser.add_argument("--per-minute", type=int, default=0, help="requests a minute that are let in; 0: all")
    given = parser.parse_args()
    asyncio.run(
        _serve(State(given.latency, given.retry_after, given.seed, not given.no_faults, given.per_minute))
    )


if __name__ == "__main__":
    main()
