"""The guard before every route: who may talk to us at all, so that no web page can drive an open loopback port.

Host (against DNS rebinding) -> Origin (against other sites' pages) -> API key and role, or a client on this machine.
It also serves `/api/v1/...` as `/...`.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator_api.options import RANK, ApiKey, ApiOptions, Role, hash_key
from orchestrator_api.problems import Refusal
from schemas.ids import NAME

log = logging.getLogger("pavane.api")

VERSIONED = "/api/v1"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/dashboard.js", "/dashboard.css", "/openapi.json"})
"""Served without a key: they show nothing of what runs."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """ASGI middleware. Sets `scope["state"]["by"]`, who asks: the name of the client's key, or without keys what the
    header `Pavane-User` says ("" if nothing)."""

    def __init__(self, app: ASGIApp, options: ApiOptions) -> None:
        self.app = app
        self.options = options
        self._hosts = LOOPBACK_NAMES | {host.lower() for host in options.hosts}
        self._origins = {origin.lower().rstrip("/") for origin in options.origins}
        if not options.keys:
            log.warning("no API keys are configured: only clients on this machine are served")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            scope = self._admitted(scope)
        except Refusal as refusal:
            await refusal.response()(scope, receive, _with_headers(send))
            return
        await self.app(scope, receive, _with_headers(send))

    def _admitted(self, scope: Scope) -> Scope:
        headers = Headers(scope=scope)
        path = scope["path"]
        if path == VERSIONED or path.startswith(VERSIONED + "/"):
            path = path[len(VERSIONED) :] or "/"
        self._check_host(headers)
        self._check_origin(headers)
        by = self._check_client(scope, headers, path)
        state = {**scope.get("state", {}), "by": by}
        return {**scope, "method": method_of(scope, headers), "path": path, "raw_path": path.encode(), "state": state}

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            raise Refusal(400, "The request needs one Host header.")
        if host_name(hosts[0]) not in self._hosts:
            raise Refusal(403, "This host name is not served here; the operator can add it to the API's hosts.")

    def _check_origin(self, headers: Headers) -> None:
        """A browser says which page asks; it may be one of ours or a configured one."""
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
                raise Refusal(403, "Another site's page may not call this API.")
            return
        if origin.lower() in self._origins:
            return
        if origin_host(origin) != headers["host"].lower():
            raise Refusal(403, "Another site's page may not call this API; the operator can add its origin.")

    def _check_client(self, scope: Scope, headers: Headers, path: str) -> str:
        if not self.options.keys:
            if not is_local(scope.get("client")):
                raise Refusal(403, "No API keys are configured, so that only clients on this machine are served.")
            user = headers.get("pavane-user", "")
            return user if NAME.fullmatch(user) else ""
        if path in OPEN_PATHS:
            return ""
        key = self._key(headers.get("authorization", ""))
        if key is None:
            raise Refusal(
                401, "This needs an API key: `Authorization: Bearer <key>`.", headers={"WWW-Authenticate": "Bearer"}
            )
        needed: Role = "reader" if scope["method"] in SAFE_METHODS else "operator"
        if RANK[key.role] < RANK[needed]:
            raise Refusal(403, f"This needs the role {needed}; the key {key.name} has the role {key.role}.")
        return key.name

    def _key(self, authorization: str) -> ApiKey | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        digest = hash_key(token.strip())
        found = None
        for key in self.options.keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(key.sha256.lower(), digest):
                found = key
        return found


def method_of(scope: Scope, headers: Headers) -> str:
    """HEAD is a GET whose body the server leaves out (RFC 9110, section 9.3.2); a live stream has no other part."""
    method = str(scope["method"])
    live = "text/event-stream" in headers.get("accept", "")
    return "GET" if method == "HEAD" and not live else method


def host_name(host: str) -> str:
    """The name in a Host header, without the port: `[::1]:8080` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_local(client: tuple[str, int] | None) -> bool:
    """A client on this machine; one without an address came over a unix socket."""
    if client is None:
        return True
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def check_binding(host: str, options: ApiOptions) -> None:
    """Raises ValueError if the API would listen beyond this machine without keys."""
    if options.keys or host in LOOPBACK_NAMES:
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise ValueError(f"the API listens on {host} only with API keys; without them it is bound to 127.0.0.1")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in known)]
        await send(message)

    return sending
