"""What holds for every request before any route sees it: no pages of other sites, no endless bodies."""

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.query.problems import problem

UPLOAD_PATH = "/ingest/files"
# For a whole body that is no upload.
BODY_SECONDS_MAX = 30.0
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# No other site shows our pages in a frame, loads our answers as its parts, or takes them for another type.
_SHIELDS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class RequestGuard:
    """Plain ASGI, so that a body is counted as it comes and never read whole."""

    def __init__(self, app: ASGIApp, *, body_bytes_max: int, upload_bytes_max: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._upload_bytes_max = upload_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = self._refusal(scope) or self._app
        # An upload is counted and paced by its route, which can say what was wrong with it.
        body = receive if scope["path"] == UPLOAD_PATH else self._bounded(receive)
        await app(scope, body, _shielded(send))

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if scope["method"] not in _SAFE_METHODS and _comes_from_another_site(headers):
            return problem(403, "cross_site", "a page of another site may not change anything here")
        bytes_max = self._upload_bytes_max if scope["path"] == UPLOAD_PATH else self._body_bytes_max
        length = headers.get("content-length", "0")
        # As digits: more than 4,300 of them are no number to Python.
        if not (length.isascii() and length.isdigit()) or len(length) > 19 or int(length) > bytes_max:
            return problem(413, "body_too_large", f"the body may have at most {bytes_max} bytes")
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Let a body come to its end in time; then whoever listens hears when the caller leaves."""
        ends_at = asyncio.get_running_loop().time() + BODY_SECONDS_MAX
        seen, is_whole = 0, False

        async def bounded() -> Message:
            nonlocal seen, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(ends_at):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            seen += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return message if seen <= self._body_bytes_max else {"type": "http.disconnect"}

        return bounded


def _shielded(send: Send) -> Send:
    async def shielded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SHIELDS.items():
                headers.setdefault(name, value)
        await send(message)

    return shielded


def _comes_from_another_site(headers: Headers) -> bool:
    """Whether a browser says that another site's page sends this. Programs send neither header."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # no page can forge it; older browsers, and all of them over plain HTTP, send the origin alone
        return site not in {"same-origin", "none"}
    try:
        return origin is not None and urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True
