"""Generated expressions, typed so that most of them have a value, and data for them."""

from __future__ import annotations

import re

from hypothesis import strategies as st

INTS = st.one_of(st.integers(-3, 10), st.sampled_from([-5, 100, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]))
DOUBLES = st.sampled_from(
    [0.0, -0.0, 1.0, 1.5, -2.5, 79.5, 1e18, 2.0**53, 2.0**63, 1e300, 5e-324, float("inf"), float("nan")]
)
TEXTS = st.sampled_from(
    ["", "a", "b", "ab", "Ab", "banana", "ÿ", "🐱", "1", "-7", "true", "1.5", "a.b", " a\n", "90s", "1,2,,3"]
)
SCALARS = st.one_of(INTS, DOUBLES, TEXTS, st.booleans(), st.none())
DATA = st.fixed_dictionaries(
    {
        "i": INTS,
        "j": INTS,
        "d": DOUBLES,
        "s": TEXTS,
        "t": TEXTS,
        "b": st.booleans(),
        "n": st.none(),
        "list": st.lists(st.one_of(SCALARS, st.lists(SCALARS, max_size=2)), max_size=4),
        "ints": st.lists(INTS, max_size=4),
        "texts": st.lists(TEXTS, max_size=4),
        "map": st.dictionaries(st.sampled_from(["a", "b", "c"]), SCALARS, max_size=3),
        "maps": st.lists(st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, max_size=2), max_size=3),
    }
)

LEAVES: dict[str, list[str]] = {
    "int": [
        "input.i", "input.j", "0", "1", "2", "3", "-1", "7", "100", "12", "60", "9223372036854775807",
        "-9223372036854775808", "0x1F",
    ],
    "uint": [
        "0u", "1u", "7u", "0xFFu", "18446744073709551615u",
    ],
    "double": [
        "input.d", "0.0", "-0.0", "1.5", "2.0", "1e18", "1e308", "9007199254740993.0", "(0.0 / 0.0)", "(1.0 / 0.0)",
    ],
    "string": [
        "input.s", "input.t", "''", "'a'", "'an'", "'ü'", "'🐱b'", "'-7'", "'1e3'", "r'\\d'", "'2009-02-13T23:31:30Z'",
    ],
    "bool": [
        "input.b", "true", "false", "has(input.map.a)", "has(input.nope)", "has(input.map.a.b)",
    ],
    "bytes": [
        "b''", "b'a'", "b'\\xff'", "b'\\303\\274'",
    ],
    "timestamp": [
        "timestamp(0)", "timestamp('2009-02-13T23:31:30Z')", "timestamp('2024-02-29T23:59:59.999999999+01:00')",
        "timestamp('0001-01-01T00:00:00Z')", "timestamp('9999-12-31T23:59:59.999999999Z')",
        "timestamp('1969-12-31T23:59:59.5Z')",
    ],
    "duration": [
        "duration('90s')", "duration('-1.5s')", "duration('1h1m1.000000001s')", "duration('0')",
        "duration('1000000000s')", "duration('-3ms')", "duration('1.2us')",
    ],
    "list": [
        "input.list", "input.ints", "input.texts", "input.maps", "[]", "[1, 1.0, 1u]", "['a', null, true]",
        "[[1], [2]]",
    ],
    "map": [
        "input.map", "input.maps[0]", "input", "{}", "{'a': 1, 'b': {'a': 2.5}}", "{1: 'x', 2u: 'y'}",
        "{true: 1, 'true': 2}",
    ],
    "any": [
        "null", "input.n", "input.nope", "input.map.a", "int", "string", "type(1)", "input.list[0]",
    ],
}  # fmt: skip
# Nothing makes text of a double: the engine writes 1000000.0 as 1e+06.
TEMPLATES: dict[str, list[str]] = {
    "int": [
        "{int} + {int}", "{int} - {int}", "{int} * {int}", "{int} / {int}", "{int} % {int}", "-({int})",
        "size({list})", "size({string})", "{map}.size()", "{bytes}.size()", "int({double})", "int({uint})",
        "int({string})", "int({timestamp})", "int({bool})", "{timestamp}.getFullYear()",
        "{timestamp}.getMonth('+02:00')", "{timestamp}.getDayOfYear()", "{timestamp}.getDate('America/New_York')",
        "{timestamp}.getDayOfMonth('-09:30')", "{timestamp}.getDayOfWeek()",
        "{timestamp}.getHours('Australia/Sydney')", "{timestamp}.getMinutes()", "{timestamp}.getSeconds()",
        "{timestamp}.getMilliseconds()", "{duration}.getHours()", "{duration}.getMinutes()",
        "{duration}.getSeconds()", "{duration}.getMilliseconds()", "{list}[{int}]", "{bool} ? {int} : {int}",
    ],
    "uint": [
        "{uint} + {uint}", "{uint} - {uint}", "{uint} * {uint}", "{uint} / {uint}", "{uint} % {uint}", "uint({int})",
        "uint({double})", "uint({string})",
    ],
    "double": [
        "{double} + {double}", "{double} - {double}", "{double} * {double}", "{double} / {double}", "-({double})",
        "double({int})", "double({uint})", "double({string})",
    ],
    "string": [
        "{string} + {string}", "string(int({int}))", "string(uint({uint}))", "string(!({bool}))",
        "string({bytes} + b'')", "string({timestamp} + duration('1s'))", "string({duration} + duration('1ms'))",
        "{string}.lowerAscii()", "{string}.upperAscii()", "{string}.trim()", "{string}.substring({int})",
        "{string}.replace({string}, {string})", "{string}.replace({string}, {string}, {int})",
        "{texts}.join({string})", "{texts}.join()", "{bool} ? {string} : {string}",
    ],
    "bool": [
        "{any} == {any}", "{any} != {any}", "{int} < {double}", "{uint} >= {int}", "{double} <= {uint}",
        "{string} < {string}", "{bytes} > {bytes}", "{bool} < {bool}", "{timestamp} < {timestamp}",
        "{duration} >= {duration}", "{list} == {list}", "{map} == {map}", "{any} in {list}", "{string} in {map}",
        "{int} in {map}", "{double} in {map}", "{bool} && {bool}", "{bool} || {bool}", "{any} && {bool}",
        "{bool} || {any}", "!({bool})", "{string}.contains({string})", "{string}.startsWith({string})",
        "{string}.endsWith({string})", "{string}.matches('^[a-n]+$')", "matches({string}, 'a|ü')",
        "{list}.all(V, {bool})", "{list}.exists(V, {bool})", "{list}.exists_one(V, {bool})", "{map}.all(V, {bool})",
        "{map}.exists(V, {bool})", "bool({string})", "has(({map}).a)", "has({map}.b.a)", "type({any}) == type({any})",
    ],
    "bytes": [
        "{bytes} + {bytes}", "bytes({string})",
    ],
    "timestamp": [
        "{timestamp} + {duration}", "{duration} + {timestamp}", "{timestamp} - {duration}", "timestamp({int})",
        "timestamp({string})",
    ],
    "duration": [
        "{duration} + {duration}", "{duration} - {duration}", "{timestamp} - {timestamp}", "duration({string})",
    ],
    "texts": [
        "{string}.split({string})", "{string}.split({string}, {int})", "[{string}, {string}]", "input.texts",
        "{list}.map(V, {string})", "{texts} + {texts}", "{texts}.filter(V, {bool})",
    ],
    "list": [
        "{list} + {list}", "[{any}, {any}]", "{list}.filter(V, {bool})", "{list}.map(V, {any})",
        "{list}.map(V, {bool}, {any})", "{'a': {any}}.map(V, {any})", "{'b': {any}}.filter(V, {bool})", "{texts}",
    ],
    "map": [
        "{'a': {any}, 'b': {any}}", "{{string}: {any}}", "{{int}: {any}}", "{{bool}: {any}}",
    ],
    "any": [
        "{bool} ? {any} : {any}", "{map}.a", "{map}[{string}]", "{map}[{any}]", "{list}[{any}]", "dyn({any})",
        "type({any})", "{any} + {any}", "{any} < {any}", "({any}).a", "{any}.size()", "-({any})", "!({any})",
    ],
}  # fmt: skip
KINDS = [kind for kind in TEMPLATES if kind != "any"]
_HOLE = re.compile("|".join(rf"\{{{kind}\}}" for kind in [*TEMPLATES]))


@st.composite
def expressions(draw: st.DrawFn, kind: str = "any", depth: int = 3, bound: tuple[str, ...] = ()) -> str:
    """An expression that mostly has the type `kind`; `bound` are the variables of macros around it."""
    if draw(st.integers(0, 40)) == 0:
        kind = "any"
    if kind == "any" and draw(st.integers(0, 3)):
        kind = draw(st.sampled_from(KINDS))
    leaves = [*LEAVES.get(kind, ["input.texts"]), *bound * 3]
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(leaves))
    template = draw(st.sampled_from(TEMPLATES[kind]))
    inner = bound
    if "(V," in template:
        name = draw(st.sampled_from(["x", "x", "y", "y", "input"]))
        template, inner = template.replace("(V,", f"({name},"), (*bound, name)
    source_end = template.find(", ") if inner != bound else 0
    return _HOLE.sub(
        lambda hole: _closed(
            draw(expressions(hole[0][1:-1], depth - 1, inner if hole.start() > source_end else bound))
        ),
        template,
    )


def _closed(text: str) -> str:
    return text if re.fullmatch(r"[\w.]+|'[^']*'", text) and not text[0].isdigit() else f"({text})"
