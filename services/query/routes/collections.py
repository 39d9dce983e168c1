"""`/collections`: what is searched together, and what access is granted on."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from services.query.access import Access
from services.query.collections import create_collection, delete_collection, rename_collection
from services.query.deps import AccessParam, DepsParam, KeyFirst
from services.query.store import CollectionRow
from shared.errors import NotFound
from shared.telemetry import Event, log

router = APIRouter(tags=["collections"], route_class=KeyFirst)


class CollectionIn(BaseModel):
    """The name of a collection."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)


@router.get("/collections", summary="List collections")
async def collections(access: AccessParam) -> dict[str, Any]:
    """List the collections that the caller may read, with their role in each."""
    return {"data": [{"name": granted.collection.name, "role": granted.role} for granted in access.granted]}


@router.post("/collections", status_code=201, summary="Make a collection")
async def create(body: CollectionIn, deps: DepsParam, access: AccessParam) -> dict[str, Any]:
    """Make an empty collection."""
    access.require_everywhere("admin")
    await create_collection(deps.pool, body.name, deps.answerer.model_name)
    log(Event.COLLECTION_CREATED, collection=body.name)
    return {"name": body.name}


@router.patch("/collections/{name}", summary="Rename a collection")
async def rename(name: str, body: CollectionIn, deps: DepsParam, access: AccessParam) -> dict[str, Any]:
    """Give a collection another name; what the inbox fills is renamed by its folder."""
    collection = _administered(access, name)
    # Names are one for all: who could choose any for one collection would wait there for what others mean for theirs.
    access.require_everywhere("admin")
    await rename_collection(deps.pool, collection, access.ids("admin"), body.name)
    log(Event.COLLECTION_RENAMED, collection_id=collection.id, collection=body.name)
    return {"name": body.name}


@router.delete("/collections/{name}", status_code=204, summary="Delete a collection with everything in it")
async def delete(name: str, deps: DepsParam, access: AccessParam) -> Response:
    """Delete a collection; what the inbox fills goes by removing its folder."""
    collection = _administered(access, name)
    await delete_collection(deps.pool, collection, access.ids("admin"))
    log(Event.COLLECTION_DELETED, collection_id=collection.id)
    return Response(status_code=204)


def _administered(access: Access, name: str) -> CollectionRow:
    collection = access.writable(name, "admin")
    if collection is None:
        raise NotFound(f"there is no collection named {name}")
    return collection
