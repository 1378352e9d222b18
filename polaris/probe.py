"""An endpoint's URL and a model's name in, whether it has generated a token out.

A server can list its model before its sampler ever ran, and die on the first request.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request


def probe(url: str, model: str, *, timeout_s: float = 300.0) -> str:
    """Ask for one token; return '' once it came, else what the endpoint answered instead.

    `url` is the base URL, with /v1; `timeout_s` is the longest wait for the token.
    """
    asked = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer none"},
    )
    # A proxy of the environment leads to the world, not to the server beside us.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/models", timeout=5):
            pass
        with opener.open(request, timeout=timeout_s):
            return ""
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
