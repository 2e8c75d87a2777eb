"""The caller: one HTTP call, from the check of where it goes to the answer that is read."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx

from agent_runner.failure import TaskFailed
from agent_runner.web.address import Resolve, is_forbidden, resolve
from agent_runner.web.answer import ENCODING, read_beginning, read_body
from agent_runner.web.call import Call
from agent_runner.web.credential import Credential
from agent_runner.web.origin import Hosts, Origin
from agent_runner.web.url import origin_of, read_url
from schemas.compiler.outside_rules import OWN_HEADERS

REDIRECTS = 5
CONNECT_S = 10.0  # for each address of a host
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others at the next attempt."""
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_PLAIN = ("content-", "accept", "user-agent")  # headers whose values may be shown
_READ, _SHOWN = 4_096, 300  # of an answer that is a failure: bytes that are read, characters that are shown
_SECRET = 6  # characters of a word that may be one


class WebCaller:
    """Makes calls. It keeps no cookies, reads no proxies or logins from the environment, and holds no connection open.

    `allowed`: hosts that a call may go to although its document does not name them. `tls`: whom to trust; as it is, the
    machine's and Mozilla's authorities.
    """

    def __init__(
        self, allowed: Iterable[str] = (), credentials: Mapping[str, Credential] | None = None, *,
        resolve: Resolve = resolve, tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        """Raises ValueError for an entry of `allowed` that is no host."""
        self._allowed = Hosts(allowed)
        self._credentials = credentials or {}
        self._resolve = resolve
        # A connection kept for a later call would be found by its address, and that call may mean another host there.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=tls or _trusted(), trust_env=False, limits=limits)

    async def call(self, call: Call) -> dict[str, Any]:
        """{status, headers, body} of the answer. Raises TaskFailed; bounded in size, but not in time."""
        url = read_url(call.url)
        origin = origin_of(url)
        if origin != call.named and origin not in self._allowed:
            message = f"the host of {origin} is neither literal in the document nor on the operator's list"
            raise TaskFailed("invalid_input", message)
        try:
            return await self._follow(call, url, await self._addresses(origin))
        except httpx.TimeoutException:
            raise TaskFailed("timeout", f"{call.method} {origin}: no connection in time") from None
        except (httpx.LocalProtocolError, UnicodeError):
            raise TaskFailed("invalid_input", f"{call.method} {origin}: the request can not be sent") from None
        except (httpx.TransportError, OSError) as error:
            reason = self._without_secrets(str(error) or type(error).__name__, call)
            raise TaskFailed("connection", f"{call.method} {origin}: {reason[:_SHOWN]}") from None

    async def close(self) -> None:
        await self._transport.aclose()

    async def _addresses(self, origin: Origin) -> list[str]:
        """Looked up once for a call: what is checked here is what is connected to."""
        try:
            found = await self._resolve(origin.host, origin.port)
        except UnicodeError:  # a label that is empty or too long
            raise TaskFailed("invalid_input", f"{origin} names no host") from None
        except OSError as error:
            raise TaskFailed("connection", f"{origin.host} can not be resolved: {error.strerror}") from None
        addresses = [address for address in found if not is_forbidden(address)]
        if not addresses:
            message = f"{origin.host} has no address that calls may go to (link-local, metadata, multicast ...)"
            raise TaskFailed("invalid_input", message)
        return addresses

    async def _follow(self, call: Call, url: httpx.URL, addresses: Sequence[str]) -> dict[str, Any]:
        for _ in range(1 + REDIRECTS):
            response = await self._send(call, url, addresses)
            try:
                place = response.headers.get("location")
                if call.expects(response.status_code):
                    body = await read_body(response)
                    return {"status": response.status_code, "headers": dict(response.headers), "body": body}
                if response.status_code not in _REDIRECTING or place is None:
                    raise await self._refusal(call, origin_of(url), response)
                url = _redirected(url, place)
                call = _after_redirect(call, response.status_code)
            finally:
                await response.aclose()
        raise TaskFailed("http_status", f"{call.method} {origin_of(url)}: more than {REDIRECTS} redirects")

    async def _send(self, call: Call, url: httpx.URL, addresses: Sequence[str]) -> httpx.Response:
        """To the first address that can be connected to, in the name of the host."""
        origin = origin_of(url)
        headers = self._headers(call, origin)
        timeout = httpx.Timeout(None, connect=CONNECT_S).as_dict()
        for address in addresses:
            request = httpx.Request(
                call.method, url.copy_with(host=address), headers=headers, content=call.content,
                extensions={"sni_hostname": origin.host, "timeout": timeout},
            )  # fmt: skip
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise AssertionError("there is an address")

    def _headers(self, call: Call, origin: Origin) -> list[tuple[bytes, bytes]]:
        headers = {"accept": "*/*", "user-agent": "pavane"}
        for name, value in call.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise TaskFailed("invalid_input", f"{name[:80]!r} is no name of a header")
            if not _HEADER_VALUE.fullmatch(value):
                raise TaskFailed("invalid_input", f"the header {name!r} holds a line break or a control character")
            headers[name.lower()] = value.strip()
        headers = {name: value for name, value in headers.items() if name not in OWN_HEADERS}
        if call.auth is not None:
            credential = self._credential(call.auth, origin)
            headers[credential.header.lower()] = credential.value
        headers["host"], headers["idempotency-key"] = origin.netloc, call.key
        headers["accept-encoding"], headers["connection"] = ENCODING, "close"
        return [(name.encode("ascii"), value.encode()) for name, value in headers.items()]

    def _credential(self, name: str, origin: Origin) -> Credential:
        credential = self._credentials.get(name)
        if credential is None:
            raise TaskFailed("not_found", f"no credential {name!r} is configured with this runner")
        if origin not in credential.hosts:
            raise TaskFailed("invalid_input", f"the credential {name!r} may not go to {origin}")
        return credential

    async def _refusal(self, call: Call, origin: Origin, response: httpx.Response) -> TaskFailed:
        status = response.status_code
        said = self._without_secrets(await read_beginning(response, _READ), call).strip()[:_SHOWN]
        message = f"{call.method} {origin} answered {status}" + (f": {said}" if said else "")
        return TaskFailed("rate_limit" if status == 429 else "http_status", message, retryable=status in RETRIED)

    def _without_secrets(self, text: str, call: Call) -> str:
        """Servers like to repeat what they were sent; errors are kept, and shown to more people than may know that."""
        values = [value for name, value in call.headers.items() if not name.lower().startswith(_PLAIN)]
        if credential := self._credentials.get(call.auth or ""):
            values.append(credential.value)
        query = call.url.partition("?")[2]
        words = [word for value in values for word in value.split()]
        words += [value for _, value in parse_qsl(query)]
        words += [pair.partition("=")[2] for pair in query.split("&")]  # as it was sent
        for word in sorted(words, key=len, reverse=True):
            if len(word) >= _SECRET:
                text = text.replace(word, "***")
        return text


def _trusted() -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def _redirected(url: httpx.URL, place: str) -> httpx.URL:
    """Raises TaskFailed for a redirect to elsewhere."""
    before = origin_of(url)
    target = read_url(place, url)
    after = origin_of(target)
    if after not in (before, before.secured):
        raise TaskFailed("http_status", f"{before} redirects to another host, {after}, which is not followed")
    return target


def _after_redirect(call: Call, status: int) -> Call:
    """The call that follows: what was posted is not posted again, unless the answer says so (RFC 9110, 15.4)."""
    if status in (307, 308) or call.method in ("GET", "HEAD") or (status != 303 and call.method != "POST"):
        return call
    kept = {name: value for name, value in call.headers.items() if not name.lower().startswith("content-")}
    return replace(call, method="GET", headers=kept, content=None)
