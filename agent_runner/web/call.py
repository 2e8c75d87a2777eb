"""Calls: what an http node or an http tool asks for, its templates rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson

from agent_runner.failure import TaskFailed
from agent_runner.web.origin import Origin
from agent_runner.web.url import literal_origin


@dataclass(frozen=True, slots=True)
class Call:
    """key: by it the other side recognises the call when it is repeated. named: the origin, if the document has it in
    letters. auth: the name of a credential. expect: statuses that are no failure; None: 200 to 299."""

    method: str
    url: str
    key: str
    headers: Mapping[str, str]
    content: bytes | None = None
    named: Origin | None = None
    auth: str | None = None
    expect: frozenset[int] | None = None

    def expects(self, status: int) -> bool:
        return 200 <= status < 300 if self.expect is None else status in self.expect


def make_call(config: Mapping[str, Any], rendered: Mapping[str, Any], key: str) -> Call:
    """The call of a config whose `url`, `query`, `headers` and `body` are rendered. Raises TaskFailed."""
    headers = {name: _text(value) for name, value in rendered.get("headers", {}).items()}
    content = None
    if "body" in rendered:
        body = rendered["body"]
        content = _text(body).encode()
        if not any(name.lower() == "content-type" for name in headers):
            headers["content-type"] = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
    expected = config.get("expect_status")
    return Call(
        method=config["method"],
        url=_url(rendered["url"], rendered.get("query", {})),
        key=key,
        headers=headers,
        content=content,
        named=literal_origin(config["url"]),
        auth=config.get("auth"),
        expect=None if expected is None else frozenset(expected if isinstance(expected, list) else [expected]),
    )


def _url(url: Any, query: Mapping[str, Any]) -> str:
    if not isinstance(url, str):
        raise TaskFailed("invalid_input", "the url is no text")
    if not query:
        return url
    fields = {name: [_text(one) for one in (value if isinstance(value, list) else [value])]
              for name, value in query.items()}  # fmt: skip
    whole, _, _ = url.partition("#")
    return f"{whole}{'&' if '?' in whole else '?'}{urlencode(fields, doseq=True)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
