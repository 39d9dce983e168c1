"""Files of authors who mean harm, generated: bombs, loops, lies, lures and nonsense of every format that is read."""

from collections.abc import Iterator

from tests.formats.hostile import archives, mails, markup, office, pdfs, tables, texts
from tests.formats.hostile.recipe import Hostile, Recipe

__all__ = ["Hostile", "Recipe", "corpus"]

_SHELVES = (archives, office, tables, markup, pdfs, mails, texts)


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return every hostile file; each is written when it is asked for, since some are large."""
    for shelf in _SHELVES:
        yield from shelf.corpus(recipe)
