"""The documents of a collection: where each lies on disk, and the file that is made of it. Texts are read when they are needed."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.console.evaluation.lines import BadCollection, Line, parse_object, read_lines
from shared.text import storable

# A change of what a document's file holds makes what was read before another collection.
FORM = "1"
_BLOCK_BYTES = 1024**2


class Corpus(Protocol):
    """Documents in the order of the collection, named by their index."""

    indices: dict[str, int]  # by the name that questions know a document by
    fingerprint: str  # of all bytes

    def text(self, index: int) -> str:
        """Return what the document's file holds. Citations count its characters."""

    def article(self, index: int) -> int:
        """Return the number of the article that the document is a part of."""

    @property
    def article_count(self) -> int:
        """How many articles there are."""


def file_name(index: int) -> str:
    """Name a document's file, without a word that a question could ask for."""
    return f"d{index:07d}.md"


def index_of(path: str) -> int | None:
    """Return the index in a file's name, or None when it is none of ours."""
    digits = path.removeprefix("d").removesuffix(".md")
    return int(digits) if digits.isascii() and digits.isdecimal() and path == file_name(int(digits)) else None


def _as_read(text: str) -> str:
    """Return a text as askbox reads it, so that its characters are those that citations count."""
    return storable(text.replace("\r\n", "\n").replace("\r", "\n"))[0]


class LineCorpus:
    """`corpus.jsonl`: a document a line, with `_id`, `title` and `text`; those of one title are one article."""

    def __init__(self, path: Path) -> None:
        self.indices: dict[str, int] = {}
        self._path = path
        self._offsets = array("Q")
        self._lines = array("Q")
        self._articles = array("Q")
        self._titles: dict[str, int] = {}
        digest = hashlib.sha256(FORM.encode())
        for line in read_lines(path):
            name = line.identifier()
            title = line.optional_text("title")
            line.text("text", may_be_empty=True)
            if name in self.indices:
                raise line.wrong(f"there was a document {name!r} before")
            self.indices[name] = len(self.indices)
            self._offsets.append(line.offset)
            self._lines.append(line.number)
            self._articles.append(self._titles.setdefault(title, len(self._titles)))
            digest.update(line.raw)
        if not self.indices:
            raise BadCollection(f"{path} holds no document")
        self.fingerprint = digest.hexdigest()

    @property
    def article_count(self) -> int:
        """How many titles there are."""
        return len(self._titles)

    def article(self, index: int) -> int:
        """Return the number of the document's title."""
        return self._articles[index]

    def text(self, index: int) -> str:
        """Return a document as Markdown: its title is a heading.

        Raises: BadCollection when the file was changed meanwhile.
        """
        number = self._lines[index]
        try:
            with self._path.open("rb") as file:
                file.seek(self._offsets[index])
                raw = file.readline()
        except OSError as error:
            raise BadCollection(f"{self._path} cannot be read: {error.strerror}") from None
        line = Line(self._path, number, self._offsets[index], raw, parse_object(self._path, number, raw))
        if self.indices.get(line.identifier()) != index:
            raise line.wrong("the file was changed while it was read")
        title = " ".join(line.optional_text("title").split())
        text = line.text("text", may_be_empty=True)
        return _as_read(f"# {title}\n\n{text}\n" if title else f"{text}\n")


class FolderCorpus:
    """`corpora/`: a Markdown file a document, as it is, so that places in the files are places in the documents."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.md"))
        self.indices = {path.stem: index for index, path in enumerate(self._paths)}
        if not self._paths:
            raise BadCollection(f"{folder} holds no Markdown file")
        digest = hashlib.sha256(FORM.encode())
        for path in self._paths:
            for block in _blocks(path):
                digest.update(block)
            digest.update(b"\x00")
        self.fingerprint = digest.hexdigest()

    @property
    def article_count(self) -> int:
        """How many files there are."""
        return len(self._paths)

    def article(self, index: int) -> int:
        """Return the document itself."""
        return index

    def text(self, index: int) -> str:
        """Return a file's text.

        Raises: BadCollection when it is no UTF-8.
        """
        path = self._paths[index]
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise BadCollection(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise BadCollection(f"{path}: byte {error.start} is no UTF-8") from None
        if "\r" in text:
            raise BadCollection(f"{path}: carriage returns, with which places in the file are none in the document")
        return _as_read(text)


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except OSError as error:
        raise BadCollection(f"{path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a document."""

    index: int
    start: int
    end: int
