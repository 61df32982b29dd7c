"""A server that answers as OpenAI's API does is asked for captions: a real one, on loopback, scripted."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniloom.modalities import caption
from omniloom.modalities.base import ModelRef
from omniloom.modalities.models import ask_here, caption_openai
from tests.test_captioners import clips, footage, frames


class Server:
    """An endpoint on loopback that answers as scripted: each entry is a status, or a text."""

    def __init__(self) -> None:
        self.script: list[int | str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = self.at_once = 0
        self.models = ["tiny-vlm"]
        self.slow_s = 0.0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.keys.append(self.headers.get("Authorization"))
                self._reply(200, {"data": [{"id": name} for name in outer.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    answer = outer.script.pop(0) if outer.script else "a ball."
                threading.Event().wait(outer.slow_s)
                with outer._lock:
                    outer.at_once -= 1
                if isinstance(answer, int):
                    self._reply(answer, {"error": f"no, and your key is {self.headers.get('Authorization')}"})
                else:
                    self._reply(200, {"choices": [{"message": {"content": answer}}]})

            def _reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def ref(self) -> ModelRef:
        (ref,) = caption.models(caption.Config(model=f"openai:http://127.0.0.1:{self.http.server_port}/v1"))
        return ref


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setattr(caption_openai, "_FIRST_WAIT_S", 0.01)
    served = Server()
    yield served
    served.http.shutdown()
    served.http.server_close()


def test_a_server_is_sent_frames_as_jpegs_and_the_key_from_the_environment(server: Server) -> None:
    import base64

    from omniloom.modalities import codecs

    server.script = ["  A red\n ball. "]
    both = clips(2, 3)
    assert caption_openai.load(server.ref)(both[:1]) == [("A red ball.",)]
    (body,) = server.requests
    assert body["model"] == "tiny-vlm"
    assert body["temperature"] == 0
    assert body["max_tokens"] == 60
    *pictures, question = body["messages"][0]["content"]
    assert "one sentence" in question["text"]
    shown = [codecs.decode("jpeg", base64.b64decode(p["image_url"]["url"].partition(",")[2])) for p in pictures]
    assert np.stack(shown).shape == both[0].shape
    assert set(server.keys) == {"Bearer sk-very-secret"}
    name, revision = caption_openai.describe(server.ref)
    assert (name, revision) == ("openai:tiny-vlm", "127.0.0.1")


def test_a_busy_server_is_asked_again_and_a_refused_clip_has_no_caption(server: Server) -> None:
    server.script = [503, 429, "at last", 400]
    answer = caption_openai.load(server.ref)
    assert answer(clips(1)) == [("at last",)]
    assert answer(clips(1)) == [()]
    assert len(server.requests) == 4


def test_a_server_that_fails_for_good_stops_the_work_without_telling_the_key(server: Server) -> None:
    server.script = [500] * 20
    with pytest.raises(RuntimeError, match="HTTP 500") as caught:
        caption_openai.load(server.ref)(clips(1))
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 5
    server.script, server.requests = [401], []
    with pytest.raises(RuntimeError, match="HTTP 401") as caught:
        caption_openai.load(server.ref)(clips(1))
    assert len(server.requests) == 1, "a wrong key stays wrong"
    told = "".join(traceback.format_exception(caught.value))
    assert "very-secret" not in told


def test_requests_for_several_clips_are_under_way_at_once(server: Server) -> None:
    server.slow_s = 0.2
    assert len(caption_openai.load(server.ref)(clips(6, 1))) == 6
    assert 2 <= server.most_at_once <= 8


def test_of_several_models_one_must_be_named(server: Server) -> None:
    server.models = ["one", "two"]
    with pytest.raises(ValueError, match="serves one, two"):
        caption_openai.check(server.ref)
    named = ModelRef("caption_openai", server.ref.name + "#two")
    assert caption_openai.describe(named)[0] == "openai:two"


def test_given_and_written_captions_stand_side_by_side_each_with_its_source(server: Server, tmp_path: Path) -> None:
    server.script = ["A ball rolls."]
    config = caption.Config(model=f"given+openai:{server.ref.name}+omni", frames=2)
    made = caption.extract(footage(frames(), row={"caption": "my ball"}), config, ask_here())
    assert made is not None
    assert [(text.text, text.model, text.revision) for text in made.value.visual] == [
        ("A ball rolls.", "openai:tiny-vlm", "127.0.0.1")
    ]
    given, merged = made.value.omni
    assert (given.text, given.model) == ("my ball", "given:list")
    assert (merged.text, merged.model) == ("my ball. A ball rolls.", "omni:given:list+openai:tiny-vlm")
    assert len(server.requests[0]["messages"][0]["content"]) == 3
