"""The HTTP application: middleware and routes around the parts of the process."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from services.query.deps import Deps
from services.query.guard import RequestGuard
from services.query.metrics import keep_looking
from services.query.problems import install_problem_handlers
from services.query.routes import api_pages, collections, documents, ingest, metrics, openai, questions, status
from services.query.schema import Problem
from shared import queue
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool, at_the_end, distrust_idle
from shared.export import endpoint_of
from shared.worker import FORGET_SECONDS_MAX, TOUCH_SECONDS

BODY_BYTES_MAX = 1_048_576
# What hangs on a silent database is left behind.
BACKGROUND_END_SECONDS_MAX = 1.0
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]", "::1")


def create_app(deps: Deps) -> FastAPI:
    """Build the application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        background = [asyncio.create_task(_touch(deps.pool))]
        if endpoint_of("METRICS") is not None:
            background.append(asyncio.create_task(keep_looking(deps.pool)))
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background, timeout=BACKGROUND_END_SECONDS_MAX)

    app = FastAPI(
        title="askbox",
        version=deps.version,
        lifespan=lifespan,
        docs_url=None,  # as delivered, both load their scripts from the internet
        redoc_url=None,
        summary="Questions in, answers with citations out.",
        # Its log records quote what went wrong; ours name it.
        telemetry={"operation_spans": False, "logs": False, "auto_configure": False},
        responses={
            code: {"model": Problem, "content": {"application/problem+json": {}}}
            for code in (400, 401, 403, 404, 409, 413, 415, 422, 503)
        },
    )
    app.state.deps = deps
    install_problem_handlers(app)
    app.add_middleware(RequestGuard, body_bytes_max=BODY_BYTES_MAX, upload_bytes_max=deps.settings.max_upload_bytes)
    if deps.is_loopback:
        # Loopback may be open, so a page in the user's browser must not reach it under another name.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_HOSTS))
    api_pages.add(app)
    for module in (questions, openai, documents, ingest, collections, status, metrics):
        app.include_router(module.router)
    return app


async def _touch(pool: Pool) -> None:
    """Keep this process's row fresh; it is how `status` and `health` know of it."""
    worker_id: int | None = None
    try:
        while True:
            try:
                if worker_id is None or not await queue.touch_worker(pool, worker_id, is_listening=False, note=None):
                    worker_id = await queue.register_worker(
                        pool, kind="query", host=socket.gethostname(), pid=os.getpid()
                    )
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                await distrust_idle(pool, error)
            await asyncio.sleep(TOUCH_SECONDS)
    finally:
        if worker_id is not None:
            await at_the_end(queue.forget_worker(pool, worker_id), seconds=FORGET_SECONDS_MAX)
