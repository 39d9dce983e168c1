"""Is a file that vanished deleted? Not when the folder is another one, and not when most of them vanish at once."""

import asyncio
import logging
import uuid
from pathlib import Path

from services.ingester import store
from services.ingester.inbox import read_mark, write_mark
from services.ingester.store import PauseKind
from shared.database import Pool
from shared.telemetry import Event, log

# A mass disappearance is not believed: more than twenty documents, and more than half.
MISSING_BELIEVED_MAX = 20


class DeletionGuard:
    """Lets deletion wait for a person. A pause stays, whatever comes and goes, until one confirms or all files are back."""

    def __init__(self, pool: Pool, root: Path) -> None:
        self._pool = pool
        self._root = root
        self._notes: dict[str, str] = {}

    @property
    def note(self) -> str | None:
        """What a person should know of the inbox, or None."""
        return "; ".join(self._notes.values()) or None

    async def is_our_inbox(self) -> bool:
        """Whether this folder is the one that the database was filled from; nothing is taken or deleted from another.

        An empty folder in the place of a full one (not mounted, another machine) must not empty the database.
        """
        mark, here = await store.get_mark(self._pool), await asyncio.to_thread(read_mark, self._root)
        if mark is not None and mark == here:
            await self._resume("another_folder")
            return True
        documents = len(await store.list_inbox_documents(self._pool))
        if mark is not None and documents:
            reason = f"{self._root} is not the folder that the database was filled from"
            if not await self._pause("another_folder", reason, documents):
                return False
        await self._adopt(here)
        return True

    async def _adopt(self, here: uuid.UUID | None) -> None:
        mark = here or uuid.uuid4()
        if here is None and not await asyncio.to_thread(write_mark, self._root, mark):
            # The database remembers no mark that stands nowhere: by it this very folder would be another one from now on.
            self._notes["mark"] = f"{self._root} cannot be written to, so it cannot be told from another folder"
            return
        self._notes.pop("mark", None)
        await store.set_mark(self._pool, mark)
        await self._resume("another_folder")

    def cannot_read(self, reason: str) -> None:
        """Say that the folder cannot be looked at; nothing is deleted meanwhile."""
        if self._notes.get("unreadable") != reason:
            log(Event.INBOX_DELETION_PAUSED, logging.WARNING, reason=reason)
        self._notes["unreadable"] = reason

    async def allows(self, missing_count: int, stored_count: int) -> bool:
        """Whether so many of so many documents may be deleted."""
        self._notes.pop("unreadable", None)
        if missing_count == 0:
            await self._resume("vanished")
            return True
        if not self.is_mass(missing_count, stored_count) and not await self.is_paused():
            return True
        reason = f"{missing_count} of {stored_count} documents of the inbox vanished"
        return await self._pause("vanished", reason, missing_count)

    def is_mass(self, missing_count: int, stored_count: int) -> bool:
        """Whether so many are too many to be believed."""
        return missing_count > MISSING_BELIEVED_MAX and 2 * missing_count > stored_count

    async def is_paused(self) -> bool:
        """Whether a deletion waits for a person."""
        return await store.is_paused(self._pool, "vanished")

    @property
    def is_waiting(self) -> bool:
        """Whether this process knows of files that wait for a person, and must look for the answer."""
        return "vanished" in self._notes

    async def is_confirmed(self, missing_count: int = 0) -> bool:
        """Whether a person has said that the disappearance of as many documents is meant."""
        return await store.is_confirmed(self._pool, "vanished", missing_count)

    async def _pause(self, kind: PauseKind, reason: str, missing_count: int) -> bool:
        """Stop deleting until a person confirms; True when one has."""
        is_confirmed = await store.pause_deletion(self._pool, kind, reason, missing_count)
        if not is_confirmed and kind not in self._notes:
            log(Event.INBOX_DELETION_PAUSED, logging.WARNING, reason=reason)
        if not is_confirmed:
            self._notes[kind] = f"paused: {reason}; run `askbox inbox confirm-deletes` if this is meant"
        return is_confirmed

    async def _resume(self, kind: PauseKind) -> None:
        self._notes.pop(kind, None)
        await store.end_pause(self._pool, kind)
