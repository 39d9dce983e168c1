"""Errors as `application/problem+json`, each with its trace id and what to do next."""

import logging
import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS
from shared.errors import AskboxError, ProviderUnavailable, RequestError, TooBusy, Unauthorized
from shared.spans import current_trace_id
from shared.telemetry import Event, log
from shared.text import one_line, storable, without_addresses

RETRY_AFTER_SECONDS = 2
# Of what the framework refuses, or the guard through it.
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_stalled",
    413: "body_too_large",
}


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Make one problem answer."""
    body = {
        "type": f"urn:askbox:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": storable(detail)[0],  # it may repeat what the caller sent
        "trace_id": current_trace_id(),
    }
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")


def unavailable(detail: str, retry_after: float = RETRY_AFTER_SECONDS) -> JSONResponse:
    """Say that it is worth asking again soon."""
    return problem(503, "unavailable", detail, {"Retry-After": str(max(1, math.ceil(retry_after)))})


def problem_of(error: Exception) -> JSONResponse:
    """Return the problem that an error is; what nobody expected is logged."""
    if isinstance(error, RequestError):
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
        return problem(error.status, error.code, str(error), headers)
    if isinstance(error, ProviderUnavailable):
        log(Event.PROVIDER_UNAVAILABLE, logging.WARNING, reason=one_line(str(error)))
        return unavailable(without_addresses(str(error)), error.retry_after or RETRY_AFTER_SECONDS)
    if isinstance(error, TooBusy):
        return unavailable(str(error))
    if isinstance(error, (*CONNECTION_ERRORS, *CONFLICT_ERRORS)):
        log(Event.DATABASE_UNAVAILABLE, logging.WARNING, reason=one_line(str(error)) or type(error).__name__)
        return unavailable("the database does not answer now: ask again")
    log(Event.REQUEST_FAILED, logging.ERROR, error=error)
    code = error.code if isinstance(error, AskboxError) else "internal"
    return problem(500, code, "askbox failed on this request; its log has the trace id and the reason")


def install_problem_handlers(app: FastAPI) -> None:
    """Turn every error that leaves a route into a problem."""

    async def on_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        parts = [
            f"{'.'.join(str(p) for p in e['loc'] if p != 'body') or 'body'}: {e['msg']}" for e in error.errors()[:10]
        ]
        return problem(422, "invalid_request", one_line("; ".join(parts), 1000))

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "http_error")
        return problem(error.status_code, code, str(error.detail), dict(error.headers or {}))

    async def on_error(_: Request, error: Exception) -> JSONResponse:
        return problem_of(error)

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    for kind in (RequestError, ProviderUnavailable, TooBusy, *CONNECTION_ERRORS, *CONFLICT_ERRORS, Exception):
        if issubclass(kind, Exception):
            app.add_exception_handler(kind, on_error)
