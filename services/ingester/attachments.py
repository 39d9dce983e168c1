"""What is attached to a mail becomes documents of their own: added, changed and removed as its versions come.

**Invariants:** their bytes are stored before, as those of any file are, and belong to nobody until then; which documents a mail
holds changes in the transaction that stages the mail, under the mail's lock and its job's lease, so each is made once whatever
is killed when; a version says nothing when a newer one has spoken.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from opentelemetry.trace import Span

from services.ingester.parsing.writer import METADATA_CHARACTERS_MAX
from services.ingester.paths import (
    ATTACHMENT_DEPTH_MAX,
    attachment_depth,
    attachment_names,
    attachment_uri,
    outermost_uri,
)
from services.ingester.sandbox import AttachmentEnded, Parsed, ParsedHead
from shared import intake
from shared.database import Connection, Pool, Session
from shared.errors import ParserLimit
from shared.failpoints import Failpoint, reach
from shared.intake import Arrival, Intake, StoredBytes
from shared.publication import VersionKey
from shared.spans import TraceContext, end_file_span, end_send_span, start_file_span, start_send_span
from shared.statements import load_statements
from shared.text import one_line

STATEMENTS = load_statements("services.ingester", "attachments.sql")
ATTACHMENTS_MAX = 200
# Of a mail with all the mails within it: mails of 200 mails of 200 mails are nobody's letters.
HELD_MAX = 1000
# Decoding makes nothing longer, but a character of one byte may have three in UTF-8.
GROWTH_MAX = 3
TOO_DEEP = f"they lie in more than {ATTACHMENT_DEPTH_MAX} mails, one within the other; save them, and drop them"

_MAY_HOLD = STATEMENTS["may_hold"]
_LOCK_HOLDER = STATEMENTS["lock_holder"]
_GET_HOLDER = STATEMENTS["get_holder"]
_DELETE_OTHERS = STATEMENTS["delete_other_attachments"]
_LOCK = STATEMENTS["lock_attachment"]
_DELETE = STATEMENTS["delete_attachment"]
_COUNT_HELD = STATEMENTS["count_held"]
_LINK = STATEMENTS["link_attachments"]


@dataclass(frozen=True, slots=True)
class StoredAttachment:
    """A file that lies in a mail, and where its bytes lie. The name is what its author wrote."""

    written_name: str
    stored: StoredBytes


@dataclass(frozen=True, slots=True)
class Holder:
    """A document that is being staged, as its attachments have to know it."""

    document_id: int
    source_uri: str
    burst_place: int
    detected_ago: timedelta
    has_attachments: bool
    is_overtaken: bool


@dataclass(frozen=True, slots=True)
class TakenAttachment:
    """An attachment with its document, and the spans that are told when all is committed."""

    name: str
    intake: Intake
    appeared: Span
    sending: Span


class AttachmentStore:
    """Stores what a parser finds in one file, bounded, and forgets it unless it becomes documents."""

    def __init__(self, pool: Pool, source_uri: str, file_bytes: int) -> None:
        self._pool = pool
        self._bytes_left = file_bytes * GROWTH_MAX
        self._is_too_deep = attachment_depth(source_uri) >= ATTACHMENT_DEPTH_MAX
        self._unread_names: list[str] = []
        self.stored: list[StoredAttachment] = []

    async def store(self, name: str, items: AsyncIterator[Parsed]) -> None:
        """Store one attachment, whose pieces come next; of one that lies too deep, note the name.

        Raises: ParserLimit when the file holds more than it can.
        """
        if len(self.stored) + len(self._unread_names) == ATTACHMENTS_MAX:
            raise ParserLimit(f"the file holds more than {ATTACHMENTS_MAX} others: take them out of it, and drop them")
        if self._is_too_deep:
            async for _ in self._pieces(items):
                pass
            self._unread_names.append(name)
            return
        stored = await intake.store_bytes(self._pool, self._pieces(items))
        self.stored.append(StoredAttachment(name, stored))
        await reach(Failpoint.ATTACHMENT_STORED)

    async def discard(self, conn: Session) -> None:
        """Remove the bytes of a file that will not be staged; what cannot be removed now is swept by its age."""
        await intake.discard_bytes(conn, *(attachment.stored for attachment in self.stored))

    def summary(self, taken: Sequence["TakenAttachment"]) -> dict[str, object]:
        """Tell, for the story of the mail, how many were found, how many of them are documents, and what is not read."""
        found = len(self.stored) + len(self._unread_names)
        return {"attachments": found, "attachments_taken": len(taken), **self._unread()} if found else {}

    def noted(self, head: ParsedHead) -> ParsedHead:
        """Note beside what is known of the mail what in it is not read."""
        return replace(head, metadata=head.metadata | self._unread())

    def _unread(self) -> dict[str, str]:
        if not self._unread_names:
            return {}
        names = ", ".join(attachment_names(self._unread_names))
        return {"attachments_not_read": one_line(f"{TOO_DEEP}: {names}", METADATA_CHARACTERS_MAX)}

    async def _pieces(self, items: AsyncIterator[Parsed]) -> AsyncIterator[bytes]:
        async for item in items:
            if isinstance(item, AttachmentEnded):
                return
            if not isinstance(item, bytes) or len(item) > self._bytes_left:
                raise ParserLimit("the parser found more in the file than the file can hold")
            self._bytes_left -= len(item)
            yield item
        raise ParserLimit("the parser stopped within an attachment")


async def lock_holder(conn: Connection, key: VersionKey, attachments: Sequence[StoredAttachment]) -> Holder | None:
    """Lock the document of a version and return it, or None when it is gone, or holds nothing and never did.

    Most files hold nothing, and are not to wait for the publication of the version before them.

    Transaction: the caller's, before it writes to the version.
    """
    if not attachments and not await conn.fetchval(_MAY_HOLD, key.collection_id, key.version_id):
        return None
    if await conn.fetchval(_LOCK_HOLDER, key.collection_id, key.version_id) is None:
        return None
    row = await conn.fetchrow(_GET_HOLDER, key.collection_id, key.version_id)
    return Holder(**row) if row else None


async def replace_attachments(
    conn: Connection, key: VersionKey, holder: Holder | None, attachments: Sequence[StoredAttachment]
) -> list[TakenAttachment]:
    """Let a document hold these attachments and no others: the same bytes stay as they are.

    Raises: ParserLimit when the file around it all holds too many.
    Transaction: the caller's, which holds the document and the lease; `tell` follows its commit.
    """
    if holder is None:
        return []
    if holder.is_overtaken or not (attachments or holder.has_attachments):
        await intake.discard_bytes(conn, *(attachment.stored for attachment in attachments))
        return []
    await intake.open_collection(conn, key.collection_id)
    names = attachment_names([attachment.written_name for attachment in attachments])
    uris = [attachment_uri(holder.source_uri, name) for name in names]
    await conn.fetch(_DELETE_OTHERS, key.collection_id, holder.document_id, uris, timeout=intake.DELETE_SECONDS_MAX)
    # In the order of their bytes: two mails that hold the same files in different orders deadlock.
    order = sorted(range(len(names)), key=lambda place: attachments[place].stored.sha256)
    taken = []
    for place in order:
        one = await _take(conn, key, holder, names[place], attachments[place].stored, place)
        taken += [one] if one is not None else []
    await _refuse_endless(conn, key, holder)
    await conn.execute(
        _LINK,
        key.collection_id,
        key.version_id,
        [one.intake.document_id for one in taken],
        [one.intake.version_id for one in taken],
        [one.name for one in taken],
    )
    await reach(Failpoint.ATTACHMENTS_WRITTEN)
    return taken


async def _take(
    conn: Connection, key: VersionKey, holder: Holder, name: str, stored: StoredBytes, place: int
) -> TakenAttachment | None:
    """Let stored bytes be what an attachment holds; None when these were deleted on purpose."""
    uri = attachment_uri(holder.source_uri, name)
    document_id: int = await conn.fetchval(_LOCK, key.collection_id, holder.document_id, uri)
    if await intake.is_tombstoned(conn, key.collection_id, uri, stored.sha256):
        await conn.fetchval(_DELETE, key.collection_id, document_id)
        await intake.discard_bytes(conn, stored)
        return None
    appeared = start_file_span(uri, holder.detected_ago, stored.file_bytes, is_requested=False)
    sending = start_send_span("ingest", parent=appeared)
    settled = await intake.settle_bytes(
        conn,
        key.collection_id,
        document_id,
        stored,
        burst_place=holder.burst_place + place,
        detected_ago=holder.detected_ago,
        is_moved=False,
        retries_failed=True,
        context=TraceContext.of(appeared),
        job_context=TraceContext.of(sending),
    )
    return TakenAttachment(name, settled, appeared, sending)


async def _refuse_endless(conn: Connection, key: VersionKey, holder: Holder) -> None:
    held = await conn.fetchval(_COUNT_HELD, key.collection_id, outermost_uri(holder.source_uri))
    if held > HELD_MAX:
        raise ParserLimit(f"the mail around it holds more than {HELD_MAX:,} files in all: take out those that matter")


def tell(taken: Sequence[TakenAttachment]) -> None:
    """Tell of attachments that are documents now."""
    for one in taken:
        if one.intake.arrival is Arrival.NEW_VERSION:
            end_send_span(one.sending, 1)
            end_file_span(one.appeared, one.intake.collection_id, one.intake.document_id, one.intake.version_id)
