"""What generated documents say: the same headings, paragraphs, items and rows in every format; pure."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

TITLE = "Harbours and Orchards"
AUTHOR = "Ada Öhlund"
TABLE_HEADER = ("Berth", "Ship", "Tonnage", "Sailed")
_WORDS = (
    "river stone lantern orchard compass winter harbour copper meadow signal granite feather timber anchor Straße Übermaß "
    "façade naïve Ærø smörgås Łódź jalapeño ledger keel ferry garden almond quay barley pilot current"
)
_WESTERN = str.maketrans("Łź", "Lz")
# One paragraph of each chapter has also these.
_FOREIGN = (
    "東京の図書館は静かです 数据库存储文本 한국어도 있습니다",
    "Документ описывает порт и сады",
    "שלום לנמל וגם לפרדס",
)
_EMOJI = ("🚢 🍎", "🌍", "⚓ 🍐")
_MARK = re.compile(r"mark\d{3}")
# A word, or one of the pictures above; punctuation and markup are no words.
_WORD = re.compile(r"\w+|[\u2600-\u27bf\U0001F300-\U0001FAFF]")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences with one mark, a word that stands nowhere else."""

    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under the names of their columns; each row has a mark in its first cell."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Part = Heading | Paragraph | Items | Table


def content(*, is_western: bool = False) -> list[Part]:
    """Return 21 headings of three levels, 60 paragraphs, a list and a table; western ones need no large font."""
    chance = random.Random(7)
    marks = (f"mark{number:03d}" for number in range(1000))
    parts: list[Part] = []
    for chapter in range(1, 4):
        parts.append(Heading(1, f"Chapter {chapter}: {_some(chance, 3)}"))
        for section in range(1, 3):
            parts.append(Heading(2, f"Section {chapter}.{section} {_some(chance, 2)}"))
            for part in range(1, 3):
                parts.append(Heading(3, f"Part {chapter}.{section}.{part} {_some(chance, 2)}"))
                parts += [_paragraph(chance, next(marks)) for _ in range(5)]
                if (chapter, section, part) == (1, 1, 1):
                    parts.append(Items(tuple(f"item {number} {_some(chance, 4)}" for number in range(1, 7))))
        if not is_western:
            foreign = f"{_FOREIGN[chapter - 1]} {_EMOJI[chapter - 1]}"
            last = parts[-1]
            assert isinstance(last, Paragraph)
            parts[-1] = Paragraph(last.mark, f"{last.text} {foreign}")
        if chapter == 2:
            parts.append(Table(TABLE_HEADER, tuple(_row(chance, next(marks), number) for number in range(30))))
    return [_western(part) for part in parts] if is_western else parts


def _western(part: Part) -> Part:
    """Leave out what the fonts that every PDF has do not have."""
    match part:
        case Heading(level, text):
            return Heading(level, text.translate(_WESTERN))
        case Paragraph(mark, text):
            return Paragraph(mark, text.translate(_WESTERN))
        case Items(texts):
            return Items(tuple(text.translate(_WESTERN) for text in texts))
        case Table(header, rows):
            return Table(header, tuple(tuple(cell.translate(_WESTERN) for cell in row) for row in rows))


def _some(chance: random.Random, count: int) -> str:
    return " ".join(chance.choice(_WORDS.split()) for _ in range(count))


def _paragraph(chance: random.Random, mark: str) -> Paragraph:
    sentences = [f"The {_some(chance, chance.randint(5, 14))}." for _ in range(chance.randint(2, 5))]
    return Paragraph(mark, f"Here {mark} begins. " + " ".join(sentences))


def _row(chance: random.Random, mark: str, number: int) -> tuple[str, ...]:
    return (mark, _some(chance, 2), str(1200 + 37 * number), f"2025-0{number % 9 + 1}-17")


def texts_of(parts: list[Part]) -> Iterator[str]:
    """Return everything that parts say, in order."""
    for part in parts:
        match part:
            case Heading(_, text) | Paragraph(_, text):
                yield text
            case Items(texts):
                yield from texts
            case Table(header, rows):
                for row in (header, *rows):
                    yield from row


def words_of(text: str) -> list[str]:
    """Return the words of a text without its markup."""
    return _WORD.findall(text)


def marks_of(text: str) -> dict[str, int]:
    """Return where each mark stands in a text. Units: characters."""
    return {found.group(): found.start() for found in reversed(list(_MARK.finditer(text)))}


def chapters(parts: list[Part]) -> list[list[Part]]:
    """Divide parts before each heading of level 1."""
    found: list[list[Part]] = []
    for part in parts:
        if isinstance(part, Heading) and part.level == 1:
            found.append([])
        found[-1].append(part)
    return found


def sections(parts: list[Part]) -> list[list[Part]]:
    """Divide parts before each heading of level 3, which keeps the higher ones before it."""
    found: list[list[Part]] = [[]]
    for part in parts:
        if isinstance(part, Heading) and any(not isinstance(other, Heading) for other in found[-1]):
            found.append([])
        found[-1].append(part)
    return found
