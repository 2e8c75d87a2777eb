"""URLs: read, and refused where no call may go."""

from __future__ import annotations

import re

import httpx

from agent_runner.failure import TaskFailed
from agent_runner.web.origin import PORTS, Origin

_NAMED = re.compile(r"https?://[^/?#\\@{}\s]+(?=[/?#]|\Z)", re.IGNORECASE)


def read_url(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Raises TaskFailed. The message holds nothing of the URL: queries and paths may be secrets."""
    try:
        return httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise TaskFailed("invalid_input", "the url can not be read") from None


def origin_of(url: httpx.URL) -> Origin:
    """Raises TaskFailed for a URL that is no http or https one, that names no host, or that holds a login."""
    if url.scheme not in PORTS or not url.raw_host:
        raise TaskFailed("invalid_input", "the url must begin with http:// or https:// and a host")
    if url.userinfo:
        raise TaskFailed("invalid_input", "the url must hold no login: name a configured credential with `auth`")
    port = PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port < 65_536:
        raise TaskFailed("invalid_input", "the url's port must be 1 to 65535")
    return Origin(url.scheme, url.raw_host.decode("ascii").lower(), port)


def literal_origin(template: str) -> Origin | None:
    """The origin that stands whole in a template's text, before anything is put in; else None."""
    head, expression, _ = template.partition("{{")
    named = _NAMED.match(head)
    if named is None or (expression and named.end() == len(head)):
        return None
    return origin_of(read_url(named[0]))
