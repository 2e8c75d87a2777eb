"""What requests carry, and the parameters that routes share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from history.audit_query import QUERY_BYTES
from orchestrator_api.bodies import QueryShape, RequestShape
from schemas.ids import NAME, NODE_ID, TOKEN_ID, WORKFLOW_ID
from schemas.limits import LIMITS
from schemas.submission import Priority

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LABEL_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,63}$")
LABEL_CHARS = 256
MAX_TIMEOUT_MS = 31 * 86_400_000
KEY_CHARS = 512


def no_control(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must be one line of plain text")
    return text


def few_labels(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > LIMITS.labels:
        raise ValueError(f"has {len(value)} labels; the limit labels is {LIMITS.labels}")
    return value


def labels(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not LABEL_NAME.fullmatch(name):
            raise ValueError(f"the label name {name[:80]!r} must match {LABEL_NAME.pattern}")
        if len(text) > LABEL_CHARS or _CONTROL.search(text):
            raise ValueError(f"the label {name} must be one line of at most {LABEL_CHARS} characters")
    return value


Line = Annotated[str, Field(max_length=256), AfterValidator(no_control)]
Labels = Annotated[dict[str, str], BeforeValidator(few_labels), AfterValidator(labels)]
Name = Annotated[str, Field(pattern=NAME.pattern)]
WorkflowName = Annotated[str, Field(pattern=WORKFLOW_ID.pattern)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]

RunId = Annotated[str, Path(pattern=NAME.pattern, description="id of a run")]
BatchId = Annotated[str, Path(pattern=NAME.pattern, description="id of a batch")]
WorkflowId = Annotated[str, Path(pattern=WORKFLOW_ID.pattern, description="id of a workflow")]
NodeId = Annotated[str, Path(pattern=NODE_ID.pattern, description="id of a node")]
EventName = Annotated[str, Path(pattern=NAME.pattern, description="name of an outside event")]
LetterId = Annotated[str, Path(pattern=r"^\d{1,20}-\d{1,20}$", description="id of a dead letter")]


class WorkflowChoice(RequestShape):
    """Which workflow: a document, or a registered one by its id."""

    workflow: dict[str, Any] | None = Field(None, description="a workflow document")
    workflow_id: WorkflowName | None = Field(None, description="or the id of a registered one")
    version: Version | None = Field(None, description="of the registered one; the latest by default")

    @model_validator(mode="after")
    def _one_of_both(self) -> WorkflowChoice:
        if (self.workflow is None) == (self.workflow_id is None):
            raise ValueError("give either workflow or workflow_id")
        if self.version is not None and self.workflow_id is None:
            raise ValueError("version goes with workflow_id")
        return self


class RunRequest(WorkflowChoice):
    """POST /runs"""

    input: Any = Field(description="the run's input, any JSON; checked against the workflow's input_schema")
    run_id: Name | None = Field(None, description="chosen by the client: the same request again makes no second run")
    priority: Priority = Field("normal", description="interactive runs go before others at every model")
    labels: Labels = Field(default_factory=dict, description="{name: text}, to find the run by")
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = Field(None, description="of the whole run")


class AuditRequest(RequestShape):
    """The author's own query of the state before and after a batch: one row of numbers and short texts."""

    connection: str = Field(max_length=128, description="the name of a connection that the operator has set up")
    query: str = Field(min_length=1, max_length=QUERY_BYTES, description="SQL that gives one row; it is read only")


class BatchOptions(WorkflowChoice):
    """What a batch carries beside its items: fields of the JSON body, query parameters beside NDJSON."""

    key: str | None = Field(
        None, max_length=LIMITS.expression_bytes, description="CEL over `item` and `index` that gives each item's key"
    )
    requested_by: Line | None = Field(None, description="who asks; kept with the batch")
    labels: Labels = Field(default_factory=dict, description="{name: text}, for each of its runs")
    priority: Priority = "normal"
    audit: AuditRequest | None = Field(
        None, description="a query that is asked before the batch, and when it has ended"
    )
    force: bool = Field(False, description="also where a batch of this workflow runs, and items whose key is known")


class BatchSource(RequestShape):
    """Where the items of a batch come from: each row is one, an object of its columns."""

    connection: str = Field(max_length=128, description="the name of a connection that the operator has set up")
    query: str = Field(min_length=1, max_length=LIMITS.workflow_bytes, description="SQL; it is read only")
    params: dict[str, Any] = Field(default_factory=dict, description="{name: value}, bound to `%(name)s`")


class BatchRequest(BatchOptions):
    """POST /batches"""

    items: list[Any] | None = Field(
        None, min_length=1, max_length=LIMITS.batch_items, description="one run's input each"
    )
    source: BatchSource | None = Field(None, description="or the query whose rows are the items")

    @model_validator(mode="after")
    def _items_or_source(self) -> BatchRequest:
        if (self.items is None) == (self.source is None):
            raise ValueError("give either items or source")
        return self


class ActionRequest(RequestShape):
    """What is asked of a run, a batch or a dead letter: cancel, pause, resume, retry"""

    reason: Line | None = Field(None, description="why; kept with who asked")


class RetryRequest(ActionRequest):
    """POST /runs/{run_id}/retry"""

    paused: bool = Field(False, description="the run goes on when it is resumed, so that it can be patched before")


LiveTokens = Literal["refuse", "cancel"]
Running = Literal["keep", "restart"]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class PatchOptions(RequestShape):
    """How a run goes over to another revision of its workflow."""

    description: Line | None = Field(None, description="what it is for; kept with who asked")
    live_tokens: LiveTokens = Field("refuse", description="on nodes that are removed: refuse the patch, or cancel them")
    running: Running = Field("keep", description="tasks of nodes that change: go on as they began, or begin anew")


class PatchRequest(PatchOptions):
    """POST /runs/{run_id}/patch"""

    operations: Any = Field(description="RFC 6902, on the workflow document; docs/patching.md")


class RollbackRequest(PatchOptions):
    """POST /runs/{run_id}/rollback"""

    revision: Number = Field(description="whose workflow the run gets again")


def few_keys(keys: list[str]) -> list[str]:
    if len(keys) > LIMITS.patch_keys:
        raise ValueError(f"has {len(keys)} keys; the limit patch_keys is {LIMITS.patch_keys}")
    return keys


class PatchFilter(RequestShape):
    """Which live runs of a batch: those of these items, those with a live token on one of these nodes; both, if both
    are given."""

    keys: Annotated[list[str], Field(fail_fast=True), AfterValidator(few_keys)] | None = Field(
        None, min_length=1, description="of their items; without a key its position, from 0"
    )
    nodes: Annotated[list[str], Field(fail_fast=True)] | None = Field(
        None, min_length=1, max_length=LIMITS.workflow_nodes, description="a map stands for what lives in its items"
    )

    @model_validator(mode="after")
    def _something(self) -> PatchFilter:
        if self.keys is None and self.nodes is None:
            raise ValueError("give keys, nodes or both")
        return self


class Canary(RequestShape):
    """The items of a batch that a patch is tried on: the first that have not ended."""

    first: Number | None = Field(None, description="so many")
    percent: Annotated[float, Field(gt=0, le=100)] | None = Field(None, description="or so many % of all its items")

    @model_validator(mode="after")
    def _one_of_both(self) -> Canary:
        if (self.first is None) == (self.percent is None):
            raise ValueError("give either first or percent")
        return self


class BatchPatchRequest(PatchRequest):
    """POST /batches/{batch_id}/patch"""

    filter: PatchFilter | None = Field(None, description="only these live runs, and no item that has not started")
    canary: Canary | None = Field(None, description="only these items, until it is promoted or reverted")

    @model_validator(mode="after")
    def _not_both(self) -> BatchPatchRequest:
        if self.filter is not None and self.canary is not None:
            raise ValueError("give either filter or canary")
        return self


class PromoteRequest(ActionRequest):
    """POST /batches/{batch_id}/promote"""

    live_tokens: LiveTokens | None = Field(None, description="as for a patch; what the patch said by default")
    running: Running | None = Field(None, description="as for a patch; what the patch said by default")


class RevertRequest(ActionRequest):
    """POST /batches/{batch_id}/revert"""

    live_tokens: LiveTokens = Field("refuse", description="on nodes that the patch had added")
    running: Running = Field("keep", description="tasks of nodes that the patch had changed")


class DryRun(QueryShape):
    """Query of what can be tried."""

    dry_run: bool = Field(False, description="say what would happen, and change nothing")


class PatchQuery(DryRun):
    """Beside a bare list of operations, the query says all else."""

    description: Line | None = None
    live_tokens: LiveTokens | None = None
    running: Running | None = None


class FailureRequest(RequestShape):
    """Why the work of a node could not be done."""

    klass: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] | None = Field(
        None, alias="class", description="rejected by default for a person, handler for a task"
    )
    message: str = Field(min_length=1, max_length=2_000)


class CompleteRequest(RequestShape):
    """POST /runs/{run_id}/nodes/{node_id}/complete"""

    output: Any = Field(None, description="what was answered, any JSON that the node allows")
    error: FailureRequest | None = Field(None, description="or why there is no answer")
    token_id: Annotated[str, Field(pattern=TOKEN_ID.pattern)] | None = Field(
        None, description="which token, where several of the node wait"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> CompleteRequest:
        if ("output" in self.model_fields_set) == (self.error is not None):
            raise ValueError("give either output or error")
        return self


class EventRequest(RequestShape):
    """POST /events/{name}"""

    key: str = Field("", max_length=KEY_CHARS, description="which of those that wait for the event: their `key`")
    output: Any = Field(None, description="their output; without it, or null, what had arrived there")


class DropRequest(RequestShape):
    """POST /dead-letters/{letter_id}/drop"""

    reason: Line = Field(min_length=1, description="why; kept with the letter and who dropped it")


class Page(QueryShape):
    """Query parameters of every list."""

    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = Field(None, max_length=300, description="`next_cursor` of the page before")


Pages = Annotated[Page, Query()]
