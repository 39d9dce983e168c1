"""The parts of a message as bytes within the file: headers, boundaries, encodings; pure.

The standard library's parser is built of nested generators, keeps each line as a string of its own, and looks at each line
once for every multipart it lies in; its header parser is recursive. Here parts are spans of the file's bytes, found without
recursion, and only short headers are handed to the library.
"""

import base64
import binascii
import codecs
import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from services.ingester.parsing.decoding import decode
from services.ingester.parsing.writer import folded
from shared.errors import CorruptFile, ParserLimit

DEPTH_MAX = 100
PARTS_MAX = 2000
HEADER_BYTES_MAX = 256 * 1024
# A list of addresses may be long. What the library takes apart, a type with its parameters, is short.
FIELD_CHARACTERS_MAX = 32_768
PARAMETER_CHARACTERS_MAX = 4000
PIECE_BYTES = 512 * 1024
BOUNDARY_LINE_BYTES_MAX = 1000

_FIELD = re.compile(rb"([!-9;-~]{1,200})[ \t]*:[ \t]*")
_ENVELOPE = re.compile(rb">?From ")
_WORD = re.compile(r"=\?([^?\s*]{1,60})(?:\*[^?\s]{0,20})?\?([bBqQ])\?([^?]*)\?=")
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
_PADDING = re.compile(rb"=+")
# Encodings whose bytes are ASCII: those of other texts would be valid too.
_STATEFUL = re.compile(r"iso-?2022|^hz|utf-?7", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that holds no other parts: a text, a file, a message. `content[start:end]` is its encoded body.

    `is_shown` is false for a text that says once more what another one says; `is_embedded` is true for what belongs to a
    page: its pictures, its styles.
    """

    headers: dict[str, str]
    media_type: str
    start: int
    end: int
    is_shown: bool
    is_embedded: bool

    @property
    def encoding(self) -> str:
        """How the body is encoded."""
        return self.headers.get("content-transfer-encoding", "").strip().lower()

    @property
    def disposition(self) -> str:
        """`attachment`, `inline` or whatever the message says, and nothing when it says nothing."""
        return self.headers.get("content-disposition", "").partition(";")[0].strip().lower()

    @property
    def file_name(self) -> str:
        """The name that the message gives it, if it does."""
        for header, parameter in (("content-disposition", "filename"), ("content-type", "name")):
            found = parameter_of(self.headers.get(header, ""), parameter)
            if found:
                return folded(decoded_words(found))
        return ""

    @property
    def charset(self) -> str:
        """The encoding that a text says it has."""
        return parameter_of(self.headers.get("content-type", ""), "charset")


def headers_of(content: bytes, start: int, end: int) -> tuple[dict[str, str], int]:
    """Read the headers of a part: the first of each name, in lower case; and where its body begins."""
    region = content[start : min(end, start + HEADER_BYTES_MAX)]
    fields: dict[str, bytearray] = {}
    current: bytearray | None = None
    at = 0
    for line in region.splitlines(keepends=True):
        bare = line.rstrip(b"\r\n")
        if not bare.strip() and (fields or start or bare):
            at += len(line)
            if fields or start:
                break
            continue
        field = _FIELD.match(bare)
        if bare[:1] in (b" ", b"\t") and current is not None:
            current += b" " + bare.strip()
        elif field is not None:
            name = field[1].decode("ascii").lower()
            current = bytearray(bare[field.end() :])
            fields.setdefault(name, current)
        elif bare and not (_ENVELOPE.match(bare) and not fields):
            break  # no header, and no empty line before it: the text has begun
        at += len(line)
    return {name: _field_text(bytes(value)) for name, value in fields.items()}, start + at


def _field_text(value: bytes) -> str:
    return decode(value[: 4 * FIELD_CHARACTERS_MAX])[0][:FIELD_CHARACTERS_MAX]


def media_type_of_part(headers: dict[str, str], default: str = "text/plain") -> str:
    """Return the type that a part says it has."""
    named = headers.get("content-type", "").partition(";")[0].strip().lower()
    return named if re.fullmatch(r"[\w.+-]+/[\w.+-]+", named) else default


def parameter_of(value: str, name: str) -> str:
    """Return a parameter of a header, in all the ways in which it can be written."""
    message = Message()
    message["Content-Type"] = " ".join(value[:PARAMETER_CHARACTERS_MAX].split())
    try:
        found = message.get_param(name, "")
    except (ValueError, LookupError, TypeError):
        return ""
    if isinstance(found, tuple):  # with its own charset, and percent-encoded
        charset, _, text = found
        return as_text(text.encode("latin-1", "replace"), charset or "utf-8")
    return str(found).strip()


def decoded_words(value: str) -> str:
    """Return a header with its encoded words read. Neighbours of one charset are joined before: programs cut characters."""
    written: list[str] = []
    pending, charset = b"", ""
    at = 0
    for word in _WORD.finditer(value):
        gap = value[at : word.start()]
        at = word.end()
        if pending and (gap.strip() or word[1].lower() != charset):
            written.append(as_text(pending, charset))
            pending = b""
            written.append(gap if gap.strip() else "")
        elif not pending:
            written.append(gap if gap.strip() or not written else "")
        charset = word[1].lower()
        if word[2] in "bB":
            pending += b"".join(_base64_pieces(word[3].encode("ascii", "ignore")))
        else:
            pending += quopri.decodestring(word[3].encode("utf-8", "replace"), header=True)
    if pending:
        written.append(as_text(pending, charset))
    return "".join([*written, value[at:]])


def as_text(content: bytes, charset: str) -> str:
    """Decode the text of a part; what it says of itself counts where the bytes do not tell."""
    if _STATEFUL.search(charset):
        try:
            return content.decode(codecs.lookup(charset).name)
        except (LookupError, UnicodeDecodeError):
            pass
    return decode(content, charset.strip("\"' ") or None)[0]


def body_pieces(content: bytes, part: Part) -> Iterator[bytes]:
    """Decode the body of a part, a bounded piece at a time."""
    if part.encoding == "base64":
        yield from _base64_pieces(memoryview(content)[part.start : part.end])
    elif part.encoding == "quoted-printable":
        yield from _quoted_pieces(content, part.start, part.end)
    elif part.encoding in ("x-uuencode", "uuencode", "uue", "x-uue"):
        yield from _uu_pieces(content[part.start : part.end])
    else:
        for at in range(part.start, part.end, PIECE_BYTES):
            yield content[at : min(part.end, at + PIECE_BYTES)]


def file_pieces(content: bytes, part: Part) -> Iterator[bytes]:
    """Decode an attachment. A text whose encoding is known from the message alone becomes UTF-8: nobody could tell later."""
    try:
        known = codecs.lookup(part.charset.strip("\"' ") or "utf-8") if part.media_type.startswith("text/") else None
    except LookupError:
        known = None
    is_text = known is not None and known._is_text_encoding and known.name not in ("utf-8", "ascii")  # noqa: SLF001 (zip is a codec too)
    if known is None or not is_text or (not _STATEFUL.search(known.name) and _is_utf8(body_pieces(content, part))):
        yield from body_pieces(content, part)
        return
    decoder = codecs.getincrementaldecoder(known.name)(errors="replace")
    for piece in body_pieces(content, part):
        yield decoder.decode(piece).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def _is_utf8(pieces: Iterator[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in pieces:
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _base64_pieces(encoded: bytes | memoryview) -> Iterator[bytes]:
    """Decode base64 without what does not belong there; padding ends a run, and some programs write several."""
    rest = b""
    for at in range(0, len(encoded), PIECE_BYTES):
        clean = rest + bytes(encoded[at : at + PIECE_BYTES]).translate(None, _NOT_BASE64)
        *ended, last = _PADDING.split(clean)
        whole = len(last) - len(last) % 4
        decoded = b"".join([*map(_base64, ended), _base64(last[:whole])])
        rest = last[whole:]
        if decoded:
            yield decoded
    if rest:
        yield _base64(rest)


def _base64(clean: bytes) -> bytes:
    """Decode one run; a character that is left over is lost."""
    kept = clean[:-1] if len(clean) % 4 == 1 else clean
    return base64.b64decode(kept + b"=" * (-len(kept) % 4))


def _quoted_pieces(content: bytes, start: int, end: int) -> Iterator[bytes]:
    at = start
    while at < end:
        cut = min(end, at + PIECE_BYTES)
        if cut < end:
            line_end = content.rfind(b"\n", at, cut)
            if line_end >= 0:
                cut = line_end + 1
            else:  # an endless line: no code is cut
                escape = content.rfind(b"=", cut - 2, cut)
                cut = escape if escape > at else cut
        yield binascii.a2b_qp(content[at:cut])
        at = cut


def _uu_pieces(content: bytes) -> Iterator[bytes]:
    for line in content.splitlines():
        if line.startswith((b"begin ", b"end")) or not line.strip():
            continue
        try:
            yield binascii.a2b_uu(line)
        except binascii.Error:
            # Programs that pad lines: as many characters as the length asks for.
            count = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                yield binascii.a2b_uu(line[:count])
            except binascii.Error:
                continue


def leaves_of(content: bytes, headers: dict[str, str], start: int) -> list[Part]:
    """Return the parts of a message that hold no others, in the order of the file.

    Raises: CorruptFile when they are nested without end · ParserLimit when there are too many.
    """
    found: list[Part] = []
    pending = [_Node(headers, media_type_of_part(headers), start, len(content), 0)]
    seen = 1
    while pending:
        node = pending.pop()
        children = _children(content, node) if node.media_type.startswith("multipart/") else None
        if children is None:
            is_text = node.media_type.startswith("multipart/")  # without a boundary that stands in it
            media_type = "text/plain" if is_text else node.media_type
            found.append(Part(node.headers, media_type, node.start, node.end, node.is_shown, node.is_embedded))
            continue
        seen += len(children)
        if seen > PARTS_MAX:
            raise ParserLimit(f"the message has more than {PARTS_MAX:,} parts: save what is in it, then drop that")
        if node.depth == DEPTH_MAX:
            raise CorruptFile(f"the parts of the message are nested more than {DEPTH_MAX} deep: save what is in it")
        pending += reversed(children)
    return found


@dataclass(frozen=True, slots=True)
class _Node:
    headers: dict[str, str]
    media_type: str
    start: int
    end: int
    depth: int
    is_shown: bool = True
    is_embedded: bool = False


def _children(content: bytes, node: _Node) -> list[_Node] | None:
    boundary = parameter_of(node.headers.get("content-type", ""), "boundary").encode("utf-8", "replace")
    spans = _spans(content, node.start, node.end, boundary) if boundary else None
    if spans is None:
        return None
    default = "message/rfc822" if node.media_type == "multipart/digest" else "text/plain"
    read = []
    for start, end in spans:
        headers, body = headers_of(content, start, end)
        read.append((headers, media_type_of_part(headers, default), min(body, end), end))
    chosen = _alternative(content, read) if node.media_type == "multipart/alternative" else None
    is_page = node.media_type == "multipart/related"
    return [
        _Node(
            *part,
            depth=node.depth + 1,
            is_shown=node.is_shown and (chosen is None or place == chosen),
            is_embedded=node.is_embedded or (is_page and place > 0 and "content-id" in part[0]),
        )
        for place, part in enumerate(read)
    ]


def _alternative(content: bytes, parts: list[tuple[dict[str, str], str, int, int]]) -> int:
    """Choose the part that is read: plain text unless it is empty, or else the last of those that hold text."""
    for place, (_, media_type, start, end) in enumerate(parts):
        if media_type == "text/plain" and content[start : min(end, start + PIECE_BYTES)].strip():
            return place
    rich = [place for place, part in enumerate(parts) if part[1].startswith(("text/html", "multipart/"))]
    return rich[-1] if rich else 0


def _spans(content: bytes, start: int, end: int, boundary: bytes) -> list[tuple[int, int]] | None:
    """Return where the parts between boundaries lie, or None when no boundary is there."""
    delimiter = b"\n--" + boundary
    spans: list[tuple[int, int]] = []
    begun: int | None = None
    # The line end before the first boundary may be that of the headers.
    found = start if content.startswith(delimiter[1:], start) else content.find(delimiter, start, end)
    while found >= 0:
        at = found + len(delimiter) - (content[found : found + 1] != b"\n")
        is_last = content[at : min(end, at + 2)] == b"--"
        line_end = content.find(b"\n", at, min(end, at + BOUNDARY_LINE_BYTES_MAX))
        line_end = end if line_end < 0 else line_end
        if not content[at + 2 * is_last : min(line_end, at + BOUNDARY_LINE_BYTES_MAX)].strip():
            if begun is not None:
                cut = found - 1 if content[found - 1 : found] == b"\r" else found
                spans.append((begun, max(begun, cut)))
            begun = None if is_last else min(end, line_end + 1)
            if is_last or len(spans) > PARTS_MAX:
                break
            at = line_end
        found = content.find(delimiter, at, end)
    if begun is not None:
        spans.append((begun, end))
    return spans or None
