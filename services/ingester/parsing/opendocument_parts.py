"""What every OpenDocument container has, whatever it holds: its content, what it says of itself, and whether it is locked; pure."""

from lxml import etree

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.office import named_texts, read_part
from shared.errors import CorruptFile, EncryptedFile

CONTENT = "content.xml"
_MANIFEST = "META-INF/manifest.xml"


def refuse_locked(archive: Archive) -> None:
    """Refuse a file whose parts are encrypted.

    Raises: EncryptedFile.
    """
    manifest = part_or_none(archive, _MANIFEST)
    if manifest is not None and next(manifest.iter("{*}encryption-data"), None) is not None:
        raise EncryptedFile


def part_or_none(archive: Archive, name: str) -> etree._Element | None:
    """Parse a part that a document can be read without."""
    try:
        return read_part(archive, name, may_declare_type=True)
    except CorruptFile:
        return None


def metadata_of(meta: etree._Element | None) -> dict[str, str]:
    """Return the title, author and language that a document says it has: who began it goes before who saved it last."""
    first = named_texts(meta, {"title": "title", "initial-creator": "author", "language": "language"})
    return named_texts(meta, {"creator": "author"}) | first
