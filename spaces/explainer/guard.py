"""What the server refuses before Gradio reads it: uploads, large requests, and requests from pages of other sites."""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse

MAX_REQUEST_BYTES = 64 * 1024
"""Largest request. The longest question has two texts of `MAX_CHARACTERS`, in UTF-8 and with JSON escapes."""

REFUSED = ("upload", "upload_progress", "process_recording")
"""Last part of the paths that accept or report on files. The demo accepts no files."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware that refuses uploads and large requests, and hides the origin of a request from Gradio.

    Gradio answers each origin with a permission to read answers with the visitor's cookies. Without an origin it gives
    no permission, so that only pages of the demo itself can read its answers. Programs are not affected.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].rstrip("/").rpartition("/")[2] in REFUSED:
            await JSONResponse({"error": "The demo accepts no files."}, 403)(scope, receive, send)
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"origin"]
        start = await _read_body(receive)
        if len(start.get("body", b"")) > MAX_REQUEST_BYTES:
            message = f"The request has more than {MAX_REQUEST_BYTES:,} bytes. Shorten your texts."
            await JSONResponse({"error": message}, 413)(scope, receive, send)
            return
        read = [start]

        async def receive_again() -> MutableMapping[str, Any]:
            return read.pop() if read else await receive()

        await self.app(scope, receive_again, send)


async def _read_body(receive: Receive) -> MutableMapping[str, Any]:
    """Return the body of a request as one message; reading ends when it is too large or the client is gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body += message.get("body", b"")
        if len(body) > MAX_REQUEST_BYTES or not message.get("more_body", False):
            return {"type": "http.request", "body": body, "more_body": False}


@asynccontextmanager
async def guarded(app: Starlette) -> AsyncIterator[None]:
    """Put the guard around an application when it starts, outside of all middleware of Gradio."""
    app.middleware_stack = Guard(app.middleware_stack) if app.middleware_stack else None
    yield
