"""A writing prompt and a story in; the chat messages that ask a judge to score it out.

A story is written by a model that is rewarded for its score, so it is treated as hostile: it lies between
two lines that carry a code from its own hash, which a text cannot contain, and the same story always gets
the same messages, so that the judge's cache and the provider's prefix cache hold.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache

from polaris.judge.rubric import Form, json_schema, load_rubric, render_prompt
from polaris.text import encodable, without_length_sentence

BREAKER = "\N{WORD JOINER}"
"""What splits a chat template's control token.

A local judge's tokenizer turns the characters `<|im_end|>` into the token that ends a message wherever
they stand. U+2060 is invisible, has no width, joins or shapes nothing (U+200D would, in emoji and Arabic)
and survives Unicode normalisation (NFC, NFKC), so the text reads as before and matches no token.
"""

_BARRED = r"<(?=[|\uFF5C])"
_NAMED = (
    r"<(?=/?(?:s|bos|eos|unk|pad|mask|sep|cls|sop|eop|think|tool_call|tool_response|tools|image|audio|video"
    r"|(?:start|end)_of_(?:turn|image|audio)|unused\d+|extra_id_\d+|tts_\w+|reserved_\w+)>)"
)
_DOUBLED = r"<(?=</?SYS>>)"
_BRACKETED = (
    r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK|IMG"
    r"|g?MASK|sMASK|CLS|SEP|PAD|UNK|BOS|EOS)\])"
)
_CONTROL_TOKEN = re.compile("|".join((_BARRED, _NAMED, _DOUBLED, _BRACKETED)))


def messages(prompt: str, story: str, form: Form, *, schema: bool = False) -> list[dict[str, str]]:
    """Return the system and the user message (`role`, `content`) for one story.

    What calls share comes first: the rubric, then the writing prompt without its length sentence, then
    the story. Both contents are valid UTF-8 whatever the inputs hold. With `schema` the answer's JSON schema
    ends the system message, for an endpoint that does not enforce one.

    Raises:
        ValueError: `form` is neither `full` nor `compact`.

    """
    asked = as_seen(without_length_sentence(prompt))
    told = as_seen(story)
    user = "\n\n".join(
        (
            fenced("WRITING PROMPT", asked, beside=told),
            fenced("STORY", told, beside=asked),
            load_rubric().request[form].strip(),
        )
    )
    system = _system(form, schema=schema)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


@cache
def _system(form: Form, *, schema: bool) -> str:
    """Return what all calls share; kept, since a stage holds thousands of requests at once."""
    if not schema:
        return render_prompt(form)
    written = json.dumps(json_schema(form), separators=(",", ":"))
    return f"{render_prompt(form)}\n\nThe JSON schema of the answer:\n{written}"


def as_seen(text: str) -> str:
    """Return the text as the judge sees it: encodable, and with control tokens split by `BREAKER`.

    Role tags and look-alike markup (`<system>`, `### Assistant:`) stay: they are text to judge.
    """
    return _CONTROL_TOKEN.sub(lambda match: match.group() + BREAKER, encodable(text))


def fenced(label: str, text: str, *, beside: str = "") -> str:
    """Return the text between a BEGIN and an END line that name `label` and the text's `fence_code`."""
    code = fence_code(label, text, beside=beside)
    return f"--- BEGIN {label} {code} ---\n{text}\n--- END {label} {code} ---"


def fence_code(label: str, text: str, *, beside: str = "") -> str:
    """Return 16 hex digits that occur neither in `text` nor in `beside`.

    They come from SHA-256 of the label and the text, so to close its own fence a text would have to hold
    a part of its own hash. Should it, by luck, the next number is hashed with it.
    """
    number = 0
    while True:
        hashed = hashlib.sha256(f"{label}\0{number}\0{text}".encode()).hexdigest()
        code = hashed[:16]
        if code not in text and code not in beside:
            return code
        number += 1
