"""One question's way through the process, whoever asks in whatever form: what it waits for, its slot, its span, its end.

**Invariants:** a question waits for files before it takes a slot; it is told of exactly once, as answered, refused, failed or
abandoned.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from services.query.deps import Deps
from services.query.exchange import Answer, Asked, Offered
from services.query.schema import AnswerOut
from services.query.wait import Awaited, wait_for
from shared import conventions as names
from shared.errors import RequestError
from shared.metrics import count_first_token, count_question
from shared.spans import current_trace_id, span
from shared.telemetry import Event, log


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer, and how it is shown."""

    answer: Answer
    out: AnswerOut


async def wait_first(deps: Deps, awaited: Awaited | None) -> None:
    """Wait for files before a question takes its slot: those that do not wait are not held up."""
    if awaited is not None:
        async with deps.waits:
            await wait_for(deps.pool, awaited)


async def whole(deps: Deps, asked: Asked, awaited: Awaited | None) -> Finished:
    """Wait for the whole answer."""
    finished: Finished | None = None
    async with aclosing(work(deps, asked, awaited)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Finished):
                finished = piece
    assert finished is not None
    return finished


async def work(deps: Deps, asked: Asked, awaited: Awaited | None) -> AsyncGenerator[Offered | str | Finished, None]:
    """Answer one question within its slot and its span, after what it waits for, and tell how it ended."""
    await wait_first(deps, awaited)
    started = time.monotonic()
    first_text_seconds = 0.0
    answer: Answer | None = None
    with span(names.ANSWER_QUESTION):
        try:
            async with deps.concurrency, aclosing(deps.answerer.answer(asked)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        answer = piece
                        continue
                    if isinstance(piece, str):
                        first_text_seconds = first_text_seconds or time.monotonic() - started
                    yield piece
        except (GeneratorExit, asyncio.CancelledError):
            log(Event.QUESTION_ABANDONED, duration_ms=_elapsed_ms(started))
            raise
        except Exception as error:
            if not isinstance(error, RequestError):
                count_question("failed", time.monotonic() - started)
            raise
        assert answer is not None
        out = AnswerOut.of(asked.question, answer, latency_ms=_elapsed_ms(started), trace_id=current_trace_id())
        _tell(asked, out, first_text_seconds)
    yield Finished(answer, out)


def _tell(asked: Asked, out: AnswerOut, first_text_seconds: float) -> None:
    log(
        Event.QUESTION_ANSWERED,
        answered=out.answered,
        sources=len(out.sources),
        collections=len(asked.collections),
        confidence=out.meta.confidence,
        refusal=out.meta.refusal and out.meta.refusal.reason,
        model=out.meta.model,
        prompt_tokens=out.tokens.prompt,
        completion_tokens=out.tokens.completion,
        duration_ms=out.meta.latency_ms,
    )
    count_question("answered" if out.answered else "refused", out.meta.latency_ms / 1000)
    if out.meta.model is not None:
        count_first_token(first_text_seconds)


def _elapsed_ms(started: float) -> float:
    """Return the milliseconds since a reading of `time.monotonic`."""
    return round((time.monotonic() - started) * 1000, 1)
