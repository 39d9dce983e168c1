"""Embedding models behind one interface: sentence-transformers in this process, or an OpenAI-compatible server.

**Invariants:** no input is ever cut silently: what is longer than the model reads is refused and counted; every vector
that leaves here is finite, normalised and as long as the model's dimension.
"""

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import openai

from shared.errors import ConfigError, ProviderUnavailable, RejectedText, RetryableError
from shared.provider import BadAnswer, Endpoint, NotNow, Provider, SharedPause
from shared.settings import OPENAI_BASE_URL, OPENAI_PREFIX, Settings
from shared.tokens import Tokenizer, model_folder, open_tokenizer, prepare_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = npt.NDArray[np.float32]
# On a CPU small batches stay in the cache: 8, 16, 32, 64 texts gave 53, 52, 43, 35 chunks a second on two cores.
ENCODE_BATCH_SIZE = 16
# What one request may hold; the second is OpenAI's limit, counted here before it is sent.
REQUEST_TEXTS_MAX = 2048
REQUEST_TOKENS_MAX = 300_000
USAGE_TOKENS_MAX = 10**9
# pgvector's halfvec is stored with more and cannot be indexed.
DIMENSION_MAX = 4000
# Nobody's text: what a server does with it tells whether the fault is its own.
CONTROL_TEXT = "askbox"
FAILED_KEPT_MAX = 10_000
# For how long a server that took a text counts as well.
WELL_SECONDS = 10.0


class EmbeddingModel(Protocol):
    """Turns texts into vectors."""

    name: str
    tokenizer: Tokenizer
    # How many tokens it has read since it was opened.
    tokens_used: int

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts.

        Shape: (len(texts), dimension), each row of length 1.
        Raises: RejectedText when a text cannot be embedded; ProviderUnavailable when none can now.
        """


class LocalModel:
    """A sentence-transformers model in this process. Encoding runs in a thread, one call at a time."""

    def __init__(self, name: str, *, threads: int | None = None) -> None:
        self.name = name
        self.tokenizer = open_tokenizer(name)
        self._model = _load(name, threads)
        self._lock = threading.Lock()
        dimension = self._model.get_embedding_dimension()
        if dimension is None:
            raise ConfigError(f"ASKBOX_EMBEDDING_MODEL: {name} does not say how long its vectors are")
        self.dimension: int = dimension
        self.note: str | None = None
        self.tokens_used = 0

    async def probe(self) -> int:
        """Return how long its vectors are."""
        return self.dimension

    async def close(self) -> None:
        """Nothing is open."""

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts in a thread."""
        return await asyncio.to_thread(self.encode_now, texts)

    def encode_now(self, texts: Sequence[str]) -> Vectors:
        """Embed texts in the calling thread."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        counts = self.tokenizer.count(texts)
        refuse_too_long(self.name, texts, counts, self.tokenizer.tokens_max)
        with self._lock:
            self.tokens_used += sum(counts)
            vectors = self._model.encode(
                list(texts),
                batch_size=ENCODE_BATCH_SIZE,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return checked(np.asarray(vectors, dtype=np.float32), len(texts), self.dimension)


def _load(name: str, threads: int | None) -> "SentenceTransformer":
    # Nothing is fetched for the bundled model or a folder; a hub name may be, once.
    folder = model_folder(name)
    if folder is not None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if any(folder.glob("**/*.py")):
            raise ConfigError(
                f"ASKBOX_EMBEDDING_MODEL: {folder} holds Python code, which a model needs not: remove it or use another model"
            )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Deferred: torch takes seconds to import, and only processes that embed need it.
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    try:
        return SentenceTransformer(str(folder or name), trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise ConfigError(f"ASKBOX_EMBEDDING_MODEL: {name} cannot be loaded: {error}") from None


def refuse_too_long(name: str, texts: Sequence[str], counts: Sequence[int], tokens_max: int) -> None:
    """Let texts pass that the model reads whole.

    Raises: RejectedText for the first that it would cut.
    """
    for text, count in zip(texts, counts, strict=True):
        if count > tokens_max:
            raise RejectedText(
                f"a text of {count} tokens is longer than the {tokens_max} that {name} reads ({len(text)} characters)"
            )


def checked(vectors: Vectors, count: int, dimension: int) -> Vectors:
    """Return the vectors normalised.

    Raises: ProviderUnavailable when their number or length is wrong; RejectedText when one is not finite or is zero.
    """
    if vectors.shape != (count, dimension):
        raise ProviderUnavailable(
            f"the model answered {count} texts with vectors of shape {vectors.shape}, not ({count}, {dimension})"
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms < 1e-6).any():
        raise RejectedText("the model gave a vector that is zero or not finite")
    normalised: Vectors = vectors / norms
    return normalised


class OpenAIModel:
    """A model on an OpenAI-compatible server.

    **A text is found guilty only while the server is seen to be well.** Servers answer 400 to everything when a setting
    is wrong, and some fail with 500 on one bad text each time. So a text that is rejected alone, and texts whose
    request failed before, are held against the control text: when the server does not take that either, nobody is
    charged.
    """

    def __init__(
        self,
        name: str,
        provider: Provider,
        tokenizer: Tokenizer,
        *,
        asked_dimension: int | None = None,
        find_dimension: Callable[[], Awaitable[int | None]] | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.dimension: int | None = None
        self.tokens_used = 0
        self._provider = provider
        self._asked_dimension = asked_dimension
        self._find_dimension = find_dimension
        self._well_at = -WELL_SECONDS
        self._is_doubted = False
        # All of them, not the last alone: a handful of bad texts that come by turns would each look new, charged to nobody.
        self._failed: dict[int, None] = {}

    @property
    def note(self) -> str | None:
        """Why no text can be embedded now, or None."""
        reason = self._provider.reason
        return None if reason is None else f"{self.name} is not available: {reason}"

    async def probe(self) -> int:
        """Ask the server how long its vectors are.

        Raises: ConfigError when they are too long; ProviderUnavailable when it gives none.
        """
        vectors = await self._take_control_text(None)
        dimension: int = vectors.shape[1]
        if dimension > DIMENSION_MAX:
            raise ConfigError(
                f"ASKBOX_EMBEDDING_MODEL: {self.name} gives vectors of {dimension} dimensions and {DIMENSION_MAX} can be "
                "stored: set ASKBOX_EMBEDDING_DIMENSION where the model can give shorter ones, or use another model"
            )
        return dimension

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in as many requests as their number and length need."""
        if self.dimension is None and self._find_dimension is not None:
            self.dimension = await self._find_dimension()
        if not texts:
            return np.zeros((0, self.dimension or 0), dtype=np.float32)
        counts = await asyncio.to_thread(self.tokenizer.count, texts)
        refuse_too_long(self.name, texts, counts, self.tokenizer.tokens_max)
        return np.concatenate([await self._request(texts[start:end]) for start, end in requests_of(counts)])

    async def _request(self, texts: Sequence[str]) -> Vectors:
        """Embed what fits into one request, and find out whose fault it is when that fails."""
        hashes = [hash(text) for text in texts]
        has_failed_before = not self._failed.keys().isdisjoint(hashes)
        if has_failed_before or self._is_doubted:  # what it takes ends its growing pauses
            await self._see_that_it_is_well()
        try:
            vectors = await self._try(texts, self.dimension)
        except RejectedText as error:
            if len(texts) > 1:
                raise
            await self._see_that_it_is_well()
            raise RejectedText(
                f"{error} of {self.tokenizer.count(texts)[0]} tokens ({len(texts[0])} characters); if the model reads "
                f"fewer than {self.tokenizer.tokens_max}, set ASKBOX_EMBEDDING_TOKENS_MAX and retry the document"
            ) from None
        except NotNow:
            raise
        except ProviderUnavailable as error:
            self._well_at = -WELL_SECONDS
            self._is_doubted = True
            if has_failed_before:
                raise RetryableError(f"the model takes other texts, and not these: {error}") from None
            self._failed.update(dict.fromkeys(hashes))
            for old in list(self._failed)[:-FAILED_KEPT_MAX]:
                del self._failed[old]
            raise
        for known in hashes:
            self._failed.pop(known, None)
        return vectors

    async def _see_that_it_is_well(self) -> None:
        """Send the control text, unless the server has just taken another one.

        Raises: ProviderUnavailable when the server does not take it.
        """
        if time.monotonic() - self._well_at >= WELL_SECONDS:
            await self._take_control_text(self.dimension)

    async def _take_control_text(self, dimension: int | None) -> Vectors:
        """Embed a text that nobody can blame.

        Raises: ProviderUnavailable when the server does not take it.
        """
        try:
            return await self._try([CONTROL_TEXT], dimension)
        except RejectedText as error:
            raise self._provider.fail(
                f"{error}, and to every other: correct ASKBOX_EMBEDDING_MODEL, ASKBOX_EMBEDDING_BASE_URL or "
                "ASKBOX_EMBEDDING_DIMENSION"
            ) from None

    async def _try(self, texts: Sequence[str], dimension: int | None) -> Vectors:
        async def send(client: openai.AsyncOpenAI) -> Vectors:
            # The SDK's own reading goes through every number in Python, on the event loop, and checks nothing.
            answer = await client.embeddings.with_raw_response.create(
                model=self.name.removeprefix(OPENAI_PREFIX),
                input=list(texts),
                encoding_format="float",
                dimensions=self._asked_dimension or openai.omit,
            )
            vectors, tokens = await asyncio.to_thread(read_answer, answer.content, len(texts), dimension)
            if tokens is None:
                tokens = sum(await asyncio.to_thread(self.tokenizer.count, texts))
            self.tokens_used += tokens
            return vectors

        vectors = await self._provider.call(send)
        self._well_at = time.monotonic()
        self._is_doubted = False
        return vectors

    async def close(self) -> None:
        """Close the connections."""
        await self._provider.close()


def requests_of(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Divide texts of so many tokens into requests.

    Order: as given; spans follow one another without gaps. A text over the limit stands alone.
    """
    start = tokens = 0
    for place, count in enumerate(counts):
        if place > start and (place - start == REQUEST_TEXTS_MAX or tokens + count > REQUEST_TOKENS_MAX):
            yield start, place
            start, tokens = place, 0
        tokens += count
    if start < len(counts):
        yield start, len(counts)


def read_answer(content: bytes, count: int, dimension: int | None) -> tuple[Vectors, int | None]:
    """Return the vectors in the order of the texts, normalised, and the tokens that the server says it read.

    Raises: BadAnswer unless there is exactly one usable vector for each text.
    """
    try:
        answer: Any = json.loads(content)
        items: list[Any] = answer["data"]
        by_place = {item["index"]: item["embedding"] for item in items if type(item["index"]) is int}
        if len(items) != count or sorted(by_place) != list(range(count)):
            raise BadAnswer(f"the model answered {count} texts with {len(items)} vectors, or not one for each")
        raw = np.array([by_place[place] for place in range(count)])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadAnswer("the model answered something that is no list of vectors") from None
    if raw.ndim != 2 or raw.dtype.kind not in "fi":
        raise BadAnswer("the model answered vectors that are not numbers, or not of one length")
    with np.errstate(over="ignore"):
        vectors = raw.astype(np.float32)
    try:
        normalised = checked(vectors, count, dimension or raw.shape[1])
    except (RejectedText, ProviderUnavailable) as error:
        raise BadAnswer(str(error)) from None
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return normalised, tokens if type(tokens) is int and 0 <= tokens <= USAGE_TOKENS_MAX else None


def open_model(
    settings: Settings,
    *,
    threads: int | None = None,
    timeout_seconds: float | None = None,
    find_dimension: Callable[[], Awaitable[int | None]] | None = None,
    pause: SharedPause | None = None,
) -> LocalModel | OpenAIModel:
    """Open the model that the settings name; one on a server is not asked anything yet, and `pause` is for it alone.

    Raises: ConfigError when it cannot be loaded, or a setting of its server is missing.
    """
    name = settings.embedding_model
    if not name.startswith(OPENAI_PREFIX):
        return LocalModel(name, threads=threads)
    endpoint = Endpoint(
        base_url=settings.embedding_base_url or settings.openai_base_url or OPENAI_BASE_URL,
        key=settings.openai_api_key,
        model=name.removeprefix(OPENAI_PREFIX),
        base_url_variable="ASKBOX_EMBEDDING_BASE_URL",
        model_variable="ASKBOX_EMBEDDING_MODEL",
    )
    provider = Provider(
        endpoint, timeout_seconds=min(settings.provider_seconds, timeout_seconds or math.inf), pause=pause
    )
    return OpenAIModel(
        name,
        provider,
        open_tokenizer(prepare_tokenizer(settings)),
        asked_dimension=settings.embedding_dimension,
        find_dimension=find_dimension,
    )
