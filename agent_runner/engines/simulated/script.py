"""A script of answers and faults for the simulated engine: rules in order, the first that matches decides.

    {"rules": [
      {"contains": "Grade", "model": "qwen2.5:7b", "answer": {"score": 81}},
      {"contains": "poison", "sequence": [{"error": {"status": 500, "message": "runner died"}}, {}]},
      {"contains": "slow", "delay_s": 30},
      {"contains": "silent", "hang": true},
      {"contains": "cut", "close": true},
      {"contains": "weather", "per_prompt": true,
       "sequence": [{"tool_calls": [{"name": "forecast", "arguments": {"town": "Bern"}}]}, {"answer": "Rain."}]}
    ]}

`model` and `contains` (a part of the prompt or the system text) choose the requests; both may be left out.
What happens to them, an outcome, is one of

- `answer`: this text, or this JSON value as text;
- `tool_calls`: these calls ({name, arguments}), if the request offers tools and asks for no format, else the ordinary
  answer; `text` and `thinking` may come with them;
- `error`: this HTTP status with this message, at once and without touching the GPU;
- `hang`: the request keeps its slot and never ends; `close`: half an answer, then the connection breaks;
- nothing of these: the ordinary answer;

each with `delay_s`, more solo seconds of work, and `work_s`, these solo seconds instead of the usual ones.
`sequence` holds outcomes that are used one after the other, the last for good; with `"per_prompt": true`
every prompt goes through the sequence by itself; the conversation that follows on a prompt counts as that prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_runner.engines.simulated.tool_calls import Call

MAX_RULES = 1_000
MAX_SEQUENCE = 1_000

_WAYS = frozenset({"answer", "error", "hang", "close", "tool_calls"})
_OUTCOME = _WAYS | {"text", "thinking", "delay_s", "work_s"}
_RULE = _OUTCOME | {"model", "contains", "sequence", "per_prompt"}


class InvalidScript(ValueError):
    """A script that is refused; the message begins with the place."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens to one request. Everything at its default: an ordinary answer after the usual work."""

    answer: str | None = None
    status: int | None = None
    message: str = ""
    hang: bool = False
    close: bool = False
    delay_s: float = 0.0
    work_s: float | None = None
    calls: tuple[Call, ...] = ()
    text: str = ""
    thinking: str = ""


ORDINARY = Outcome()


@dataclass(frozen=True, slots=True)
class _Rule:
    model: str | None
    contains: str | None
    outcomes: tuple[Outcome, ...]
    per_prompt: bool

    def matches(self, model: str, text: str) -> bool:
        return self.model in (None, model) and (self.contains is None or self.contains in text)


class Script:
    """The rules, and how far each sequence has come."""

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self._rules = rules
        self._used: dict[tuple[int, str], int] = {}

    def outcome(self, model: str, text: str, prompt: str | None = None) -> Outcome:
        """The outcome of this request; a sequence takes a step with it. `prompt` is what a sequence is counted by."""
        for place, rule in enumerate(self._rules):
            if rule.matches(model, text):
                key = (place, (text if prompt is None else prompt) if rule.per_prompt else "")
                step = self._used.get(key, 0)
                if len(rule.outcomes) > 1:
                    self._used[key] = step + 1
                return rule.outcomes[min(step, len(rule.outcomes) - 1)]
        return ORDINARY

    @classmethod
    def parse(cls, document: object) -> Script:
        """The script of a JSON document: {"rules": [...]} or the bare list. Raises InvalidScript."""
        rules = document.get("rules") if isinstance(document, Mapping) else document
        if not isinstance(rules, list):
            raise InvalidScript("rules: must be a list")
        if len(rules) > MAX_RULES:
            raise InvalidScript(f"rules: more than {MAX_RULES}")
        return cls(tuple(_rule(rule, f"rules[{place}]") for place, rule in enumerate(rules)))

    @classmethod
    def read(cls, path: Path) -> Script:
        """The script in a JSON file. Raises InvalidScript, and OSError if the file cannot be read."""
        try:
            return cls.parse(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise InvalidScript(f"{path}: {error}") from error


def _rule(rule: object, where: str) -> _Rule:
    fields = _fields(rule, _RULE, where)
    for key in ("model", "contains"):
        if not isinstance(fields.get(key), str | None):
            raise InvalidScript(f"{where}.{key}: must be a string")
    outcome = {key: value for key, value in fields.items() if key in _OUTCOME}
    steps = fields.get("sequence", [outcome])
    if "sequence" in fields and outcome:
        raise InvalidScript(f"{where}: has both a sequence and {', '.join(sorted(outcome))}")
    if not isinstance(steps, list) or not 1 <= len(steps) <= MAX_SEQUENCE:
        raise InvalidScript(f"{where}.sequence: must be a list of 1 to {MAX_SEQUENCE} outcomes")
    at = f"{where}.sequence[{{}}]" if "sequence" in fields else where
    outcomes = tuple(_outcome(step, at.format(place)) for place, step in enumerate(steps))
    return _Rule(fields.get("model"), fields.get("contains"), outcomes, _flag(fields, "per_prompt", where))


def _outcome(step: object, where: str) -> Outcome:
    fields = _fields(step, _OUTCOME, where)
    if len(ways := sorted(_WAYS & fields.keys())) > 1:
        raise InvalidScript(f"{where}: has both {' and '.join(ways)}")
    status, message = None, ""
    if "error" in fields:
        error = _fields(fields["error"], frozenset({"status", "message"}), f"{where}.error")
        status, message = error.get("status"), error.get("message", "")
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise InvalidScript(f"{where}.error.status: must be 400 to 599")
        if not isinstance(message, str):
            raise InvalidScript(f"{where}.error.message: must be a string")
    said = fields.get("answer")
    if "answer" in fields and not isinstance(said, str):
        said = json.dumps(said, ensure_ascii=False)
    return Outcome(
        answer=said,
        status=status,
        message=message,
        hang=_flag(fields, "hang", where),
        close=_flag(fields, "close", where),
        delay_s=_seconds(fields, "delay_s", where) or 0.0,
        work_s=_seconds(fields, "work_s", where),
        calls=_calls(fields.get("tool_calls", []), f"{where}.tool_calls"),
        text=_string(fields, "text", where),
        thinking=_string(fields, "thinking", where),
    )


def _calls(value: object, where: str) -> tuple[Call, ...]:
    if not isinstance(value, list):
        raise InvalidScript(f"{where}: must be a list of {{name, arguments}}")
    for place, call in enumerate(value):
        fields = _fields(call, frozenset({"name", "arguments"}), f"{where}[{place}]")
        if not isinstance(fields.get("name"), str) or not isinstance(fields.get("arguments", {}), Mapping):
            raise InvalidScript(f"{where}[{place}]: must be {{name, arguments}}")
    return tuple({"arguments": {}, **call} for call in value)


def _string(fields: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(value := fields.get(key, ""), str):
        raise InvalidScript(f"{where}.{key}: must be a string")
    return value


def _fields(value: object, known: frozenset[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidScript(f"{where}: must be an object")
    if unknown := sorted(str(key) for key in value.keys() - known):
        raise InvalidScript(f"{where}.{unknown[0]}: is not known here; known are {', '.join(sorted(known))}")
    return value


def _flag(fields: Mapping[str, Any], key: str, where: str) -> bool:
    if not isinstance(value := fields.get(key, False), bool):
        raise InvalidScript(f"{where}.{key}: must be true or false")
    return value


def _seconds(fields: Mapping[str, Any], key: str, where: str) -> float | None:
    if key not in fields:
        return None
    value = fields[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidScript(f"{where}.{key}: must be a number of seconds, 0 or more")
    return float(value)
