"""Functions on text: CEL's own, and the few extensions that prompts need. Positions count code points."""

from __future__ import annotations

from typing import Any

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.values import no_overload, type_name

# Searching and copying go through about this many characters in one step's time.
_CHARACTERS_A_STEP = 64
# CEL's white space: that of Unicode, without the separators U+001C to U+001F that Python strips too.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def _expect_text(function: str, *values: Any) -> None:
    if any(type(value) is not str for value in values):
        raise no_overload(f"{function}()", *values)


def _index(function: str, value: Any) -> int:
    if type(value) is not int:
        raise no_overload(f"{function}()", value)
    return value


def contains(budget: Budget, text: Any, part: Any) -> bool:
    _expect_text("contains", text, part)
    budget.spend(len(text) // _CHARACTERS_A_STEP)
    return part in text


def starts_with(budget: Budget, text: Any, part: Any) -> bool:
    _expect_text("startsWith", text, part)
    budget.spend(len(part) // _CHARACTERS_A_STEP)
    return bool(text.startswith(part))


def ends_with(budget: Budget, text: Any, part: Any) -> bool:
    _expect_text("endsWith", text, part)
    budget.spend(len(part) // _CHARACTERS_A_STEP)
    return bool(text.endswith(part))


# Bytes know only ASCII letters, so the case of UTF-8 bytes changes as CEL wants it, at the speed of C.
def lower_ascii(budget: Budget, text: Any) -> str:
    _expect_text("lowerAscii", text)
    _copy(budget, len(text))
    return str(text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass"))


def upper_ascii(budget: Budget, text: Any) -> str:
    _expect_text("upperAscii", text)
    _copy(budget, len(text))
    return str(text.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass"))


def trim(budget: Budget, text: Any) -> str:
    _expect_text("trim", text)
    _copy(budget, len(text))
    return str(text.strip(_SPACE))


def substring(budget: Budget, text: Any, start: Any, *end: Any) -> str:
    _expect_text("substring", text)
    first = _index("substring", start)
    last = _index("substring", *end) if end else len(text)
    if not 0 <= first <= last <= len(text):
        raise EvaluationError("index-out-of-range", "substring() goes beyond the string")
    _copy(budget, last - first)
    return str(text[first:last])


def replace(budget: Budget, text: Any, old: Any, new: Any, limit: Any = -1) -> str:
    _expect_text("replace", text, old, new)
    budget.spend(len(text) // _CHARACTERS_A_STEP)
    most = _index("replace", limit)
    found = text.count(old)
    count = found if most < 0 else min(found, most)
    _copy(budget, len(text) + count * (len(new) - len(old)))
    return str(text.replace(old, new, count))


def split(budget: Budget, text: Any, separator: Any, limit: Any = -1) -> list[str]:
    """At most `limit` parts, the last with the rest; a negative limit is none. "" splits into characters."""
    _expect_text("split", text, separator)
    most = _index("split", limit)
    if most == 0:
        return []
    budget.spend(len(text) // _CHARACTERS_A_STEP)
    parts = text.count(separator) + 1 if separator else len(text)
    parts = parts if most < 0 else min(parts, most)
    _copy(budget, len(text))
    budget.spend(parts)
    budget.allocate(64 * parts)  # a short string of Python's is that large
    if separator:
        return list(text.split(separator, parts - 1))
    return [*text[: parts - 1], text[parts - 1 :]] if text else [""]


def join(budget: Budget, items: Any, separator: Any = "") -> str:
    """The strings of a list as one."""
    if type(items) is not list or type(separator) is not str:
        raise no_overload("join()", items, separator)
    budget.spend(len(items))
    for item in items:
        if type(item) is not str:
            raise EvaluationError("no-such-overload", f"join() takes strings, not {type_name(item)}")
    _copy(budget, sum(map(len, items)) + len(separator) * max(0, len(items) - 1))
    return separator.join(items)


def _copy(budget: Budget, size: int) -> None:
    budget.spend(size // _CHARACTERS_A_STEP)
    budget.allocate(size)
