"""JSON Schema as a condition: whether a value fits, yes or no.

Which schemas there are is said in schemas/compiler/json_schema.py, with the library's metaschemas. Here they become
closures that stop at the first fault and work on a budget; the library has no bound, and words every fault with the
value in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator

from schemas.compiler.json_schema import dialect, resolve, subschemas
from schemas.errors import pointer
from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.patterns import compile_pattern, matches

Check: TypeAlias = Callable[[Any, Budget], bool]
Schema: TypeAlias = Any

_LEFT_OUT = ("unevaluatedProperties", "unevaluatedItems")
_UNKNOWN: Mapping[type, frozenset[str]] = {
    Draft7Validator: frozenset({"prefixItems", "minContains", "maxContains", "dependentRequired", "dependentSchemas"}),
    Draft201909Validator: frozenset({"prefixItems", "dependencies"}),
    Draft202012Validator: frozenset({"dependencies"}),
}
"""What a draft does not have, and so means nothing in it."""
# Comparing goes through about this many characters in one step's time.
_CHARACTERS_A_STEP = 4096


def schema_test(schema: Mapping[str, Any]) -> Check:
    """test(value, budget): whether the value fits. Raises ExpressionError for an accepted schema that is none here.

    The error's `pointer` leads from the schema to the fault. The test raises EvaluationError and BudgetExceededError.
    """
    for steps, part in subschemas(schema):
        for keyword in _LEFT_OUT:
            if keyword in part:
                message = f"`{keyword}` is not supported in a condition; use `additionalProperties` or `items`"
                raise ExpressionError("bad-schema", message, pointer=pointer(*steps, keyword))
        if "pattern" in part:
            try:
                compile_pattern(part["pattern"])
            except EvaluationError as error:
                raise ExpressionError("bad-schema", error.message, pointer=pointer(*steps, "pattern")) from None
    return _Compiler(schema).compile(schema)


class _Compiler:
    """`known`: the checks of subschemas, by identity: a `$ref` may lead back to one that is being made."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.dialect = dialect(root) or Draft202012Validator
        self.known: dict[int, Check] = {}

    def compile(self, schema: Schema) -> Check:
        if isinstance(schema, bool):
            return lambda value, budget: schema
        key = id(schema)
        if key not in self.known:
            self.known[key] = self.later(key)
            self.known[key] = _all([*self.checks(schema)])
        return self.known[key]

    def later(self, key: int) -> Check:
        """A check that is being made, for what leads back to it."""

        def run(value: Any, budget: Budget) -> bool:
            return self.known[key](value, budget)

        return run

    def each(self, schemas: Sequence[Schema]) -> list[Check]:
        return [self.compile(schema) for schema in schemas]

    def checks(self, schema: Mapping[str, Any]) -> Iterator[Check]:
        if "$ref" in schema:
            yield self.compile(resolve(self.root, schema["$ref"]))
            if self.dialect is Draft7Validator:
                return  # there, `$ref` stands alone
        schema = {keyword: value for keyword, value in schema.items() if keyword not in _UNKNOWN[self.dialect]}
        for keyword, build in _ASSERTIONS.items():
            if keyword in schema:
                yield build(schema[keyword])
        for keyword, combine in _COMBINATIONS.items():
            if keyword in schema:
                yield combine(self.each(schema[keyword]))
        if "not" in schema:
            refused = self.compile(schema["not"])
            yield lambda value, budget: not refused(value, budget)
        if "if" in schema:
            yield _choice(*self.each([schema["if"], schema.get("then", True), schema.get("else", True)]))
        yield from self.of_objects(schema)
        yield from self.of_lists(schema)

    def of_objects(self, schema: Mapping[str, Any]) -> Iterator[Check]:
        declared = schema.get("properties", {})
        if declared:
            yield _properties({name: self.compile(part) for name, part in declared.items()})
        if "additionalProperties" in schema:
            yield _additional(frozenset(declared), self.compile(schema["additionalProperties"]))
        if "propertyNames" in schema:
            yield _names(self.compile(schema["propertyNames"]))
        for keyword in ("dependentSchemas", "dependentRequired", "dependencies"):
            for name, needed in schema.get(keyword, {}).items():
                yield _dependency(name, _required(needed) if isinstance(needed, list) else self.compile(needed))

    def of_lists(self, schema: Mapping[str, Any]) -> Iterator[Check]:
        items = schema.get("items", True)
        prefix, rest = schema.get("prefixItems", ()), items
        if isinstance(items, list):  # before 2020-12
            prefix, rest = items, schema.get("additionalItems", True)
        if prefix or rest is not True:
            yield _items(self.each(prefix), None if rest is True else self.compile(rest))
        if "contains" in schema:
            least, most = schema.get("minContains", 1), schema.get("maxContains")
            yield _contains(self.compile(schema["contains"]), least, most)


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def run(value: Any, budget: Budget) -> bool:
        budget.spend(1 + len(checks))
        return all(check(value, budget) for check in checks)

    return run


def _any(checks: list[Check]) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        budget.spend(1 + len(checks))
        return any(check(value, budget) for check in checks)

    return run


def _one(checks: list[Check]) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        budget.spend(1 + len(checks))
        return sum(check(value, budget) for check in checks) == 1

    return run


def _choice(condition: Check, yes: Check, no: Check) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        budget.spend(2)
        return (yes if condition(value, budget) else no)(value, budget)

    return run


# -- values --------------------------------------------------------------------------------------
def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: type(value) is bool,
    "integer": lambda value: type(value) is int or (type(value) is float and value.is_integer()),
    "number": _is_number,
    "string": lambda value: type(value) is str,
    "array": lambda value: type(value) is list,
    "object": lambda value: type(value) is dict,
}


def _type(names: Any) -> Check:
    kinds = [_TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    return lambda value, budget: any(kind(value) for kind in kinds)


def _enum(allowed: list[Any]) -> Check:
    known = frozenset(_identity(value, Budget(steps=2**62)) for value in allowed)  # as large as the document at most
    return lambda value, budget: _identity(value, budget) in known


def _identity(value: Any, budget: Budget) -> Any:
    """Equal, and hashed alike, for equal JSON values only: 1 is 1.0, and neither is true."""
    kind = type(value)
    if kind is bool:
        return (bool, value)
    if kind is list:
        budget.spend(2 * len(value))
        return (list, *(_identity(item, budget) for item in value))
    if kind is dict:
        budget.spend(4 * len(value))
        return frozenset((name, _identity(item, budget)) for name, item in value.items())
    if kind is str:
        budget.spend(len(value) // _CHARACTERS_A_STEP)
    return value


def _pattern(pattern: str) -> Check:
    return lambda value, budget: type(value) is not str or matches(budget, value, pattern)


def _multiple_of(divisor: Any) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if not _is_number(value):
            return True
        if type(divisor) is int:
            return bool(value % divisor == 0)
        try:
            quotient = value / divisor
            return bool(int(quotient) == quotient)
        except OverflowError:
            return (Fraction(value) / Fraction(divisor)).denominator == 1

    return run


def _bound(applies: Callable[[Any], bool], within: Callable[[Any, Any], bool]) -> Callable[[Any], Check]:
    """A keyword that bounds the values for which `applies` is true."""
    return lambda bound: lambda value, budget: not applies(value) or within(value, bound)


def _unique(wanted: bool) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if not wanted or type(value) is not list:
            return True
        budget.spend(2 * len(value))
        return len({_identity(item, budget) for item in value}) == len(value)

    return run


def _required(names: list[str]) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        budget.spend(len(names))
        return type(value) is not dict or all(name in value for name in names)

    return run


_ASSERTIONS: Mapping[str, Callable[[Any], Check]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value: _enum([value]),
    "required": _required,
    "pattern": _pattern,
    "minimum": _bound(_is_number, lambda value, bound: bool(value >= bound)),
    "maximum": _bound(_is_number, lambda value, bound: bool(value <= bound)),
    "exclusiveMinimum": _bound(_is_number, lambda value, bound: bool(value > bound)),
    "exclusiveMaximum": _bound(_is_number, lambda value, bound: bool(value < bound)),
    "multipleOf": _multiple_of,
    "minLength": _bound(_TYPES["string"], lambda value, bound: len(value) >= bound),
    "maxLength": _bound(_TYPES["string"], lambda value, bound: len(value) <= bound),
    "minItems": _bound(_TYPES["array"], lambda value, bound: len(value) >= bound),
    "maxItems": _bound(_TYPES["array"], lambda value, bound: len(value) <= bound),
    "minProperties": _bound(_TYPES["object"], lambda value, bound: len(value) >= bound),
    "maxProperties": _bound(_TYPES["object"], lambda value, bound: len(value) <= bound),
    "uniqueItems": _unique,
}
_COMBINATIONS: Mapping[str, Callable[[list[Check]], Check]] = {"allOf": _all, "anyOf": _any, "oneOf": _one}


# -- what is inside ------------------------------------------------------------------------------
def _properties(declared: Mapping[str, Check]) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if type(value) is not dict:
            return True
        budget.spend(2 + 2 * min(len(declared), len(value)))
        if len(declared) <= len(value):
            return all(check(value[name], budget) for name, check in declared.items() if name in value)
        return all(declared[name](item, budget) for name, item in value.items() if name in declared)

    return run


def _additional(declared: frozenset[str], check: Check) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if type(value) is not dict:
            return True
        budget.spend(2 + 2 * len(value))
        return all(check(item, budget) for name, item in value.items() if name not in declared)

    return run


def _names(check: Check) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if type(value) is not dict:
            return True
        budget.spend(2 * len(value))
        return all(check(name, budget) for name in value)

    return run


def _dependency(name: str, check: Check) -> Check:
    return lambda value, budget: type(value) is not dict or name not in value or check(value, budget)


def _items(prefix: list[Check], rest: Check | None) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if type(value) is not list:
            return True
        budget.spend(2 + min(len(prefix), len(value)))
        if not all(check(item, budget) for check, item in zip(prefix, value, strict=False)):
            return False
        if rest is None or len(value) <= len(prefix):
            return True
        budget.spend(2 * (len(value) - len(prefix)))
        return all(rest(value[place], budget) for place in range(len(prefix), len(value)))

    return run


def _contains(check: Check, least: int, most: int | None) -> Check:
    def run(value: Any, budget: Budget) -> bool:
        if type(value) is not list:
            return True
        budget.spend(2 * len(value))
        found = 0
        for item in value:
            found += check(item, budget)
            if found >= least and most is None:
                return True
        return found >= least and (most is None or found <= most)

    return run
