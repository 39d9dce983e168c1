"""What it means to remove a safeguard."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one file. `old` stands in it exactly once."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """The product without one safeguard, and the tests of which at least one must then fail.

    `hangs`: without it a test waits until its time is up, and that alone tells.
    """

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    hangs: bool = False


def mutant(name: str, path: str, old: str, new: str, *tests: str, hangs: bool = False) -> Mutant:
    """A mutant of one change."""
    return Mutant(name, (Edit(path, old, new),), tests, hangs)
