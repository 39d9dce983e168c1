"""CSV and its kin: rows whole, each with the names of its columns.

Which character divides the cells is told by the content, not by the name. Rows are numbered as a spreadsheet program
shows the file: the first is 1, a cell of several lines makes one row, an empty line is one, and Excel's `sep=;` is none.
A quote that is never closed divides no lines: its line is read as it stands, and reading goes on behind it.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from services.ingester.parsing.blocks import LineUnit, ParsedDocument
from services.ingester.parsing.plain import parse_plain
from services.ingester.parsing.tables import Row, write_table
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter

SAMPLE_CHARACTERS = 65_536
SAMPLE_RECORDS = 200
# When two divide the rows equally well, the rarer in texts and numbers: a comma may be a decimal one.
DELIMITERS = ("\t", ";", "|", ",")
# A longer row is read line by line, and a longer line as it stands: cells take thirty times the memory of their characters.
ROW_CHARACTERS_MAX = 4 * 1024 * 1024
_NO_DELIMITER = "\x1f"
_SAME_COUNT_SHARE_MIN = 0.6
_SEVERAL_SHARE_MIN = 0.9
# Lines of so many words are sentences; commas divide those too, but seldom the same number in each line.
_PROSE_WORDS_MIN = 8
_PROSE_LINES_SHARE_MIN = 1 / 3
_PROSE_SHARE_MAX = 0.95
_SPACED_SHARE_MIN = 0.9
_SEPARATOR_LINE = re.compile(r"\"?sep=([^\w\s\"]|\t)\"?[ \t]*(?:\n|\Z)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Division:
    """How a character divides a sample. Units: shares of its rows that are not empty."""

    delimiter: str
    same_count_share: float  # with the commonest number of cells
    several_share: float  # with more than one cell
    broken_share: float  # with a quote where none can stand

    @property
    def is_table(self) -> bool:
        return self.same_count_share >= _SAME_COUNT_SHARE_MIN or self.several_share >= _SEVERAL_SHARE_MIN

    @property
    def rank(self) -> tuple[float, float]:
        return self.same_count_share - self.broken_share, self.several_share


@dataclass(slots=True)
class _Broken:
    """Counts the rows whose quotes do not fit."""

    count: int = 0


def parse_delimited(text: str, replaced: int) -> ParsedDocument:
    """Read a table; what turns out to be prose is read as plain text.

    Raises: ParserLimit.
    """
    declared = _SEPARATOR_LINE.match(text)
    start = declared.end() if declared else 0
    delimiter = declared[1] if declared else find_delimiter(text)
    if delimiter is None and _reads_as_prose(_sample(text), None):
        return parse_plain(text, replaced)
    writer = TextWriter()
    caption = write_table(writer, _rows(text, start, delimiter or _NO_DELIMITER))
    return writer.document(meaningful_title(caption), {}, replaced_before=replaced, line_unit=LineUnit.ROW)


def find_delimiter(text: str) -> str | None:
    """Return the character that divides the cells of a table; None when the text has one column, or is prose."""
    sample = _sample(text)
    divisions = [division for delimiter in DELIMITERS if (division := _divide(sample, delimiter)) is not None]
    best = max(divisions, key=lambda division: division.rank, default=None)  # of equals the first
    if best is None or not best.is_table or _reads_as_prose(sample, best):
        return None
    return best.delimiter


def _sample(text: str) -> str:
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    end = text.rfind("\n", 0, SAMPLE_CHARACTERS)
    return text[: end + 1] if end > 0 else text[:SAMPLE_CHARACTERS]


def _divide(sample: str, delimiter: str) -> _Division | None:
    if delimiter not in sample:
        return None
    broken = _Broken()
    records = islice(_records(sample, 0, delimiter, broken), SAMPLE_RECORDS)
    counts = Counter(len(record) for record in records if any(cell.strip() for cell in record))
    if not counts:
        return None
    ((common, common_count),) = counts.most_common(1)
    if common < 2:
        return None
    total = counts.total()
    return _Division(delimiter, common_count / total, 1 - counts[1] / total, broken.count / total)


def _reads_as_prose(sample: str, division: _Division | None) -> bool:
    """Whether a text that may be named a table consists of sentences."""
    lines = [line for line in sample.split("\n") if line.strip()][:SAMPLE_RECORDS]
    if not lines or any(line.lstrip().startswith('"') for line in lines):
        return False
    if sum(len(line.split()) >= _PROSE_WORDS_MIN for line in lines) < _PROSE_LINES_SHARE_MIN * len(lines):
        return False
    if division is None:
        return True
    spaced = sum(line.count(f"{division.delimiter} ") + line.endswith(division.delimiter) for line in lines)
    total = sum(line.count(division.delimiter) for line in lines)
    return (
        division.delimiter == ","
        and division.same_count_share < _PROSE_SHARE_MAX
        and spaced >= _SPACED_SHARE_MIN * total
    )


def _rows(text: str, start: int, delimiter: str) -> Iterator[Row]:
    for line, record in enumerate(_records(text, start, delimiter, _Broken()), start=1):
        if record and all(map(str.strip, record)):  # as nearly always
            yield Row(line, list(range(len(record))), record)
            continue
        columns = [column for column, cell in enumerate(record) if cell and not cell.isspace()]
        if len(columns) == len(record):
            if columns:
                yield Row(line, columns, record)
        elif columns:
            yield Row(line, columns, [record[column] for column in columns])


class _Lines:
    """Goes through a text line by line, and back to where it is told. The text is not copied.

    The lines of one row, which begins at `begin`, are bounded.
    """

    def __init__(self, text: str, at: int) -> None:
        self.at = self.begin = at
        self._text = text

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        at = self.at
        if at >= len(self._text):
            raise StopIteration
        self.at = self._text.find("\n", at) + 1 or len(self._text)
        if self.at - self.begin > ROW_CHARACTERS_MAX:
            raise csv.Error
        return self._text[at : self.at]

    def take(self) -> str:
        """Return the row's first line, however long it is, and go on behind it."""
        self.at = self._text.find("\n", self.begin) + 1 or len(self._text)
        return self._text[self.begin : self.at].rstrip("\n")


def _records(text: str, start: int, delimiter: str, broken: _Broken) -> Iterator[list[str]]:
    """Return the cells of each row; an empty line has none.

    A cell is no longer than the csv module's limit (131,072 characters), so that no quote swallows a file. What was
    read for nothing, over and over, is bounded by the text's own length: behind that, quotes mean nothing.
    """
    lines = _Lines(text, start)
    reader = _reader(lines, delimiter)
    wasted = 0
    while wasted <= len(text):
        lines.begin = lines.at
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            broken.count += 1
            wasted += lines.at - lines.begin
            yield _divided(lines.take(), delimiter)
            reader = _reader(lines, delimiter)
    while lines.at < len(text):
        lines.begin = lines.at
        yield _divided(lines.take(), delimiter)


def _divided(line: str, delimiter: str) -> list[str]:
    """Divide a line whose quotes mean nothing."""
    return line.split(delimiter) if len(line) <= ROW_CHARACTERS_MAX else [line]


def _reader(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
