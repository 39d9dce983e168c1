"""Names of files ⇄ names in the database; pure.

A file name is bytes; a `source_uri` is text. Bytes that are no UTF-8, control characters and `%` are percent-encoded, so
the mapping loses nothing and can be undone.
"""

import os
import re

INBOX_SCHEME = "inbox:"
DEFAULT_COLLECTION = "default"
COLLECTION_NAME_LENGTH_MAX = 200
# An index row holds at most 2,704 bytes.
PATH_BYTES_MAX = 2000
MARK_FILE = ".askbox-inbox"

_ESCAPED = re.compile(r"[%\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNESCAPE = re.compile(r"%([0-9A-F]{2})")
# Editors, browsers and office programs write under these names and rename when they are done.
_TEMPORARY = re.compile(
    r"^\.|^~\$|~$|^#.*#$|\.(part|partial|crdownload|download|tmp|temp|swp|swx|swo|lock|filepart)$|^4913$|\.~lock\.",
    re.IGNORECASE,
)


def encode_path(relative: str) -> str:
    """Return a relative path as the file system gives it (undecodable bytes as surrogates) in storable form."""
    return _ESCAPED.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found.group())), relative)


def decode_path(encoded: str) -> str:
    """Undo `encode_path`."""
    raw = b""
    at = 0
    for found in _UNESCAPE.finditer(encoded):
        raw += encoded[at : found.start()].encode() + bytes([int(found[1], 16)])
        at = found.end()
    return os.fsdecode(raw + encoded[at:].encode())


def inbox_uri(relative: str) -> str:
    """Name a file of the inbox."""
    return INBOX_SCHEME + encode_path(relative)


def shortened(relative: str) -> str:
    """Return a path that fits into the list of skipped files."""
    encoded = encode_path(relative)
    return encoded if len(encoded.encode()) <= PATH_BYTES_MAX else encoded[: PATH_BYTES_MAX // 4] + "…"


def display_path(source_uri: str) -> str:
    """Return what people know a document by: the path without its scheme."""
    return source_uri.partition(":")[2]


def collection_of(relative: str) -> str:
    """Return the collection that a file of the inbox belongs to: its first folder, or `default` at the top."""
    folder, separator, _ = relative.partition("/")
    return encode_path(folder) if separator else DEFAULT_COLLECTION


def skip_reason(relative: str) -> str | None:
    """Return why a name is not taken, or None."""
    parts = relative.split("/")
    for part in parts:
        if _TEMPORARY.search(part):
            return "hidden" if part.startswith(".") else "temporary file of another program"
    if len(encode_path(relative).encode()) > PATH_BYTES_MAX:
        return f"the path is too long: at most {PATH_BYTES_MAX} bytes are kept"
    if len(parts) > 1:
        name = collection_of(relative)
        if len(name) > COLLECTION_NAME_LENGTH_MAX or name != name.strip():
            return "the folder's name cannot name a collection: at most 200 characters, no space at its ends"
    return None
