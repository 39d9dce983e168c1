"""A prompt → a chat model's text, as it is written.

**Invariants:** `ASKBOX_LLM_MODEL` is the only switch; a request is repeated only before the first piece of its answer; whoever
closes the stream closes the request; an answer that ends without saying how it ended has broken off, and is an error.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from services.query.prompt import Turn
from services.query.settings import QuerySettings
from shared import conventions as names
from shared.errors import ProviderUnavailable, RejectedText
from shared.provider import BadAnswer, Endpoint, Provider
from shared.settings import OPENAI_BASE_URL, OPENAI_PREFIX
from shared.spans import genai_span, set_usage

# A model may think and write slowly; one that goes on for ever ends here.
ANSWER_SECONDS_MAX = 600.0
ANSWER_CHARACTERS_MAX = 100_000
# How long the count of tokens, and the end of the connection, are waited for once the answer is whole.
USAGE_SECONDS_MAX = 5.0
# A provider that reports more than this of one answer reports nonsense.
USAGE_TOKENS_MAX = 10_000_000
TokensParameter = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, slots=True)
class Finish:
    """How a text ended. `is_cut`: at a limit. Units: tokens as the provider counted them, None where it did not."""

    is_cut: bool
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(slots=True)
class _Reading:
    """What the chunks said so far."""

    characters: int = 0
    reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def read(self, chunk: ChatCompletionChunk) -> str:
        """Return the text of a chunk. The SDK checks no types, so each is looked at."""
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self.prompt_tokens = _token_count(getattr(usage, "prompt_tokens", None))
            self.completion_tokens = _token_count(getattr(usage, "completion_tokens", None))
        choices = getattr(chunk, "choices", None)
        if not isinstance(choices, list) or not choices:
            return ""  # the last chunk may hold usage and nothing else
        reason = getattr(choices[0], "finish_reason", None)
        if isinstance(reason, str):
            self.reason = reason
        text = getattr(getattr(choices[0], "delta", None), "content", None)
        if not isinstance(text, str):
            return ""
        text = text[: ANSWER_CHARACTERS_MAX - self.characters]
        self.characters += len(text)
        return text

    @property
    def is_full(self) -> bool:
        return self.characters >= ANSWER_CHARACTERS_MAX

    def finish(self) -> Finish:
        return Finish(self.reason == "length" or self.is_full, self.prompt_tokens, self.completion_tokens)


class ChatModel:
    """One chat model on an OpenAI-compatible server."""

    def __init__(
        self,
        provider: Provider,
        *,
        answer_tokens_max: int,
        tokens_parameter: TokensParameter,
        temperature: float | None,
        silence_seconds_max: float,
    ) -> None:
        self.name = provider.endpoint.model
        self._provider = provider
        self._answer_tokens_max = answer_tokens_max
        self._tokens_parameter = tokens_parameter
        self._temperature = temperature
        self._silence_seconds_max = silence_seconds_max

    @property
    def reason(self) -> str | None:
        """Why the model is not available, or None when it is."""
        return self._provider.reason

    async def write(
        self, turns: Sequence[Turn], *, tokens_max: int | None = None
    ) -> AsyncGenerator[str | Finish, None]:
        """Yield the text in pieces, then how it ended. Close it, or the request stays open.

        Units: `tokens_max` is what the text may have, where that is less than the setting allows.
        Raises: ProviderUnavailable before the first piece when the model cannot be had, behind it when the answer breaks off.
        """
        reading = _Reading()
        attributes = {names.GEN_AI_STREAM: True}
        with genai_span("chat", self.name, provider=names.OPENAI, is_remote=True, attributes=attributes) as opened:
            async with aclosing(await self._begin(turns, reading, tokens_max)) as chunks:
                try:
                    async for chunk in chunks:
                        if text := reading.read(chunk):
                            yield text
                        if reading.is_full:
                            break
                except ProviderUnavailable:
                    if reading.reason is None:  # else the answer is whole, and only what follows it is missing
                        raise
            if reading.reason is None and not reading.is_full:
                raise self._broken("it ended without saying that it is whole")
            set_usage(opened, input_tokens=reading.prompt_tokens, output_tokens=reading.completion_tokens)
            opened.set_attribute(names.GEN_AI_FINISH_REASONS, [reading.reason or "length"])
        yield reading.finish()

    async def _begin(
        self, turns: Sequence[Turn], reading: _Reading, tokens_max: int | None
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Send the request and wait for the first chunk of its answer, with the provider's few attempts."""
        messages: list[ChatCompletionMessageParam] = [_message(turn) for turn in turns]
        try:
            first, stream = await self._provider.call(lambda client: self._send(client, messages, tokens_max))
        except RejectedText as error:
            raise ProviderUnavailable(
                f"{error}: it does not take this request; look at ASKBOX_LLM_TOKENS_PARAMETER, ASKBOX_LLM_TEMPERATURE, "
                "ASKBOX_LLM_CONTEXT_TOKENS and ASKBOX_LLM_ANSWER_TOKENS"
            ) from None
        return self._chunks(first, stream, reading)

    async def _send(
        self, client: openai.AsyncOpenAI, messages: list[ChatCompletionMessageParam], tokens_max: int | None
    ) -> tuple[ChatCompletionChunk, openai.AsyncStream[ChatCompletionChunk]]:
        limit = {self._tokens_parameter: min(self._answer_tokens_max, tokens_max or self._answer_tokens_max)}
        stream = await client.chat.completions.create(
            model=self.name,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=limit.get("max_tokens", openai.omit),
            max_completion_tokens=limit.get("max_completion_tokens", openai.omit),
            temperature=openai.omit if self._temperature is None else self._temperature,
        )
        try:
            return await anext(stream), stream
        except BaseException as error:
            await stream.close()
            if isinstance(error, StopAsyncIteration | ValueError):
                raise BadAnswer(f"{self._provider.endpoint.host} answered no stream of chunks") from None
            raise

    async def _chunks(
        self, first: ChatCompletionChunk, stream: openai.AsyncStream[ChatCompletionChunk], reading: _Reading
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        try:
            yield first
            now = asyncio.get_running_loop().time
            deadline = now() + ANSWER_SECONDS_MAX
            while True:
                patience = self._silence_seconds_max if reading.reason is None else USAGE_SECONDS_MAX
                async with asyncio.timeout_at(min(now() + patience, deadline)):
                    chunk = await anext(stream)
                yield chunk
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise self._broken(
                f"nothing came for {self._silence_seconds_max:g} s, or it took longer than {ANSWER_SECONDS_MAX:g} s"
            ) from None
        except (openai.APIError, httpx2.HTTPError, ValueError) as error:
            raise self._broken(type(error.__cause__ or error).__name__) from None
        finally:
            await stream.close()

    def _broken(self, reason: str) -> ProviderUnavailable:
        return self._provider.fail(f"the answer of {self.name} broke off ({reason}): ask again")


@asynccontextmanager
async def open_chat_model(settings: QuerySettings) -> AsyncIterator[ChatModel | None]:
    """Hold the model that the settings name, or None: then nothing is ever sent.

    Raises: ConfigError when its server needs a key and there is none.
    """
    if settings.llm_model is None:
        yield None
        return
    base_url = settings.llm_base_url or settings.openai_base_url or OPENAI_BASE_URL
    endpoint = Endpoint(
        base_url=base_url,
        key=settings.openai_api_key,
        model=settings.llm_model.removeprefix(OPENAI_PREFIX),
        base_url_variable="ASKBOX_LLM_BASE_URL" if settings.llm_base_url else "OPENAI_BASE_URL",
        model_variable="ASKBOX_LLM_MODEL",
    )
    # OpenAI's reasoning models refuse the older name, and other servers may know no newer one.
    usual: TokensParameter = "max_completion_tokens" if base_url == OPENAI_BASE_URL else "max_tokens"
    provider = Provider(endpoint, timeout_seconds=settings.provider_seconds)
    try:
        yield ChatModel(
            provider,
            answer_tokens_max=settings.llm_answer_tokens,
            tokens_parameter=settings.llm_tokens_parameter or usual,
            temperature=settings.llm_temperature,
            silence_seconds_max=settings.provider_seconds,
        )
    finally:
        await provider.close()


def _message(turn: Turn) -> ChatCompletionMessageParam:
    match turn.role:
        case "system":
            return {"role": "system", "content": turn.content}
        case "user":
            return {"role": "user", "content": turn.content}
        case "assistant":
            return {"role": "assistant", "content": turn.content}


def _token_count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= USAGE_TOKENS_MAX else None
