"""Collections as models, for clients of OpenAI's API."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.query.access import Access
from services.query.openai_errors import UnknownModel
from services.query.store import CollectionRow
from shared.database import Session
from shared.errors import NotFound
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "openai_models.sql")
_LIST_AGES = STATEMENTS["list_ages"]

# The model that asks every collection which the caller may read.
EVERY_COLLECTION = "default"


@dataclass(frozen=True, slots=True)
class Model:
    """A collection, or all of them, as a model. Units: `created` in seconds since 1970."""

    name: str
    created: int


async def list_ages(conn: Session, scope: Sequence[int]) -> list[Model]:
    """Return the collections of a scope, by name."""
    return [Model(**row) for row in await conn.fetch(_LIST_AGES, list(scope))]


async def list_models(conn: Session, access: Access) -> list[Model]:
    """Return what a caller may ask: everything, then each collection, but for one of the name that stands for everything."""
    found = await list_ages(conn, access.ids())
    everything = Model(EVERY_COLLECTION, min((model.created for model in found), default=0))
    return [everything, *(model for model in found if model.name != EVERY_COLLECTION)]


def collections_of(access: Access, model: str) -> list[CollectionRow]:
    """Return what a model stands for.

    Raises: UnknownModel when it stands for nothing that the caller may read.
    """
    try:
        return access.readable(None if model == EVERY_COLLECTION else [model])
    except NotFound:
        raise unknown(model) from None


def unknown(model: str) -> UnknownModel:
    """Say which models there are."""
    return UnknownModel(f"there is no model named {model}: the models are `{EVERY_COLLECTION}` and the collections")
