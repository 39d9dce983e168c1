"""The original bytes of a document, sent part by part.

**Invariants:** at most one part is in memory, and no connection is held while a slow caller reads. A browser never shows
an original as a page of ours: it is a download, in a sandbox, of the type that the parser saw.
"""

import re
import unicodedata
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from services.query import ingest_store
from services.query.ingest_store import Original
from services.query.retrieve import snapshot
from shared.database import Pool
from shared.errors import AskboxError

# Sent at a time: a slow caller is given time for each of them.
PIECE_BYTES = 65_536
UNKNOWN_TYPE = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+", re.IGNORECASE | re.ASCII)


class OriginalGone(AskboxError):
    """The document was deleted while its original was being sent."""

    code = "original_gone"


def headers_of(original: Original) -> dict[str, str]:
    """Return the headers of a download."""
    media_type = original.media_type or ""
    return {
        "Content-Type": media_type if _MEDIA_TYPE.fullmatch(media_type) else UNKNOWN_TYPE,
        "Content-Length": str(original.file_bytes),
        "Content-Disposition": disposition_of(original.source_uri),
        "ETag": f'"{original.sha256.hex()}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-cache",
    }


def disposition_of(source_uri: str) -> str:
    """Name a download as RFC 6266 has it: in ASCII for old programs, and as it is for the others."""
    name = source_uri.partition(":")[2].rpartition("/")[2] or "original"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^\w. ()+,=@-]", "_", plain).strip() or "original"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def read_original(pool: Pool, scope: Sequence[int], original: Original) -> AsyncIterator[bytes]:
    """Yield the parts of an original, each read in a transaction of its own.

    Raises: OriginalGone when the document is deleted meanwhile; the answer then breaks off before its announced length.
    """
    sent = ordinal = 0
    while sent < original.file_bytes:
        async with snapshot(pool, scope) as conn:
            part = await ingest_store.read_part(conn, scope, original.blob_id, ordinal)
        if part is None:
            raise OriginalGone
        for start in range(0, len(part), PIECE_BYTES):
            yield part[start : start + PIECE_BYTES]
        sent += len(part)
        ordinal += 1
