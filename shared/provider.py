"""Calls to an OpenAI-compatible server: one client, one gate, one table that makes its errors ours.

**Invariants:** after an answer with `Retry-After` nothing is sent through the same `Provider` until it has passed, nor by
any other process that shares the pause; what goes wrong is `RejectedText` where the server names the content as the
fault, else `ProviderUnavailable`; no error carries a key, or the server's own words, which may repeat either the key or
the text.
"""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shared.errors import ConfigError, ProviderUnavailable, RejectedText
from shared.settings import OPENAI_BASE_URL

T = TypeVar("T")
# Within one call, for what is over in a moment: a connection that broke, a 5xx, an answer that makes no sense.
ATTEMPTS_MAX = 3
ATTEMPT_PAUSE_SECONDS_MAX = 2.0
CONNECT_SECONDS_MAX = 5.0
# As many as ASKBOX_QUERY_CONCURRENCY can let in: waiting for a connection of our own would look like a slow server.
CONNECTIONS_MAX = 1000
CONNECTIONS_KEPT_MAX = 16
RESPONSE_BYTES_MAX = 256 * 1024 * 1024
# A server may ask for less than a day's patience and get an hour's.
RETRY_AFTER_SECONDS_MAX = 3600.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 1.0, 60.0
FAILURES_COUNTED_MAX = 10
# How long after the gate has opened a failure is still told, when nothing was asked since.
REASON_SECONDS = 90.0
# The SDK wants a key even where the server wants none.
_NO_KEY = "none"
_CODE = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is asked, and how the settings that say so are called."""

    base_url: str
    key: SecretStr | None
    model: str
    base_url_variable: str
    model_variable: str

    @property
    def host(self) -> str:
        """The address without what may follow it."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def fingerprint(self) -> str:
        """What tells this server and key from others, and nobody what the key is: 32 bits of a sum."""
        key = self.key.get_secret_value() if self.key else ""
        return hashlib.sha256(f"{self.base_url}\n{key}".encode()).hexdigest()[:8]


class NotNow(ProviderUnavailable):
    """The server wants no call now, or not from us: whatever were asked, the answer would be the same."""


class _Momentary(ProviderUnavailable):
    """What may be over at the next attempt."""


class BadAnswer(_Momentary):
    """The server answered what cannot be an answer to what it was asked."""


class SharedPause(Protocol):
    """What a server asked of one process, for every process that asks the same server with the same key."""

    async def find(self, server: str) -> tuple[float, str] | None:
        """Return for how many seconds a server wants no call, and why; None when it does, or when nobody can tell."""

    async def extend(self, server: str, seconds: float, reason: str) -> None:
        """Tell the others."""


class Gate:
    """Keeps calls back while a server wants none, and for growing pauses while it fails."""

    def __init__(self) -> None:
        self._open_at = 0.0
        self._failed_at = 0.0
        self._failures = 0
        self._reason: str | None = None

    def check(self) -> None:
        """Let a call through.

        Raises: NotNow while the gate is closed.
        """
        seconds = self._open_at - time.monotonic()
        if seconds > 0:
            raise NotNow(self._reason, retry_after=seconds)

    def close(self, reason: str, seconds: float) -> None:
        """Close for as long as another process was asked to wait."""
        self._open_at = max(self._open_at, time.monotonic() + seconds)
        self._reason = reason

    def fail(self, reason: str, retry_after: float | None) -> float:
        """Close for as long as the server asks, or for a pause that doubles; return the seconds."""
        self._failures = min(self._failures + 1, FAILURES_COUNTED_MAX)
        seconds = retry_after or min(PAUSE_SECONDS_MIN * 2.0 ** (self._failures - 1), PAUSE_SECONDS_MAX)
        self._failed_at = time.monotonic()
        # What was asked, exactly: a sum with the clock's time and the difference from it are not.
        pause = max(seconds, self._open_at - self._failed_at)
        self._open_at = self._failed_at + pause
        self._reason = reason
        return pause

    def succeed(self, started_at: float) -> None:
        """Forget earlier failures, unless they came after this call was sent."""
        if started_at >= self._failed_at:
            self._failures = 0
            self._reason = None

    @property
    def reason(self) -> str | None:
        """Why the last call failed, until one succeeds or it is long ago."""
        return self._reason if time.monotonic() < self._open_at + REASON_SECONDS else None


class Provider:
    """One model on one server. All that a process asks of it goes through here, so that one pause holds for all."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float, pause: SharedPause | None = None) -> None:
        self.endpoint = endpoint
        self._pause = pause
        self._timeout_seconds = timeout_seconds
        self._gate = Gate()
        key = (endpoint.key.get_secret_value() if endpoint.key else "").strip() or _NO_KEY
        if not key.isascii() or not key.isprintable():
            raise ConfigError("OPENAI_API_KEY holds characters that no key has: copy it again")
        if key == _NO_KEY and endpoint.base_url == OPENAI_BASE_URL:
            raise ConfigError(
                f"OPENAI_API_KEY is not set, and {endpoint.model_variable} needs it: set it, or name a server that needs "
                f"no key in {endpoint.base_url_variable}"
            )
        self.client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=key,
            max_retries=0,  # else these multiply with ours
            http_client=httpx2.AsyncClient(
                timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS_MAX),
                limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_KEPT_MAX),
                follow_redirects=False,  # the texts go where the settings say and nowhere else
                trust_env=urlsplit(endpoint.base_url).hostname not in {"127.0.0.1", "localhost", "::1"},
                event_hooks={"response": [_bound_response]},
            ),
        )

    @property
    def reason(self) -> str | None:
        """Why the model is not available, or None when it is."""
        return self._gate.reason

    async def call(self, send: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
        """Send a request and read its answer, with a few attempts, all within the time-out.

        Raises: RejectedText when the content is at fault; ProviderUnavailable when it is not, or the gate is closed.
        """
        attempts = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS_MAX),
            wait=wait_random_exponential(multiplier=0.2, max=ATTEMPT_PAUSE_SECONDS_MAX),
            retry=retry_if_exception_type(_Momentary),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                async for attempt in attempts:
                    with attempt:
                        return await self._attempt(send)
        except _Momentary as error:
            raise self.fail(str(error)) from None
        except TimeoutError:
            raise self.fail(self._slow()) from None
        raise AssertionError("tenacity ended without an answer or an error")

    async def _attempt(self, send: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
        self._gate.check()
        if self._pause is not None and (told := await self._pause.find(self.endpoint.fingerprint)) is not None:
            seconds, reason = told
            self._gate.close(reason, seconds)
            self._gate.check()
        started_at = time.monotonic()
        try:
            answer = await send(self.client)
        except openai.APITimeoutError:
            raise self.fail(self._slow()) from None
        except openai.APIStatusError as error:
            failure = self._status_error(error)
            asked = retry_after_seconds(error.response.headers)
            if self._pause is not None and asked is not None and isinstance(failure, NotNow):
                await self._pause.extend(self.endpoint.fingerprint, asked, str(failure))
            raise failure from None
        except openai.APIResponseValidationError:
            raise BadAnswer(f"{self.endpoint.host} answered something that is no answer") from None
        except openai.APIError as error:
            cause = type(error.__cause__ or error).__name__
            raise _Momentary(
                f"{self.endpoint.host} cannot be reached ({cause}): start it, or correct {self.endpoint.base_url_variable}"
            ) from None
        self._gate.succeed(started_at)
        return answer

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        """The table: what the server answered → whose fault it is."""
        end, status = self.endpoint, error.status_code
        seconds = retry_after_seconds(error.response.headers)
        answered = f"{end.host} answered {status}{_code(error)}"
        if status in {400, 413, 422}:
            return RejectedText(f"{answered} to what it was sent")
        if status in {401, 403}:
            kind = NotNow if status == 401 else ProviderUnavailable  # a wall before the server may dislike a text
            return self.fail(f"{answered}: it does not take the key; correct OPENAI_API_KEY", seconds, kind)
        if status == 404:
            return self.fail(
                f"{answered}: it has no model {end.model}; correct {end.model_variable} or {end.base_url_variable}",
                seconds,
                NotNow,
            )
        if status == 429:
            return self.fail(f"{answered}: too many requests, or a quota is used up", seconds, NotNow)
        if status < 400:
            reason = f"{answered}: it sends elsewhere; set {end.base_url_variable} to the address itself"
            return self.fail(reason, kind=NotNow)
        if seconds is not None:
            return self.fail(answered, seconds, NotNow)
        return _Momentary(answered) if status >= 500 else self.fail(answered)

    def fail(
        self, reason: str, retry_after: float | None = None, kind: type[ProviderUnavailable] = ProviderUnavailable
    ) -> ProviderUnavailable:
        """Close the gate and return the error that says so; also for who reads a stream that breaks off."""
        return kind(reason, retry_after=self._gate.fail(reason, retry_after))

    def _slow(self) -> str:
        return (
            f"{self.endpoint.host} took longer than {self._timeout_seconds:g} s: "
            "look at its load, or raise ASKBOX_PROVIDER_SECONDS"
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()


def _code(error: openai.APIStatusError) -> str:
    """Return the error's code, a word of the API's; never its message."""
    code = error.code or error.type
    return f" {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return for how long a server wants no call; a date is read by the server's own clock. None without a word of it."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds > 0:
            return min(seconds, RETRY_AFTER_SECONDS_MAX)
    until = _date(headers.get("retry-after"))
    if until is None:
        return None
    seconds = (until - (_date(headers.get("date")) or datetime.now(UTC))).total_seconds()
    return min(seconds, RETRY_AFTER_SECONDS_MAX) if seconds > 0 else None


def _date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


async def _bound_response(response: httpx2.Response) -> None:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends with an error when it grows over its limit."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self._stream:
            seen += len(part)
            if seen > RESPONSE_BYTES_MAX:
                raise httpx2.ReadError(f"the answer is longer than {RESPONSE_BYTES_MAX} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
