"""XML read piece by piece, for parts whose tree would not fit into memory; pure.

Nothing is built: a handler is told of each element as it begins and ends. Document types are refused, and with them all
entities of an author's making. How deep elements nest, how many names they have and how long a tag is are bounded, for
those are what the parser itself has to remember.
"""

from collections.abc import Iterator
from typing import NoReturn, Protocol
from xml.parsers import expat

from shared.errors import CorruptFile, ParserLimit

# Also the longest tag or text: at each piece the parser goes back to where its last whole one ended.
PIECE_BYTES = 1024 * 1024
NESTING_MAX = 256
NAMES_MAX = 10_000
# Names of attributes have their namespace before this, if they have one.
SEPARATOR = " "


class Handler(Protocol):
    """Told of a part's elements, without the namespaces of their names: strict and transitional documents differ."""

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """Take note that an element begins."""

    def end(self, tag: str) -> None:
        """Take note that an element ends."""

    def characters(self, text: str) -> None:
        """Take note of text."""


def read_elements(part: str, content: bytes, handler: Handler) -> None:
    """Tell a handler of all elements of a part.

    Raises: CorruptFile · ParserLimit.
    """
    for _ in read_pieces(part, content, handler):
        pass


def read_pieces(part: str, content: bytes, handler: Handler) -> Iterator[None]:
    """Tell a handler of the elements of a part, and pause after each piece so that what it collected can be taken away.

    Raises: CorruptFile · ParserLimit.
    """
    guard = _Guard(part, handler)
    parser = expat.ParserCreate(namespace_separator=SEPARATOR, intern=None)  # None: remember no names
    parser.buffer_text = True
    parser.StartElementHandler = guard.begin
    parser.EndElementHandler = guard.end
    parser.CharacterDataHandler = handler.characters
    parser.StartDoctypeDeclHandler = guard.refuse_type
    try:
        for at in range(0, len(content), PIECE_BYTES):
            piece = content[at : at + PIECE_BYTES]
            if len(piece) == PIECE_BYTES and b">" not in piece:
                raise CorruptFile(f"its part {part} has a tag of more than {PIECE_BYTES:,} bytes: save the file again")
            parser.Parse(piece, False)
            yield
        parser.Parse(b"", True)
        yield
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
            raise ParserLimit(f"its part {part} needs more memory than the parser may have: split the file") from None
        raise CorruptFile(f"its part {part} is no proper XML ({error}): open and save the file again") from None
    except (ValueError, LookupError) as error:  # an encoding that does not exist
        raise CorruptFile(f"its part {part} is no proper XML ({error}): open and save the file again") from None


class _Guard:
    """Stands between parser and handler, and counts what an author could make endless."""

    def __init__(self, part: str, handler: Handler) -> None:
        self._part = part
        self._begin = handler.begin
        self._end = handler.end
        self._depth = 0
        self._local: dict[str, str] = {}

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        tag = self._local.get(name)
        if tag is None:
            tag = self._remember(name)
        if self._depth > NESTING_MAX:
            raise CorruptFile(f"its part {self._part} nests more than {NESTING_MAX} elements: save the file again")
        self._begin(tag, attributes)

    def end(self, name: str) -> None:
        self._depth -= 1
        self._end(self._local[name])

    def _remember(self, name: str) -> str:
        if len(self._local) >= NAMES_MAX:
            raise CorruptFile(f"its part {self._part} has more than {NAMES_MAX:,} kinds of elements: save it again")
        self._local[name] = name.rpartition(SEPARATOR)[2]
        return self._local[name]

    def refuse_type(self, *_: object) -> NoReturn:
        raise CorruptFile(
            f"its part {self._part} declares a document type, which no office program writes: save it again"
        )
