"""Values as Redis and the events hold them: JSON text, or a reference to an artifact when they are large.

An artifact is the value packed with msgpack, compressed with zstd and named by the SHA-256 of the packed bytes, so that
equal values are one artifact. In a context hash `artifact://sha256-<hex>` stands for it: not JSON, so never ambiguous.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgpack
import orjson
import zstandard

from schemas.limits import LIMITS

ARTIFACT = "artifact://"


class ValueTooLarge(ValueError):
    """A value over `output_bytes`, or nested deeper than `json_depth`."""


@dataclass(frozen=True, slots=True)
class Artifact:
    name: str  # sha256-<hex>
    packed: bytes

    @property
    def reference(self) -> str:
        return ARTIFACT + self.name


def encode_value(value: Any) -> tuple[str, Artifact | None]:
    """A JSON value as the text to store, and the artifact that it refers to if it is over the inline limit.

    Raises ValueTooLarge.
    """
    try:
        text = orjson.dumps(value)
    except TypeError:  # orjson's own bound on nesting; what comes here is JSON
        raise ValueTooLarge(f"the value is nested deeper than the limit json_depth, {LIMITS.json_depth}") from None
    if too_deep(text):
        raise ValueTooLarge(f"the value is nested deeper than the limit json_depth, {LIMITS.json_depth}")
    if len(text) <= LIMITS.inline_bytes:
        return text.decode(), None
    if len(text) > LIMITS.output_bytes:
        raise ValueTooLarge(f"the value has {len(text)} bytes; the limit output_bytes is {LIMITS.output_bytes}")
    artifact = pack(value)
    return artifact.reference, artifact


def too_deep(text: bytes) -> bool:
    """Whether lists and objects of a JSON text are nested deeper than `json_depth`."""
    # Nearly always there are fewer brackets: no need to look closer.
    return text.count(b"[") + text.count(b"{") > LIMITS.json_depth and is_deeper(orjson.loads(text), LIMITS.json_depth)


def is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` levels deep."""
    level = [value] if isinstance(value, dict | list) else []  # the containers at one depth
    for _ in range(limit):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def pack(value: Any) -> Artifact:
    plain = msgpack.packb(value)
    return Artifact(f"sha256-{hashlib.sha256(plain).hexdigest()}", zstandard.compress(plain))


def unpack(packed: bytes) -> Any:
    # The decompressed size is bounded by what may be stored, msgpack being no larger than about the JSON text.
    plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=2 * LIMITS.output_bytes)
    return msgpack.unpackb(plain, strict_map_key=False)


def unpacked_size(packed: bytes) -> int:
    """Bytes of an artifact when it is decompressed."""
    return max(zstandard.frame_content_size(packed), len(packed))


def artifact_name(text: str) -> str | None:
    """The name of the artifact that a stored text refers to; None if it is JSON."""
    return text[len(ARTIFACT) :] if text.startswith(ARTIFACT) else None


def decode_value(text: str | bytes) -> Any:
    """The value of a stored text that is JSON."""
    return orjson.loads(text)
