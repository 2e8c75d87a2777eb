"""A run's events, replayed on the reference interpreter: after each of them the two must agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.events import Event
from schemas.fold import fold
from schemas.run_state import RunState, run_output
from tests.reference.comparison import without_zeros
from tests.reference.follower import Follower, UnlikeError
from tests.reference.graph import OPENED, TASKS, Graph
from tests.reference.records import Execution, Key, Scope, Token, as_json
from tests.reference.switch import PatchRefusedError, check
from tests.routing.bookkeeping import goes_on, is_alive

RUN = "run_1"


@dataclass(frozen=True)
class PatchTried:
    """One patch of the run: after which event, what it asked for, and whether it was made.

    `refused`: live_tokens or retyped; "" for one that was made. `answered`: tokens whose outcome was stored.
    """

    seq: int
    workflow: dict[str, Any]
    cancel: bool = False
    restart: bool = False
    refused: str = ""
    answered: frozenset[str] = field(default_factory=frozenset)


class Replay:
    """`seen`: by token what the driver saw executed; `plain` takes the messages of errors from a value."""

    def __init__(
        self, follower: Follower, seen: Mapping[str, Execution], patches: Sequence[PatchTried],
        plain: Callable[[Any], Any],
    ) -> None:  # fmt: skip
        self.follower, self.seen, self.plain = follower, seen, plain
        self.patches = list(patches)
        self.state = RunState()
        self.tokens: dict[str, Token] = {}  # the engine's -> the reference's
        self.behind: set[str] = set()  # scopes that have not followed the last patch yet
        self.found: list[str] = []

    def differences(self, events: Sequence[Event]) -> list[str]:
        """Replay the whole run. It stops at the first event after which the two differ."""
        for event in events:
            try:
                self._apply(event)
                self.state = fold([event], self.state)
                self.found += self._alive() or self._patches_refused(event.seq)
            except UnlikeError as unlike:
                self.found.append(str(unlike))
            except PatchRefusedError as refused:
                self.found.append(f"the patch should have been refused: {refused}")
            if self.found:
                return [
                    f"event {event.seq}, {event.type} of {event.node_id} {event.token_id}: {one}" for one in self.found
                ]
        return self._end()

    # -- one event -----------------------------------------------------------------------------------
    def _apply(self, event: Event) -> None:
        follower, data = self.follower, event.data
        match event.type:
            case "run_started":
                follower.start()
            case "task_started" | "node_opened":
                follower.start_task(self._token(event.token_id))
            case "task_retried":
                follower.retry_task(self._token(event.token_id))
            case "map_started":
                follower.start_map(self._token(event.token_id))
            case "items_started":
                follower.start_items(self._token(event.token_id), data["count"])
            case "node_completed" | "node_failed":
                self._step(event)
            case "run_patched":
                self._patch()
            case "items_patched":
                path = event.token_id.removeprefix(f"{RUN}.")
                self.behind -= {f"{path}-{index}" for index in data["indexes"]}

    def _step(self, event: Event) -> None:
        token, outputs = self._token(event.token_id), event.data.get("outputs", {})
        type = token.type
        executed = follower_steps = self.follower.step(token, [node for node in outputs if node != event.node_id])
        given = {one.node: json.loads(one.result) for one in executed}
        if event.type == "node_failed":
            expected = {"error": event.data["error"]["class"]}
            self._compare("failure", expected, given.pop(event.node_id))
        self._compare("outputs", outputs, given)
        self._compare("passes", event.data.get("passes", {}), self._passes(token.scope, event.data.get("passes", {})))
        first = follower_steps[0]
        if type in TASKS or (
            type in OPENED and not (type == "wait" and token.begun and "event" not in token.begun.config)
        ):
            self._compare("execution", self.seen.get(event.token_id), first)

    def _compare(self, what: str, product: Any, reference: Any) -> None:
        product, reference = self._comparable(product), self._comparable(reference)
        if product != reference:
            self.found.append(f"{what}: {product}, and not {reference}")

    def _comparable(self, value: Any) -> Any:
        if isinstance(value, Execution):
            texts = {
                name: self.plain(json.loads(getattr(value, name) or "null")) for name in ("output", "args", "result")
            }
            return value._replace(**{name: as_json(text) for name, text in texts.items()})
        return as_json(self.plain(value))

    @staticmethod
    def _passes(scope: Scope, loops: Mapping[str, int]) -> dict[str, int]:
        return {loop: scope.loop_counts.get(loop, 0) for loop in loops}

    def _patch(self) -> None:
        made = self.patches.pop(0)
        answered = [self.tokens[token] for token in made.answered if token in self.tokens]
        self.follower.patch(made.workflow, cancel=made.cancel, restart=made.restart, answered=answered)
        self.behind = {record["scope"] for record in self.state.tokens.values() if record.get("scope")}

    def _patches_refused(self, seq: int) -> list[str]:
        """What was refused after this event was refused for a reason."""
        while self.patches and self.patches[0].seq == seq and self.patches[0].refused:
            tried = self.patches.pop(0)
            try:
                check(self.follower, Graph(tried.workflow), tried.cancel, tried.restart)
            except PatchRefusedError as refused:
                reasons = {"live_tokens": refused.gone, "retyped": refused.retyped}
                if reasons[tried.refused]:
                    continue
            return [f"a patch was refused without a reason: {tried.refused}"]
        return []

    # -- which is which ------------------------------------------------------------------------------
    def _token(self, token_id: str) -> Token:
        if token_id not in self.tokens:
            record = self.state.tokens[token_id]
            lane = record.get("lane", "")
            key: Key = (record["depth"], tuple(int(lane[at : at + 4], 16) for at in range(0, len(lane), 4)))
            scope = self._scope(record.get("scope", ""))
            if scope is None:
                raise UnlikeError(f"the item {record['scope']} is over")
            self.tokens[token_id] = self.follower.find(scope, record["node"], key, self.tokens.values())
        token = self.tokens[token_id]
        if not any(token is one for one in token.scope.live) or token.scope not in self.follower.scopes:
            raise UnlikeError("the token is gone")
        return token

    def _scope(self, name: str) -> Scope | None:
        if not name:
            return self.follower.root
        path, _, index = name.rpartition("-")
        map = self._token(f"{RUN}.{path}")
        return next((s for s in self.follower.scopes if s.map is map and s.index == int(index)), None)

    # -- what must agree -----------------------------------------------------------------------------
    def _alive(self) -> list[str]:
        """The same tokens are alive, in the same places, waiting or not."""
        if self.state.status not in ("RUNNING", "PAUSED") or self.follower.result.status == "FAILED":
            return []
        product: dict[str, Counter[tuple[str, bool]]] = {}
        for record in self.state.tokens.values():
            scope = record.get("scope", "")
            if is_alive(record) and goes_on(scope, dict(self.state.tokens)):
                product.setdefault(scope, Counter())[record["node"], record["state"] == "waiting"] += 1
        names = {id(token): token_id.removeprefix(f"{RUN}.") for token_id, token in self.tokens.items()}
        reference = {
            f"{names.get(id(scope.map), '?')}-{scope.index}" if scope.map else "": Counter(
                (token.node, token.state == "waiting") for token in scope.live
            )
            for scope in self.follower.scopes
        }
        return [
            f"alive in {scope or 'the run'}: {dict(product.get(scope, {}))}, and not {dict(reference.get(scope, {}))}"
            for scope in product | reference
            if not self._is_behind(scope) and product.get(scope, Counter()) != reference.get(scope, Counter())
        ]

    def _is_behind(self, scope: str) -> bool:
        return any(f"{scope}.".startswith(f"{one}.") for one in self.behind)

    def _end(self) -> list[str]:
        state = self.state
        if state.status in ("FAILED", "COMPLETED") and (self.follower.result.status == "FAILED") != (
            state.status == "FAILED"
        ):
            return [f"the run is {state.status}, and not {self.follower.result.status}"]
        if state.status == "COMPLETED":
            result = self.follower.end()
            self._compare("the run's outputs", state.outputs.get("", {}), result.outputs)
            self._compare("the run's output", run_output(state), result.output)
            self._compare("loop counts", without_zeros(state.passes.get("", {})), result.loop_counts)
        return self.found
