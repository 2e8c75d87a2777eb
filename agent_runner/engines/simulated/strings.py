"""Strings for answers: the prompt's words, a format's example, or something that a pattern matches."""

from __future__ import annotations

import random
import re
import string as alphabet
import uuid
from collections.abc import Mapping
from re import _constants as op
from re import _parser as parser
from typing import Any

from agent_runner.engines.simulated.prose import Prose

# `re._parser` is Python's own parser of patterns: it spares a second one, and hypothesis leans on it too.

LONGEST = 100_000
_SHORT = re.compile(r"title|name|headline|label|category|topic|tag|keyword|skill|word|type|status", re.I)
_PRINTABLE = alphabet.ascii_letters + alphabet.digits + " .,:;!?-_/"
_CLASSES = {
    "CATEGORY_DIGIT": alphabet.digits,
    "CATEGORY_WORD": alphabet.ascii_letters + alphabet.digits + "_",
    "CATEGORY_SPACE": " ",
}


class _Unmatched(Exception):
    """The pattern uses what is not understood here, or its match is too long."""


def string(schema: Mapping[str, Any], name: str, draw: random.Random, prose: Prose) -> str:
    """A string for `schema`. `pattern` goes before `format`, both before the prompt's words."""
    least = whole(schema.get("minLength"), 0, LONGEST)
    most = whole(schema.get("maxLength"), LONGEST, LONGEST)
    if isinstance(pattern := schema.get("pattern"), str):
        found = _matching(pattern, draw, least, most)
        if found is not None:
            return found
    if (example := _formatted(schema.get("format"), draw)) is not None:
        return example
    text = prose.words(draw, draw.randint(1, 3)) if _SHORT.search(name) else prose.sentences(draw, 2)
    while len(text) < least:
        text += " " + prose.words(draw, 5)
    if len(text) > most:
        text = text[:most].rsplit(" ", 1)[0] if " " in text[: max(most - 12, least)] else text[:most]
        text = text.ljust(least, ".")
    return text


def whole(value: object, default: int, most: int) -> int:
    """A bound on a count, itself bounded. JSON Schema allows 3.0 for 3."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return int(min(value, most))


def _formatted(name: object, draw: random.Random) -> str | None:
    day = f"20{draw.randint(10, 29)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
    time = f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}:{draw.randint(0, 59):02}Z"
    match name:
        case "date":
            return day
        case "time":
            return time
        case "date-time":
            return f"{day}T{time}"
        case "email":
            return f"reader{draw.randint(1, 999)}@example.org"
        case "uri" | "url":
            return f"https://example.org/{draw.randint(1, 999)}"
        case "uuid":
            return str(uuid.UUID(int=draw.getrandbits(128), version=4))
        case _:
            return None


def _matching(pattern: str, draw: random.Random, least: int, most: int) -> str | None:
    """A string that `pattern` matches, of a length between the bounds if a few tries bring one."""
    try:
        tree = list(parser.parse(pattern))
        shortest = _written(tree, draw, 0)
    except (re.error, _Unmatched, RecursionError, OverflowError):
        return None
    for more in (2, 0, 4, 8, 16, 64, 256, 1024):
        try:
            found = _written(tree, draw, more)
        except _Unmatched:
            break
        if least <= len(found) <= most:
            return found
    if len(shortest) < least and not pattern.endswith("$"):
        return shortest.ljust(least, "x")  # what follows a match is free
    return shortest


def _written(tree: list[Any], draw: random.Random, more: int) -> str:
    """The text of a parsed pattern; a repeat takes its least and up to `more` besides."""
    out: list[str] = []
    for code, about in tree:
        if code is op.LITERAL:
            out.append(chr(about))
        elif code is op.NOT_LITERAL:
            out.append("a" if about != ord("a") else "b")
        elif code is op.ANY:
            out.append(draw.choice(alphabet.ascii_lowercase))
        elif code is op.IN:
            out.append(_one_of(about, draw))
        elif code in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, inner = about
            times = min(int(most), int(least) + more)
            if times > LONGEST:
                raise _Unmatched
            for _ in range(times):
                out.append(_written(list(inner), draw, more))
                if sum(map(len, out[-1:])) * times > LONGEST:
                    raise _Unmatched
        elif code is op.SUBPATTERN:
            out.append(_written(list(about[-1]), draw, more))
        elif code is op.BRANCH:
            out.append(_written(list(draw.choice(about[1])), draw, more))
        elif code is not op.AT:
            raise _Unmatched  # look-arounds, back references
    return "".join(out)


def _one_of(members: list[Any], draw: random.Random) -> str:
    """A character of a class like `[a-z0-9_]` or `[^"]`."""
    negated = members[0][0] is op.NEGATE
    choice: list[str] = []
    for code, about in members:
        if code is op.LITERAL:
            choice.append(chr(about))
        elif code is op.RANGE:
            choice += map(chr, range(about[0], min(about[1], about[0] + 200) + 1))
        elif code is op.CATEGORY and not negated and str(about) in _CLASSES:
            choice += _CLASSES[str(about)]
        elif code is op.CATEGORY:
            choice += [c for c in _PRINTABLE if re.match(_category(str(about)), c)]
    if negated:
        choice = [c for c in _PRINTABLE if c not in choice]
    if not choice:
        raise _Unmatched
    return draw.choice(choice)


def _category(name: str) -> str:
    letter = {"DIGIT": "d", "WORD": "w", "SPACE": "s"}.get(name.rsplit("_", 1)[-1])
    if letter is None:
        raise _Unmatched
    return "\\" + (letter.upper() if "_NOT_" in name else letter)
