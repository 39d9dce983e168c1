"""What an answer, a hit and a problem look like over HTTP."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from services.query.citations import Citation, Hit
from services.query.document_schema import file_path
from services.query.exchange import Answer, Found
from services.query.places import place_of_hit, place_of_quote
from services.query.refusal import Reason, Refusal
from services.query.retrieve import Retrieval

STRATEGY = "hybrid: dense + BM25, min-max convex combination"
DENSE_STRATEGY = "dense: no word of the question was found"
CLOSEST_MAX = 3
UNCITED_NOTE = "the model named no source for this, so nothing in the documents supports it"
FALLBACK_NOTE = "the model was not available; these are sentences of the documents"
CUT_NOTE = "the model stopped at a limit in the middle of its answer: raise ASKBOX_LLM_ANSWER_TOKENS"


class SourceOut(BaseModel):
    """A span of a document that the answer quotes, verbatim: `quote` is characters `char_start` to `char_end` of its text.

    `place` says in words where the quote stands, `page` and `lines` (the first and the last) in numbers: a page may also be a
    slide, a sheet or a cell, and a line a row. `context` is what the quote is read under, such as the names of its columns.
    """

    index: int
    document_id: int
    collection: str
    file_path: str
    title: str | None
    heading: str
    place: str | None
    page: int | None
    lines: tuple[int, int] | None
    context: str | None
    char_start: int
    char_end: int
    similarity: float
    quote: str

    @classmethod
    def of(cls, citation: Citation) -> "SourceOut":
        """Show a citation."""
        hit = citation.hit
        place = place_of_quote(citation)
        return cls(
            index=citation.index,
            document_id=hit.document_id,
            collection=hit.collection,
            file_path=file_path(hit.source_uri),
            title=hit.title,
            heading=hit.heading,
            place=place.words,
            page=place.page,
            lines=place.lines,
            context=hit.context or None,
            char_start=citation.char_start,
            char_end=citation.char_end,
            similarity=round(hit.cosine, 4),
            quote=citation.quote,
        )


class RefusalOut(BaseModel):
    """Why a question got no answer.

    Nothing was found in what was asked; or the closest passage is `too_far`; or it holds no sentence to quote; or the model did
    not find the answer in the sources.

    `cosine` and `coverage`, the share of the weight of the question's terms that it holds, are those of the passage that fits
    best; together they are its `confidence`, and `threshold` is what that would have to reach. `missing` are terms, as they
    are looked up, that none of the passages holds.
    """

    reason: Reason
    words: str
    cosine: float
    coverage: float
    confidence: float
    threshold: float
    missing: list[str]

    @classmethod
    def of(cls, refusal: Refusal | None) -> "RefusalOut | None":
        """Show why, if there is no answer."""
        if refusal is None:
            return None
        return cls(
            reason=refusal.reason,
            words=refusal.words,
            cosine=round(refusal.fit.cosine, 4),
            coverage=round(refusal.fit.coverage, 4),
            confidence=round(refusal.fit.confidence, 4),
            threshold=refusal.threshold,
            missing=list(refusal.missing),
        )


class MetaOut(BaseModel):
    """How the answer came about and how fresh it is.

    `question` is what was looked for: the question, or what it means after the `messages` before it. `as_of` is when the
    documents were looked at, and `pending` counts their versions that were still in work then. `model` is the chat model that
    wrote the answer; without one it is made of sentences of the documents. `note` says what is to be known of the answer:
    that it is `uncited`, so not `answered` although there is a text; that it is `truncated`; that it is a `fallback`.
    """

    question: str
    model: str | None
    retrieval_strategy: str
    chunks_used: int
    context_tokens: int
    latency_ms: float
    trace_id: str | None
    as_of: datetime
    pending: int
    confidence: float
    refusal: RefusalOut | None = None
    uncited: bool = False
    truncated: bool = False
    fallback: Literal["extractive"] | None = None
    note: str | None = None


class TokensOut(BaseModel):
    """Tokens used."""

    prompt: int
    completion: int
    embedding: int


class AnswerOut(BaseModel):
    """An answer with its sources.

    When `answered` is false there are none; `closest` are passages to look at then, which do not answer the question, and
    `meta.refusal` says why.

    The sources of an answer that is made of sentences are the best of these, best first; its text are those of them that are
    nearly as good as the best, as they follow one another in their documents.
    """

    question: str
    answer: str
    answered: bool
    sources: list[SourceOut]
    closest: list["HitOut"] = []
    meta: MetaOut
    tokens: TokensOut

    @classmethod
    def of(cls, question: str, answer: Answer, *, latency_ms: float, trace_id: str | None) -> "AnswerOut":
        """Show an answer."""
        found, usage = answer.found, answer.usage
        notes = [
            note
            for is_so, note in (
                (answer.is_uncited, UNCITED_NOTE),
                (answer.is_fallback, FALLBACK_NOTE),
                (answer.is_cut, CUT_NOTE),
            )
            if is_so
        ]
        return cls(
            question=question,
            answer=answer.text,
            answered=answer.is_answered,
            sources=[SourceOut.of(c) for c in answer.citations],
            closest=_closest(answer),
            meta=MetaOut(
                question=found.understood.question,
                model=usage.model if usage else None,
                retrieval_strategy=STRATEGY if found.retrieval.has_lexical_hits else DENSE_STRATEGY,
                chunks_used=answer.chunks_used,
                context_tokens=answer.context_tokens,
                latency_ms=latency_ms,
                trace_id=trace_id,
                as_of=found.retrieval.as_of,
                pending=found.retrieval.pending,
                confidence=round(found.confidence, 4),
                refusal=RefusalOut.of(answer.refusal),
                uncited=answer.is_uncited,
                truncated=answer.is_cut,
                fallback="extractive" if answer.is_fallback else None,
                note="; ".join(notes) or None,
            ),
            tokens=TokensOut(
                prompt=answer.prompt_tokens,
                completion=answer.completion_tokens,
                embedding=answer.embedding_tokens,
            ),
        )


def _closest(answer: Answer) -> list["HitOut"]:
    """Return what comes closest to a question that got no answer."""
    retrieval = answer.found.retrieval
    return [HitOut.of(hit, retrieval) for hit in retrieval.hits[:CLOSEST_MAX]] if answer.refusal else []


class TermOut(BaseModel):
    """A term of the question as it is looked up, and how much it tells: its inverse document frequency."""

    term: str
    idf: float


class ArmOut(BaseModel):
    """How one arm of the search saw a chunk: its place there, or null when the other arm alone found it, and its share.

    The share is its score of this arm, from 0 for the least to 1 for the greatest among all candidates. In the lexical arm
    what stands right before and after a chunk counts with it, for the best of them.
    """

    place: int | None
    share: float


class HitOut(BaseModel):
    """A chunk as it was ranked. `place`, `page` and `lines` say where it stands, as those of a source do.

    `score` is `dense_weight` times the share of the `dense` arm, which ranks by `similarity`, plus the rest times that of the
    `lexical` arm, which ranks by `bm25`; `terms` are those of the question that the chunk holds, the one that tells most first.
    """

    document_id: int
    collection: str
    file_path: str
    title: str | None
    heading: str
    place: str | None
    page: int | None
    lines: tuple[int, int] | None
    context: str | None
    char_start: int
    char_end: int
    score: float
    similarity: float
    bm25: float
    dense: ArmOut
    lexical: ArmOut
    terms: list[TermOut]
    text: str

    @classmethod
    def of(cls, hit: Hit, retrieval: Retrieval) -> "HitOut":
        """Show a hit."""
        place = place_of_hit(hit)
        return cls(
            document_id=hit.document_id,
            collection=hit.collection,
            file_path=file_path(hit.source_uri),
            title=hit.title,
            heading=hit.heading,
            place=place.words,
            page=place.page,
            lines=place.lines,
            context=hit.context or None,
            char_start=hit.char_start,
            char_end=hit.char_end,
            score=round(hit.score, 6),
            similarity=round(hit.cosine, 6),
            bm25=round(hit.bm25, 6),
            dense=ArmOut(place=hit.dense_place, share=round(hit.dense_share, 6)),
            lexical=ArmOut(place=hit.lexical_place, share=round(hit.lexical_share, 6)),
            terms=[TermOut(term=term, idf=round(idf, 4)) for term, idf in retrieval.terms_of(hit).items()],
            text=hit.text,
        )


class HitsOut(BaseModel):
    """Chunks, best first, as they were found at `as_of`. `pending` counts versions that were still in work then.

    `phrases` and `excluded` are what the question says of its own words: `"this phrase"` stands in each chunk, `-this` in none.
    """

    data: list[HitOut]
    as_of: datetime
    pending: int
    dense_weight: float
    phrases: list[str]
    excluded: list[str]

    @classmethod
    def of(cls, found: Found) -> "HitsOut":
        """Show what was found."""
        retrieval, filters = found.retrieval, found.filters
        return cls(
            data=[HitOut.of(hit, retrieval) for hit in retrieval.hits],
            as_of=retrieval.as_of,
            pending=retrieval.pending,
            dense_weight=retrieval.dense_weight,
            phrases=list(filters.phrases) if filters else [],
            excluded=list(filters.excluded) if filters else [],
        )


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    trace_id: str | None = None
