"""Typed functions of the accounts: tokens by key, and tokens of a document."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.database import Connection
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "accounts.sql")
_SUM_TOKENS_BY_KEY = STATEMENTS["sum_tokens_by_key"]
_COUNT_DOCUMENT_TOKENS = STATEMENTS["count_document_tokens"]

KEYS_SHOWN_MAX = 1000


@dataclass(frozen=True, slots=True)
class KeyTokens:
    """Tokens used with the key of that name; None is what no key used."""

    name: str | None
    prompt: int
    completion: int
    embedding: int


async def sum_tokens_by_key(
    conn: Connection, key_id: int | None, *, is_everybody: bool, limit: int = KEYS_SHOWN_MAX
) -> list[KeyTokens]:
    """Return the tokens used with a key, or with each.

    Order: most first.
    """
    return [KeyTokens(**row) for row in await conn.fetch(_SUM_TOKENS_BY_KEY, key_id, is_everybody, limit)]


async def count_document_tokens(conn: Connection, scope: Sequence[int], document_ids: Sequence[int]) -> dict[int, int]:
    """Return the tokens of the live versions of some documents; those without one are left out."""
    rows = await conn.fetch(_COUNT_DOCUMENT_TOKENS, list(scope), list(document_ids))
    return {row["document_id"]: row["tokens"] for row in rows}
