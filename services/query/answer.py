"""One question → an answer with citations, or an honest "not in the documents".

Without a chat model, or where it fails and may be stood in for, the answer is extractive. Every answer comes in pieces: the
sources that were found, text, and the whole at the end.
"""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from services.query.citations import Citation, render
from services.query.extract import HITS_READ, confidence, embed, extract
from services.query.filters import Filters
from services.query.generate import ChatModel, Finish
from services.query.ledger import Ledger, Usage
from services.query.markers import Draft, claims
from services.query.prompt import Prompt, Turn, build
from services.query.quotes import cite_claims, whole
from services.query.retrieve import Retrieval, retrieve, snapshot
from services.query.store import CollectionRow
from shared.database import Pool
from shared.embedding import EmbeddingModel, Vectors
from shared.errors import ProviderUnavailable, RejectedQuestion, RejectedText, RequestError
from shared.telemetry import Event, log
from shared.text import storable
from shared.tokens import EstimatingTokenizer

QUESTION_CHARACTERS_MAX = 8000
KEY_BYTES = 8
STRATEGY = "hybrid: dense + BM25, min-max convex combination"
NOT_FOUND = "The documents do not hold an answer to this question."
# Which tokenizer a chat model has is not known; this one counts rather too many.
_ESTIMATING = EstimatingTokenizer(0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: who asks, where, and what was said before. A chat model reads the `history`; retrieval does not."""

    question: str
    collections: Sequence[CollectionRow]
    top_k: int
    history: Sequence[Turn] = ()
    key_id: int | None = None
    filters: Filters | None = None

    def used(self, model: str) -> Usage:
        """Begin an entry of what a model used for this question."""
        only = self.collections[0].id if len(self.collections) == 1 else None
        return Usage(self.key_id, only, model)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for a question. No transaction is open any more."""

    question: str
    question_tokens: int
    vector: Vectors
    retrieval: Retrieval
    confidence: float


@dataclass(frozen=True, slots=True)
class Offered:
    """The sources that an answer may cite."""

    citations: list[Citation]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question got. Answered is what has a citation.

    `usage` is that of the chat model that wrote it. `is_cut`: it ran into a limit. `is_fallback`: it failed, and sentences
    of the documents stand in for it.
    """

    found: Found
    text: str
    citations: list[Citation]
    chunks_used: int = 0
    context_tokens: int = 0
    usage: Usage | None = None
    is_cut: bool = False
    is_fallback: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether a document supports it."""
        return bool(self.citations)

    @property
    def is_uncited(self) -> bool:
        """Whether it is a model's text that no source supports."""
        return self.usage is not None and not self.citations and self.text != NOT_FOUND


Piece = Offered | str | Answer


class Answerer:
    """Answers questions over the collections that it is given."""

    def __init__(
        self,
        pool: Pool,
        model: EmbeddingModel,
        *,
        refusal_threshold: float,
        chat: ChatModel | None = None,
        context_tokens_max: int = 3000,
        may_fall_back: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        self._pool = pool
        self._model = model
        self._refusal_threshold = refusal_threshold
        self._chat = chat
        self._context_tokens_max = context_tokens_max
        self._may_fall_back = may_fall_back
        self._ledger = ledger or Ledger()

    @property
    def model_name(self) -> str:
        """The embedding model's name."""
        return self._model.name

    async def search(self, asked: Asked) -> Retrieval:
        """Return the best chunks for a question.

        Raises: RequestError when the question is empty or too long.
        """
        return (await self._find(asked)).retrieval

    async def answer(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        """Yield the sources, then text, then the whole answer, which holds where its text differs from the pieces.

        Raises: RequestError when the question is empty or too long; ProviderUnavailable when a model fails.
        """
        found = await self._find(asked)
        if not found.retrieval.hits or found.confidence < self._refusal_threshold:
            for piece in _pieces(Answer(found, NOT_FOUND, [])):
                yield piece
            return
        if self._chat is None:
            for piece in _pieces(await self._extract(found)):
                yield piece
            return
        prompt = build(
            found.question,
            found.retrieval.hits,
            asked.history,
            draw_key=lambda: secrets.token_hex(KEY_BYTES),
            count=_estimate,
            tokens_max=self._context_tokens_max,
        )
        yield Offered(whole(prompt.offered))
        has_begun = False
        try:
            async with aclosing(self._written(self._chat, asked, found, prompt)) as written:
                async for text_or_answer in written:
                    has_begun = True
                    yield text_or_answer
        except ProviderUnavailable:
            if has_begun or not self._may_fall_back:
                raise
            answer = replace(await self._extract(found), is_fallback=True)
            yield answer.text
            yield answer

    async def _find(self, asked: Asked) -> Found:
        """Read, embed and retrieve."""
        question, question_tokens = self._read(asked.question)
        vector = await self._embed(question)
        self._ledger.add(replace(asked.used(self._model.name), embedding_tokens=question_tokens))
        async with snapshot(self._pool, [collection.id for collection in asked.collections]) as conn:
            retrieval = await retrieve(
                conn, asked.collections, question, vector, limit=asked.top_k, filters=asked.filters
            )
        return Found(question, question_tokens, vector, retrieval, confidence(retrieval))

    async def _embed(self, question: str) -> Vectors:
        try:
            vectors = await embed(self._model, [question])
        except RejectedText as error:
            # Its caller can do something about it, and is told nothing of the server.
            log(Event.QUESTION_REJECTED, logging.WARNING, model=self._model.name, reason=str(error))
            raise RejectedQuestion from None
        vector: Vectors = vectors[0]
        return vector

    def _read(self, question: str) -> tuple[str, int]:
        question = storable(question)[0].strip()
        if not question:
            raise RequestError("the question is empty: ask something")
        if len(question) > QUESTION_CHARACTERS_MAX:
            raise RequestError(
                f"the question has {len(question)} characters; at most {QUESTION_CHARACTERS_MAX} are read: shorten it"
            )
        (tokens,) = self._model.tokenizer.count([question])
        if tokens > self._model.tokenizer.tokens_max:
            raise RequestError(
                f"the question has {tokens} tokens; {self._model.name} reads {self._model.tokenizer.tokens_max}: shorten it"
            )
        return question, tokens

    async def _extract(self, found: Found) -> Answer:
        citations = await extract(self._pool, self._model, found.vector, found.retrieval)
        if not citations:
            return Answer(found, NOT_FOUND, [])
        return Answer(
            found,
            render(citations),
            citations,
            chunks_used=len({citation.hit.chunk_id for citation in citations}),
            context_tokens=sum(hit.token_count for hit in found.retrieval.hits[:HITS_READ]),
        )

    async def _written(
        self, chat: ChatModel, asked: Asked, found: Found, prompt: Prompt
    ) -> AsyncGenerator[str | Answer, None]:
        """Yield what the model writes, as far as it may be shown, then the answer."""
        draft = Draft(len(prompt.offered))
        raw: list[str] = []
        finish: Finish | None = None
        try:
            async with aclosing(chat.write(prompt.turns)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        finish = piece
                        continue
                    raw.append(piece)
                    if shown := draft.feed(piece):
                        yield shown
        finally:
            used = _used(asked.used(chat.name), prompt, "".join(raw), finish)
            if raw or finish:  # also when the client left in the middle: it was used
                self._ledger.add(used)
        assert finish is not None
        if rest := draft.finish():
            yield rest
        if finish.is_cut and not "".join(raw).strip():
            raise ProviderUnavailable(
                f"{chat.name} used up its tokens before it wrote anything: raise ASKBOX_LLM_ANSWER_TOKENS"
            )
        text = "" if draft.is_refusal else draft.text.strip()
        citations = cite_claims(found.question, prompt.offered, claims(text), draft.cited) if text else []
        yield Answer(
            found,
            text or NOT_FOUND,
            citations,
            chunks_used=len(prompt.offered),
            context_tokens=prompt.source_tokens,
            usage=used,
            is_cut=finish.is_cut,
        )


def _pieces(answer: Answer) -> list[Piece]:
    """Return an answer that is there at once, in the pieces that one in the making has."""
    return [Offered(answer.citations), answer.text, answer]


def _used(entry: Usage, prompt: Prompt, written: str, finish: Finish | None) -> Usage:
    """Say what a model used, by its provider's count or else by estimate."""
    read = finish.prompt_tokens if finish else None
    wrote = finish.completion_tokens if finish else None
    return replace(
        entry,
        prompt_tokens=prompt.tokens if read is None else read,
        completion_tokens=_estimate(written) if wrote is None else wrote,
    )


def _estimate(text: str) -> int:
    (tokens,) = _ESTIMATING.count([text])
    return tokens


def elapsed_ms(started: float) -> float:
    """Return the milliseconds since a reading of `time.monotonic`."""
    return round((time.monotonic() - started) * 1000, 1)
