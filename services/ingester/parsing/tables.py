"""Tables, whatever file they stand in: rows as they are written, and which of them names the columns; pure.

A row is written with its cells between bars. Its chunks know the names of its columns by the context of its block; the
row of names itself and what stands right above it have that context too, or they would be chunks that answer nothing.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from itertools import islice
from statistics import median_low
from typing import NamedTuple

from services.ingester.parsing.blocks import BlockKind
from services.ingester.parsing.office import CONTEXT_CHARACTERS_MAX
from services.ingester.parsing.writer import TextWriter, folded
from shared.text import one_line, storable

# What is looked at to know whether a row names the columns of those below it.
SAMPLE_ROWS = 30
SAMPLE_COLUMNS = 256
# Captions, dates and units that stand above the names.
PREAMBLE_ROWS_MAX = 8
# Each empty row may begin another table; a file with nothing but such rows is not looked at without end.
TABLES_MAX = 1000
# A row with one cell at either end of a sheet would be thousands of bars otherwise.
EMPTY_CELLS_MAX = 4
_BAR = " | "
_NAME_CHARACTERS_MAX = 100
# Without a number below, only what is short and stands once is taken for a name.
_PLAIN_NAME_CHARACTERS_MAX = 60
_TYPED_CHARACTERS_MAX = 40
# A column of numbers may hold a few remarks.
_TYPED_SHARE_MIN = 0.6

_YEAR = re.compile(r"(?:1[89]|2[01])\d\d")
_DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[T ]\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?Z?)?|\d{1,2}:\d\d(?::\d\d)?"
)
_NUMBER = re.compile(
    r"[(<>~±]?[-+\N{MINUS SIGN}]?(?:[$€£¥]|[A-Z]{3} ?)?[-+]?\.?\d[\d.,'’ \N{NO-BREAK SPACE}]*(?:[eE][-+]?\d+)?"
    r" ?(?:%|[$€£¥]|[A-Z]{3})?\)?|TRUE|FALSE|true|false"
)
# What stands for nothing: "n/a", a dash, an error's name.
_NOTHING = re.compile(
    r"[-\N{EN DASH}\N{EM DASH}.?*]+|n/?a|null|nan|#(?:N/A|REF!|DIV/0!|VALUE!|NAME\?|NUM!|NULL!)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?;:]$")


class Row(NamedTuple):
    """The cells of a row that hold something, with their columns, ascending. `line` counts from 1, columns from 0."""

    line: int
    columns: list[int]
    cells: list[str]


class _Kind(Enum):
    """What a cell holds, as far as its text tells."""

    NOTHING = auto()
    TEXT = auto()
    YEAR = auto()
    DATE = auto()
    NUMBER = auto()


class _Names(NamedTuple):
    """The names of a table's columns, and how many rows stand above their own."""

    above_count: int
    text: str


def row_text(columns: Sequence[int], cells: Sequence[str], *, left: int = 0) -> str:
    """Write cells on one line. `left` is the column where the table begins; long gaps are cut short."""
    if columns[-1] - left + 1 == len(cells):
        return folded(_BAR.join(cells))
    parts: list[str] = []
    expected = left
    for column, cell in zip(columns, cells, strict=True):
        parts += [""] * min(column - expected, EMPTY_CELLS_MAX)
        parts.append(cell)
        expected = column + 1
    return folded(_BAR.join(parts))


def write_table(writer: TextWriter, rows: Iterable[Row], *, page: int | None = None) -> str | None:
    """Write rows, each a block, and return what stands alone above the names of the columns, if there is one table: a caption.

    An empty row may divide two tables: names are looked for again below it, and hold on when there are none. Remarks
    below a table, one cell a row, are no part of it.

    Raises: ParserLimit.
    """
    caption: str | None = None
    names = context = ""
    left = 0
    looks_left = TABLES_MAX
    tables_count = 0
    searched_to = 0  # rows up to this one are those above names that were found
    previous: Row | None = None
    for window in _windows(rows):
        row = window[0]
        is_first = previous is None
        if (previous is None or row.line > previous.line + 1) and row.line > searched_to and looks_left:
            looks_left -= 1
            found = _find_names(window, is_first=is_first, has_names=bool(names))
            begin = min(other.columns[0] for other in window)
            left = min(left, begin) if names and found is None else begin
            if found is not None:
                names = found.text
                tables_count += 1
                searched_to = window[found.above_count].line
                caption = _caption(window, found.above_count) if is_first else caption
            context = names if found is not None or _has_columns(window) else ""
        writer.add(
            BlockKind.ROW,
            row_text(row.columns, row.cells, left=min(left, row.columns[0])),
            page=page,
            line=row.line,
            context=context,
            is_joined=not is_first,
        )
        previous = row
    return caption if tables_count == 1 else None


def column_names(rows: Sequence[Sequence[str]]) -> tuple[int, str] | None:
    """Find the row that names the columns of a table by its first rows, cell by cell; return its place and the names."""
    filled = (
        (line, [(column, cell) for column, cell in enumerate(cells) if cell]) for line, cells in enumerate(rows, 1)
    )
    sample = [Row(line, [c for c, _ in cells], [cell for _, cell in cells]) for line, cells in filled if cells]
    # Two columns of words are more often names and what they stand for, side by side.
    is_pairs = max((row.columns[-1] for row in sample), default=0) < 2
    found = _find_names(sample, is_first=True, has_names=is_pairs) if sample else None
    return None if found is None else (sample[found.above_count].line - 1, found.text)


def _windows(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    """Return each row with some of those that follow it."""
    window: deque[Row] = deque()
    for row in rows:
        window.append(row)
        if len(window) == SAMPLE_ROWS:
            yield window
            window.popleft()
    while window:
        yield window
        window.popleft()


def _has_columns(window: Sequence[Row]) -> bool:
    """Whether any row up to the next empty one has more than one cell."""
    return any(len(row.columns) > 1 for row in _until_gap(window))


def _until_gap(window: Sequence[Row]) -> Iterator[Row]:
    previous: Row | None = None
    for row in window:
        if previous is not None and row.line > previous.line + 1:
            return
        yield row
        previous = row


def _caption(window: Sequence[Row], above_count: int) -> str | None:
    return next((row.cells[0] for row in islice(window, above_count) if len(row.cells) == 1), None)


def _find_names(window: Sequence[Row], *, is_first: bool, has_names: bool) -> _Names | None:
    """Find the row that names the columns: the first that is nearly as full as those below it, if it reads so."""
    candidates = list(window if is_first else _until_gap(window))
    sample = [_within_sample(row) for row in window]
    for above_count, row in enumerate(sample[: min(len(candidates), PREAMBLE_ROWS_MAX + 1)]):
        below = sample[above_count + 1 :]
        if not below:
            return None
        typical = median_low([len(other.columns) for other in below])
        count = len(row.columns)
        if (count > 1 or (typical <= 1 and above_count == 0)) and 3 * count >= 2 * typical:
            text = _names(row, below, needs_values=has_names or count == 1)
            return None if text is None else _Names(above_count, text)
    return None


def _within_sample(row: Row) -> Row:
    if row.columns[-1] < SAMPLE_COLUMNS:
        return row
    count = sum(column < SAMPLE_COLUMNS for column in row.columns)
    return Row(row.line, row.columns[: max(1, count)], row.cells[: max(1, count)])


def _names(row: Row, below: Sequence[Row], *, needs_values: bool) -> str | None:
    """Return what a row names its columns, or None when it is a row as any other."""
    kinds = _kinds(below)
    if not _reads_as_names(row, kinds):
        return None
    second = below[0]
    if _completes(row, second) and len(below) > 1:
        kinds_below = _kinds(below[1:])
        if _reads_as_names(second, kinds_below) and _stands_above_values(row, kinds_below):
            return _text_of_names(*_joined(row, second))
    if _stands_above_values(row, kinds) or (not needs_values and _is_unlike_all_below(row, below)):
        return _text_of_names(row.columns, row.cells)
    return None


def _completes(upper: Row, lower: Row) -> bool:
    """Whether a row stands under another, further in, and fills what that leaves empty: the second row of names."""
    return (
        lower.line == upper.line + 1
        and lower.columns[0] > upper.columns[0]
        and bool(set(lower.columns) - set(upper.columns))
    )


def _text_of_names(columns: Sequence[int], cells: Sequence[str]) -> str:
    # A sheet may spell out any character, NUL and half a pair of surrogates too; in a row the writer replaces them.
    return one_line(storable(row_text(columns, cells, left=columns[0]))[0], CONTEXT_CHARACTERS_MAX)


def _joined(upper: Row, lower: Row) -> tuple[list[int], list[str]]:
    """Join names on two rows; one that stands over several columns in the upper belongs to each of them."""
    above = dict(zip(upper.columns, upper.cells, strict=True))
    under = dict(zip(lower.columns, lower.cells, strict=True))
    columns = sorted({*above, *under})
    names: list[str] = []
    over = ""
    for column in columns:
        if column in above:
            over = above[column]
        names.append(f"{over} {under.get(column, '')}".strip())
        if column not in under:  # with nothing below it, it stands over its own column alone
            over = ""
    return columns, names


def _kind(cell: str) -> _Kind:
    text = cell.strip()
    if len(text) > _TYPED_CHARACTERS_MAX:
        return _Kind.TEXT
    if _YEAR.fullmatch(text):
        return _Kind.YEAR
    if _DATE.fullmatch(text):
        return _Kind.DATE
    if _NUMBER.fullmatch(text):
        return _Kind.NUMBER
    return _Kind.NOTHING if _NOTHING.fullmatch(text) or not text else _Kind.TEXT


def _kinds(rows: Sequence[Row]) -> dict[int, Counter[_Kind]]:
    """Count what each column holds; what stands for nothing does not count."""
    kinds: dict[int, Counter[_Kind]] = {}
    for row in rows:
        for column, cell in zip(row.columns, row.cells, strict=True):
            kind = _kind(cell)
            if kind is not _Kind.NOTHING:
                kinds.setdefault(column, Counter())[kind] += 1
    return kinds


def _most(counted: Counter[_Kind] | None) -> _Kind:
    if not counted:
        return _Kind.NOTHING
    values = counted[_Kind.NUMBER] + counted[_Kind.YEAR] + counted[_Kind.DATE]
    if values < _TYPED_SHARE_MIN * counted.total():
        return _Kind.TEXT
    return max((_Kind.NUMBER, _Kind.YEAR, _Kind.DATE), key=lambda kind: counted[kind])


def _reads_as_names(row: Row, kinds: dict[int, Counter[_Kind]]) -> bool:
    """Whether the cells of a row may be names: words, or years and days above something else."""
    if 2 * len(set(row.cells)) < len(row.cells) or (len(row.cells) > 1 and len(set(row.cells)) == 1):
        return False
    words_count = 0
    for column, cell in zip(row.columns, row.cells, strict=True):
        kind = _kind(cell)
        if kind is _Kind.TEXT and len(cell) <= _NAME_CHARACTERS_MAX:
            words_count += 1
        elif kind not in (_Kind.YEAR, _Kind.DATE) or _most(kinds.get(column)) is kind:
            return False
    # Years alone name columns when the rows below begin with words.
    return words_count > 0 or any(
        column < row.columns[0] and _most(counted) is _Kind.TEXT for column, counted in kinds.items()
    )


def _stands_above_values(row: Row, kinds: dict[int, Counter[_Kind]]) -> bool:
    return any(_most(kinds.get(column)) not in (_Kind.TEXT, _Kind.NOTHING) for column in row.columns)


def _is_unlike_all_below(row: Row, below: Sequence[Row]) -> bool:
    """Whether a row of words above words may be their names: short, each once, and none of them again below."""
    names = dict(zip(row.columns, row.cells, strict=True))
    if len(set(names.values())) < len(names):
        return False
    if any(len(name) > _PLAIN_NAME_CHARACTERS_MAX or _SENTENCE_END.search(name) for name in names.values()):
        return False
    return not any(
        names.get(column) == cell for other in below for column, cell in zip(other.columns, other.cells, strict=True)
    )
