"""Databases that live longer than one test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.conftest import database_url


@asynccontextmanager
async def clone(server_url: str, name: str, *, template: str | None = None) -> AsyncIterator[str]:
    """Make a database, empty or as `template` is, and name its connection string."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'} STRATEGY FILE_COPY")
        yield database_url(server_url, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
