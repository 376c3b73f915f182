"""Answer requests: unsubscribe, preferences, health, metrics, and the static blog.

Nothing is changed by GET. Only a POST does, as mail scanners follow the links in emails (RFC 8058, section 3.2).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

from sqlalchemy import Connection
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose
from skychimp.errors import StoreFailed
from skychimp.services.monitoring import metrics
from skychimp.services.unsubscribing import preferences, recipients
from skychimp.services.unsubscribing.preferences import Preferences
from skychimp.services.unsubscribing.recipients import Recipient
from skychimp.store import token_keys
from skychimp.store.database import Store
from skychimp.web import languages, pages
from skychimp.web.addresses import client_address, is_direct
from skychimp.web.grouped_writes import GroupedWrites
from skychimp.web.rate_limit import RateLimit

T = TypeVar("T")

log = logging.getLogger("skychimp.web")

MAX_HEADERS = 16_384
"""Bytes of a request's headers."""
MAX_BODY = 64_000
"""Bytes. A form with many long topics has less."""
MAX_FIELDS = 200
BODY_TIMEOUT_S = 10.0
KEYS_KEPT_S = 1.0
"""How long the keys of the tokens are used before they are read again, as a new one may be made at any time."""

_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_SAFE_PAGE = _SAFE | {
    "Cache-Control": "no-store",
    "Content-Security-Policy": pages.CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Vary": "Accept-Language",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}
_SAFE_SITE = _SAFE | {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' https:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
}

_ERRORS = {404: "invalid", 429: "wait", 503: "wait"}
"""The page for a status. All others are "refused"."""


def make_app(store: Store, site: Path | None, rate_limit: RateLimit) -> ASGIApp:
    """Return the server's application. `site` is the folder of a static blog, if there is one."""
    answers = _Answers(store)
    routes: list[BaseRoute] = [
        Route("/u/{token}", answers.unsubscribe, methods=["GET", "POST"]),
        Route("/p/{token}", answers.preferences, methods=["GET", "POST"]),
        Route("/healthz", answers.health),
        Route("/metrics", answers.metrics),
    ]
    if site is not None:
        routes.append(Mount("/", _Site(directory=site, html=True)))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, StoreFailed: _store_failed})
    app.router.redirect_slashes = False
    return _Guard(app, rate_limit)


class _Guard:
    """Refuses whoever asks too often, and logs what fails. Tokens and addresses are never logged."""

    def __init__(self, app: ASGIApp, rate_limit: RateLimit) -> None:
        self._app, self._rate_limit = app, rate_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = client_address(_peer(scope), scope["headers"])
        refusal = self._refusal(scope, address)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:  # Starlette has sent a reply. The server must go on, whatever it is
            log.error("request failed", extra={"reason": f"{type(error).__name__}: {error}"[:500]})

    def _refusal(self, scope: Scope, address: str) -> Response | None:
        if not self._rate_limit.allows(address, time.monotonic()):
            return _error(Request(scope), 429, {"Retry-After": "10"})
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return _error(Request(scope), 431)
        return None


class _Answers:
    """Answers requests about one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writes = GroupedWrites(store)
        self._keys: Mapping[int, bytes] = {}
        self._keys_until_s = 0.0
        self._reads_keys = asyncio.Lock()

    async def unsubscribe(self, request: Request) -> Response:
        """Ask on GET, and unsubscribe on POST, whatever its body is (RFC 8058)."""
        is_done = request.method == "POST"
        if is_done:
            await _read_body(request)
        now = self._store.now()

        def stop(db: Connection, recipient: Recipient) -> None:
            if is_done:
                preferences.stop(db, recipient, now, topic_only=True)

        recipient, _ = await self._use_recipient(request, stop, writes=is_done)
        token = request.path_params["token"]
        return _page(pages.unsubscribe_page(_language(request), token, recipient, is_done=is_done))

    async def preferences(self, request: Request) -> Response:
        """Show what a person gets, and change it on POST."""
        is_saved = request.method == "POST"
        change = _change(_parse(await _read_body(request)), self._store.now()) if is_saved else preferences.read
        recipient, shown = await self._use_recipient(request, change, writes=is_saved)
        return _page(pages.preferences_page(_language(request), recipient, shown, is_saved=is_saved))

    async def health(self, request: Request) -> Response:
        """Say whether the store can be read."""
        _require_direct(request)
        await self._read(lambda db: token_keys.read(db, self._store.now()))
        return PlainTextResponse("ok\n", headers=_SAFE)

    async def metrics(self, request: Request) -> Response:
        """Return the metrics in Prometheus' text format."""
        _require_direct(request)
        text = await asyncio.to_thread(metrics.read_metrics, self._store)
        return PlainTextResponse(text, headers=_SAFE, media_type=metrics.CONTENT_TYPE)

    async def _use_recipient(
        self, request: Request, use: Callable[[Connection, Recipient], T], *, writes: bool
    ) -> tuple[Recipient, T]:
        """Return what the token of a request is of, and what `use` returns for it in the same transaction.

        Raises HTTPException if the token is invalid. Such a token does not reach the store.
        """
        token, keys = request.path_params["token"], await self._fresh_keys()
        if tokens.read(keys, Purpose.UNSUBSCRIBE, token) is None:
            raise HTTPException(404)

        def find_and_use(db: Connection) -> tuple[Recipient, T] | None:
            recipient = recipients.find(db, keys, token)
            return None if recipient is None else (recipient, use(db, recipient))

        found = await (self._writes.write(find_and_use) if writes else self._read(find_and_use))
        if found is None:
            raise HTTPException(404)
        return found

    async def _fresh_keys(self) -> Mapping[int, bytes]:
        async with self._reads_keys:  # nobody may go on without them
            if time.monotonic() >= self._keys_until_s:
                self._keys = await self._read(lambda db: token_keys.read(db, self._store.now()))
                self._keys_until_s = time.monotonic() + KEYS_KEPT_S
            return self._keys

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._store.read() as db:
                return query(db.connection())

        return await asyncio.to_thread(run)


def _change(form: Mapping[str, Collection[str]], now: datetime) -> Callable[[Connection, Recipient], Preferences]:
    """Return the change that a form asks for. Raises HTTPException if there is no such change."""
    changes: Mapping[str, Callable[[Connection, Recipient], None]] = {
        "topics": lambda db, recipient: preferences.choose_topics(db, recipient, form.get("topic", ()), now),
        "pause": lambda db, recipient: preferences.pause(db, recipient, now),
        "stop": lambda db, recipient: preferences.stop(db, recipient, now),
        "resume": preferences.resume,
    }
    change = changes.get(next(iter(form.get("do", ())), ""))
    if change is None:
        raise HTTPException(400)

    def change_and_read(db: Connection, recipient: Recipient) -> Preferences:
        change(db, recipient)
        return preferences.read(db, recipient)

    return change_and_read


async def _read_body(request: Request) -> bytes:
    """Return the body of a request. Raises HTTPException if it is too large or too slow."""
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    return body


def _parse(body: bytes) -> Mapping[str, list[str]]:
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(400) from None


def _require_direct(request: Request) -> None:
    """Raise HTTPException unless a process on this machine asks, and not a proxy for somebody else."""
    if not is_direct(_peer(request.scope), request.scope["headers"]):
        raise HTTPException(404)


def _peer(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


def _language(request: Request) -> str:
    return languages.choose(request.headers.get("accept-language", ""))


def _page(html: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(html, status, headers=_SAFE_PAGE | dict(headers or {}))


def _error(request: Request, status: int, headers: Mapping[str, str] | None = None) -> Response:
    html = pages.error_page(_language(request), _ERRORS.get(status, "refused"))
    return _page(html, status, headers)


def _http_error(request: Request, error: Any) -> Response:
    return _error(request, error.status_code, error.headers)


def _store_failed(request: Request, error: Any) -> Response:
    log.error("request failed", extra={"reason": error.message})
    return _error(request, 503, {"Retry-After": "10"})


class _Site(StaticFiles):
    """The files of a static blog."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or the page for a missing one."""
        response = await super().get_response(path, scope)
        response.headers.update(_SAFE_SITE)
        return response
