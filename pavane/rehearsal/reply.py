"""Replies: what a case lets a node give. Their forms, and which of them an execution gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pavane.rehearsal.fault import CaseFault
from schemas.agent_patch import TOOL, Bounds
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression, parse_expression
from schemas.ir import TASK_TYPES, Node
from schemas.messages import PERMANENT, RETRIABLE, Failure

SCRIPTED = TASK_TYPES | {"human", "wait", "workflow"}
"""Node types that a case gives outputs for; all others are decided."""
GIVERS = ("output", "error", "event", "deadline")
CONDITIONS = ("when", "iteration", "item", "attempt")
WORDS = {*GIVERS, *CONDITIONS, "after_ms", "patch", "refused"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What one execution gives, after `after_ms`. A `deadline`: nothing, until the node's own time is over.

    Before that an agent patches the run by the operations `patch`, unless these are `refused` with that code.
    """

    place: str
    output: Any = None
    failure: Failure | None = None
    deadline: bool = False
    passes_on: bool = False  # an event that brought no output
    after_ms: int = 0
    when: Expression | None = None
    iteration: int | None = None
    item: int | None = None
    attempt: int | None = None
    patch: Sequence[Any] | None = None
    refused: str | None = None

    @property
    def conditional(self) -> bool:
        return any(getattr(self, name) is not None for name in CONDITIONS)

    def holds(self, moment: Moment, variables: Mapping[str, Any] | None) -> bool:
        """Raises CaseFault for a `when` that is in error."""
        if any(getattr(self, name) not in (None, getattr(moment, name)) for name in ("iteration", "item", "attempt")):
            return False
        if self.when is None:
            return True
        if variables is None:
            return False
        try:
            return self.when.holds(variables)
        except EvaluationError as error:
            raise CaseFault(f"{self.place}.when", f"`{self.when.text}`: {error.message}") from None


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an execution stands: the pass of its loop, the index of its item (None outside maps), its attempt."""

    iteration: int
    item: int | None
    attempt: int


class Script:
    """The replies of one node in one play of a case."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._conditional = [reply for reply in replies if reply.conditional]
        self._in_order = [reply for reply in replies if not reply.conditional]
        self._taken = 0

    def next(self, moment: Moment, variables: Mapping[str, Any] | None) -> Reply | None:
        """The reply that the next execution gets: the first whose conditions hold, else the next in order.

        A single one without conditions repeats. None when there is none; without `variables` also for those that
        need them.
        """
        for reply in self._conditional:
            if reply.holds(moment, variables):
                return reply
        if len(self._in_order) == 1:
            return self._in_order[0]
        return self._in_order[self._taken] if self._taken < len(self._in_order) else None

    def take(self, reply: Reply) -> None:
        """`reply` was given."""
        if not reply.conditional:
            self._taken += 1

    @property
    def given(self) -> int:
        return len(self._in_order)


def read_script(node: Node, given: Any) -> list[Reply]:
    """The replies that a case gives a node: one value, or a list of them. Raises CaseFault."""
    place = f"outputs.{node.id}"
    if node.type not in SCRIPTED:
        raise CaseFault(place, f"a node of type {node.type} is decided, not scripted")
    if node.type == "wait" and "event" not in node.config:
        raise CaseFault(place, "the node waits for a time, which comes by itself")
    if isinstance(given, list):
        return [_reply(node, f"{place}[{number}]", one) for number, one in enumerate(given)]
    return [_reply(node, place, given)]


def _reply(node: Node, place: str, given: Any) -> Reply:
    if not isinstance(given, Mapping) or not _is_long(node, given):
        return Reply(place, output=given)
    unknown = sorted(given.keys() - WORDS)
    if unknown:
        message = f"`{unknown[0]}` stands beside `{next(iter(given.keys() & set(GIVERS)))}`; an output that has "
        raise CaseFault(place, message + "such fields is written {output: {...}}")
    if len(given.keys() & set(GIVERS)) != 1:
        raise CaseFault(place, f"gives exactly one of {', '.join(GIVERS)}")
    for name in ("iteration", "item", "attempt", "after_ms"):
        value = given.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CaseFault(f"{place}.{name}", "must be a whole number, 0 or more")
    _check_patch(node, place, given)
    return Reply(
        place,
        output=given.get("output", given.get("event")),
        failure=_failure(f"{place}.error", given["error"]) if "error" in given else None,
        deadline="deadline" in given,
        passes_on=given.get("event", given) is None,
        after_ms=given.get("after_ms", 0),
        when=_when(f"{place}.when", given["when"]) if "when" in given else None,
        iteration=given.get("iteration"),
        item=given.get("item"),
        attempt=given.get("attempt"),
        patch=given.get("patch"),
        refused=given.get("refused"),
    )


def _check_patch(node: Node, place: str, given: Mapping[str, Any]) -> None:
    if "patch" in given:
        if Bounds.of(node.config.get("tools", ())) is None:
            raise CaseFault(f"{place}.patch", f"the node has no tool `{TOOL}`")
        if not isinstance(given["patch"], list):
            raise CaseFault(f"{place}.patch", "must be a list of operations")
    if "refused" in given and ("patch" not in given or not isinstance(given["refused"], str)):
        raise CaseFault(f"{place}.refused", "must be the code with which the `patch` beside it is refused")


def _is_long(node: Node, given: Mapping[str, Any]) -> bool:
    """Whether an object says how it is given, or is an output as it stands."""
    if given.get("deadline") is True and given.keys() <= WORDS:
        return True
    return "output" in given or "error" in given or (node.type == "wait" and "event" in given)


def _when(place: str, text: Any) -> Expression:
    if not isinstance(text, str):
        raise CaseFault(place, "must be a CEL expression")
    try:
        return parse_expression(text)
    except ExpressionError as error:
        raise CaseFault(place, error.message) from None


def _failure(place: str, given: Any) -> Failure:
    """`rate_limit`, or {class, message?, retryable?}."""
    fields = {"class": given} if isinstance(given, str) else given
    if not isinstance(fields, Mapping) or not isinstance(fields.get("class"), str):
        raise CaseFault(place, "must be a failure class, or {class, message, retryable}")
    if unknown := sorted(fields.keys() - {"class", "message", "retryable"}):
        raise CaseFault(place, f"`{unknown[0]}` is none of class, message, retryable")
    klass = fields["class"]
    if klass not in RETRIABLE | PERMANENT and "retryable" not in fields:
        raise CaseFault(place, f"`{klass}` is no failure class of ours; say whether it is `retryable`")
    message = fields.get("message", f"scripted: {klass}")
    if not isinstance(message, str):
        raise CaseFault(place, "the message must be text")
    return Failure(klass, message, bool(fields.get("retryable", klass in RETRIABLE)))
