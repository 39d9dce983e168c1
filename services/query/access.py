"""Who asks, and which collections may they read or change.

**Invariants:** without any key only this machine is served, openly; from the first one on, every request names one, also
when the last is revoked. What is absent and
what is not yours look the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.query import store
from services.query.store import CollectionRow, GrantedCollection
from shared.database import Pool
from shared.errors import Forbidden, NotFound, Unauthorized

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
# How every key begins that `askbox keys` makes.
KEY_PREFIX = "askbox_"


@dataclass(frozen=True, slots=True)
class Access:
    """What one caller may do. `everywhere` is their role in every collection, those to come included."""

    key_id: int | None
    everywhere: Role | None
    granted: tuple[GrantedCollection, ...]

    def readable(self, names: Sequence[str] | None = None) -> list[CollectionRow]:
        """Return the named collections, or all that this caller may read.

        Raises: NotFound naming those that do not exist or are not theirs.
        """
        by_name = {granted.collection.name: granted.collection for granted in self.granted}
        if names is None:
            return list(by_name.values())
        missing = [name for name in dict.fromkeys(names) if name not in by_name]
        if missing:
            raise NotFound(f"there is no collection named {', '.join(missing)}")
        return [by_name[name] for name in dict.fromkeys(names)]

    def writables(self) -> list[CollectionRow]:
        """Return the collections that this caller may change."""
        return [granted.collection for granted in self.granted if _reaches(granted.role, "write")]

    def ids(self, role: Role = "read") -> list[int]:
        """Return the ids of the collections in which this caller has at least `role`."""
        return [granted.collection.id for granted in self.granted if _reaches(granted.role, role)]

    def require(self, collection_id: int, role: Role) -> None:
        """Raise NotFound when the collection is not theirs, Forbidden when they may read it and no more."""
        for granted in self.granted:
            if granted.collection.id == collection_id:
                if not _reaches(granted.role, role):
                    raise Forbidden(f"this key may not do this in {granted.collection.name}: it needs the role {role}")
                return
        raise NotFound

    def writable(self, name: str, role: Role = "write") -> CollectionRow | None:
        """Return a collection that this caller may change, or None when there is none yet and they may create it.

        Raises: NotFound when it is not theirs; Forbidden when they may only read.
        """
        for granted in self.granted:
            if granted.collection.name == name:
                self.require(granted.collection.id, role)
                return granted.collection
        if self.everywhere is None:
            raise NotFound(f"there is no collection named {name}")
        self.require_everywhere(role)
        return None

    def require_everywhere(self, role: Role) -> None:
        """Raise Forbidden unless this caller has `role` in every collection."""
        if self.everywhere is None or not _reaches(self.everywhere, role):
            raise Forbidden(f"this needs the role {role} in every collection")


async def authorize(
    pool: Pool, authorization: str | None, *, is_open_without_keys: bool, may_be_placeholder: bool = False
) -> Access:
    """Find out what the bearer of a key may do; without any key, everybody on this machine may do everything.

    `may_be_placeholder`: the caller has to send a key, so one that cannot be ours counts as none where none is needed.
    Raises: Unauthorized without a valid key where one is needed.
    """
    key = _bearer(authorization)
    found = await store.find_key(pool, hashlib.sha256(key.encode()).digest() if key else None)
    if found.key_id is not None:
        granted = await store.list_granted(pool, found.key_id)
        return Access(found.key_id, found.everywhere, tuple(granted))
    if found.has_keys or not is_open_without_keys:
        raise Unauthorized
    if key is not None and not (may_be_placeholder and not key.startswith(KEY_PREFIX)):
        raise Unauthorized("there is no such key")
    collections = await store.list_collections(pool)
    return Access(None, "admin", tuple(GrantedCollection(collection, "admin") for collection in collections))


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("send the key as `Authorization: Bearer KEY`")
    return key.strip()


def _reaches(has: Role, wanted: Role) -> bool:
    return ROLES.index(has) >= ROLES.index(wanted)
