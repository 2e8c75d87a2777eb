"""Cases: an author's unit tests of a workflow, as they are written (docs/testing_workflows.md)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pavane.documents import read_document
from schemas.errors import InvalidDocument, Problem, pointer
from schemas.ids import NODE_ID
from schemas.limits import LIMITS

ELLIPSIS = "..."
"""In a path: any number of nodes."""
Status = Literal["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
Count = Annotated[int, Field(ge=0)]
NodeId = Annotated[str, Field(pattern=NODE_ID.pattern)]


def _moment(value: Any) -> Any:
    """A text by RFC 3339, since YAML 1.2 has no dates of its own."""
    if not isinstance(value, str):
        raise ValueError("must be a time by RFC 3339, as text")
    return datetime.fromisoformat(value)


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Shape(BaseModel):
    """Nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Expectation(_Shape):
    """What must come out. A field that is not given is not looked at, but for the status."""

    status: Status | None = None
    output: Any = None
    outputs: Mapping[NodeId, Any] = {}
    path: list[str | list[str]] | None = None
    never: list[NodeId] = []
    times: Mapping[NodeId, Count] = {}
    attempts: Mapping[NodeId, Count] = {}
    error: Mapping[str, Any] | None = None
    where: Annotated[list[str], BeforeValidator(_several)] = []
    exact: bool = False

    @property
    def wanted_status(self) -> Status:
        return self.status or ("COMPLETED" if self.error is None else "FAILED")


class Case(_Shape):
    """One run of the workflow: its input, what its nodes give, and what must come out."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    input: Any = {}
    outputs: Mapping[NodeId, Any] = {}
    expect: Expectation = Expectation()
    at: Annotated[AwareDatetime, BeforeValidator(_moment)] = datetime(2026, 1, 1, tzinfo=UTC)
    timeout_ms: Annotated[int, Field(ge=1, le=LIMITS.duration_ms)] | None = None
    key: str = ""


class _Cases(_Shape):
    input: Any = {}
    outputs: Mapping[NodeId, Any] = {}
    cases: Annotated[list[Case], Field(min_length=1)]


def read_cases(path: Path) -> list[Case]:
    """The cases of a file, YAML or JSON; `-` is stdin. Those that say nothing of input or a node take the file's.

    Raises UnusableFile, and InvalidDocument with all that is wrong with its shape.
    """
    document = read_document(path)
    try:
        given = _Cases.model_validate(document)
    except ValidationError as error:
        raise InvalidDocument(_problem(fault) for fault in error.errors(include_url=False)) from None
    seen: set[str] = set()
    for number, case in enumerate(given.cases):
        if case.name in seen:
            raise InvalidDocument([Problem(pointer("cases", number, "name"), "duplicate-name", "Names must differ.")])
        seen.add(case.name)
    return [_completed(case, given) for case in given.cases]


def _completed(case: Case, shared: _Cases) -> Case:
    outputs = {**shared.outputs, **case.outputs}
    value = case.input if "input" in case.model_fields_set else shared.input
    return case.model_copy(update={"outputs": outputs, "input": value})


def _problem(fault: Any) -> Problem:
    # pydantic names the function it tried in a place of its own; a JSON pointer has none for it.
    place = [step for step in fault["loc"] if not (isinstance(step, str) and "[" in step)]
    return Problem(pointer(*place), fault["type"].replace("_", "-"), fault["msg"])
