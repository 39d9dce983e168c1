"""The paragraphs of a shape in a presentation, with what stands before the items of its lists; pure."""

from lxml import etree

from services.ingester.parsing.blocks import BlockKind
from services.ingester.parsing.office import child, local, value, whole_number
from services.ingester.parsing.slides import Item
from services.ingester.parsing.writer import without_invisible

_LEVELS = 9
_SKIPPED = frozenset(["pPr", "rPr", "endParaRPr"])


def paragraphs(body: etree._Element | None) -> list[str]:
    """Return the paragraphs of a text body that say something.

    Markers are those that a paragraph has itself: what it takes over from layouts and masters is looks.
    """
    found = []
    counts = [0] * _LEVELS
    for paragraph in body if body is not None else ():
        if local(paragraph) != "p":
            continue
        text = paragraph_text(paragraph)
        if text:
            found.append(_marker(child(paragraph, "pPr"), counts) + text)
    return found


def items(body: etree._Element | None) -> list[Item]:
    """Return the paragraphs of a text body, one below the other."""
    return [Item(BlockKind.PROSE, text, is_joined=place > 0) for place, text in enumerate(paragraphs(body))]


def paragraph_text(paragraph: etree._Element) -> str:
    """Return the text of a paragraph with its line breaks."""
    parts: list[str] = []
    stack = list(reversed(paragraph))
    while stack:
        node = stack.pop()
        name = local(node)
        if name == "t":
            parts.append(node.text or "")
        elif name == "br":
            parts.append("\n")
        elif name == "AlternateContent":  # two forms of one formula
            stack.extend(node[:1])
        elif name not in _SKIPPED and not (name == "fld" and value(node, "type").startswith("slidenum")):
            stack.extend(reversed(node))
    lines = [" ".join(line.split()) for line in without_invisible("".join(parts)).split("\n")]
    return "\n".join(line for line in lines if line)


def _marker(properties: etree._Element | None, counts: list[int]) -> str:
    level = min(max(whole_number(value(properties, "lvl")), 0), _LEVELS - 1)
    numbers = child(properties, "buAutoNum")
    counts[level + 1 :] = [0] * (_LEVELS - level - 1)
    if numbers is None:
        counts[level] = 0
        return "- " if child(properties, "buChar") is not None else ""
    counts[level] = counts[level] + 1 if counts[level] else whole_number(value(numbers, "startAt"), 1)
    return f"{counts[level]}. "
