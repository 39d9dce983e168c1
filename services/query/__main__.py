"""Wire the query process and run it: `python -m services.query`."""

import asyncio
import contextlib
import ipaddress
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version

import uvicorn

from services.query.answer import Answerer, estimate
from services.query.app import create_app
from services.query.connection import CONNECTIONS_MAX, HEAD_BYTES_MAX, BoundedConnection
from services.query.deps import Deps
from services.query.generate import ChatModel, open_chat_model
from services.query.ledger import open_ledger
from services.query.prompt import Count
from services.query.settings import QuerySettings
from services.query.slots import Slots
from services.query.store import find_key
from shared.database import Pool, open_pool
from shared.embedding import LocalModel, OpenAIModel, open_model
from shared.errors import ConfigError
from shared.export import start_telemetry
from shared.failpoints import arm
from shared.models import find_model
from shared.process import on_stop_signals, run_process
from shared.telemetry import Event, log, start_logging
from shared.tokens import open_chat_tokenizer

# Without it one open stream keeps uvicorn from ever stopping.
GRACEFUL_STOP_SECONDS = 4
# Somebody waits for it.
QUESTION_EMBEDDING_SECONDS_MAX = 15.0


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again at its end, which would skip closing the pool."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Finish open requests and end."""
        self.should_exit = True


async def main() -> None:
    """Answer until told to stop."""
    settings = QuerySettings.read()
    start_logging("query", settings.log_level)
    arm(settings.failpoints or ())
    start_telemetry("query")
    url = settings.required_database_url()
    is_loopback = _is_loopback(settings.http_host)
    listening = _bind(settings.http_host, settings.http_port)
    async with (
        open_chat_model(settings) as chat,
        open_pool(url, "askbox_reader", "askbox query", connections_max=settings.query_connections) as pool,
        open_ledger(pool) as ledger,
    ):
        if not is_loopback:
            await _refuse_open_bind(pool, settings.http_host)
        await find_model(pool, settings.embedding_model)  # refuses one that the documents were not embedded with
        model = await _open_model(pool, settings)
        answerer = Answerer(
            pool,
            model,
            refusal_threshold=settings.refusal_threshold,
            chat=chat,
            context_tokens_max=settings.llm_context_tokens,
            may_fall_back=settings.llm_fallback == "extractive",
            ledger=ledger,
            count=await _open_count(settings, chat),
        )
        slots = Slots(settings.query_concurrency, waiting_max=settings.query_waiting)
        deps = Deps(pool, answerer, slots, settings, version("askbox"), is_loopback)
        server = _Server(
            uvicorn.Config(
                create_app(deps),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=GRACEFUL_STOP_SECONDS,
                http=BoundedConnection,
                ws="none",
                limit_concurrency=CONNECTIONS_MAX,
                h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            )
        )
        log(
            Event.PROCESS_STARTED,
            address=f"http://{settings.http_host}:{settings.http_port}",
            model=model.name,
            llm=chat and chat.name,
        )

        def stop() -> None:
            deps.watch.close()  # these streams have no end of their own
            server.stop()

        with on_stop_signals(stop, work_seconds=GRACEFUL_STOP_SECONDS):
            await server.serve(sockets=[listening])
    log(Event.PROCESS_STOPPED)


async def _open_model(pool: Pool, settings: QuerySettings) -> LocalModel | OpenAIModel:
    async def find_dimension() -> int | None:
        known = await find_model(pool, settings.embedding_model)
        return known.dimension if known is not None else None

    return await asyncio.to_thread(
        open_model, settings, timeout_seconds=QUESTION_EMBEDDING_SECONDS_MAX, find_dimension=find_dimension
    )


async def _open_count(settings: QuerySettings, chat: ChatModel | None) -> Count:
    """Return what counts a prompt's tokens: the chat model's own tokenizer, where that is known and can be had."""
    tokenizer = await asyncio.to_thread(open_chat_tokenizer, settings, chat.name) if chat is not None else None
    if tokenizer is None:
        return estimate

    def count(text: str) -> int:
        (tokens,) = tokenizer.count([text])
        return tokens

    return count


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _refuse_open_bind(pool: Pool, host: str) -> None:
    """Without keys only this machine may ask.

    Raises: ConfigError when there is no key.
    """
    if not (await find_key(pool, None)).has_keys:
        raise ConfigError(
            f"ASKBOX_HTTP_HOST is {host}, and there is no API key: make one with `askbox keys create NAME --role admin`, "
            "or set ASKBOX_HTTP_HOST to 127.0.0.1 to serve this machine only"
        )


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"ASKBOX_HTTP_PORT: {host}:{port} cannot be used ({error.strerror}): stop what listens there, or choose another port"
        ) from None
    return listening


if __name__ == "__main__":
    sys.exit(run_process(main()))
