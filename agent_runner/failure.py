"""How the execution of a task fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.messages import RETRIABLE


class TaskFailed(Exception):
    """An execution that failed. `klass` is a failure class of schemas/messages.py.

    `metadata` goes into the completion signal beside the error: usage, and `raw`, a model's text that was no answer.
    """

    def __init__(
        self,
        klass: str,
        message: str,
        *,
        retryable: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.klass = klass
        self.message = message
        self.retryable = klass in RETRIABLE if retryable is None else retryable
        self.metadata = dict(metadata or {})
