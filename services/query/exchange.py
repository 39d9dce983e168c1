"""What passes between who asks and who answers: a question, what was understood and found, and the pieces of its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.query.citations import Citation
from services.query.filters import Filters
from services.query.ledger import Usage
from services.query.markers import Mark
from services.query.prompt import Turn
from services.query.refusal import Fit, Refusal
from services.query.retrieve import Retrieval
from services.query.store import CollectionRow
from shared.embedding import Vectors

QUESTION_CHARACTERS_MAX = 8000
NOT_FOUND = "The documents do not hold an answer to this question."


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: who asks, where, and what was said before it, which tells what it means.

    Units: `answer_tokens_max` is what a chat model may write, where that is less than the setting allows.
    """

    question: str
    collections: Sequence[CollectionRow]
    top_k: int
    history: Sequence[Turn] = ()
    key_id: int | None = None
    filters: Filters | None = None
    answer_tokens_max: int | None = None

    def used(self, model: str) -> Usage:
        """Begin an entry of what a model used for this question."""
        only = self.collections[0].id if len(self.collections) == 1 else None
        return Usage(self.key_id, only, model)


@dataclass(frozen=True, slots=True)
class Understood:
    """A question as it is looked for, which is as it was asked unless it leans on what was said before.

    `rewriting` is what a chat model used for that.
    """

    question: str
    tokens: int
    asked: str
    rewriting: Usage | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for a question, and how well the best of it fits. No transaction is open any more.

    `filters` are those of its caller and what the question says of its own words. Units: tokens are those of the question.
    """

    understood: Understood
    vector: Vectors
    retrieval: Retrieval
    fit: Fit
    embedding_tokens: int
    filters: Filters | None = None

    @property
    def confidence(self) -> float:
        """How well the best chunk fits, from 0 to 1."""
        return self.fit.confidence


@dataclass(frozen=True, slots=True)
class Offered:
    """The sources that an answer may cite."""

    citations: list[Citation]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question got. Answered is what has a citation.

    `marks` are the places of its text that name a citation. `usage` is that of the chat model that wrote it. `is_cut`: it ran
    into a limit. `is_fallback`: it failed, and sentences of the documents stand in for it.
    """

    found: Found
    text: str
    citations: list[Citation]
    marks: Sequence[Mark] = ()
    chunks_used: int = 0
    context_tokens: int = 0
    usage: Usage | None = None
    is_cut: bool = False
    is_fallback: bool = False
    refusal: Refusal | None = None
    extract_tokens: int = 0

    @property
    def embedding_tokens(self) -> int:
        """What the embedding model read for it: the question, and the sentences that were compared with it."""
        return self.found.embedding_tokens + self.extract_tokens

    @property
    def is_answered(self) -> bool:
        """Whether a document supports it."""
        return bool(self.citations)

    @property
    def is_uncited(self) -> bool:
        """Whether it is a model's text that no source supports."""
        return self.usage is not None and not self.citations and self.text != NOT_FOUND

    @property
    def prompt_tokens(self) -> int:
        """What a chat model read for it, to rewrite the question included."""
        return sum(usage.prompt_tokens for usage in self._usages)

    @property
    def completion_tokens(self) -> int:
        """What a chat model wrote for it."""
        return sum(usage.completion_tokens for usage in self._usages)

    @property
    def _usages(self) -> list[Usage]:
        return [usage for usage in (self.found.understood.rewriting, self.usage) if usage is not None]


Piece = Offered | str | Answer
