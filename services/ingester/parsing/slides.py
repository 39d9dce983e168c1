"""What a slide says, whatever program made it: its title, its shapes, its notes; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.ingester.parsing.blocks import BlockKind
from services.ingester.parsing.writer import HEADING_CHARACTERS_MAX, TextWriter, folded
from shared.errors import CorruptFile, EmptyDocument, NeedsOcr

# Every slide begins a section, so that no chunk mixes two and a citation names the right one. What has no title of its
# own gets a word without a number: with one, a slide put in front would change what is embedded of all that follow.
UNTITLED = "Slide"
NOTES = "Notes"
# Words in larger type above all others; more of them are a paragraph that happens to come first.
_TITLE_CHARACTERS_MAX = 150
_TITLE_PARAGRAPHS_MAX = 2


@dataclass(frozen=True, slots=True)
class Item:
    """A paragraph, or a row with the names of its columns; a joined one stands right below the one before."""

    kind: BlockKind
    text: str
    is_joined: bool = False
    context: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one shape says. Units: any length, the same for all shapes of a slide; None where it is not known."""

    items: Sequence[Item]
    is_title: bool = False
    top: int | None = None
    bottom: int | None = None


@dataclass(slots=True)
class Slide:
    """One slide; the title of an opening one is that of the presentation.

    Order: of the file, in which programs show the outline and read slides aloud.
    """

    shapes: list[Shape] = field(default_factory=list)
    notes: list[Item] = field(default_factory=list)
    is_opening: bool = False

    @property
    def title(self) -> str | None:
        """What the slide is called, if a shape says so."""
        return next((title_text(shape) for shape in self.shapes if shape.is_title and shape.items), None)


def write_slide(writer: TextWriter, slide: Slide, page: int, *, untitled: str = UNTITLED) -> None:
    """Write the title, what stands on the slide, and the notes under a heading of their own."""
    shapes = [shape for shape in slide.shapes if shape.items]
    if not shapes and not slide.notes:
        return
    title = _title_of(shapes)
    words = "" if title is None else title_text(title)
    writer.add(BlockKind.HEADING, words or untitled, level=1, page=page)
    for shape in shapes:
        if shape is not title:
            _write(writer, shape.items, page)
    if slide.notes:
        writer.add(BlockKind.HEADING, NOTES, level=2, page=page)
        _write(writer, slide.notes, page)


def title_text(title: Shape) -> str:
    """Return the paragraphs of a title on one line."""
    return folded(" ".join(item.text for item in title.items))


def _title_of(shapes: Sequence[Shape]) -> Shape | None:
    """Return the shape that is the title, or, when none says so, one that stands alone above all others."""
    marked = next((shape for shape in shapes if shape.is_title), None)
    if marked is not None:
        return marked if len(title_text(marked)) <= HEADING_CHARACTERS_MAX else None
    highest = min(shapes, key=lambda shape: shape.top or 0, default=None)
    if highest is None or not _reads_as_title(highest):
        return None
    tops = [shape.top for shape in shapes if shape is not highest]
    is_above = all(top is not None and highest.bottom is not None and highest.bottom <= top for top in tops)
    return highest if is_above else None


def _reads_as_title(shape: Shape) -> bool:
    return (
        len(shape.items) <= _TITLE_PARAGRAPHS_MAX
        and len(title_text(shape)) <= _TITLE_CHARACTERS_MAX
        and all(item.kind is BlockKind.PROSE and not item.text.startswith("- ") for item in shape.items)
    )


def _write(writer: TextWriter, items: Iterable[Item], page: int) -> None:
    for item in items:
        writer.add(item.kind, item.text, page=page, context=item.context, is_joined=item.is_joined)


def main_title(writer: TextWriter, *, untitled: str = UNTITLED) -> str | None:
    """Return the title of the only slide, if it has one of its own."""
    heading = writer.main_heading
    return None if heading == untitled else heading


def refuse_without_text(writer: TextWriter, *, count: int, unreadable_count: int, pictures_count: int) -> None:
    """Say why a presentation has nothing to store.

    Raises: CorruptFile · NeedsOcr · EmptyDocument.
    """
    if writer.blocks:
        return
    if count and unreadable_count == count:
        raise CorruptFile(
            f"none of its slides ({count}) can be read: open and save it again in the program that made it"
        )
    if pictures_count:
        raise NeedsOcr(
            f"its slides ({count}) are pictures without text: save them as PDF and run OCR on that "
            "(for example `ocrmypdf IN OUT`), then drop the result"
        )
    raise EmptyDocument(f"the presentation has no text on its slides ({count}): nothing was stored")
