"""Errors under `/v1`, in the form that clients of OpenAI's API read."""

from typing import Any

from starlette.responses import JSONResponse

from shared.errors import NotFound, RequestError
from shared.spans import current_trace_id
from shared.text import storable

PREFIX = "/v1"
REQUEST_ID = "x-request-id"
# What these clients call a refusal, where it differs from what we do.
_CODES = {"unauthorized": "invalid_api_key", "too_busy": "rate_limit_exceeded"}
# They know one status for whatever is wrong with a request; to be too busy is their rate limit, and they wait and ask again.
_STATUSES = {415: 400, 422: 400}


class UnknownModel(NotFound):
    """There is no such model, or it is not yours to ask."""

    code = "model_not_found"
    param = "model"


class RefusedParameter(RequestError):
    """A part of the request asks for what is not done here."""

    code = "unsupported_parameter"

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def is_openai(path: str) -> bool:
    """Whether a path belongs to the interface that speaks as OpenAI's does."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def openai_error(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, *, param: str | None = None
) -> JSONResponse:
    """Make one error answer."""
    status = 429 if code == "too_busy" else _STATUSES.get(status, status)
    error: dict[str, Any] = {
        "message": storable(detail)[0],  # it may repeat what the caller sent
        "type": _type(status),
        "param": param and storable(param)[0],
        "code": _CODES.get(code, code),
    }
    return JSONResponse({"error": error}, status_code=status, headers=(headers or {}) | request_id())


def request_id() -> dict[str, str]:
    """Return the header by which these clients name a request: the id of its trace."""
    trace_id = current_trace_id()
    return {REQUEST_ID: trace_id} if trace_id else {}


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
