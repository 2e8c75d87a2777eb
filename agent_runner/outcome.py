"""Outcomes: what `finish_task` stores for an execution that completed or failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from agent_runner.failure import TaskFailed
from lua.run_store import Finish
from schemas.limits import LIMITS
from schemas.messages import CompletionSignal, Task
from schemas.values import ValueTooLarge, encode_value, too_deep

MESSAGE_CHARS = 2_000
RAW_BYTES = 16_384


def completed(task: Task, attempt: int, output: Any, metadata: Mapping[str, Any]) -> Finish:
    """The outcome of an execution that gave `output`. Raises TaskFailed where that can not be stored."""
    try:
        text = orjson.dumps(output)
        if too_deep(text):
            raise TaskFailed("too_large", f"the output nests deeper than the limit json_depth, {LIMITS.json_depth}")
        if len(text) <= LIMITS.inline_bytes:
            return _finish(task, attempt, metadata, result=orjson.Fragment(text))
        # Parsed again: what orjson writes as text (dates, enums) msgpack would refuse.
        reference, artifact = encode_value(orjson.loads(text))
    except ValueTooLarge as error:
        raise TaskFailed("too_large", str(error)) from None
    except TypeError as error:  # orjson's: no JSON in it, or text that is no Unicode
        raise TaskFailed("handler", f"the output is not JSON: {error}", retryable=False) from None
    return _finish(task, attempt, metadata, reference=reference, artifact=artifact)


def failed(task: Task, attempt: int, failure: TaskFailed) -> Finish:
    """The outcome of an execution that failed; everything in it is bounded and can be written as JSON."""
    metadata = {
        **failure.metadata,
        "error_type": failure.klass,
        "error_message": _clean(failure.message)[:MESSAGE_CHARS],
        "retryable": failure.retryable,
    }
    if "raw" in metadata:
        metadata["raw"] = bounded(str(metadata["raw"]))
    signal = CompletionSignal(task.token_id, task.run_id, task.node_id, attempt, "failed", metadata=metadata)
    return Finish(task, signal)


def bounded(text: str) -> str:
    """At most RAW_BYTES of it, in whole characters."""
    return text.encode("utf-8", "replace")[:RAW_BYTES].decode("utf-8", "ignore")


def _finish(
    task: Task, attempt: int, metadata: Mapping[str, Any], *, result: Any = None, reference: str | None = None,
    artifact: Any = None,
) -> Finish:  # fmt: skip
    signal = CompletionSignal(
        task.token_id, task.run_id, task.node_id, attempt, "completed", result, reference, metadata
    )
    return Finish(task, signal, artifact)


def _clean(text: str) -> str:
    # A lone surrogate is a character in Python and none in JSON.
    return text.encode("utf-8", "replace").decode()
