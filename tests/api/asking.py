"""The application with a chat model on the scripted server, over its ASGI interface or over real sockets."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx2
import uvicorn

from services.query.answer import Answerer
from services.query.app import create_app
from services.query.deps import Deps
from services.query.generate import open_chat_model
from services.query.ledger import Ledger, open_ledger
from services.query.settings import QuerySettings
from services.query.slots import Slots
from shared.export import start_telemetry
from tests.factories import HashModel
from tests.openai_chat import Chats, chats_of
from tests.openai_server import OpenAIServer

SOCKET_BYTES = 64 * 1024
QUESTION = "when does the nightly backup run"
TEXTS = [
    "The nightly backup runs at two in the morning. It is encrypted with age.",
    "The weekly backup of the archive runs on Sunday, not nightly.",
    "The office opens at nine and closes at five.",
]


@dataclass
class App:
    """The application's parts that tests look at."""

    deps: Deps
    chats: Chats
    ledger: Ledger
    client: httpx2.AsyncClient

    async def ask(self, question: str = QUESTION, **body: Any) -> httpx2.Response:
        return await self.client.post("/query", json={"question": question, **body})

    async def answer(self, question: str = QUESTION, **body: Any) -> dict[str, Any]:
        response = await self.ask(question, **body)
        assert response.status_code == 200, response.text
        return response.json()

    async def events(self, question: str = QUESTION, **body: Any) -> list[tuple[str, Any]]:
        response = await self.client.post("/query/stream", json={"question": question, **body})
        assert response.status_code == 200, response.text
        return parse_events(response.text)


def parse_events(text: str) -> list[tuple[str, Any]]:
    """Read server-sent events: (name, data), without comments."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def settings_for(server: OpenAIServer, **given: Any) -> QuerySettings:
    return QuerySettings(
        _env_file=None, **({"llm_model": "test-chat", "llm_base_url": server.url, "provider_seconds": 120} | given)
    )


@asynccontextmanager
async def asking(
    reader_pool: asyncpg.Pool, server: OpenAIServer, *, is_real: bool = False, slots: Slots | None = None, **given: Any
) -> AsyncIterator[App]:
    """Open the application; `is_real` over a socket, so that leaving is noticed as in life."""
    start_telemetry("query")
    settings = settings_for(server, **given)
    async with open_chat_model(settings) as chat, open_ledger(reader_pool) as ledger:
        answerer = Answerer(
            reader_pool,
            HashModel(),
            refusal_threshold=0.3,
            chat=chat,
            context_tokens_max=settings.llm_context_tokens,
            may_fall_back=settings.llm_fallback == "extractive",
            ledger=ledger,
        )
        deps = Deps(reader_pool, answerer, slots or Slots(4, waiting_max=8), settings, "test")
        async with served(deps) if is_real else _called(deps) as client:
            yield App(deps, chats_of(server), ledger, client)


@asynccontextmanager
async def _called(deps: Deps) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=create_app(deps), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as client:
        yield client


@asynccontextmanager
async def served(deps: Deps) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve over a real socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    # Small, so that little has to be written until a caller who takes nothing is felt; connections inherit it.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    config = uvicorn.Config(
        create_app(deps), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        await serving
        listening.close()
