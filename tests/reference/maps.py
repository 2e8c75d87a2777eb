"""The part of the interpreter that goes through the items of maps."""

from typing import Any

from tests.reference.expressions import ExpressionError, evaluate
from tests.reference.records import Failed, Result, Scope, Token, as_json


class Maps:
    """What is said here of `fail`, `complete`, `enter` and `variables` is in `Interpreter`."""

    scopes: list[Scope]
    result: Result
    log: list[Any]

    def map(self, token: Token) -> None:
        try:
            items = evaluate(token.scope.graph.config(token.node)["items"], self.variables(token, token.output))
        except ExpressionError as error:
            return self.fail(token, Failed("expression", str(error)))
        if not isinstance(items, list):
            return self.fail(token, Failed("invalid_input", "items is no list"))
        token.items, token.state = items, "mapping"
        return self.go_on(token)

    def go_on(self, token: Token) -> None:
        """The map is done, or starts the items that there is room for."""
        if len(token.results) == len(token.items):
            return self.complete(token, [token.results[index] for index in range(len(token.items))])
        while token.started < len(token.items) and token.started - len(token.results) < token.at_once:
            self.start_item(token)
        return None

    def start_item(self, token: Token) -> None:
        scope = Scope(token.scope.graph.inside[token.node], token, token.started, token.items[token.started])
        token.started += 1
        self.scopes.append(scope)
        self.enter(scope, scope.item)

    def end_item(self, scope: Scope, result: Any) -> None:
        assert scope.map
        scope.map.results[scope.index] = result
        self.discard([scope])
        self.go_on(scope.map)

    def discard(self, scopes: list[Scope]) -> None:
        """They are over, and with them all that lies in them."""
        self.scopes = [one for one in self.scopes if not any(scope in one.chain for scope in scopes)]

    def fail_item(self, scope: Scope, error: dict[str, Any]) -> None:
        """Something failed in the item, for good and without `on_error`."""
        assert scope.map
        map = scope.map
        if map.collects:
            scope.optional = scope.forked
            return self.end_item(scope, {"error": error})
        beside = map.at_once > 1 and map.started > 1
        for one in {id(one): one for _, logged in self.log for one in logged.chain if one.map is map}.values():
            one.optional = beside or (one is scope and scope.forked)
        self.discard([one for one in self.scopes if one.map is map])
        return self.fail_map(map)

    def fail_map(self, map: Token) -> None:
        self.fail(map, Failed("item", "an item failed"))

    def fail_stalled(self) -> bool:
        """Nothing runs any more: the innermost item with a stalled failure fails; whether there was one."""
        for scope in reversed(self.scopes):
            stalled = [token.error for token in scope.live if token.state == "failed"]
            if stalled and scope.map:
                told = {as_json(error | {"message": ""}) for error in stalled}
                self.result.ambiguous |= scope.map.collects and len(told) > 1
                self.fail_item(scope, stalled[0])
                return True
        return False
