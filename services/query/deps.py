"""What every route is given: the process's parts, and what the caller may do."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from services.query.access import Access, authorize
from services.query.answer import Answerer
from services.query.openai_errors import is_openai
from services.query.settings import QuerySettings
from services.query.slots import Shares, Slots
from services.query.watch import Watch
from shared.database import Pool

_bearer = HTTPBearer(
    auto_error=False, description="A key of `askbox keys create`; not needed on loopback while there is none."
)


# Each holds one part of a file in memory.
UPLOADS_MAX = 16
UPLOADS_WAITING_MAX = 32
# Each looks at the database once a second, for half a minute at most.
WAITS_MAX = 64
# A body may take its time, and whoever sends one byte a minute on purpose too.
UPLOADS_OF_A_KEY_MAX = 8


# What every request asks first: a silent database is told of by then. A burst may wait its turn for a connection: of 300
# questions at once over a pool of 5, on a machine ten times overloaded, some waited longer than 10 s.
ACCESS_SECONDS_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Deps:
    """The parts of the process. `is_loopback`: only this machine can reach it, so it is open while there is no key."""

    pool: Pool
    answerer: Answerer
    concurrency: Slots
    settings: QuerySettings
    version: str
    is_loopback: bool = True
    uploads: Slots = field(default_factory=lambda: Slots(UPLOADS_MAX, waiting_max=UPLOADS_WAITING_MAX))
    waits: Slots = field(default_factory=lambda: Slots(WAITS_MAX, waiting_max=0))
    uploads_of_keys: Shares = field(default_factory=lambda: Shares(UPLOADS_OF_A_KEY_MAX))
    watch: Watch = field(default_factory=Watch)


def _deps(request: Request) -> Deps:
    deps: Deps = request.app.state.deps
    return deps


DepsParam = Annotated[Deps, Depends(_deps)]


async def access_of(request: Request, deps: Deps) -> Access:
    """Find out what the caller may do at this moment.

    Raises: Unauthorized without a valid key where one is needed; TimeoutError when the database is silent.
    """
    async with asyncio.timeout(ACCESS_SECONDS_MAX):
        return await authorize(
            deps.pool,
            request.headers.get("authorization"),
            is_open_without_keys=deps.is_loopback,
            may_be_placeholder=is_openai(request.url.path),  # these clients cannot send none
        )


class KeyFirst(APIRoute):
    """A route that asks who calls before it reads anything of a body, which FastAPI does the other way round."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Ask, and then do what any route does."""
        handle = super().get_route_handler()

        async def ask_first(request: Request) -> Response:
            if self.body_field is not None:
                request.state.access = await access_of(request, _deps(request))
            return await handle(request)

        return ask_first


async def _access(request: Request, deps: DepsParam, _: Annotated[object, Security(_bearer)]) -> Access:
    known: Access | None = getattr(request.state, "access", None)
    return known or await access_of(request, deps)


AccessParam = Annotated[Access, Depends(_access)]
