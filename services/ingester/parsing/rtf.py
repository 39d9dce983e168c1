"""RTF: paragraphs, headings, items, rows and notes; pictures and what programs keep for themselves are left out.

Groups are kept on a list and not in the program's own stack: an author decides how deep they go.
"""

import codecs
import re
from dataclasses import dataclass, field, replace

from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter, folded, without_invisible
from shared.errors import CorruptFile

GROUPS_MAX = 50_000
NOTES_MAX = 100_000
_TOKEN = re.compile(
    rb"""\\(?:(?P<word>[a-zA-Z]{1,32})(?P<number>-?[0-9]{1,9})?+[ ]?|'(?P<hex>[0-9a-fA-F]{2})|(?P<symbol>.))
      | (?P<group>[{}]) | (?P<text>[^\\{}\r\n]++) | [\r\n]++""",
    re.VERBOSE | re.DOTALL,
)
_STYLE_NAME = re.compile(r"heading (\d)$|(title)$", re.IGNORECASE)

# Groups whose text nobody reads as the document's. Others with a star before their name are left out too.
_SILENT_NAMES = (
    "colortbl pict objdata objclass objname header headerl headerr headerf footer footerl footerr footerf themedata "
    "colorschememapping datastore latentstyles listtable listoverridetable rsidtbl generator xmlnstbl mmathPr fldinst "
    "bkmkstart bkmkend filetbl revtbl pgptbl nonshppict pntxta pntxtb pnseclvl atnid atnauthor atndate annotation tc xe "
    "sp private template"
)
_SILENT = frozenset(_SILENT_NAMES.split())
_STARRED = frozenset(["shpinst"])
_INFO = frozenset(["title", "author"])
_CHARACTERS = {
    "tab": "\t",
    "line": "\n",
    "softline": "\n",
    "emdash": "—",
    "endash": "–",
    "lquote": "‘",
    "rquote": "’",
    "ldblquote": "“",
    "rdblquote": "”",
    "bullet": "•",
    "emspace": " ",
    "enspace": " ",
    "qmspace": " ",
    "nestcell": " | ",
    "nestrow": "\n",
}
_SYMBOLS = {b"~": "\N{NO-BREAK SPACE}", b"_": "-", b"\\": "\\", b"{": "{", b"}": "}"}
# Character sets of fonts, by number; of the others the document's own code page holds.
_CHARSETS = {
    0: "cp1252",
    77: "mac_roman",
    128: "cp932",
    129: "cp949",
    130: "johab",
    134: "gbk",
    136: "cp950",
    161: "cp1253",
    162: "cp1254",
    163: "cp1258",
    177: "cp1255",
    178: "cp1256",
    186: "cp1257",
    204: "cp1251",
    222: "cp874",
    238: "cp1250",
    254: "cp437",
    255: "cp850",
}
_PAGES = {"65001": "utf-8", "10000": "mac_roman", "936": "gbk", "1361": "johab"}
_OLD_PAGES = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}


def parse_rtf(content: bytes) -> ParsedDocument:
    """Read a document of a word processor.

    Raises: CorruptFile when its groups nest without end · ParserLimit.
    """
    reader = _Reader()
    reader.read(content)
    title = meaningful_title(reader.info_text("title")) or meaningful_title(reader.title)
    return reader.writer.document(title or reader.writer.main_heading, {"author": reader.info_text("author")})


@dataclass(slots=True)
class _State:
    """What a group inherits and gives back at its end. `out` is where text goes; None leaves it out."""

    out: list[str] | None
    place: str = ""  # the table or information that the group is in
    font: int | None = None
    fallback_count: int = 1
    is_hidden: bool = False


@dataclass(slots=True)
class _Paragraph:
    """What is known of the paragraph that is being read."""

    style: int = 0
    outline_level: int = 0
    is_in_table: bool = False
    is_item: bool = False


@dataclass(slots=True)
class _Body:
    """The text that belongs to the document, until its paragraph ends."""

    parts: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    notes: list[list[str]] = field(default_factory=list)


class _Reader:
    def __init__(self) -> None:
        self.writer = TextWriter()
        self.title: str | None = None
        self._body = _Body()
        self._paragraph = _Paragraph()
        self._info: dict[str, list[str]] = {}
        self._state = _State(self._body.parts)
        self._groups: list[_State] = []
        self._bytes = bytearray()
        self._page = "cp1252"
        self._fonts: dict[int, str] = {}
        self._declared_font = 0
        self._default_font = 0
        self._styles: dict[int, int] = {}
        self._title_styles: set[int] = set()
        self._style = _Paragraph()
        self._style_name: list[str] = []
        self._is_starred = False
        self._skip = 0  # characters that repeat a Unicode one for old readers
        self._last_kind = BlockKind.PROSE
        self._last_was_item = False

    def info_text(self, name: str) -> str:
        """Return what the document says of itself."""
        return _whole("".join(self._info.get(name, [])))

    def read(self, content: bytes) -> None:
        """Read all of it."""
        at = 0
        while at < len(content):
            found = _TOKEN.match(content, at)
            if found is None:  # a backslash at the very end
                break
            at = found.end()
            match found.lastgroup:
                case "text":
                    self._add_bytes(found["text"])
                case "hex":
                    self._add_bytes(bytes.fromhex(found["hex"].decode()))
                case "group":
                    self._take_group(found["group"])
                case "symbol":
                    self._take_symbol(found["symbol"])
                case "word" | "number":
                    word, number = found["word"].decode(), found["number"]
                    if word == "bin":
                        at += max(0, int(number or 0))
                    else:
                        self._take_word(word, None if number is None else int(number))
        self._flush()
        self._paragraph.is_in_table = False
        self._end_paragraph()

    def _add_bytes(self, data: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._bytes += data
        self._is_starred = False

    def _add(self, text: str) -> None:
        self._flush()
        if self._skip:
            self._skip -= 1
        elif self._state.out is not None and not self._state.is_hidden:
            self._state.out.append(text)

    def _flush(self) -> None:
        """Decode the bytes so far; a character of some code pages is two of them."""
        if self._bytes and self._state.out is not None and not self._state.is_hidden:
            font = self._default_font if self._state.font is None else self._state.font
            self._state.out.append(self._bytes.decode(self._fonts.get(font, self._page), errors="replace"))
        self._bytes.clear()

    def _take_group(self, mark: bytes) -> None:
        self._flush()
        self._skip = 0
        self._is_starred = False
        if mark == b"{":
            if len(self._groups) >= GROUPS_MAX:
                raise CorruptFile(f"the file nests more than {GROUPS_MAX:,} groups: open and save it again")
            self._groups.append(self._state)
            self._state = replace(self._state)
            return
        if self._state.place == "stylesheet":
            self._end_style()
        if self._groups:
            self._state = self._groups.pop()

    def _take_symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._is_starred = True
        elif symbol in (b"\r", b"\n"):
            self._take_word("par", None)
        elif symbol in _SYMBOLS:
            self._add(_SYMBOLS[symbol])

    def _take_word(self, word: str, number: int | None) -> None:
        self._flush()
        is_starred, self._is_starred = self._is_starred, False
        state = self._state
        if word in _SILENT or (is_starred and word not in _STARRED):
            state.out = None
            state.place = word
        elif word == "u" and number is not None:
            self._add(chr(number & 0xFFFF))
            self._skip = state.fallback_count
        elif word == "uc":
            state.fallback_count = min(max(number or 0, 0), 100)
        elif word in _CHARACTERS:
            self._add(_CHARACTERS[word])
        elif word in ("v", "deleted"):
            state.is_hidden = number != 0
        elif word == "plain":
            state.is_hidden = False
            state.font = None
        elif not self._take_destination(word) and not self._take_font(word, number):
            self._take_paragraph(word, number)

    def _take_destination(self, word: str) -> bool:
        """Begin a part of the file that is not its body."""
        state = self._state
        if word in ("fonttbl", "stylesheet", "info"):
            state.place, state.out = word, None
        elif state.place == "info" and word in _INFO:
            state.place, state.out = "", self._info.setdefault(word, [])
        elif word == "footnote" and state.out is self._body.parts and len(self._body.notes) < NOTES_MAX:
            note: list[str] = []
            self._body.notes.append(note)
            state.out = note
        elif word in ("listtext", "pntext"):
            self._paragraph.is_item = True
        else:
            return False
        return True

    def _take_font(self, word: str, number: int | None) -> bool:
        state = self._state
        if word == "f" and number is not None:
            if state.place == "fonttbl":
                self._declared_font = number
            else:
                state.font = number
        elif word == "fcharset" and state.place == "fonttbl":
            if number in _CHARSETS:
                self._fonts[self._declared_font] = _CHARSETS[number]
        elif word == "deff":
            self._default_font = number or 0
        elif word == "ansicpg":
            self._page = _known(_PAGES.get(str(number), f"cp{number}"))
        elif word in _OLD_PAGES:
            self._page = _OLD_PAGES[word]
        else:
            return False
        return True

    def _take_paragraph(self, word: str, number: int | None) -> None:
        state = self._state
        paragraph = self._style if state.place == "stylesheet" else self._paragraph
        if word == "pard":
            is_item, self._paragraph = self._paragraph.is_item, _Paragraph()
            self._paragraph.is_item = is_item and bool(self._body.parts)
        elif word == "s":
            paragraph.style = number or 0
            if state.place == "stylesheet":
                state.out = self._style_name
        elif word == "outlinelevel" and number is not None and 0 <= number < 9:
            paragraph.outline_level = number + 1
        elif word == "intbl":
            paragraph.is_in_table = True
        elif state.out is not self._body.parts:
            if word == "par":
                self._add("\n")
        elif word in ("par", "sect", "page"):
            self._end_paragraph()
        elif word == "cell":
            self._body.cells.append(folded(_whole("".join(self._body.parts))))
            self._body.parts.clear()
        elif word == "row":
            self._end_row()

    def _end_style(self) -> None:
        """Remember which styles are those of headings."""
        name = _STYLE_NAME.match("".join(self._style_name).strip().rstrip(";"))
        if name and name[2]:
            self._title_styles.add(self._style.style)
        if name and name[1]:
            self._styles[self._style.style] = int(name[1])
        elif self._style.outline_level:
            self._styles[self._style.style] = self._style.outline_level
        self._style = _Paragraph()
        self._style_name.clear()

    def _end_paragraph(self) -> None:
        if self._paragraph.is_in_table:
            self._body.parts.append(" ")
            return
        self._end_row()
        lines = [" ".join(line.split()) for line in without_invisible(_whole("".join(self._body.parts))).split("\n")]
        self._body.parts.clear()
        text = "\n".join(line for line in lines if line)
        paragraph = self._paragraph
        level = paragraph.outline_level or self._styles.get(paragraph.style, 0)
        if text and paragraph.style in self._title_styles:
            self.title = self.title or folded(text)
            level = level or 1
        if text and level:
            self.writer.add(BlockKind.HEADING, folded(text), level=level)
            self._last_was_item = False
        elif text:
            self.writer.add(BlockKind.PROSE, text, is_joined=paragraph.is_item and self._last_was_item)
            self._last_was_item = paragraph.is_item
        self._last_kind = BlockKind.PROSE
        paragraph.is_item = False
        self._write_notes()

    def _end_row(self) -> None:
        cells = self._body.cells
        if any(cells):
            self.writer.add(BlockKind.ROW, " | ".join(cells), is_joined=self._last_kind is BlockKind.ROW)
            self._last_kind = BlockKind.ROW
            self._last_was_item = False
        cells.clear()
        if self._body.notes and not self._body.parts:
            self._write_notes()

    def _write_notes(self) -> None:
        notes, self._body.notes = self._body.notes, []
        for note in notes:
            self.writer.add(BlockKind.PROSE, folded(_whole("".join(note))))


def _whole(text: str) -> str:
    """Join the two halves in which characters beyond the first plane are written."""
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")


def _known(codec: str) -> str:
    try:
        return codecs.lookup(codec).name
    except LookupError:
        return "cp1252"
