"""Formats that other installed distributions add: `python -m services.ingester.plugins` says which were found.

A distribution names in the group `askbox.parsers` a `Format` or several of them. They are loaded once, in the fork server,
and parse in its children, behind the same walls and limits as every other parser.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from pathlib import Path

from services.ingester.parsing import Attachment, Block, Format, LineUnit, PageUnit, ParsedDocument, Sample
from services.ingester.parsing.writer import (
    HEADING_CHARACTERS_MAX,
    LEVEL_MAX,
    MEDIA_TYPE_CHARACTERS_MAX,
    METADATA_CHARACTERS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_NAME_CHARACTERS_MAX,
    TITLE_CHARACTERS_MAX,
)
from shared.errors import CorruptFile, PermanentError
from shared.text import one_line, storable

GROUP = "askbox.parsers"
PROBLEM_CHARACTERS_MAX = 300
MEDIA_TYPES_TOLD_MAX = 20
PLACE_MAX = 2**31 - 1
ATTACHMENT_NAME_CHARACTERS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point: the media types that it reads, or why it was left out."""

    name: str
    distribution: str
    media_types: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Plugins:
    """All entry points, their formats, and the files that these may have to read still."""

    found: list[Plugin]
    formats: list[Format]
    files: list[Path]


def load_plugins() -> Plugins:
    """Load every entry point of the group; one that fails is told and stops no other.

    Order: by distribution, then by name, so that of two with the same claim it is always the same that wins.
    """
    plugins = Plugins([], [], [])
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name)):
        try:
            formats = [_guarded_format(entry.name, known) for known in _formats(entry.load())]
        except (Exception, SystemExit) as error:
            problem = one_line(f"{type(error).__name__}: {error}", PROBLEM_CHARACTERS_MAX)
            plugins.found.append(Plugin(entry.name, _distribution(entry), problem=problem))
            continue
        media_types = tuple(dict.fromkeys(known.media_type for known in formats))[:MEDIA_TYPES_TOLD_MAX]
        plugins.found.append(Plugin(entry.name, _distribution(entry), media_types))
        plugins.formats.extend(formats)
        plugins.files.extend(_own_files(entry.module))
    return plugins


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""


def _formats(loaded: object) -> list[Format]:
    """Return what an entry point gives.

    Raises: TypeError saying what is wrong with it.
    """
    formats: list[Format] = []
    for known in loaded if isinstance(loaded, list | tuple) else (loaded,):
        if not isinstance(known, Format):
            raise TypeError(f"it names a {type(known).__name__}, not a Format or a list of them")
        if not isinstance(known.media_type, str) or "/" not in known.media_type:
            raise TypeError(f"{known.media_type!r} is no media type")
        if len(known.media_type) > MEDIA_TYPE_CHARACTERS_MAX:
            raise TypeError(f"a media type has at most {MEDIA_TYPE_CHARACTERS_MAX} characters")
        is_tuple = isinstance(known.suffixes, tuple)
        if not is_tuple or not all(isinstance(suffix, str) and suffix == suffix.lower() for suffix in known.suffixes):
            raise TypeError(f"the suffixes of {known.media_type} have to be a tuple of strings in lower case")
        if not callable(known.parse):
            raise TypeError(f"the parser of {known.media_type} cannot be called")
        formats.append(known)
    return formats


def _own_files(module_name: str) -> Iterator[Path]:
    """Name the package that an entry point stands in, which need not lie beside the others; a module alone is one file."""
    module = sys.modules.get(module_name.partition(".")[0])
    folders = list(getattr(module, "__path__", ()))
    yield from map(Path, folders)
    if not folders and (file := getattr(module, "__file__", None)):
        yield Path(file)


def _guarded_format(name: str, known: Format) -> Format:
    is_it = None if known.is_it is None else _guarded_test(known.is_it)
    return replace(known, parse=_guarded(name, known.parse), is_it=is_it)


def _guarded_test(is_it: Callable[[Sample], bool]) -> Callable[[Sample], bool]:
    """Take a test that fails for one that says no: it is asked about every file, those of other formats too."""

    def guarded(sample: Sample) -> bool:
        try:
            return bool(is_it(sample))
        except PermanentError:  # a damaged container is none of any format
            raise
        except Exception:
            return False

    return guarded


def _guarded(name: str, parse: Callable[[bytes], ParsedDocument]) -> Callable[[bytes], ParsedDocument]:
    """Hold a parser to what all others keep: reasons that name who gave them, text that can be stored, blocks in order."""

    def guarded(content: bytes) -> ParsedDocument:
        try:
            return _checked(parse(content))
        except (PermanentError, MemoryError):
            raise
        except Exception as error:
            reason = one_line(f"{type(error).__name__}: {error}", PROBLEM_CHARACTERS_MAX)
            raise CorruptFile(f"the plug-in {name} could not read the file ({reason}): ask who made it") from None

    return guarded


def _checked(document: object) -> ParsedDocument:
    if not isinstance(document, ParsedDocument):
        raise TypeError(f"it returned a {type(document).__name__}")
    text, replaced = storable(document.text)
    at = 0
    for block in document.blocks:
        if not isinstance(block, Block) or not at <= block.start < block.end <= len(text):
            raise ValueError("its blocks do not stand in order and apart in its text")
        if not all(place is None or (isinstance(place, int) and 0 < place <= PLACE_MAX) for place in _places(block)):
            raise ValueError("its pages and lines are not counted from 1")
        at = block.end
    return replace(
        document,
        text=text,
        blocks=[_shortened(block) if block.heading or block.context else block for block in document.blocks],
        page_labels={page: _line(label, TITLE_CHARACTERS_MAX) for page, label in document.page_labels.items()},
        title=_line(document.title, TITLE_CHARACTERS_MAX) if document.title else None,
        metadata={
            _line(str(name), METADATA_NAME_CHARACTERS_MAX): _line(str(value), METADATA_CHARACTERS_MAX)
            for name, value in islice(document.metadata.items(), METADATA_ENTRIES_MAX)
        },
        replaced_character_count=document.replaced_character_count + replaced,
        page_unit=PageUnit(document.page_unit),
        line_unit=LineUnit(document.line_unit),
        attachments=tuple(map(_checked_attachment, document.attachments)),
    )


def _line(text: str, length_max: int) -> str:
    return one_line(storable(text)[0], length_max)


def _shortened(block: Block) -> Block:
    """Return a block with what stands beside each of its chunks: no longer than that of other formats."""
    return replace(
        block,
        level=max(0, min(block.level, LEVEL_MAX)),
        heading=storable(block.heading)[0][:HEADING_CHARACTERS_MAX],
        context=storable(block.context)[0],
    )


def _places(block: Block) -> tuple[object, object]:
    return block.page, block.line


def _checked_attachment(attachment: Attachment) -> Attachment:
    return replace(attachment, name=storable(attachment.name)[0][:ATTACHMENT_NAME_CHARACTERS_MAX])


def main() -> int:
    """Print what was found."""
    found = load_plugins().found
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(plugin) for plugin in found]))
    else:
        for plugin in found:
            print(
                f"{plugin.name} ({plugin.distribution}): {plugin.problem or 'reads ' + ', '.join(plugin.media_types)}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
