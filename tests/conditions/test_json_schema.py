"""JSON Schema conditions: the library, whose words and messages they leave out, is the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.compiler.json_schema import schema_problems, schema_validator
from schemas.conditions.json_schema import schema_test
from schemas.expressions.budget import Budget, BudgetExceededError
from schemas.expressions.error import ExpressionError

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
LARGE: dict[str, Any] = {
    "list": list(range(300_000)),
    "texts": ["ab" * 50] * 20_000,
    "text": "ab" * 1_000_000,
    "map": {str(n): n for n in range(300_000)},
}


def fits(schema: dict[str, Any], value: Any) -> bool:
    assert schema_problems(schema, "") == []
    return schema_test(schema)(value, Budget())


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, 1.0, 1.5),
        ({"type": "number"}, 1, True),
        ({"type": ["null", "boolean"]}, False, 0),
        ({"const": 1}, 1.0, True),
        ({"enum": [[1, {"a": False}], None]}, [1.0, {"a": False}], [1, {"a": 0}]),
        ({"required": ["a"]}, {"a": None}, {"b": 1}),
        ({"properties": {"a": {"minimum": 1}}, "additionalProperties": False}, {"a": 1}, {"a": 1, "b": 1}),
        ({"properties": {"a": True, "b": {"maxLength": 1}}}, {"b": "ü"}, {"b": "üü"}),
        ({"pattern": "^a.c$"}, "abc", "abcd"),
        ({"minimum": 2, "maximum": 4, "multipleOf": 2}, 4, 3),
        ({"multipleOf": 0.5}, 1e308, 0.75),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}], [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1, 2], ["a", "b"]),
        ({"contains": {"const": 1}, "minContains": 2, "maxContains": 3}, [1, 1, 2], [1, 1, 1, 1]),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 1, 2),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": False}, {"a": 1, "b": 1}, {"b": 1}),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"b": 1}, {"a": 1}),
        ({"propertyNames": {"maxLength": 1}, "minProperties": 1}, {"a": 1}, {"ab": 1}),
        ({"not": {"type": "object"}}, [], {}),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}, [[[]], []], [[1]]),
        ({"$schema": DRAFT_7, "items": [{"const": 1}], "additionalItems": False}, [1], [1, 2]),
        ({"$schema": DRAFT_7, "dependencies": {"a": ["b"], "c": {"required": ["d"]}}}, {"c": 1, "d": 1}, {"c": 1}),
        ({"$schema": DRAFT_2019, "items": [{"const": 1}], "additionalItems": {"const": 2}}, [1, 2], [1, 1]),
    ],
    ids=str,
)
def test_keywords(schema: dict[str, Any], good: Any, bad: Any) -> None:
    assert fits(schema, good)
    assert not fits(schema, bad)
    assert not schema_validator(schema).is_valid(bad)


def test_words_of_another_draft_mean_nothing() -> None:
    assert fits({"dependencies": {"a": ["b"]}}, {"a": 1})
    assert fits({"$schema": DRAFT_7, "contains": {"const": 1}, "minContains": 2}, [1])
    assert fits({"$schema": DRAFT_7, "$ref": "#/definitions/a", "type": "null", "definitions": {"a": True}}, 1)


KEYS = st.sampled_from(["a", "b", "c"])
SCALARS = st.one_of(
    st.integers(-2, 4), st.sampled_from([0.5, 1.0, -1.5, 1e300]), st.sampled_from(["", "a", "ab", "ba"]),
    st.booleans(), st.none(),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
ASSERTIONS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=2, unique=True)),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    "pattern": st.sampled_from(["a", "^b", "[ab]{2}"]),
    "multipleOf": st.sampled_from([1, 2, 0.5, 0.1]),
    "uniqueItems": st.booleans(),
    "required": st.lists(KEYS, max_size=2, unique=True),
    "dependentRequired": st.dictionaries(KEYS, st.lists(KEYS, max_size=2, unique=True), max_size=2),
    **{name: st.integers(-1, 3) for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")},
    **{
        name: st.integers(0, 3)
        for name in (
            *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
            *("minContains", "maxContains"),
        )
    },
}


def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(KEYS, inner, max_size=2)
    one = ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else")
    held: dict[str, st.SearchStrategy[Any]] = {
        **ASSERTIONS,
        **dict.fromkeys(one, inner),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), several),
        **dict.fromkeys(("properties", "dependentSchemas", "$defs"), named),
        "$ref": st.sampled_from(["#/$defs/a", "#/$defs/b"]),
    }
    return st.one_of(
        st.booleans(),
        st.lists(st.sampled_from(sorted(held)), max_size=4, unique=True).flatmap(
            lambda names: st.fixed_dictionaries({name: held[name] for name in names})
        ),
    )


SCHEMAS = st.recursive(st.booleans(), grow, max_leaves=12).filter(lambda schema: isinstance(schema, dict))


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.dictionaries(st.sampled_from(["a", "b"]), st.booleans()), st.lists(VALUES, min_size=1, max_size=4))
def test_the_library_agrees(schema: dict[str, Any], shared: dict[str, Any], values: list[Any]) -> None:
    schema = {"$defs": {"a": True, "b": {"type": "string"}, **shared}, **schema}
    if schema_problems(schema, ""):
        return
    for value in values:
        assert schema_test(schema)(value, Budget()) is schema_validator(schema).is_valid(value), (schema, value)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"unevaluatedProperties": False}}}, "/properties/a/unevaluatedProperties"),
        ({"unevaluatedItems": False}, "/unevaluatedItems"),
        ({"items": {"pattern": "x" * 2000}}, "/items/pattern"),
        ({"pattern": "((a{0,100}){0,100})"}, "/pattern"),
    ],
    ids=str,
)
def test_what_a_condition_can_not_ask_is_refused_with_its_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        schema_test(schema)
    assert (caught.value.code, caught.value.pointer) == ("bad-schema", place)


def doubling(keyword: str) -> dict[str, Any]:
    """Subschemas that each name the next one twice."""

    def twice(target: dict[str, Any]) -> dict[str, Any]:
        if keyword == "if":
            return {"if": target, "then": target, "else": target}
        return {keyword: [target, target]}

    links = {f"d{n}": twice({"$ref": f"#/$defs/d{n + 1}"}) for n in range(60)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, "d60": {"not": {"const": 1}}}}


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        (doubling("allOf"), "text"),
        (doubling("oneOf"), "text"),
        (doubling("if"), "text"),
        ({"items": {"type": "integer"}}, "list"),
        ({"uniqueItems": True}, "list"),
        ({"contains": {"const": -1}}, "list"),
        ({"prefixItems": [True], "items": {"minimum": 0}}, "list"),
        ({"additionalProperties": {"type": "integer"}}, "map"),
        ({"propertyNames": {"maxLength": 9}}, "map"),
        ({"const": LARGE["map"]}, "map"),
        ({"enum": [LARGE["list"]]}, "list"),
        ({"allOf": [{"pattern": "[ab]*a[ab]{40}z|^a"}] * 20}, "text"),
        ({"items": {"anyOf": [{"pattern": f"((a{{0,30}}){{0,30}})z{n}"} for n in range(9)] + [True]}}, "texts"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_budget_ends_it(schema: dict[str, Any], field: str) -> None:
    with pytest.raises(BudgetExceededError):
        fits(schema, LARGE[field])
