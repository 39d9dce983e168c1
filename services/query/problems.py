"""Errors as `application/problem+json`, each with its trace id and what to do next; under `/v1` in OpenAI's form."""

import logging
import math
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from services.query.openai_errors import is_openai, openai_error
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS
from shared.errors import AskboxError, ProviderUnavailable, RequestError, TooBusy, Unauthorized
from shared.spans import current_trace_id
from shared.telemetry import Event, log
from shared.text import one_line, storable, without_addresses

RETRY_AFTER_SECONDS = 2
PARAM_CHARACTERS_MAX = 200
# Of what the framework refuses, or the guard through it.
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_stalled",
    413: "body_too_large",
}


def problem(
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str] | None = None,
    *,
    path: str = "",
    param: str | None = None,
) -> JSONResponse:
    """Make one problem answer, in the form that callers of `path` read. `param`: what of the request is wrong."""
    if is_openai(path):
        return openai_error(status, code, detail, headers, param=param)
    body = {
        "type": f"urn:askbox:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": storable(detail)[0],  # it may repeat what the caller sent
        "trace_id": current_trace_id(),
    }
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def unavailable(
    detail: str, retry_after: float = RETRY_AFTER_SECONDS, *, code: str = "unavailable", path: str = ""
) -> JSONResponse:
    """Say that it is worth asking again soon."""
    return problem(503, code, detail, {"Retry-After": str(max(1, math.ceil(retry_after)))}, path=path)


def problem_of(error: Exception, path: str = "") -> JSONResponse:
    """Return the problem that an error is, for callers of `path`; what nobody expected is logged."""
    if isinstance(error, RequestError):
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
        return problem(error.status, error.code, str(error), headers, path=path, param=getattr(error, "param", None))
    if isinstance(error, ProviderUnavailable):
        log(Event.PROVIDER_UNAVAILABLE, logging.WARNING, reason=one_line(str(error)))
        return unavailable(without_addresses(str(error)), error.retry_after or RETRY_AFTER_SECONDS, path=path)
    if isinstance(error, TooBusy):
        code = TooBusy.code if is_openai(path) else "unavailable"
        return unavailable(str(error), code=code, path=path)
    if isinstance(error, (*CONNECTION_ERRORS, *CONFLICT_ERRORS)):
        log(Event.DATABASE_UNAVAILABLE, logging.WARNING, reason=one_line(str(error)) or type(error).__name__)
        return unavailable("the database does not answer now: ask again", path=path)
    log(Event.REQUEST_FAILED, logging.ERROR, error=error)
    code = error.code if isinstance(error, AskboxError) else "internal"
    return problem(500, code, "askbox failed on this request; its log has the trace id and the reason", path=path)


def install_problem_handlers(app: FastAPI) -> None:
    """Turn every error that leaves a route into a problem."""

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        name = _parameter if is_openai(request.url.path) else _place
        found = [(name(e["loc"]), e["msg"]) for e in error.errors()[:10]]
        detail = one_line("; ".join(f"{place or 'body'}: {message}" for place, message in found), 1000)
        param = next((place for place, _ in found if place[:1].isalpha()), None)
        shown = None if param is None else one_line(param, PARAM_CHARACTERS_MAX)
        return problem(422, "invalid_request", detail, path=request.url.path, param=shown)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "http_error")
        return problem(error.status_code, code, str(error.detail), dict(error.headers or {}), path=request.url.path)

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return problem_of(error, request.url.path)

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    for kind in (RequestError, ProviderUnavailable, TooBusy, *CONNECTION_ERRORS, *CONFLICT_ERRORS, Exception):
        if issubclass(kind, Exception):
            app.add_exception_handler(kind, on_error)


def _place(loc: Sequence[int | str]) -> str:
    """Name a field of the body."""
    return ".".join(str(part) for part in loc if part != "body")


def _parameter(loc: Sequence[int | str]) -> str:
    """Name a field of the body as clients of OpenAI's API know it: `messages[0].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != "body").lstrip(".")
