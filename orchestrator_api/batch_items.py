"""Items of a batch: read, checked and encoded, a slice at a time, so that nobody else waits for 100,000 of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from history.batches import KEY_LENGTH, NewItem
from orchestrator_api.bodies import json_faults
from orchestrator_api.problems import SHOWN, Refusal, invalid
from orchestrator_api.submissions import Prepared
from schemas.errors import Problem
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression
from schemas.ids import new_run_id
from schemas.limits import LIMITS
from schemas.values import ValueTooLarge, encode_value

SLICE = 500
SLICE_BYTES = 1_000_000
KEY_VARIABLES = frozenset({"item", "index", "input"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ItemFault(Exception):
    """An item that can not be taken."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = (code, message)


class ItemReader:
    """Collects the items of one batch and what is wrong with them; `items` is whole when `problems` is empty."""

    def __init__(self, prepared: Prepared, key: str | None) -> None:
        """`key` is CEL over `item` (also as `input`) and `index`. Raises Refusal (422)."""
        self.prepared = prepared
        self.items: list[NewItem] = []
        self.problems: list[Problem] = []
        self.faulty = 0  # items with problems, of which the first SHOWN are listed
        self._index = 0
        try:
            self._key = None if key is None else Expression(key, KEY_VARIABLES)
        except ExpressionError as error:
            raise invalid([Problem("/key", error.code, str(error))]) from None

    async def read_values(self, values: Sequence[Any]) -> None:
        for first in range(0, len(values), SLICE):
            await asyncio.to_thread(self._take_values, values[first : first + SLICE])

    async def read_lines(self, lines: AsyncIterator[bytes]) -> None:
        """NDJSON: one item a line; blank lines count for nothing."""
        kept: list[bytes] = []
        size = 0
        async for line in lines:
            kept.append(line)
            size += len(line)
            if size >= SLICE_BYTES:
                await asyncio.to_thread(self._take_lines, kept)
                kept, size = [], 0
        await asyncio.to_thread(self._take_lines, kept)

    def finish(self) -> list[NewItem]:
        """All items. Raises Refusal (422) if any is faulty, or there are none."""
        if self.problems:
            more = f"; the first {len(self.problems)} problems are listed" if self.faulty > SHOWN else ""
            raise invalid(self.problems, f"{self.faulty} of {self._index} items are invalid, nothing was taken{more}.")
        if not self.items:
            raise invalid([Problem("/items", "out-of-range", "A batch needs at least one item.")])
        return self.items

    def _take_values(self, values: Sequence[Any]) -> None:
        for value in values:
            self._take(value)

    def _take_lines(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
                faults = json_faults(line, value)
            except orjson.JSONDecodeError as error:
                faults = [Problem("", "not-json", f"not JSON: {error}")]
                value = None
            if faults:
                self._refuse([Problem(f"/items/{self._index}", faults[0].code, faults[0].message)])
            else:
                self._take(value)

    def _take(self, value: Any) -> None:
        path = f"/items/{self._index}"
        if self._index >= LIMITS.batch_items:
            raise Refusal(413, f"More items than the limit batch_items, {LIMITS.batch_items}.", limit="batch_items")
        problems = self.prepared.input_problems(value, path)
        try:
            key = self._key_of(value)
            text, artifact = encode_value(value)
        except ValueTooLarge:
            problems.append(Problem(path, "too-large", f"over the limit input_bytes, {LIMITS.input_bytes} bytes"))
        except ItemFault as fault:
            problems.append(Problem(path, *fault.problem))
        if problems:
            self._refuse(problems)
            return
        self.items.append(NewItem(new_run_id(), key, text, artifact))
        self._index += 1

    def _refuse(self, problems: Sequence[Problem]) -> None:
        self._index += 1
        self.faulty += 1
        self.problems += problems[: SHOWN - len(self.problems)]

    def _key_of(self, value: Any) -> str | None:
        if self._key is None:
            return None
        try:
            key = self._key.evaluate({"item": value, "input": value, "index": self._index})
        except EvaluationError as error:
            raise ItemFault("key", f"the key `{self._key.text[:80]}` has no value: {error}") from None
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ItemFault("key", "the key must be a string or a whole number")
        text = str(key)
        if not 0 < len(text) <= KEY_LENGTH or _CONTROL.search(text):
            raise ItemFault("key", f"the key must be one line of 1 to {KEY_LENGTH} characters")
        return text
