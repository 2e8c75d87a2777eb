"""The verdict: what came out against what a case expects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pavane.rehearsal.case import ELLIPSIS, Case, Expectation
from pavane.rehearsal.fault import CaseFault
from pavane.rehearsal.matching import MISSING, Difference, differences, follows
from pavane.rehearsal.record import Record
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression

VARIABLES = ("input", "output", "ctx", "status", "error", "path", "times", "attempts", "rendered", "took_ms")
"""What `where` may read."""


def judge(case: Case, record: Record, nodes: Mapping[str, Any], took_ms: int) -> list[Difference]:
    """Where the record is not as the case expects. Raises CaseFault for an expectation that can not be looked at."""
    expect = case.expect
    _check_names(expect, nodes)
    state = record.state()
    output = record.result(state)
    found: list[Difference] = []
    found += differences("status", expect.wanted_status, state.status)
    if "output" in expect.model_fields_set:
        found += differences("output", expect.output, output, exact=expect.exact)
    for node, value in expect.outputs.items():
        found += differences(f"outputs.{node}", value, _newest(record, node), exact=expect.exact)
    if expect.path is not None and not follows(record.path, expect.path):
        found.append(Difference("path", expect.path, record.path))
    found += _counts(expect, record)
    if expect.error is not None:
        found += _error(expect.error, state.error)
    variables = {
        "input": case.input,
        "output": output,
        "ctx": {node: {"output": value} for node, value in record.context(record.run_id, "").items()},
        "status": state.status,
        "error": state.error,
        "path": record.path,
        "times": {node: record.times[node] for node in nodes},
        "attempts": {node: record.attempts[node] for node in nodes},
        "rendered": record.rendered,
        "took_ms": took_ms,
    }
    for number, text in enumerate(expect.where):
        found += _where(f"where[{number}]", text, variables)
    return found


def _newest(record: Record, node: str) -> Any:
    try:
        return record.newest(node)
    except KeyError:
        return MISSING


def _counts(expect: Expectation, record: Record) -> Iterator[Difference]:
    times, attempts = record.times, record.attempts
    for node in expect.never:
        if times[node] or attempts[node]:
            yield Difference(f"never.{node}", message=f"{node} was executed")
    for node, number in expect.times.items():
        yield from differences(f"times.{node}", number, times[node])
    for node, number in expect.attempts.items():
        yield from differences(f"attempts.{node}", number, attempts[node])


def _error(expected: Mapping[str, Any], actual: Any) -> Iterator[Difference]:
    """Of the message a part is enough."""
    found = actual if isinstance(actual, Mapping) else {}
    for name, value in expected.items():
        if name == "message" and isinstance(value, str) and value in str(found.get(name, "")):
            continue
        yield from differences(f"error.{name}", value, found.get(name, MISSING))


def _where(place: str, text: str, variables: Mapping[str, Any]) -> Iterator[Difference]:
    try:
        if not Expression(text, frozenset(VARIABLES)).holds(variables):
            yield Difference(place, message=f"`{text}` is false")
    except ExpressionError as error:
        raise CaseFault(f"expect.{place}", f"`{text}`: {error.message}") from None
    except EvaluationError as error:
        yield Difference(place, message=f"`{text}`: {error.message}")


def _check_names(expect: Expectation, nodes: Mapping[str, Any]) -> None:
    in_path = [name for step in expect.path or () for name in ([step] if isinstance(step, str) else step)]
    named = {
        "outputs": expect.outputs,
        "path": [name for name in in_path if name != ELLIPSIS],
        "never": expect.never,
        "times": expect.times,
        "attempts": expect.attempts,
    }
    for part, names in named.items():
        for name in names:
            if name not in nodes:
                raise CaseFault(f"expect.{part}", f"the workflow has no node `{name}`")
