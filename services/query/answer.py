"""One question → an answer with citations, or an honest "not in the documents".

Without a chat model, or where it fails and may be stood in for, the answer is extractive. Every answer comes in pieces: the
sources that were found, text, and the whole at the end.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from services.query.citations import marks_of, render
from services.query.exchange import (
    NOT_FOUND,
    QUESTION_CHARACTERS_MAX,
    Answer,
    Asked,
    Found,
    Offered,
    Piece,
    Understood,
)
from services.query.extract import HITS_READ, best_fit, embed, extract
from services.query.filters import Filters
from services.query.followup import stand_alone
from services.query.fusion import tuning_of
from services.query.generate import ChatModel, Finish
from services.query.ledger import Ledger, Usage
from services.query.markers import Draft, Mark, claims
from services.query.prompt import Count, Prompt, build
from services.query.quotes import cite_claims, whole
from services.query.reading import WIDENED_MAX, passages
from services.query.refusal import Reason, refusal_threshold, refuse
from services.query.retrieve import retrieve, snapshot
from services.query.rewrite import rewrite
from services.query.terms import read_terms
from shared.database import Pool
from shared.embedding import EmbeddingModel, Vectors
from shared.errors import ProviderUnavailable, RejectedQuestion, RejectedText, RequestError
from shared.telemetry import Event, log
from shared.text import storable
from shared.tokens import EstimatingTokenizer

KEY_BYTES = 8
# For a chat model whose tokenizer is not known; it counts rather too many.
_ESTIMATING = EstimatingTokenizer(0)


def estimate(text: str) -> int:
    """Return about how many tokens a text has."""
    (tokens,) = _ESTIMATING.count([text])
    return tokens


class Answerer:
    """Answers questions over the collections that it is given."""

    def __init__(
        self,
        pool: Pool,
        model: EmbeddingModel,
        *,
        refusal_threshold: float | None = None,
        chat: ChatModel | None = None,
        context_tokens_max: int = 3000,
        may_fall_back: bool = False,
        ledger: Ledger | None = None,
        count: Count = estimate,
    ) -> None:
        self._pool = pool
        self._model = model
        self._tuning = tuning_of(model.name)
        self._refusal_threshold = refusal_threshold
        self._chat = chat
        self._context_tokens_max = context_tokens_max
        self._may_fall_back = may_fall_back
        self._ledger = ledger or Ledger()
        self._count = count

    @property
    def model_name(self) -> str:
        """The embedding model's name."""
        return self._model.name

    async def search(self, asked: Asked) -> Found:
        """Find the best chunks for a question.

        Raises: RequestError when the question is empty or too long.
        """
        return await self._find(asked)

    async def answer(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        """Yield the sources, then text, then the whole answer, which holds where its text differs from the pieces.

        Raises: RequestError when the question is empty or too long; ProviderUnavailable when a model fails.
        """
        found = await self._find(asked, is_read=True)
        if not found.retrieval.hits or found.confidence < self._threshold(found):
            for piece in _pieces(self._refuse(found, "too_far" if found.retrieval.hits else "nothing_found")):
                yield piece
            return
        if self._chat is None:
            for piece in _pieces(await self._extract(asked, found)):
                yield piece
            return
        prompt = build(
            found.understood.asked,
            passages(found.retrieval.hits, found.retrieval.beside),
            asked.history,
            draw_key=lambda: secrets.token_hex(KEY_BYTES),
            count=self._count,
            tokens_max=self._context_tokens_max,
            meant=found.understood.question,
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
            answer = replace(await self._extract(asked, found), is_fallback=True)
            yield answer.text
            yield answer

    async def _find(self, asked: Asked, *, is_read: bool = False) -> Found:
        """Read, embed and retrieve; `is_read` with what a chat model reads beside the best."""
        understood = await self._understand(asked)
        text = read_terms(understood.question).text
        if not text:
            raise RequestError("the question only says what must not be there: add what is looked for")
        tokens = understood.tokens if text == understood.question else self._tokens_of(text)
        vector = await self._embed(text)
        self._ledger.add(replace(asked.used(self._model.name), embedding_tokens=tokens))
        filters = _filtered(asked.filters, understood.asked)
        async with snapshot(self._pool, [collection.id for collection in asked.collections]) as conn:
            retrieval = await retrieve(
                conn,
                asked.collections,
                text,
                vector,
                limit=asked.top_k,
                filters=filters,
                dense_weight=self._tuning.dense_weight,
                # What stands beside a hit may hold what is excluded.
                widened=WIDENED_MAX if is_read and self._chat and not (filters and filters.excluded) else 0,
            )
        fit = best_fit(retrieval, self._tuning.cosine_share)
        return Found(understood, vector, retrieval, fit, tokens, filters)

    def _refuse(self, found: Found, reason: Reason) -> Answer:
        """Say that the documents do not hold it, and why."""
        threshold = self._threshold(found)
        refusal = refuse(reason, found.fit, threshold, missing=found.retrieval.missing(), filters=found.filters)
        # What rules out every passage is the caller's own doing, and the first thing to be told.
        words = f"{refusal.words[0].upper()}{refusal.words[1:]}."
        text = f"{NOT_FOUND} {words}" if found.filters and reason == "nothing_found" else NOT_FOUND
        return Answer(found, text, [], refusal=refusal)

    def _threshold(self, found: Found) -> float:
        """Return the confidence below which a question is refused: what was set, or what fits model and collections."""
        if self._refusal_threshold is not None:
            return self._refusal_threshold
        return refusal_threshold(self._tuning.refusal_threshold, found.retrieval.chunk_count)

    async def _understand(self, asked: Asked) -> Understood:
        """Find out what to look for: by a chat model where there is one, else, or when that fails, by rule."""
        question, tokens = self._read(asked.question)
        if not any(turn.role == "user" for turn in asked.history):
            return Understood(question, tokens, question)
        rewriting: list[Usage] = []
        written = await self._rewritten(self._chat, asked, question, rewriting) if self._chat else None
        meant = written if written and read_terms(written).text else stand_alone(question, asked.history)
        meant_tokens = self._tokens_of(meant)
        if meant_tokens > self._model.tokenizer.tokens_max:
            meant, meant_tokens = question, tokens
        return Understood(meant, meant_tokens, question, *rewriting)

    async def _rewritten(self, chat: ChatModel, asked: Asked, question: str, rewriting: list[Usage]) -> str | None:
        def note(prompt_tokens: int, completion_tokens: int) -> None:
            usage = replace(asked.used(chat.name), prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
            rewriting.append(usage)
            self._ledger.add(usage)

        return await rewrite(chat, question, asked.history, count=self._count, note=note)

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
        tokens = self._tokens_of(question)
        if tokens > self._model.tokenizer.tokens_max:
            raise RequestError(
                f"the question has {tokens} tokens; {self._model.name} reads {self._model.tokenizer.tokens_max}: shorten it"
            )
        return question, tokens

    def _tokens_of(self, question: str) -> int:
        (tokens,) = self._model.tokenizer.count([question])
        return tokens

    async def _extract(self, asked: Asked, found: Found) -> Answer:
        extracted = await extract(self._pool, self._model, found.vector, found.retrieval)
        if extracted.embedding_tokens:
            self._ledger.add(replace(asked.used(self._model.name), embedding_tokens=extracted.embedding_tokens))
        if not extracted.citations:
            return self._refuse(found, "nothing_to_quote")
        return Answer(
            found,
            render(extracted.quoted),
            extracted.citations,
            marks_of(extracted.quoted),
            chunks_used=len({citation.hit.chunk_id for citation in extracted.citations}),
            context_tokens=sum(hit.token_count for hit in found.retrieval.hits[:HITS_READ]),
            extract_tokens=extracted.embedding_tokens,
        )

    def _used(self, entry: Usage, prompt: Prompt, written: str, finish: Finish | None) -> Usage:
        """Say what a model used, by its provider's count or else by ours."""
        read = finish.prompt_tokens if finish else None
        wrote = finish.completion_tokens if finish else None
        return replace(
            entry,
            prompt_tokens=prompt.tokens if read is None else read,
            completion_tokens=self._count(written) if wrote is None else wrote,
        )

    async def _written(
        self, chat: ChatModel, asked: Asked, found: Found, prompt: Prompt
    ) -> AsyncGenerator[str | Answer, None]:
        """Yield what the model writes, as far as it may be shown, then the answer."""
        draft = Draft(len(prompt.offered))
        raw: list[str] = []
        finish: Finish | None = None
        try:
            async with aclosing(chat.write(prompt.turns, tokens_max=asked.answer_tokens_max)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        finish = piece
                        continue
                    raw.append(piece)
                    if shown := draft.feed(piece):
                        yield shown
        finally:
            used = self._used(asked.used(chat.name), prompt, "".join(raw), finish)
            if raw or finish:  # also when the client left in the middle: it was used
                self._ledger.add(used)
        assert finish is not None
        if rest := draft.finish():
            yield rest
        if finish.is_cut and not "".join(raw).strip():
            if asked.answer_tokens_max is not None:
                raise RequestError("the model used up its tokens before it wrote anything: let it write more of them")
            raise ProviderUnavailable(
                f"{chat.name} used up its tokens before it wrote anything: raise ASKBOX_LLM_ANSWER_TOKENS"
            )
        text = "" if draft.is_refusal else draft.text.strip()
        if not text:
            refused = self._refuse(found, "not_in_sources")
            yield replace(
                refused,
                chunks_used=sum(len(passage.parts) for passage in prompt.offered),
                context_tokens=prompt.source_tokens,
                usage=used,
                is_cut=finish.is_cut,
            )
            return
        yield Answer(
            found,
            text,
            cite_claims(found.understood.question, prompt.offered, claims(text), draft.cited),
            _stripped(draft.text, draft.marks),
            chunks_used=sum(len(passage.parts) for passage in prompt.offered),
            context_tokens=prompt.source_tokens,
            usage=used,
            is_cut=finish.is_cut,
        )


def _pieces(answer: Answer) -> list[Piece]:
    """Return an answer that is there at once, in the pieces that one in the making has."""
    return [Offered(answer.citations), answer.text, answer]


def _filtered(filters: Filters | None, question: str) -> Filters | None:
    """Add what a question says of its own words to what its caller asks for."""
    terms = read_terms(question)
    if not terms.phrases and not terms.excluded:
        return filters
    return replace(filters or Filters(), phrases=terms.phrases, excluded=terms.excluded)


def _stripped(text: str, marks: Sequence[Mark]) -> list[Mark]:
    """Return marks as they stand in a text without the white space before it."""
    return [mark.moved(len(text.lstrip()) - len(text)) for mark in marks]
