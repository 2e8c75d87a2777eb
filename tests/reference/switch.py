"""A patch: a run goes over to another revision of its workflow at one moment, every scope and token of it.

A node *remains* if the new document has its id within the same map, or outside of maps if it was. What the patch means
is in docs/patching.md; what it leaves open, and is taken here:
- A loop that remains as a node of another type is gone, and its count with it.
- A token that waited and waits no more keeps an empty lane, and gets all that arrived, by predecessor if it is several.
- A started token whose node has another type begins anew, also if it was answered. One that begins anew has no attempts
  behind it.
- A map whose items are known is one that runs until its token is gone; one that has failed is answered.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from tests.reference.graph import Graph, own_part
from tests.reference.records import Scope, Token

if TYPE_CHECKING:
    from tests.reference.interpreter import Interpreter

Workflow = dict[str, Any]


class PatchRefusedError(Exception):
    """Live tokens stand in the way of the patch: `gone` are on nodes that it removes, `retyped` have begun under a type
    that it changes."""

    def __init__(self, gone: list[Token], retyped: list[Token]) -> None:
        super().__init__(f"gone: {[token.node for token in gone]}, retyped: {[token.node for token in retyped]}")
        self.gone, self.retyped = gone, retyped


def is_mapping(token: Token) -> bool:
    return token.state == "mapping" and token.failed is None


def is_started(token: Token) -> bool:
    return token.begun is not None or token.state == "mapping"


def graph_of(root: Graph, scope: Scope) -> Graph | None:
    """The scope's part of the new graph; None if its map is gone, or is a map no more."""
    if scope.map is None:
        return root
    around = graph_of(root, scope.map.scope)
    return around.inside.get(scope.map.node) if around else None


def tokens_with_graphs(run: "Interpreter", root: Graph) -> Iterator[tuple[Token, Graph | None]]:
    """Every live token, with its part of the new graph: None if that is gone, or its node is."""
    for scope in run.scopes:
        graph = graph_of(root, scope)
        for token in scope.live:
            yield token, graph if graph and token.node in graph.nodes else None


def check(run: "Interpreter", root: Graph, cancel: bool, restart: bool) -> None:
    """Raises PatchRefusedError where live tokens stand in the way."""
    gone, retyped = [], []
    for token, graph in tokens_with_graphs(run, root):
        if graph is None:
            gone.append(token)
        elif is_started(token) and graph.type(token.node) != token.type and (is_mapping(token) or not restart):
            retyped.append(token)
    if (gone and not cancel) or retyped:
        raise PatchRefusedError([] if cancel else gone, retyped)


def switch(run: "Interpreter", workflow: Workflow, cancel: bool, restart: bool, answered: Collection[Token]) -> None:
    """Go over to `workflow`. `answered`: the tokens whose outcome is known and not routed yet."""
    root = Graph(workflow)
    check(run, root, cancel, restart)
    run.workflow = workflow
    for token, graph in list(tokens_with_graphs(run, root)):
        if graph is None:
            token.scope.live.remove(token)
        else:
            go_over(token, graph, restart and token not in answered)
    # The scopes that are left take their part of the new graph; a map that is gone takes its items with it.
    run.scopes = [scope for scope in run.scopes if all(not s.map or s.map in s.map.scope.live for s in scope.chain)]
    for scope in run.scopes:
        scope.graph = graph_of(root, scope) or scope.graph
        scope.loop_counts = {loop: n for loop, n in scope.loop_counts.items() if loop in scope.graph.loops}
        if not root.overlapping:
            scope.ranks.clear()
    for token, _ in tokens_with_graphs(run, root):
        if token.state == "running" and not token.begun:
            token.output = run.arrived(token)
    run.settle()


def go_over(token: Token, graph: Graph, restart: bool) -> None:
    """A token that has not started follows the new definition; one that has goes on as it began, or begins anew."""
    type = graph.type(token.node)
    redefined = definition_of(graph, token.node) != definition_of(token.scope.graph, token.node)
    if is_started(token) and type != token.type:
        token.state, token.failed = "running", None  # of a map: it had failed
    if token.begun and (type != token.type or (restart and redefined)):
        token.begun, token.attempt = None, 1
    if not is_started(token):
        token.type = type


def definition_of(graph: Graph, node: str) -> Workflow:
    """What a node is by itself: without the edges and what takes over, of a map without its sub-graph."""
    fields = own_part(graph.nodes[node])
    return {name: fields.get(name) for name in ("type", "config", "timeout_ms")}
