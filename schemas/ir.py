"""The IR: a workflow compiled, as the coordinator and the runners read it.

Its JSON holds the source workflow and the results of the graph analysis (routing semantics); expressions and templates
are parsed again from the source when an IR is read, and cached by text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson

from schemas.conditions.condition import Condition
from schemas.expressions.expression import Expression, parse_expression
from schemas.expressions.template import ValueTemplate, parse_value

IR_VERSION = 1
TASK_TYPES = frozenset({"agent", "function", "http", "sql"})
"""Types that make a task on a stream."""
OPENED_TYPES = frozenset({"map", "workflow", "human", "wait"})
"""Types that the coordinator opens and that end later."""
PASSING_TYPES = frozenset({"branch", "loop", "transform", "join"})
"""Types that the coordinator decides in passing."""

DEFAULT_PARALLEL = 1_000
"""Items of a map that are started at once, if it does not say otherwise."""

LoopForm = Literal["do-while", "while", "paths"]


@dataclass(frozen=True, slots=True)
class Retry:
    max_attempts: int = 3
    backoff_ms: int = 1_000
    backoff_multiplier: float = 2.0
    jitter: float = 0.1  # share of the backoff that is random


@dataclass(frozen=True, slots=True)
class Edge:
    to: str
    condition: Condition | None


@dataclass(frozen=True, slots=True)
class Rule:
    condition: Condition
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    condition: Condition
    back_to: str
    max_iterations: int
    break_path: tuple[str, ...]
    timeout_path: tuple[str, ...] | None
    form: LoopForm
    body: frozenset[str]
    inner: tuple[str, ...]  # the loops that lie strictly in this one


@dataclass(frozen=True, slots=True)
class Map:
    """What a map starts for each item. Its nodes are those whose `analysis.map` is the map's id."""

    items: Expression
    entries: tuple[str, ...]
    exit: str  # the node whose output is an item's result
    max_parallel: int
    collect: bool  # an item that fails is a result, and does not fail the map


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the compiler found out about one node; the part of the IR's JSON that is not the source workflow."""

    index: int  # position in workflow.nodes
    stream: str | None = None  # task types: the stream's name without a shard's prefix
    pool: str | None = None  # agents: `<model>` or `<model>#<8 hex>`
    waits: bool = False
    within: str | None = None  # the innermost loop whose body contains this node
    blocks: tuple[str, ...] = ()  # J(n): the waiting nodes that a live token here holds back
    predecessors: tuple[str, ...] = ()
    task_reads: tuple[str, ...] = ()  # nodes whose outputs its templates read
    route_reads: tuple[str, ...] = ()  # nodes that conditions and transforms decided after it may read
    route_input: bool = False  # whether they may read the run's input
    route_loops: tuple[str, ...] = ()  # loops whose counts may be read or written when it is routed
    form: LoopForm | None = None  # loops only, as the next two
    body: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    map: str | None = None  # the map whose sub-graph this node belongs to
    entries: tuple[str, ...] = ()  # maps only, as the next one
    exit: str | None = None


@dataclass(frozen=True)
class Node:
    """One node, its defaults resolved and its expressions parsed."""

    id: str
    type: str
    config: Mapping[str, Any]
    analysis: Analysis
    edges: tuple[Edge, ...]
    on_error: tuple[str, ...] | None
    any: bool  # `join: any`
    retry: Retry
    timeout_ms: int | None
    queue_timeout_ms: int | None = None
    rules: tuple[Rule, ...] = ()  # branch
    default: tuple[str, ...] | None = None  # branch
    loop: Loop | None = None  # loop
    map: Map | None = None  # map
    deadline_path: tuple[str, ...] | None = None  # human, wait

    @property
    def is_task(self) -> bool:
        return self.type in TASK_TYPES

    @cached_property
    def templates(self) -> Mapping[str, ValueTemplate]:
        """What is rendered before the node is executed or opened, by config field."""
        fields = _TEMPLATES.get(self.type, ())
        return {name: parse_value(self.config[name]) for name in fields if self.config.get(name) is not None}

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that its templates read: others need not be loaded."""
        return frozenset().union(*(template.references.variables for template in self.templates.values()))

    @cached_property
    def until(self) -> Expression | None:
        """wait: the time that it waits for."""
        return parse_expression(self.config["until"]) if self.type == "wait" and "until" in self.config else None

    @cached_property
    def assignments(self) -> Mapping[str, Expression]:
        """transform: the fields that it sets."""
        fields = self.config.get("set", {}) if self.type == "transform" else {}
        return {name: parse_expression(text) for name, text in fields.items()}


_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "agent": ("prompt", "system"),
    "function": ("args",),
    "http": ("url", "query", "headers", "body"),
    "sql": ("params", "gate"),
    "human": ("prompt", "assignee"),
    "wait": ("for_ms", "key"),
    "workflow": ("input",),
}


@dataclass(frozen=True, slots=True)
class Patched:
    """What the patches of a run's agents have added so far (tool `patch_workflow`)."""

    depths: Mapping[str, int] = field(default_factory=dict)  # node -> 1 + that of the agent that added it
    calls: int = 0  # model calls


@dataclass(frozen=True)
class IR:
    """A workflow, compiled. Equal IRs have equal digests."""

    workflow: Mapping[str, Any]  # the author's document
    entries: tuple[str, ...]
    nodes: Mapping[str, Node]
    lanes: bool  # some node is `join: any`, so that executions may overlap and outputs carry ranks
    patched: Patched | None = None  # the IR of a run that was patched
    text: str = field(default="", compare=False)

    @property
    def workflow_id(self) -> str:
        return str(self.workflow["id"])

    @cached_property
    def digest(self) -> str:
        """`sha256-<hex>` of the IR's JSON."""
        return "sha256-" + hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def loops(self) -> tuple[str, ...]:
        return tuple(node.id for node in self.nodes.values() if node.loop)

    def level(self, node_id: str) -> int:
        """How many maps enclose a node."""
        level, enclosing = 0, self.nodes[node_id].analysis.map
        while enclosing is not None:
            level, enclosing = level + 1, self.nodes[enclosing].analysis.map
        return level

    def addresses(self, reader: str, names: Iterable[str]) -> tuple[str, ...]:
        """Where the scripts find the outputs that `reader` reads: `<node>` in its own scope, `<node>@<level>` in an
        enclosing one."""
        known = self._addresses.get((reader, tuple(names)))
        if known is None:
            own = self.level(reader)
            known = self._addresses[reader, tuple(names)] = tuple(
                name if name not in self.nodes or self.level(name) == own else f"{name}@{self.level(name)}"
                for name in names
            )
        return known

    @cached_property
    def _addresses(self) -> dict[tuple[str, tuple[str, ...]], tuple[str, ...]]:
        return {}

    @cached_property
    def repeats(self) -> bool:
        """Some node may be executed more than once in a run."""
        return self.lanes or bool(self.loops) or self.patched is not None

    def keeps_output_for(self, node_id: str) -> bool:
        """What arrives at this node stays its predecessor's output in the context until the node has read it.

        Elsewhere the predecessor may run again first: beside it in another lane, in a loop while this node waits, or
        after another patch.
        """
        return not self.lanes and not self.patched and not (self.loops and self.nodes[node_id].analysis.waits)

    def is_plain(self, node_id: str) -> bool:
        """Nothing has to be evaluated when this task is done: unconditional edges to tasks, or to nodes that wait."""
        known = self._plain.get(node_id)
        if known is None:
            node = self.nodes[node_id]
            targets = (self.nodes[edge.to] for edge in node.edges)
            known = self._plain[node_id] = (
                node.is_task
                and all(edge.condition is None for edge in node.edges)
                and all(target.is_task or target.analysis.waits for target in targets)
            )
        return known

    @cached_property
    def _plain(self) -> dict[str, bool]:
        return {}

    @classmethod
    def build(
        cls, workflow: Mapping[str, Any], entries: tuple[str, ...], analyses: Mapping[str, Analysis],
        patched: Patched | None = None,
    ) -> IR:  # fmt: skip
        """The IR of a workflow that is known to be valid. `analyses` has one entry per node id."""
        document: dict[str, Any] = {
            "ir": IR_VERSION,
            "workflow": workflow,
            "entries": list(entries),
            "graph": {node_id: _sparse(analysis) for node_id, analysis in analyses.items()},
        }
        if patched is not None:
            document["patched"] = {"depths": dict(patched.depths), "calls": patched.calls}
        return cls._read(document, _canonical(document))

    @classmethod
    def from_json(cls, text: str | bytes) -> IR:
        """Read what `text` held. Trusts its input: only IRs that `build` made are ever stored."""
        plain = text.decode() if isinstance(text, bytes) else text
        return cls._read(orjson.loads(plain), plain)

    @classmethod
    def _read(cls, document: Mapping[str, Any], text: str) -> IR:
        workflow = document["workflow"]
        analyses = {node_id: _analysis(fields) for node_id, fields in document["graph"].items()}
        nodes = _nodes(workflow, workflow.get("defaults", {}), analyses)
        return cls(
            workflow=workflow,
            entries=tuple(document["entries"]),
            nodes=nodes,
            lanes=any(node.any for node in nodes.values()),
            patched=Patched(**document["patched"]) if "patched" in document else None,
            text=text,
        )


def _nodes(graph: Mapping[str, Any], defaults: Mapping[str, Any], analyses: Mapping[str, Analysis]) -> dict[str, Node]:
    """The nodes of a graph (the workflow, or the config of a map) and of the maps in it."""
    edges: dict[str, list[Edge]] = {}
    for edge in graph.get("edges", ()):
        edges.setdefault(edge["from"], []).append(Edge(edge["to"], _condition(edge.get("condition"))))
    nodes = {}
    for source in graph["nodes"]:
        node = _node(source, defaults, analyses[source["id"]], tuple(edges.get(source["id"], ())))
        nodes[node.id] = node
        if node.map:
            nodes |= _nodes(node.config, defaults, analyses)
    return nodes


def _node(source: Mapping[str, Any], defaults: Mapping[str, Any], analysis: Analysis, edges: tuple[Edge, ...]) -> Node:
    kind, config = source["type"], source.get("config", {})
    if kind in TASK_TYPES:  # the defaults are for what makes a task
        source = {**{name: defaults[name] for name in ("timeout_ms", "queue_timeout_ms") if name in defaults}, **source}
    return Node(
        id=source["id"],
        type=kind,
        config=config,
        analysis=analysis,
        edges=edges,
        on_error=_targets(source.get("on_error")),
        any=source.get("join") == "any",
        retry=Retry(**{**defaults.get("retry", {}), **source.get("retry", {})}),
        timeout_ms=source.get("timeout_ms"),
        queue_timeout_ms=source.get("queue_timeout_ms"),
        rules=_rules(kind, config),
        default=_targets(config.get("default")) if kind == "branch" else None,
        loop=_loop(config, analysis) if kind == "loop" else None,
        map=_map(config, analysis) if kind == "map" else None,
        deadline_path=_targets(config.get("deadline_path")) if kind in OPENED_TYPES else None,
    )


def _condition(condition: Mapping[str, Any] | None) -> Condition | None:
    return Condition(condition) if condition else None


def _targets(targets: list[str] | None) -> tuple[str, ...] | None:
    return None if targets is None else tuple(dict.fromkeys(targets))


def _rules(node_type: str, config: Mapping[str, Any]) -> tuple[Rule, ...]:
    if node_type != "branch":
        return ()
    return tuple(Rule(Condition(rule["condition"]), tuple(dict.fromkeys(rule["next"]))) for rule in config["rules"])


def _loop(config: Mapping[str, Any], analysis: Analysis) -> Loop:
    assert analysis.form is not None
    return Loop(
        condition=Condition(config["condition"]),
        back_to=config["loop_back_to"],
        max_iterations=config["max_iterations"],
        break_path=_targets(config["break_path"]) or (),
        timeout_path=_targets(config.get("timeout_path")),
        form=analysis.form,
        body=frozenset(analysis.body),
        inner=analysis.inner,
    )


def _map(config: Mapping[str, Any], analysis: Analysis) -> Map:
    assert analysis.exit is not None
    return Map(
        items=parse_expression(config["items"]),
        entries=analysis.entries,
        exit=analysis.exit,
        max_parallel=config.get("max_parallel", DEFAULT_PARALLEL),
        collect=config.get("on_item_error") == "collect",
    )


def _sparse(analysis: Analysis) -> dict[str, Any]:
    """Only what differs from the defaults: the IR is read by people in redis-cli."""
    values = {name: getattr(analysis, name) for name in Analysis.__slots__}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, False, ()) or name == "index"
    }


def _analysis(fields: Mapping[str, Any]) -> Analysis:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Analysis(**values)


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
