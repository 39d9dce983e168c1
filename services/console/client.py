"""The command line as a client of the HTTP interface."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import httpx2

from services.console.settings import ConsoleSettings
from shared.errors import AskboxError

TIMEOUT_SECONDS = 120.0
UPLOAD_TIMEOUT_SECONDS = 600.0  # between two pieces


class RequestFailed(AskboxError):
    """The askbox server refused the request or does not run."""


def call(
    settings: ConsoleSettings,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
) -> Any:
    """Send one request and return the decoded answer.

    Raises: RequestFailed with what to do next. A 503 from `/health` is an answer.
    """
    return _send(settings, method, path, TIMEOUT_SECONDS, json=body, params=params)


def upload(
    settings: ConsoleSettings, path: str, files: Sequence[tuple[str, BinaryIO]], *, params: dict[str, Any]
) -> Any:
    """Send open files, by name, as one form and return the decoded answer; they are read as they are sent.

    Raises: RequestFailed with what to do next.
    """
    parts = [("file", (name, file, "application/octet-stream")) for name, file in files]
    return _send(settings, "POST", path, UPLOAD_TIMEOUT_SECONDS, files=parts, params=params)


def _send(
    settings: ConsoleSettings, method: str, path: str, timeout: float, *, params: dict[str, Any] | None, **content: Any
) -> Any:
    headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    try:
        response = httpx2.request(
            method,
            settings.url.rstrip("/") + path,
            params={k: v for k, v in (params or {}).items() if v is not None},
            headers=headers,
            timeout=timeout,
            trust_env=False,
            **content,
        )
    except httpx2.HTTPError as error:
        raise RequestFailed(
            f"askbox does not answer at {settings.url} ({error}): start it with `askbox up`, or set ASKBOX_URL"
        ) from None
    if response.status_code >= 400 and path != "/health":
        raise RequestFailed(_detail(response))
    return response.json() if response.content else None


def _detail(response: httpx2.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"askbox answered {response.status_code}: {response.text[:200]}"
