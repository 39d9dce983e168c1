"""Names of files ⇄ names in the database; pure.

A file name is bytes; a `source_uri` is text. Bytes that are no UTF-8, control characters and `%` are percent-encoded, so
the mapping loses nothing and can be undone.
"""

import os
import re
import unicodedata
from collections.abc import Sequence

INBOX_SCHEME = "inbox:"
DEFAULT_COLLECTION = "default"
COLLECTION_NAME_LENGTH_MAX = 200
# An index row holds at most 2,704 bytes.
PATH_BYTES_MAX = 2000
MARK_FILE = ".askbox-inbox"
# No path and no name of an upload has an empty part, so this names what lies within a file and nothing else, whatever becomes
# of the file: a folder may take the name of a mail that was deleted a moment ago.
ATTACHMENT_SEPARATOR = "//"
# A mail in a mail in a mail: as deep as that. Names of them all fit into a row of an index behind the longest path.
ATTACHMENT_DEPTH_MAX = 5
ATTACHMENT_NAME_BYTES_MAX = 120

_ENDING_BYTES_MAX = 20
_INVISIBLE_CATEGORIES = frozenset(["Cc", "Cs", "Zl", "Zp"])
# They reorder the text around them, so that a name looks like another one.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# The separators of lines and paragraphs are control characters to a Postgres of some locales, and break lines where they are shown.
_ESCAPED = re.compile(r"[%\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
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


def attachment_depth(source_uri: str) -> int:
    """Return in how many files a document lies: 0 is a file of its own."""
    return source_uri.count(ATTACHMENT_SEPARATOR)


def attachment_uri(holder_uri: str, name: str) -> str:
    """Name a document that lies within another; `name` is one of `attachment_names`."""
    return f"{holder_uri}{ATTACHMENT_SEPARATOR}{name}"


def outermost_uri(source_uri: str) -> str:
    """Return the file in which a document lies, however deep."""
    return source_uri.partition(ATTACHMENT_SEPARATOR)[0]


def attachment_names(written: Sequence[str]) -> list[str]:
    """Return names for files that lie within one file, from those that its author wrote, in order.

    The last part of a path, without what a terminal would obey; one name twice gets a number, as a browser does it.
    """
    names: list[str] = []
    taken: set[str] = set()
    for raw in written:
        last = raw.replace("\\", "/").rpartition("/")[2]
        stem, dot, ending = _storable_name(last).rpartition(".")
        if not stem or len(ending.encode()) > _ENDING_BYTES_MAX:
            stem, dot, ending = _storable_name(last) or "attachment", "", ""
        number = 1
        while (name := _numbered(stem, number, dot + ending)) in taken:
            number += 1
        taken.add(name)
        names.append(name)
    return names


def _storable_name(name: str) -> str:
    kept = "".join(
        c for c in name if unicodedata.category(c) not in _INVISIBLE_CATEGORIES and c not in _REORDERING
    ).strip()
    return kept if kept.strip(".") else ""  # `.` and `..` name folders, also to whoever saves the file


def _numbered(stem: str, number: int, ending: str) -> str:
    ending = f" ({number}){ending}" if number > 1 else ending
    room = ATTACHMENT_NAME_BYTES_MAX - len(ending.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip() + ending
