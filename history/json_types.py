"""How Postgres's types become JSON when other people's databases are asked, and how JSON becomes parameters.

Numbers, booleans, arrays and json are what they are in JSON; everything else is text, as the server writes it in ISO
style. Text of a value that JSON has no word for (NaN, infinity) is null.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
from psycopg import adapters
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.json import Jsonb
from psycopg.types.string import ByteaLoader

SESSION = "-c datestyle=ISO -c intervalstyle=iso_8601 -c timezone=UTC -c bytea_output=hex -c extra_float_digits=1"
"""Options of a session whose texts the loaders here read."""

_KEPT = ("bool", "int2", "int4", "int8", "oid", "record")
_INTEGERS = range(-(2**63), 2**63)


class _Text(Loader):
    def load(self, data: Buffer) -> str:
        # A database in SQL_ASCII may hold anything.
        return bytes(data).decode("utf-8", "replace")


class _Timestamp(_Text):
    def load(self, data: Buffer) -> str:
        return super().load(data).replace(" ", "T", 1)


class _Instant(_Timestamp):
    def load(self, data: Buffer) -> str:
        text = super().load(data)
        return text.removesuffix("+00") + "Z" if text.endswith("+00") else text


class _Float(Loader):
    def load(self, data: Buffer) -> float | None:
        value = float(bytes(data))
        return value if math.isfinite(value) else None


class _Numeric(Loader):
    def load(self, data: Buffer) -> int | float | None:
        value = Decimal(bytes(data).decode())
        if not value.is_finite():
            return None
        if value == value.to_integral_value() and int(value) in _INTEGERS:
            return int(value)
        rounded = float(value)
        return rounded if math.isfinite(rounded) else None


class _Json(Loader):
    def load(self, data: Buffer) -> Any:
        return orjson.loads(bytes(data))


class _Bytes(ByteaLoader):
    def load(self, data: Buffer) -> Any:
        return base64.b64encode(super().load(bytes(data))).decode()


def _adapters() -> AdaptersMap:
    made = AdaptersMap(adapters)
    for known in adapters.types:
        if known.name not in _KEPT:
            made.register_loader(known.oid, _Text)
    made.register_loader(0, _Text)  # types that the database's users made
    loaders: Mapping[str, type[Loader]] = {
        "float4": _Float,
        "float8": _Float,
        "numeric": _Numeric,
        "timestamp": _Timestamp,
        "timestamptz": _Instant,
        "json": _Json,
        "jsonb": _Json,
        "bytea": _Bytes,
    }
    for name, loader in loaders.items():
        made.register_loader(name, loader)
    return made


JSON_TYPES = _adapters()
"""psycopg's adapters, with values that are JSON."""


def as_parameter(value: Any) -> Any:
    """A JSON value as what psycopg binds: a list of scalars as an array, objects and other lists as jsonb."""
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping | list) for v in value)):
        return Jsonb(value, dumps=orjson.dumps)
    if isinstance(value, list) and any(isinstance(v, float) for v in value):
        return [float(v) if type(v) is int else v for v in value]  # an array has one type
    return value
