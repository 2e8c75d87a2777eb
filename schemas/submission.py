"""What starts a run: a compiled workflow and an input, as `RunStore.start_run` takes them. Pure.

The API starts single runs with it, the coordinator's admission the items of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from schemas.ir import IR
from schemas.values import Artifact, artifact_name, encode_value

Priority = Literal["interactive", "normal"]
PRIORITIES: tuple[Priority, ...] = ("interactive", "normal")

RETENTION_MS = 3_600_000
"""How long an ended run's keys stay in Redis, unless the operator says otherwise; then Postgres has it."""


@dataclass(frozen=True, slots=True)
class Start:
    """The arguments of `RunStore.start_run`."""

    run_id: str
    ir: IR
    fields: Mapping[str, str]  # of the run hash
    input_text: str  # stored text (schemas/values.py)
    event: Mapping[str, Any]  # body of run_started; orjson.dumps takes it, the input being a fragment
    artifacts: tuple[Artifact, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """`await store.start_run(**start.arguments())`; `start_runs` takes a list of these."""
        return {name: getattr(self, name) for name in Start.__slots__}


def make_start(run_id: str, ir: IR, value: Any, **details: Any) -> Start:
    """A run of `ir` on the input `value` (JSON); `details` as of `start_of_stored`.

    Raises ValueTooLarge for an input over the limit.
    """
    text, artifact = encode_value(value)
    return start_of_stored(run_id, ir, text, artifact, **details)


def start_of_stored(
    run_id: str,
    ir: IR,
    input_text: str,
    artifact: Artifact | None = None,
    *,
    request: str,
    version: int | None = None,
    batch_id: str = "",
    key: str = "",
    priority: Priority = "normal",
    labels: Mapping[str, str] | None = None,
    timeout_ms: int | None = None,
    retention_ms: int = RETENTION_MS,
    by: str = "",
    batch_patch: str = "",
) -> Start:
    """A run of `ir` on an input that `encode_value` has made text, with its artifact if it is one.

    `request` tells the same submission from another one under the same run id (`request_digest`). `version`
    is None for an inline workflow. `by` is who asked. `batch_patch`: of a run that begins with a patch of its batch
    (schemas/batch_mark.py).
    """
    fields = {
        "workflow": ir.workflow_id,
        "version": "" if version is None else str(version),
        "batch": batch_id,
        "key": key,
        "priority": priority,
        "labels": orjson.dumps(labels or {}).decode(),
        "request": request,
        "retention_ms": str(retention_ms),
    }
    if timeout_ms is not None:
        fields["timeout_ms"] = str(timeout_ms)
    if batch_patch:
        fields["batch_patch"] = batch_patch
    event: dict[str, Any] = {
        "workflow_id": ir.workflow_id,
        "version": version,
        "priority": priority,
        "request": request,
    }
    if artifact_name(input_text):
        event["stored_input"] = input_text
    else:
        event["input"] = orjson.Fragment(input_text)
    number = int(batch_patch.split(maxsplit=1)[0]) if batch_patch else None
    optional = {"batch_id": batch_id, "key": key, "labels": labels, "by": by, "batch_patch": number}
    event |= {name: part for name, part in optional.items() if part}
    return Start(run_id, ir, fields, input_text, event, (artifact,) if artifact else ())


def request_digest(submission: Any) -> str:
    """SHA-256 (hex) of a submission's JSON with its fields sorted: equal requests have equal digests."""
    return hashlib.sha256(orjson.dumps(submission, option=orjson.OPT_SORT_KEYS)).hexdigest()


def item_digest(batch_id: str, index: int) -> str:
    """The `request` of a batch's item: an item that admission starts twice is one run."""
    return request_digest(["item", batch_id, index])
