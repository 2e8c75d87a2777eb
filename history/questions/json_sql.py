"""JSON in SQL: expressions that no value can make fail.

Event data and outputs are `json`, which may hold U+0000; every look into such a value is an error in Postgres, whatever
field it is after. So U+0000 is read as U+FFFD.
"""

from __future__ import annotations


def readable(column: str) -> str:
    """A `json` or `text` column of JSON as `json` whose fields can be read."""
    text = f"{column}::text"
    return rf"(CASE WHEN strpos({text}, '\u0000') = 0 THEN {text} ELSE replace({text}, '\u0000', '\ufffd') END)::json"


MOST = 10**12
"""A number in a usage counts as this at most, so that what one worker made up can not make every sum fail."""


def number(value: str) -> str:
    """A `json` as float8, from -MOST to MOST; 0 where it is no number: workers in any language say what they like.
    What they say has been read and written as a double on its way here."""
    return (
        f"CASE json_typeof({value}) WHEN 'number' "
        f"THEN greatest(least(({value} #>> ARRAY[]::text[])::float8, {MOST}), -{MOST}) ELSE 0 END"
    )


def ms(column: str) -> str:
    """A timestamptz as ms since the epoch."""
    return f"(extract(epoch FROM {column}) * 1000)::bigint"
