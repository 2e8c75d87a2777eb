"""The types that ask other systems: http and sql. A document names hosts and connections, and never holds a secret."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from schemas.compiler import checks
from schemas.compiler.node_type import NodeType
from schemas.compiler.survey import Place, optional, required
from schemas.expressions.error import ExpressionError
from schemas.expressions.template import parse_template
from schemas.ids import NODE_ID

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
CONNECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""The name of an SQL connection or of a credential; the operator's settings say what it stands for."""
OWN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "idempotency-key", "te", "trailer",
     "upgrade", "expect"}
)  # fmt: skip
"""Headers that the runner sets, or that are about the connection."""
_FIELD = re.compile(r"[^\x00-\x1f]{1,128}")
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})
_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_NAMED = re.compile(r"https?://[^/?#\\@{}\s]+(?=[/?#]|\Z)", re.IGNORECASE)
_AUTHORITY = re.compile(r"[a-z]*://([^/?#]*)", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"%(?:%|\(([^)]+)\)[sbt])?")
_UNSAFE = re.compile(r"[\\\x00-\x20\x7f]")


def outside_types() -> Mapping[str, NodeType]:
    words = "the name of a connection that the operator has set up, never its address"
    return {
        "http": NodeType(
            {
                "method": required(checks.one_of(*METHODS)),
                "url": required(url),
                "query": optional(checks.entries(_FIELD, "1 to 128 printable characters", checks.value_template)),
                "headers": optional(headers),
                "body": optional(checks.value_template),
                "expect_status": optional(statuses),
                "auth": optional(checks.name(CONNECTION, "the name of a credential that the operator has set up")),
            }
        ),
        "sql": NodeType(
            {
                "connection": required(checks.name(CONNECTION, words)),
                "query": required(_query),
                "params": optional(
                    checks.entries(NODE_ID, "letters, digits and `_`, at most 64", checks.value_template)
                ),
                "gate": optional(checks.template),
            },
            _sql,
        ),
    }


def url(place: Place, value: Any) -> None:
    """A template whose scheme and host stand in the text; where they do not, the operator's list has to have them."""
    checks.template(place, value)
    if not isinstance(value, str):
        return
    literal = value.partition("{{")[0]
    authority = _AUTHORITY.match(_TEMPLATE.sub("", value))
    if authority and "@" in authority[1]:
        message = f"{place.name} must hold no login: name a credential that the operator has set up with `auth`."
        place.refuse("bad-url", message)
    elif _UNSAFE.search(literal):
        place.refuse("bad-url", f"{place.name} must hold no blanks, control characters or backslashes.")
    elif _is_literal(value, literal):
        _check_host(place, literal)
    elif literal == value or not _may_become_url(literal):
        place.refuse("bad-url", f"{place.name} must begin with http:// or https:// and a host.")
    else:
        message = "The scheme and the host come from data: calls go only to hosts on the operator's list."
        place.warn("host-not-literal", message)


def headers(place: Place, value: Any) -> None:
    checks.entries(HEADER, "names of headers", checks.template)(place, value)
    for name, text in value.items() if isinstance(value, Mapping) else ():
        if name.lower() in OWN_HEADERS:
            place.at(name).refuse("bad-name", f"The header `{name}` is not a document's to set: the runner does.")
        elif name.lower() in _SECRET_HEADERS and isinstance(text, str) and "{{" not in text:
            message = f"Whoever reads the document reads this `{name}`: name a credential of the operator with `auth`."
            place.at(name).warn("literal-secret", message)


def statuses(place: Place, value: Any) -> None:
    """One status, or a list of them."""
    status = checks.integer(100, 599)
    if isinstance(value, list):
        checks.items(status, low=1)(place, value)
    else:
        status(place, value)


def _is_literal(value: str, literal: str) -> bool:
    """Scheme and host stand before the first `{{`, and what comes after it can not make another host of them."""
    named = _NAMED.match(literal)
    return named is not None and (literal == value or named.end() < len(literal))


def _may_become_url(literal: str) -> bool:
    """What stands before the first `{{` is the beginning of an http or https URL."""
    begun = literal.lower()
    return any(begun.startswith(scheme) or scheme.startswith(begun) for scheme in ("http://", "https://"))


def _check_host(place: Place, literal: str) -> None:
    try:
        parts = urlsplit(literal)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host:
        place.refuse("bad-url", f"{place.name} names no host, or a port that is none.")
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return  # a name: what it resolves to is checked when it is called
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_link_local or address.is_unspecified or address.is_multicast:
        place.refuse("bad-url", f"{place.name} leads to {host}: calls go to no link-local or multicast address.")


def _query(place: Place, value: Any) -> None:
    """SQL as it is: values are bound as `%(name)s`, never put into the text."""
    checks.text(low=1)(place, value)
    if not isinstance(value, str):
        return
    if any(match[0] == "%" for match in _PLACEHOLDER.finditer(value)):
        place.refuse("bad-query", f"{place.name}: a parameter is written `%(name)s`, and any other `%` as `%%`.")
    try:
        reads = parse_template(value).references.variables
    except ExpressionError:
        return  # braces of SQL's own
    if reads:
        message = f"{place.name} is no template: make the value one of `params`, and write `%(name)s` in the query."
        place.refuse("bad-query", message)


def _sql(place: Place, config: Any) -> None:
    query, params = config.get("query"), config.get("params", {})
    if not isinstance(query, str) or not isinstance(params, Mapping):
        return
    own = {"idempotency_key"} if "gate" not in config else {"keys"}
    if "gate" in config and "keys" in params:
        message = "With a `gate`, the parameter `keys` is the list of all items' keys; choose another name."
        place.at("params", "keys").refuse("bad-name", message)
    for name in dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(query) if match[1]):
        if name not in params and name not in own:
            meant = place.survey.did_you_mean(name, params)
            message = f"The query names the parameter `{name[:64]}`{meant}, which `params` has not."
            place.at("query").refuse("bad-query", message)
