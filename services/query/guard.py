"""What holds for every request before any route sees it: no pages of other sites, no endless bodies."""

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
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
        headers = Headers(scope=scope)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        request = _Request(receive, send, is_whole=not has_body, may_refuse=scope["method"] not in _SAFE_METHODS)
        # An upload is counted and paced by its route, which can say what was wrong with it.
        body = request.receive if scope["path"] == UPLOAD_PATH else request.bounded(self._body_bytes_max)
        await app(scope, body, request.send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers, path = Headers(scope=scope), scope["path"]
        if scope["method"] not in _SAFE_METHODS and _comes_from_another_site(headers):
            return problem(403, "cross_site", "a page of another site may not change anything here", path=path)
        bytes_max = self._upload_bytes_max if path == UPLOAD_PATH else self._body_bytes_max
        length = headers.get("content-length", "0")
        # As digits: more than 4,300 of them are no number to Python.
        if not (length.isascii() and length.isdigit()) or len(length) > 19 or int(length) > bytes_max:
            return problem(413, "body_too_large", f"the body may have at most {bytes_max} bytes", path=path)
        return None


class _Request:
    """What came and went of one request."""

    def __init__(self, receive: Receive, send: Send, *, is_whole: bool, may_refuse: bool) -> None:
        self._receive, self._send = receive, send
        self._is_whole = is_whole
        # Only as long as nothing else is answered; a safe method's body nobody waits for.
        self._may_refuse = may_refuse

    async def receive(self) -> Message:
        """Pass on what comes."""
        message = await self._receive()
        self._is_whole = self._is_whole or not message.get("more_body", False)
        return message

    def bounded(self, bytes_max: int) -> Receive:
        """Let a body come to its end in time; then whoever listens hears when the caller leaves."""
        ends_at = asyncio.get_running_loop().time() + BODY_SECONDS_MAX
        seen, has_ended = 0, False

        async def bounded() -> Message:
            nonlocal seen, has_ended
            if has_ended:
                return await self._receive()
            try:
                async with asyncio.timeout_at(ends_at):
                    message = await self.receive()
            except TimeoutError:
                return self._refused(408, f"the body did not come within {BODY_SECONDS_MAX:.0f} s: send it again")
            seen += len(message.get("body", b""))
            has_ended = not message.get("more_body", False)
            return message if seen <= bytes_max else self._refused(413, f"the body may have at most {bytes_max} bytes")

        return bounded

    def _refused(self, status: int, detail: str) -> Message:
        """Say why a body is read no further, or that its caller is given up.

        Raises: HTTPException, which FastAPI lets through where it reads a body.
        """
        if self._may_refuse:
            raise HTTPException(status, detail)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Answer, with what no other site may do with it, and whether the rest of the body is still wanted."""
        if message["type"] == "http.response.start":
            self._may_refuse = False
            headers = MutableHeaders(scope=message)
            for name, value in _SHIELDS.items():
                headers.setdefault(name, value)
            if not self._is_whole:
                headers["Connection"] = "close"
        await self._send(message)


def _comes_from_another_site(headers: Headers) -> bool:
    """Whether a browser says that another site's page sends this. Programs send neither header."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # no page can forge it; older browsers, and all of them over plain HTTP, send the origin alone
        return site not in {"same-origin", "none"}
    try:
        return origin is not None and urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True
