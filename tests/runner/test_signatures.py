"""Parameters of handlers as JSON Schemas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agent_runner.tools.signatures import description_of, parameters_of
from schemas.compiler.json_schema import schema_problems, schema_validator

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Place:
    town: str
    near: list[Place] | None = None


def search(
    query: str, limit: int = 3, *, order: Literal["up", "down"] = "up", tags: list[str] | None = None
) -> None: ...


def travel(to: Place, via: Place) -> None: ...


def anything(value, *rest: int, **more: Any) -> None:  # type: ignore[no-untyped-def]
    """First.
    Still first.

    Second."""


def unknown(price: Decimal, count: int) -> None: ...


def strange(callback: type[Any]) -> None: ...


def test_hints_become_a_schema() -> None:
    schema = parameters_of(search)
    assert schema["required"] == ["query"] and schema["additionalProperties"] is False
    assert schema["properties"]["query"] == {"type": "string"}
    assert schema["properties"]["order"]["enum"] == ["up", "down"]
    assert schema_problems(schema, "") == []
    validator = schema_validator(schema)
    assert validator.is_valid({"query": "x", "tags": ["a"]})
    assert not validator.is_valid({"query": 3}) and not validator.is_valid({"query": "x", "tags": [1]})


def test_definitions_are_shared() -> None:
    schema = parameters_of(travel)
    assert schema_problems(schema, "") == []
    validator = schema_validator(schema)
    assert validator.is_valid({"to": {"town": "Bern"}, "via": {"town": "Thun", "near": [{"town": "Spiez"}]}})
    assert not validator.is_valid({"to": {"town": "Bern"}, "via": {"town": "Thun", "near": [{}]}})


def test_what_is_not_said_may_be_anything() -> None:
    assert parameters_of(anything) == {
        "type": "object", "properties": {"value": {}}, "required": ["value"], "additionalProperties": True,
    }  # fmt: skip
    assert parameters_of(unknown)["required"] == ["price", "count"]  # a name that only type checkers know
    assert parameters_of(strange)["properties"] == {"callback": {}}


def test_the_description_is_the_first_paragraph() -> None:
    assert description_of(anything) == "First.\nStill first."
    assert description_of(search) == ""
