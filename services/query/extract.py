"""Hits → an extractive answer: their best one to three sentences, verbatim."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.query import store
from services.query.bm25 import coverage
from services.query.citations import Citation, Hit, Sentence, cite, in_reading_order, sentences_of
from services.query.refusal import Fit
from services.query.retrieve import Retrieval
from shared.database import Pool
from shared.embedding import EmbeddingModel, Vectors
from shared.errors import ProviderUnavailable, RejectedText, RetryableError
from shared.spans import embeddings_span
from shared.text import embedded_text

# Sentences are read from this many chunks: the answer stands in the best five for 97 % of SQuAD 2.0's questions.
HITS_READ = 5
SENTENCES_QUOTED_MAX = 3
# Those that hold most of the question's words are embedded; tables and logs have far more rows than prose has sentences.
SENTENCES_MATCHED_MAX = 600
SENTENCES_SCORED_MAX = 60
# The answer's text is the best sentence, and the next ones when they are nearly as good.
QUOTE_RATIO_MIN = 0.85
# A source is what is good enough to look at besides: of SQuAD 2.0's questions 77 % are answered in the best sentence, 91 % in
# the best three.
SOURCE_RATIO_MIN = 0.5
LEXICAL_WEIGHT, DENSE_WEIGHT, CHUNK_WEIGHT = 0.35, 0.35, 0.30


@dataclass(frozen=True, slots=True)
class Extract:
    """The sentences that answer a question, best first, and those of them that make up the text, in reading order.

    Units: tokens are those that were embedded to find them.
    """

    citations: list[Citation]
    quoted: list[Citation]
    embedding_tokens: int = 0


NO_FIT = Fit(0.0, 0.0, 0.0)


async def embed(model: EmbeddingModel, texts: Sequence[str]) -> Vectors:
    """Embed texts of a question, as a span.

    Raises: RejectedText when the model does not take a text; ProviderUnavailable when it gives no vectors now.
    """
    with embeddings_span(model.name, len(texts)):
        try:
            return await model.encode(texts)
        except ProviderUnavailable:
            raise
        except RetryableError as error:  # no job could be charged here: whoever asks may ask again
            raise ProviderUnavailable(str(error)) from None


async def extract(pool: Pool, model: EmbeddingModel, question_vector: Vectors, retrieval: Retrieval) -> Extract:
    """Return the sentences that answer a question; none when no hit holds any.

    Transaction: none is open while the model works.
    """
    hits = retrieval.hits[:HITS_READ]
    covered = await _covered(pool, hits, retrieval)
    if not covered:
        return Extract([], [])
    sentences = [sentence for sentence, _ in covered]
    texts = _within_limit(model, [embedded_text(hits[s.hit_index].title or "", s.text) for s in sentences], sentences)
    tokens = sum(model.tokenizer.count(texts))
    try:
        dense = await embed(model, texts) @ question_vector
    except RejectedText:  # the words rank them alone
        dense, tokens = np.zeros(len(texts), dtype=np.float32), 0
    best_hit = max(hit.score for hit in hits) or 1.0
    scores = [
        LEXICAL_WEIGHT * share
        + DENSE_WEIGHT * float(dense[i])
        + CHUNK_WEIGHT * hits[sentence.hit_index].score / best_hit
        for i, (sentence, share) in enumerate(covered)
    ]
    citations = cite(hits, _best(sentences, scores, SOURCE_RATIO_MIN))
    text = cite(hits, _best(sentences, scores, QUOTE_RATIO_MIN))  # the first of the same
    return Extract(citations, in_reading_order(text), tokens)


def best_fit(retrieval: Retrieval, cosine_share: float) -> Fit:
    """Return how well the best single chunk fits: its cosine, and how much of the question's term weight it holds.

    Both of one chunk: taken over all hits, unrelated chunks add up. Measured on SQuAD 2.0 with half of its articles
    left out, 150 questions of either half: below 0.44 lie 92 % of those about left-out articles and 5 % of the
    others, of 100 questions about a library's documentation 5 %, of 100 scientific claims 12 %; 0.40 refuses 87 %,
    3 %, 2 % and 9 %.
    """
    fits = [_fit(hit, retrieval, cosine_share) for hit in retrieval.hits[:HITS_READ]]
    return max(fits, key=lambda fit: fit.confidence, default=NO_FIT)


async def _covered(pool: Pool, hits: Sequence[Hit], retrieval: Retrieval) -> list[tuple[Sentence, float]]:
    """Return the sentences that hold most of the question's words, each with how much of their weight it holds.

    Order: as in the hits.
    """
    sentences = sentences_of(hits)[:SENTENCES_MATCHED_MAX]
    languages = [hits[sentence.hit_index].language for sentence in sentences]
    lexemes = [term.lexeme for term in retrieval.terms]
    matched = await store.match_lexemes(pool, [s.text for s in sentences], languages, lexemes)
    idf = [retrieval.idf_for(hit) for hit in hits]
    shares = [coverage(found, idf[sentence.hit_index]) for sentence, found in zip(sentences, matched, strict=True)]
    best = sorted(range(len(sentences)), key=lambda i: -shares[i])[:SENTENCES_SCORED_MAX]
    return [(sentences[i], shares[i]) for i in sorted(best)]


def _fit(hit: Hit, retrieval: Retrieval, cosine_share: float) -> Fit:
    share = coverage(hit.lexemes, retrieval.idf_for(hit))
    return Fit(max(0.0, cosine_share * hit.cosine + (1 - cosine_share) * share), hit.cosine, share)


def _best(sentences: Sequence[Sentence], scores: Sequence[float], ratio_min: float) -> list[Sentence]:
    """Return the best sentence and those nearly as good, best first."""
    order = sorted(range(len(sentences)), key=lambda i: (-scores[i], i))
    chosen: dict[str, Sentence] = {}
    for i in order:
        if len(chosen) == SENTENCES_QUOTED_MAX or scores[i] < ratio_min * scores[order[0]]:
            break
        chosen.setdefault(sentences[i].text, sentences[i])
    return list(chosen.values())


def _within_limit(model: EmbeddingModel, texts: Sequence[str], sentences: Sequence[Sentence]) -> list[str]:
    """Leave the title out where the model could not read it with the sentence, and cut what is still too long."""
    limit = model.tokenizer.tokens_max
    fitting = []
    for text, count, sentence in zip(texts, model.tokenizer.count(texts), sentences, strict=True):
        fitting.append(text if count <= limit else sentence.text[:limit])
    return fitting
