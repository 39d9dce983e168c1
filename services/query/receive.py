"""The files of one upload → versions: store each as it comes, take them all when the body is whole.

**Invariants:** no connection is held while the network is read. A body that breaks off leaves nothing: until it is whole,
its bytes belong to no document, and they are dropped at once, or swept when that fails.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from services.query.store import CollectionRow
from services.query.upload import PartBegan, PartEnded, Piece, storable_name, visible
from shared import intake
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool
from shared.errors import BodyTooLarge, FileTooLarge, RequestError
from shared.failpoints import Failpoint, reach
from shared.intake import Arrival, Intake, RequestedFile, StoredBytes
from shared.telemetry import Event, log
from shared.text import one_line

UPLOAD_SCHEME = "upload:"
COLLECTION_FIELD = "collection"
FIELD_BYTES_MAX = 1000
SHOWN_NAME_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file whose bytes are stored and belong to no document yet."""

    file_path: str
    stored: StoredBytes
    began_at: float


@dataclass(frozen=True, slots=True)
class TakenFile:
    """What became of a file."""

    file_path: str
    intake: Intake

    @property
    def is_unchanged(self) -> bool:
        """Whether its document had these bytes already."""
        return self.intake.arrival is Arrival.UNCHANGED


class Upload:
    """One request's files, from the first byte to their versions. What is left at the end of the block is dropped."""

    def __init__(self, pool: Pool, *, file_bytes_max: int) -> None:
        self._pool = pool
        self._file_bytes_max = file_bytes_max
        self.collection_name: str | None = None
        self.received: list[ReceivedFile] = []
        self.refused: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for file in self.received:
            with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):  # the sweep removes what stays
                await intake.discard_bytes(self._pool, file.stored)

    async def receive(
        self, pieces: AsyncIterator[Piece], on_collection: Callable[[str], object], *, must_name: bool = False
    ) -> None:
        """Store the files of a body; `on_collection` is told of the form's collection as soon as it is known.

        With `must_name` nothing of a file is read as long as the form has named none.

        Raises: what `on_collection` raises; RequestError when no file was sent, or a collection has to be named before.
        """
        async for piece in pieces:
            if isinstance(piece, PartBegan) and piece.file_name is not None:
                if must_name and self.collection_name is None:
                    raise RequestError(
                        "name one of your collections: `?collection=NAME` in the address, or a field `collection` "
                        "before the first file"
                    )
                await self._receive_file(piece.file_name, pieces)
            elif isinstance(piece, PartBegan):
                value = await _read_field(pieces)
                if piece.field == COLLECTION_FIELD:
                    on_collection(value)
                    self.collection_name = value
        if not self.received and not self.refused:
            raise RequestError("there is no file in the body: send each as a part with a filename")

    async def take(self, collection: CollectionRow) -> tuple[uuid.UUID, list[TakenFile]]:
        """Make the received files the newest versions of their documents, each in a transaction of its own.

        Order: as they came.
        Raises: BodyTooLarge when none could be received.
        """
        if not self.received:
            path, reason = next(iter(self.refused.items()))
            raise BodyTooLarge(f"{path}: {reason}")
        await reach(Failpoint.UPLOAD_RECEIVED)
        request_id = uuid.uuid4()
        taken = []
        for place, file in enumerate(list(self.received)):
            arrived = await intake.add_version(
                self._pool,
                collection.id,
                UPLOAD_SCHEME + file.file_path,
                file.stored,
                burst_place=place,
                detected_ago=timedelta(seconds=time.monotonic() - file.began_at),
                # To send a file is to wish for it, whatever was done with it before.
                retries_failed=True,
                ignores_tombstones=True,
                requested=RequestedFile(request_id, file.file_path),
            )
            self.received.remove(file)
            taken.append(TakenFile(file.file_path, arrived))
            _log(file, arrived)
        if self.refused:
            await self._list_refused(request_id, collection.id)
        await reach(Failpoint.UPLOAD_TAKEN)
        return request_id, taken

    async def _receive_file(self, file_name: str, pieces: AsyncIterator[Piece]) -> None:
        began_at = time.monotonic()
        name = storable_name(file_name)
        if name is None:
            # A form whose file field was left empty sends a part without name and bytes.
            if await _skip_part(pieces) or file_name:
                self._refuse(file_name, "the name is empty or too long: at most 2000 bytes are kept")
            return
        try:
            async with contextlib.aclosing(_content(pieces, self._file_bytes_max)) as content:
                stored = await intake.store_bytes(self._pool, content)
        except FileTooLarge as error:
            self._refuse(name, str(error))  # `receive` reads over the rest of the part
            return
        self.received.append(ReceivedFile(name, stored, began_at))

    def _refuse(self, file_name: str, reason: str) -> None:
        shown = one_line(visible(file_name), SHOWN_NAME_CHARACTERS_MAX)
        self.refused[shown or "(no name)"] = reason
        log(Event.FILE_SKIPPED, path=UPLOAD_SCHEME + shown, reason=reason)

    async def _list_refused(self, request_id: uuid.UUID, collection_id: int) -> None:
        async with self._pool.acquire() as conn, conn.transaction():
            await intake.open_collection(conn, collection_id)
            await intake.list_skips(conn, request_id, collection_id, list(self.refused.items()))


async def _content(pieces: AsyncIterator[Piece], bytes_max: int) -> AsyncGenerator[bytes, None]:
    """Yield a file's bytes until its part ends.

    Raises: FileTooLarge; the rest of the part is still to be read then.
    """
    file_bytes = 0
    async for piece in pieces:
        if isinstance(piece, PartEnded):
            return
        assert isinstance(piece, bytes)
        file_bytes += len(piece)
        if file_bytes > bytes_max:
            raise FileTooLarge(f"larger than ASKBOX_MAX_FILE_BYTES ({bytes_max} bytes): split it, or raise the setting")
        yield piece


async def _skip_part(pieces: AsyncIterator[Piece]) -> int:
    """Read over the rest of a part and return how many bytes that was."""
    skipped = 0
    async for piece in pieces:
        if isinstance(piece, PartEnded):
            break
        skipped += len(piece) if isinstance(piece, bytes) else 0
    return skipped


async def _read_field(pieces: AsyncIterator[Piece]) -> str:
    value = bytearray()
    async for piece in pieces:
        if isinstance(piece, PartEnded):
            break
        if isinstance(piece, bytes):
            value += piece
        if len(value) > FIELD_BYTES_MAX:
            raise BodyTooLarge(f"a text field may have at most {FIELD_BYTES_MAX} bytes; files need a filename")
    return value.decode(errors="replace")


def _log(file: ReceivedFile, arrived: Intake) -> None:
    if arrived.arrival is Arrival.NEW_VERSION:
        log(
            Event.FILE_TAKEN,
            path=UPLOAD_SCHEME + file.file_path,
            document_id=arrived.document_id,
            version_id=arrived.version_id,
            bytes=file.stored.file_bytes,
        )
