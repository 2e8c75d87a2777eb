"""Answers: the body of a response, bounded while it comes, and read by its content type."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson

from agent_runner.failure import TaskFailed
from schemas.limits import LIMITS

ENCODING = "gzip"
"""The only compression that is asked for, and read: its output comes in pieces of a bounded size."""
_PIECE = 65_536
_CHARSETS = re.compile(
    r"ascii|utf-(8|16|32)[a-z-]*|iso8859-\d+|cp\d+|koi8-[ru]|shift_jis|euc_(jp|kr)|iso2022_jp|gb2312|gbk|gb18030|big5"
)
"""Not all that Python decodes: some of its codecs take time quadratic in the text."""


async def read_body(response: httpx.Response) -> Any:
    """The body: JSON if the content type says so, else text; null if there is none.

    Raises TaskFailed: `too_large`, as soon as there is more than the limit; `invalid_output`, JSON that is none.
    """
    body = bytearray()
    async for piece in _pieces(response):
        body += piece
        if len(body) > LIMITS.output_bytes:
            raise TaskFailed("too_large", f"the answer is over the limit output_bytes, {LIMITS.output_bytes}")
    if not body:
        return None
    kind, charset = _content_type(response)
    if kind != "application/json" and not kind.endswith("+json"):
        return body.decode(charset, "replace")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TaskFailed("invalid_output", f"the answer is said to be JSON and is none: {error}") from None


async def read_beginning(response: httpx.Response, size: int) -> str:
    """The first `size` bytes of the body as text, for an error message; "" if they can not be had."""
    body = bytearray()
    try:
        async for piece in _pieces(response):
            body += piece
            if len(body) >= size:
                break
    except (TaskFailed, httpx.HTTPError):
        pass  # the status is the news
    return body[:size].decode(_content_type(response)[1], "replace")


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """The decompressed body. httpx would decompress each chunk whole, and a chunk of zeros is a thousandfold."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if encoding not in (ENCODING, "x-gzip"):
        message = f"the answer has the content encoding {encoding[:40]!r}, which was not asked for"
        raise TaskFailed("invalid_output", message, retryable=False)
    inflater: Any = None
    try:
        async for chunk in response.aiter_raw():
            while chunk:
                if inflater is None or inflater.eof:  # a body may have several members
                    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
                yield inflater.decompress(chunk, _PIECE)
                chunk = inflater.unconsumed_tail or inflater.unused_data
    except zlib.error as error:
        raise TaskFailed("invalid_output", f"the answer is said to be gzip and is none: {error}") from None
    if inflater is not None:
        yield inflater.flush()
        if not inflater.eof:
            raise TaskFailed("connection", "the answer ended in the middle")


def _content_type(response: httpx.Response) -> tuple[str, str]:
    """(media type, charset); UTF-8 where it names none that we read."""
    kind, _, parameters = response.headers.get("content-type", "").partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            try:
                charset = codecs.lookup(value.strip().strip('"')).name
            except (LookupError, ValueError):
                break
            if _CHARSETS.fullmatch(charset):
                return kind.strip().lower(), charset
    return kind.strip().lower(), "utf-8"
