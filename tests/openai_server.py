"""A real HTTP server that speaks OpenAI's API, does as its script says, and remembers every call with its time.

In a test: `with serving(faults=[...]) as server`, then `server.url`. As a process: `python -m tests.openai_server PORT
--script FILE`, where FILE holds `{"dimension": 64, "faults": [...]}`; `GET /calls` shows what was called, `POST /faults`
adds faults.

A fault is used up by one call of `/v1/embeddings`; None lets a call through. `{"kind": "status", "status": 429,
"headers": {...}, "retry_after_date": 2, "code": "..."}`, or `{"kind": K}` with K one of `slow` (with `seconds`), `cut`,
`trickle`, `garbage`, `count`, `shuffle`, `dimension`, `nan`, `null`, `zeros`, `duplicate`, `text`, `no_usage`.

`/v1/chat/completions` comes from `tests.openai_chat.routes(server)` where that module exists.
"""

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import logging
import random
import re
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

DIMENSION = 64
START_SECONDS_MAX = 30
Fault = dict[str, Any]


@dataclass
class Call:
    """One request. `closed_seconds`: for how long its answer forbade the next one."""

    path: str
    at: float
    body: Any
    key: str | None
    fault: Fault | None = None
    status: int = 200
    closed_seconds: float = 0.0


@lru_cache(maxsize=100_000)
def _word_vector(word: str, dimension: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=dimension)


def vector_of(text: str, dimension: int = DIMENSION) -> np.ndarray:
    """Return the vector of a text: its words added up, so that texts with the same words are near; length 1."""
    # Short words say little of what a text is about, and endings nothing.
    words = [word[:5] for word in re.findall(r"\w{4,}", text.lower())]
    total = 0.1 * _word_vector(f"\0{text}", dimension)
    for word in words:
        total = total + _word_vector(word, dimension)
    return (total / np.linalg.norm(total)).astype(np.float32)


def count_tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@dataclass
class OpenAIServer:
    """What the server does and what it saw."""

    dimension: int = DIMENSION
    faults: "deque[Fault | None]" = field(default_factory=deque)
    # Any request with a text that holds one of these words is answered so, as a bad text is by real servers.
    poison: dict[str, int] = field(default_factory=dict)
    tokens_max: int | None = None
    key: str | None = None  # when set, any other key is answered 401
    pace_seconds: float = 0.0  # how long each answer takes
    bloat: dict[str, int] = field(default_factory=dict)  # so many bytes are added to the answer to these words
    watch: "Callable[[Call], None] | None" = None  # told of each call, in the server's thread, before it is answered
    models: Sequence[str] = ("test-embedding", "test-chat")
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        """Forget the script and what was seen, so that tests can share a server."""
        fresh = OpenAIServer(url=self.url, stopping=self.stopping)
        self.__dict__.update(fresh.__dict__)

    def called(self, path: str = "/v1/embeddings") -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def calls_too_early(self) -> list[Call]:
        """Return the calls that came while an earlier answer's Retry-After had not passed."""
        return [
            call
            for call in self.calls
            if any(
                before.path == call.path and before.at < call.at < before.at + before.closed_seconds
                for before in self.calls
            )
        ]

    def record(self, request: Request, body: Any) -> Call:
        """Remember a call; routes of other modules use it too."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        call = Call(request.url.path, time.monotonic(), body, key)
        self.calls.append(call)
        return call

    async def embeddings(self, request: Request) -> Response:
        body = await request.json()
        call = self.record(request, body)
        if self.watch is not None:
            self.watch(call)
        texts: list[str] = [body["input"]] if isinstance(body["input"], str) else body["input"]
        refusal = self._refuse(body, texts, call)
        if refusal is not None:
            return refusal
        call.fault = self.faults.popleft() if self.faults else None
        if call.fault is not None and call.fault["kind"] == "status":
            return self.status(call)
        if call.fault is not None and call.fault["kind"] == "slow":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), call.fault.get("seconds", 5))
        if self.pace_seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), self.pace_seconds)
        if call.fault is not None and call.fault["kind"] == "trickle":
            return StreamingResponse(self._trickle())
        dimension = body.get("dimensions") or self.dimension
        data = [
            {"object": "embedding", "index": i, "embedding": vector_of(text, dimension).tolist()}
            for i, text in enumerate(texts)
        ]
        answer: dict[str, Any] = {"object": "list", "data": data, "model": body["model"]}
        tokens = sum(count_tokens(text) for text in texts)
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        if sizes := [size for word, size in self.bloat.items() if any(word in text for text in texts)]:
            answer["padding"] = " " * sizes[0]
        return _spoil(answer, call.fault["kind"] if call.fault else None)

    async def _trickle(self) -> AsyncIterator[bytes]:
        """A byte at a time without end, so that no pause between two of them is long."""
        while not self.stopping.is_set():
            yield b" "
            await asyncio.sleep(0.05)

    def _refuse(self, body: dict[str, Any], texts: Sequence[str], call: Call) -> Response | None:
        if self.key is not None and call.key != self.key:
            call.fault = {"kind": "status", "status": 401, "message": f"Incorrect API key provided: {call.key}"}
        elif body["model"] not in self.models:
            call.fault = {"kind": "status", "status": 404, "code": "model_not_found"}
        elif self.tokens_max and any(count_tokens(text) > self.tokens_max for text in texts):
            call.fault = {"kind": "status", "status": 400, "code": "context_length_exceeded"}
        elif bad := [status for word, status in self.poison.items() if any(word in text for text in texts)]:
            call.fault = {"kind": "status", "status": bad[0], "message": f"bad input: {texts}"}
        else:
            return None
        return self.status(call)

    def status(self, call: Call) -> Response:
        """Answer an error in OpenAI's form."""
        fault = call.fault or {}
        call.status = fault["status"]
        headers = dict(fault.get("headers", {}))
        if "Retry-After" in headers:
            with contextlib.suppress(ValueError):
                call.closed_seconds = float(headers["Retry-After"])
        if "retry-after-ms" in headers:
            call.closed_seconds = float(headers["retry-after-ms"]) / 1000
        if "retry_after_date" in fault:
            at = int(time.time()) + 1 + fault["retry_after_date"]
            headers["Retry-After"] = formatdate(at, usegmt=True)
            call.closed_seconds = at - time.time()
        error = {"message": fault.get("message", "as the script says"), "type": "test", "code": fault.get("code")}
        return JSONResponse({"error": error}, status_code=call.status, headers=headers)

    async def list_models(self, request: Request) -> Response:
        self.record(request, None)
        return JSONResponse(
            {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "test"} for name in self.models]}
        )

    async def show_calls(self, _: Request) -> Response:
        return JSONResponse([asdict(call) for call in self.calls])

    async def add_faults(self, request: Request) -> Response:
        self.faults += await request.json()
        return JSONResponse({"faults": len(self.faults)})

    def app(self) -> Starlette:
        routes = [
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route("/calls", self.show_calls),
            Route("/faults", self.add_faults, methods=["POST"]),
        ]
        if importlib.util.find_spec("tests.openai_chat") is not None:
            from tests.openai_chat import routes as chat_routes

            routes += chat_routes(self)
        return Starlette(routes=routes)


def _spoil(answer: dict[str, Any], kind: str | None) -> Response:
    data = answer["data"]
    if kind == "count":
        data.pop()
    elif kind == "shuffle":
        random.shuffle(data)
    elif kind == "dimension":
        for item in data:
            item["embedding"] = item["embedding"][:-1]
    elif kind == "nan":
        data[-1]["embedding"][0] = float("nan")
    elif kind == "null":
        data[-1]["embedding"][0] = None
    elif kind == "zeros":
        data[-1]["embedding"] = [0.0] * len(data[-1]["embedding"])
    elif kind == "duplicate":
        data[-1]["index"] = 0 if len(data) > 1 else 7
    elif kind == "text":
        data[-1]["embedding"] = [str(number) for number in data[-1]["embedding"]]
    elif kind == "no_usage":
        del answer["usage"]
    content = json.dumps(answer).encode()
    if kind == "garbage":
        content = b"<html>502 from some proxy</html>"
    if kind == "cut":

        async def half() -> Any:
            yield content[: len(content) // 2]

        return StreamingResponse(half(), headers={"Content-Length": str(len(content))}, media_type="application/json")
    return Response(content, media_type="application/json")


class _Server(uvicorn.Server):
    def __init__(self, server: OpenAIServer) -> None:
        config = uvicorn.Config(server.app(), log_config=None, access_log=False, timeout_graceful_shutdown=1)
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a cut body is what was asked for
        self._server = server

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._server.stopping.set()
        await super().shutdown(sockets)


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[OpenAIServer]:
    """Serve in a thread while the context lasts."""
    faults = deque(settings.pop("faults", ()))
    server = OpenAIServer(faults=faults, **settings)
    listening = socket.create_server(("127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    running = _Server(server)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS_MAX
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.005)
    assert running.started
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join(START_SECONDS_MAX)
        listening.close()
        assert not thread.is_alive()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--script", type=Path)
    arguments = parser.parse_args()
    script = json.loads(arguments.script.read_text()) if arguments.script else {}
    server = OpenAIServer(faults=deque(script.pop("faults", ())), **script)
    listening = socket.create_server(("127.0.0.1", arguments.port))
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    print(server.url, flush=True)
    _Server(server).run([listening])


if __name__ == "__main__":
    main()
