"""Captions from a server that answers as OpenAI's API does: vLLM, llama.cpp, Ollama, LM Studio, or OpenAI itself.

Named by its base URL, and after "#" by the model where it serves more than one: "http://gpu7:8000/v1#Qwen/Qwen3-VL-8B".
A loaded model takes clips uint8 (B, T, H, W, 3) and gives B tuples of texts: one for each clip, or none where the
server refuses the clip. Frames travel as JPEGs inside the request.

The key is read from the environment variable OPENAI_API_KEY when a request is sent; it is in no recipe, sidecar or
message.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np

from omniloom.modalities import codecs
from omniloom.modalities.base import ModelRef

GPUS = 0.01
"""None of ours: a share that cannot be counted out would not be handed out at all."""

_PROMPT = "These are frames of one video clip, in order. Describe what it shows in one sentence."
_CONCURRENT = 8
"""Requests under way at once; a server that batches serves them together."""
_ANSWER_S, _CHECK_S = 120.0, 10.0
_TRIES = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
_BUDGET_S = 300.0
"""Of one clip, all tries and waits together."""
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 422})
"""What the server says of one clip: too large, against its rules."""
_MOST_BYTES = 4 << 20
_REPAIRS = (
    "start the server (vllm serve MODEL) and give caption.model openai:URL or openai:URL#MODEL, "
    "or use a captioner by name, 'tags', or 'given'"
)


class _Failed(Exception):  # noqa: N818, it is told apart by its status
    def __init__(self, status: int, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.wait_s = status, wait_s


def check(ref: ModelRef) -> None:
    """Asks the server what it serves. Raises ValueError, in one line, if it does not answer or serves no such model."""
    _model_of(ref)


def describe(ref: ModelRef) -> tuple[str, str]:
    """The model's name, and the server's: no server tells which weights it has loaded. Never a key or a password."""
    parts = urlsplit(ref.name)
    return f"openai:{_model_of(ref)}", parts.hostname or ""


def licence(ref: ModelRef) -> str:
    """Not told by any server."""
    return ""


def at_once(ref: ModelRef) -> int:
    """Clips that are worth asking together: so many requests are under way at once."""
    return _CONCURRENT


def load(ref: ModelRef) -> Callable[[np.ndarray], list[tuple[str, ...]]]:
    """A client. Its call raises RuntimeError, naming what the server said last, when the tries or the time run out."""
    model = _model_of(ref)
    options = dict(ref.options)
    prompt = str(options.get("prompt") or _PROMPT)
    most = int(options.get("max_new_tokens", 60))
    pool = ThreadPoolExecutor(_CONCURRENT, thread_name_prefix="openai")

    def one(clip: np.ndarray) -> tuple[str, ...]:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _url(rgb)}} for rgb in clip]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            "max_tokens": most,
            "temperature": 0,
            "seed": 0,
        }
        try:
            return (_said(_patiently(ref, "/chat/completions", body)),)
        except _Failed as failed:
            if failed.status in _REFUSED:
                return ()
            raise RuntimeError(
                f"no caption from {_shown(ref)}: {failed}; what is committed stays, {_REPAIRS}"
            ) from None

    def answer(clips: np.ndarray) -> list[tuple[str, ...]]:
        if clips.ndim != 5 or clips.dtype != np.uint8:
            raise ValueError(f"a captioner takes clips uint8 (B, T, H, W, 3), got {clips.dtype} {clips.shape}")
        return list(pool.map(one, clips))

    return answer


_served: dict[str, str] = {}
"""Name as given -> model, as far as servers were asked in this process."""


def _model_of(ref: ModelRef) -> str:
    """The model to ask for. Raises ValueError for a URL that is none, a server that is not there or lacks the model."""
    if ref.name in _served:
        return _served[ref.name]
    parts = urlsplit(ref.name)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"caption.model=openai:{ref.name}: not a URL like http://localhost:8000/v1; {_REPAIRS}")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "caption.model=openai:URL must hold no user, password or query, since recipes are stored: "
            "put the key into the environment variable OPENAI_API_KEY"
        )
    try:
        listed = _request(ref, "/models", None, _CHECK_S)
        served = [str(model["id"]) for model in cast("list[dict[str, Any]]", listed["data"])]
    except (_Failed, KeyError, TypeError) as error:
        raise ValueError(f"no captions from {_shown(ref)}: {error}; {_REPAIRS}") from None
    wanted = parts.fragment or (served[0] if len(served) == 1 else "")
    if wanted not in served:
        raise ValueError(
            f"{_shown(ref)} serves {', '.join(served[:8]) or 'no model'}: name one after '#', as in openai:URL#MODEL"
        )
    return _served.setdefault(ref.name, wanted)


def _shown(ref: ModelRef) -> str:
    return ref.name.partition("#")[0]


def _patiently(ref: ModelRef, path: str, body: Mapping[str, Any]) -> Any:
    """The answer, asked again with growing waits while the server is busy or away, as far as the budget goes."""
    until = time.monotonic() + _BUDGET_S
    wait_s = _FIRST_WAIT_S
    for attempt in range(_TRIES):
        left_s = until - time.monotonic()
        try:
            return _request(ref, path, body, max(1.0, min(_ANSWER_S, left_s)))
        except _Failed as failed:
            pause_s = min(wait_s if failed.wait_s is None else failed.wait_s, _LONGEST_WAIT_S)
            last = attempt == _TRIES - 1 or time.monotonic() + pause_s > until
            if last or failed.status not in _BUSY | {0}:
                raise
        time.sleep(pause_s)
        wait_s *= 2
    raise AssertionError("the last try returns or raises")


class _StayHere(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """The key goes to the server that was named, and to no other."""


_open = build_opener(_StayHere)


def _request(ref: ModelRef, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
    """One request, its JSON. Raises _Failed: status 0 where no answer came at all."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get("OPENAI_API_KEY")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(_shown(ref).rstrip("/") + path, data, headers)
    try:
        with _open.open(request, timeout=timeout_s) as reply:
            answer = reply.read(_MOST_BYTES + 1)
    except HTTPError as error:
        with error:
            detail = error.read(300).decode("utf-8", "replace")
        if key:
            detail = detail.replace(key, "***")
        after = error.headers.get("Retry-After", "")
        raise _Failed(
            error.code, f"HTTP {error.code}: {' '.join(detail.split())}", float(after) if after.isdigit() else None
        ) from None
    except (URLError, OSError, http.client.HTTPException, ValueError) as error:
        raise _Failed(0, str(getattr(error, "reason", error)) or type(error).__name__) from None
    if len(answer) > _MOST_BYTES:
        raise _Failed(-1, f"an answer of more than {_MOST_BYTES} bytes")
    try:
        return json.loads(answer)
    except ValueError:
        raise _Failed(-1, "an answer that is no JSON") from None


def _said(reply: Any) -> str:
    try:
        text = cast("Sequence[Any]", reply["choices"])[0]["message"]["content"]
    except (KeyError, TypeError, IndexError):
        raise _Failed(-1, "an answer without choices[0].message.content") from None
    return " ".join(str(text or "").split())


def _url(rgb: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(codecs.encode_jpeg(rgb)).decode()
