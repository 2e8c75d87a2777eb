"""What a token takes in a model's KV cache, from the metadata that its file (GGUF) carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_F16 = 2  # bytes of a cached number


def kv_bytes(info: Mapping[str, Any]) -> int | None:
    """Bytes a token in an f16 cache, all layers together; None where the metadata does not say.

    An upper bound: layers with a sliding window keep less (gguf's `docs/gguf.md` has the keys).
    """
    architecture = info.get("general.architecture")

    def field(key: str) -> Any:
        return info.get(f"{architecture}.{key}")

    layers, heads = _whole(field("block_count")), _whole(field("attention.head_count"))
    kept = _per_layer(field("attention.head_count_kv"), layers)
    if kept is None and field("attention.head_count_kv") is None:  # every head has keys of its own
        kept = _per_layer(heads, layers)
    width = _whole(field("embedding_length"))
    default = width // heads if width and heads else None
    keys = _whole(field("attention.key_length")) or default
    values = _whole(field("attention.value_length")) or default
    if kept is None or keys is None or values is None:
        return None
    return sum(kept) * (keys + values) * _F16


def trained_context(info: Mapping[str, Any]) -> int | None:
    """The longest context that the model was trained for, in tokens: engines take no longer one."""
    return _whole(info.get(f"{info.get('general.architecture')}.context_length"))


def _per_layer(heads: Any, layers: int | None) -> list[int] | None:
    """KV heads of each layer: one number for all, or a list with 0 for layers that cache nothing."""
    if isinstance(heads, list):
        return heads if heads and all(isinstance(one, int) and 0 <= one < 10**6 for one in heads) else None
    whole = _whole(heads)
    return [whole] * layers if whole is not None and layers is not None and layers <= 10_000 else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else None
