"""A collection: documents, questions, and what answers which.

Two forms: `corpus.jsonl`, `queries.jsonl`, `qrels.tsv` (and `queries_train.jsonl`, `qrels_train.tsv`), where a question may bring
its `answers` or be `is_impossible`; and `corpora/*.md` with `questions.jsonl`, whose `references` are characters of a file.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.console.evaluation.corpus import Corpus, FolderCorpus, LineCorpus, Span
from services.console.evaluation.lines import BadCollection, Line, read_lines

Split = Literal["test", "train"]
SPLITS: tuple[Split, ...] = ("test", "train")
QUESTION_CHARACTERS_MAX = 8000
QUESTIONS_MAX = 1_000_000
ROW_BYTES_MAX = 65_536
_UNNAMEABLE = re.compile(r"[^\w-]+")


class NoCollection(BadCollection):
    """The folder holds no collection."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question. `relevant` are indices of documents with their grades above 0; `answers` are texts that an answer holds."""

    name: str
    text: str
    relevant: dict[int, int] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    is_impossible: bool = False
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents and questions. `notes` is what is odd about them."""

    name: str
    corpus: Corpus
    questions: Sequence[Question]
    notes: Sequence[str] = ()

    @property
    def has_answers(self) -> bool:
        """Whether questions bring what an answer has to hold."""
        return any(question.answers for question in self.questions)


def read_collection(folder: Path, split: Split = "test") -> Collection:
    """Read a collection; of the documents only where each lies.

    Raises: NoCollection when the folder holds none, or not this split; BadCollection naming file and line.
    """
    folder = folder.resolve()
    name = _UNNAMEABLE.sub("-", folder.name).strip("-") or "collection"
    suffix = "" if split == "test" else f"_{split}"
    if (folder / "corpus.jsonl").is_file():
        wanted = [folder / f"queries{suffix}.jsonl", folder / f"qrels{suffix}.tsv"]
        for path in wanted:
            if not path.is_file():
                raise NoCollection(f"{path} is missing: without it there is no {split} split")
        corpus = LineCorpus(folder / "corpus.jsonl")
        return _judged(name, corpus, *wanted)
    if (folder / "corpora").is_dir() and (folder / "questions.jsonl").is_file():
        if split != "test":
            raise NoCollection(f"{folder} has no {split} split")
        files = FolderCorpus(folder / "corpora")
        return Collection(name, files, list(_spanned(files, folder / "questions.jsonl")))
    raise NoCollection(f"{folder} holds neither corpus.jsonl nor corpora/ with questions.jsonl")


def choose(questions: Iterable[Question], limit: int | None, seed: int) -> list[Question]:
    """Return `limit` questions, by chance: the same ones each time, and of a greater limit the same and others."""

    def draw(question: Question) -> bytes:
        return hashlib.sha256(f"{seed} {question.name}".encode()).digest()

    return sorted(questions, key=draw)[:limit]


def _judged(name: str, corpus: Corpus, queries: Path, qrels: Path) -> Collection:
    grades, notes = _grades(corpus, qrels)
    questions: dict[str, Question] = {}
    for line in read_lines(queries):
        identifier = line.identifier()
        if identifier in questions:
            raise line.wrong(f"there was a question {identifier!r} before")
        if len(questions) == QUESTIONS_MAX:
            raise line.wrong(f"more than {QUESTIONS_MAX} questions")
        questions[identifier] = Question(
            identifier,
            _question(line),
            grades.pop(identifier, {}),
            line.texts("answers"),
            line.row.get("is_impossible") is True,
        )
    if grades:
        notes.append(f"{qrels.name} judges {len(grades)} questions that {queries.name} does not hold: left out")
    unjudged = sum(not question.relevant and not question.is_impossible for question in questions.values())
    if unjudged:
        notes.append(f"{unjudged} questions have no relevant document: left out")
    kept = [question for question in questions.values() if question.relevant or question.is_impossible]
    if not any(question.relevant for question in kept):
        raise BadCollection(f"{qrels}: no question has a relevant document")
    return Collection(name, corpus, kept, notes)


def _grades(corpus: Corpus, path: Path) -> tuple[dict[str, dict[int, int]], list[str]]:
    grades: dict[str, dict[int, int]] = {}
    unknown = 0
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(ROW_BYTES_MAX):
                number += 1
                found = _row(path, number, raw)
                if found is None:
                    continue
                question, document, grade = found
                if document not in corpus.indices:
                    unknown += 1
                    continue
                if grade > 0:
                    grades.setdefault(question, {})[corpus.indices[document]] = grade
    except OSError as error:
        raise BadCollection(f"{path} cannot be read: {error.strerror}") from None
    return grades, [f"{unknown} rows of {path.name} name a document that there is not: left out"] if unknown else []


def _row(path: Path, number: int, raw: bytes) -> tuple[str, str, int] | None:
    """Return a row's question, document and grade; None for the head and for empty lines."""
    if not raw.strip():
        return None
    try:
        cells = raw.decode("utf-8").rstrip("\r\n").split("\t")
        question, document, grade = cells
        return question, document, int(grade)
    except ValueError:
        if number == 1 and raw.lower().startswith(b"query"):
            return None
        raise BadCollection(
            f"{path}, line {number}: a question, a document and a grade are wanted, with tabs between them"
        ) from None


def _question(line: Line, name: str = "text") -> str:
    text = line.text(name)
    if len(text) > QUESTION_CHARACTERS_MAX:
        raise line.wrong(f"a question of {len(text)} characters; askbox takes {QUESTION_CHARACTERS_MAX}")
    return text


def _spanned(corpus: Corpus, path: Path) -> Iterable[Question]:
    texts = {index: corpus.text(index) for index in corpus.indices.values()}
    names: set[str] = set()
    for line in read_lines(path):
        name = line.identifier()
        if len(names) == QUESTIONS_MAX:
            raise line.wrong(f"more than {QUESTIONS_MAX} questions")
        if name in names:
            raise line.wrong(f"there was a question {name!r} before")
        names.add(name)
        index = corpus.indices.get(line.text("corpus_id"))
        if index is None:
            raise line.wrong(f"there is no corpora/{line.row['corpus_id']}.md")
        spans = tuple(_spans(line, index, texts[index]))
        yield Question(name, _question(line), spans=spans)
    if not names:
        raise BadCollection(f"{path} holds no question")


def _spans(line: Line, index: int, text: str) -> Iterable[Span]:
    references = line.row.get("references")
    if not isinstance(references, list) or not references:
        raise line.wrong("`references` has to be a list of what answers the question")
    for reference in references:
        start, end = (
            (reference.get("start_index"), reference.get("end_index")) if isinstance(reference, dict) else (None, None)
        )
        if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
            raise line.wrong(f"no characters of the document: {start} to {end}")
        if "content" in reference and text[start:end] != reference["content"]:
            raise line.wrong(f"characters {start} to {end} of the document are not what `content` says")
        yield Span(index, start, end)
