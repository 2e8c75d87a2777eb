"""The interpreter, led along an order of steps that somebody else saw: what the engine did, one event after another.

What a run that is patched does depends on when: it can not be judged in any order. So each of the engine's events is a
step here too, of the same token, with the same nodes decided in passing; and after each the two must agree.
"""

from collections.abc import Iterable
from typing import Any

from tests.reference.graph import OPENED, TASKS
from tests.reference.interpreter import Interpreter
from tests.reference.records import Execution, Failed, Key, OutcomeOf, Scope, Token


class UnlikeError(AssertionError):
    """The step that was seen can not happen here."""


class Follower(Interpreter):
    def __init__(self, workflow: dict[str, Any], input: Any, outcome_of: OutcomeOf) -> None:
        super().__init__(workflow, input, outcome_of, lambda running: 0)

    def find(self, scope: Scope, node: str, key: Key, taken: Iterable[Token] = ()) -> Token:
        """The oldest token on the node with this depth and lane that has fired, none of `taken`."""
        found = [token for token in scope.live if token.node == node and token.state != "waiting"]
        found = [token for token in found if token.key == key and not any(token is other for other in taken)]
        if not found:
            alive = [(token.node, token.state, token.key) for token in scope.live]
            raise UnlikeError(f"no token on {node} with {key} in {scope.path or 'the run'}: {alive}")
        return found[0]

    # Steps

    def start_task(self, token: Token) -> None:
        """A task is started, or what waits to be answered is opened."""
        if token.begun or token.type not in (*TASKS, *OPENED):
            raise UnlikeError(f"{token.node}, a {token.type}, is started{' twice' if token.begun else ''}")
        self.begin(token)

    def retry_task(self, token: Token) -> None:
        """An attempt fails, and there will be another."""
        attempt = token.attempt
        self.execute(token)
        if token.attempt != attempt + 1:
            raise UnlikeError(f"{token.node} is tried again after attempt {attempt}")

    def start_map(self, token: Token) -> None:
        self.execute(token)
        if token.state != "mapping":
            raise UnlikeError(f"the map {token.node} knows its items")

    def start_items(self, token: Token, count: int) -> None:
        if token.started - len(token.results) + count > token.at_once or token.started + count > len(token.items):
            raise UnlikeError(f"{count} items of {token.node} too many")
        for _ in range(count):
            self.start_item(token)
        self.settle()

    def step(self, token: Token, passed: Iterable[str]) -> list[Execution]:
        """The token's work is done, and the nodes `passed` are executed in the same step; what was executed."""
        newest, logged, left = next(self.serials), len(self.log), set(passed)
        self.end_work(token)
        while left:
            reached = [t for t in token.scope.live if t.serial > newest and t.state == "running" and t.node in left]
            if not reached:
                raise UnlikeError(f"after {token.node} no token came to {sorted(left)}")
            self.execute(reached[0])
            left.discard(reached[0].node)
        self.settle()
        return [execution for execution, _ in self.log[logged:]]

    def end_work(self, token: Token) -> None:
        if token.failed:
            self.fail(token, token.failed)
        elif token.state == "mapping":
            if len(token.results) < len(token.items):
                raise UnlikeError(f"{token.node} ended before its items")
            self.complete(token, [token.results[index] for index in range(len(token.items))])
        elif token.type in (*TASKS, *OPENED) and not token.begun and self.begin(token).error is None:
            raise UnlikeError(f"{token.node} ended before it began")
        else:
            self.execute(token)

    # What is a step of its own here

    def go_on(self, token: Token) -> None:
        if not token.items:
            self.complete(token, [])

    def fail_map(self, map: Token) -> None:
        map.failed = Failed("item", "an item failed")
