"""The IR: a workflow compiled, as the coordinator and the runners read it.

Its JSON holds the source workflow and the results of the graph analysis (routing semantics); expressions and templates
are parsed again from the source when an IR is read, and cached by text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson

from schemas.expressions.expression import Expression, parse_expression
from schemas.expressions.template import ValueTemplate, parse_value

IR_VERSION = 1
TASK_TYPES = frozenset({"agent", "function"})
"""Types that make a task on a stream; every other type is decided by the coordinator in passing."""

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
    condition: Expression | None


@dataclass(frozen=True, slots=True)
class Rule:
    condition: Expression
    next: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    condition: Expression
    back_to: str
    max_iterations: int
    break_path: tuple[str, ...]
    timeout_path: tuple[str, ...] | None
    form: LoopForm
    body: frozenset[str]
    inner: tuple[str, ...]  # the loops that lie strictly in this one


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
    rules: tuple[Rule, ...] = ()  # branch
    default: tuple[str, ...] | None = None  # branch
    loop: Loop | None = None  # loop

    @property
    def is_task(self) -> bool:
        return self.type in TASK_TYPES

    @cached_property
    def templates(self) -> Mapping[str, ValueTemplate]:
        """What a runner renders before it executes the node, by config field."""
        fields = {"agent": ("prompt", "system"), "function": ("args",)}.get(self.type, ())
        return {name: parse_value(self.config[name]) for name in fields if self.config.get(name) is not None}

    @cached_property
    def assignments(self) -> Mapping[str, Expression]:
        """transform: the fields that it sets."""
        fields = self.config.get("set", {}) if self.type == "transform" else {}
        return {name: parse_expression(text) for name, text in fields.items()}


@dataclass(frozen=True)
class IR:
    """A workflow, compiled. Equal IRs have equal digests."""

    workflow: Mapping[str, Any]  # the author's document
    entries: tuple[str, ...]
    nodes: Mapping[str, Node]
    lanes: bool  # some node is `join: any`, so that executions may overlap and outputs carry ranks
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

    @cached_property
    def repeats(self) -> bool:
        """Some node may be executed more than once in a run."""
        return self.lanes or bool(self.loops)

    def keeps_output_for(self, node_id: str) -> bool:
        """What arrives at this node stays its predecessor's output in the context until the node has read it.

        Elsewhere the predecessor may run again first: beside it in another lane, or in a loop while this node waits.
        """
        return not self.lanes and not (self.loops and self.nodes[node_id].analysis.waits)

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
    def build(cls, workflow: Mapping[str, Any], entries: tuple[str, ...], analyses: Mapping[str, Analysis]) -> IR:
        """The IR of a workflow that is known to be valid. `analyses` has one entry per node id."""
        document = {
            "ir": IR_VERSION,
            "workflow": workflow,
            "entries": list(entries),
            "graph": {node_id: _sparse(analysis) for node_id, analysis in analyses.items()},
        }
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
        nodes = _nodes(workflow, analyses)
        return cls(
            workflow=workflow,
            entries=tuple(document["entries"]),
            nodes=nodes,
            lanes=any(node.any for node in nodes.values()),
            text=text,
        )


def _nodes(workflow: Mapping[str, Any], analyses: Mapping[str, Analysis]) -> dict[str, Node]:
    defaults = workflow.get("defaults", {})
    edges: dict[str, list[Edge]] = {}
    for edge in workflow.get("edges", ()):
        edges.setdefault(edge["from"], []).append(Edge(edge["to"], _condition(edge.get("condition"))))
    nodes = {}
    for source in workflow["nodes"]:
        node_id = source["id"]
        config = source.get("config", {})
        timeout = source.get("timeout_ms", defaults.get("timeout_ms"))
        nodes[node_id] = Node(
            id=node_id,
            type=source["type"],
            config=config,
            analysis=analyses[node_id],
            edges=tuple(edges.get(node_id, ())),
            on_error=_targets(source.get("on_error")),
            any=source.get("join") == "any",
            retry=Retry(**{**defaults.get("retry", {}), **source.get("retry", {})}),
            timeout_ms=timeout,
            rules=_rules(source["type"], config),
            default=_targets(config.get("default")) if source["type"] == "branch" else None,
            loop=_loop(config, analyses[node_id]) if source["type"] == "loop" else None,
        )
    return nodes


def _condition(condition: Mapping[str, Any] | None) -> Expression | None:
    return parse_expression(condition["expression"]) if condition else None


def _targets(targets: list[str] | None) -> tuple[str, ...] | None:
    return None if targets is None else tuple(dict.fromkeys(targets))


def _rules(node_type: str, config: Mapping[str, Any]) -> tuple[Rule, ...]:
    if node_type != "branch":
        return ()
    return tuple(
        Rule(parse_expression(rule["condition"]["expression"]), tuple(dict.fromkeys(rule["next"])))
        for rule in config["rules"]
    )


def _loop(config: Mapping[str, Any], analysis: Analysis) -> Loop:
    assert analysis.form is not None
    return Loop(
        condition=parse_expression(config["condition"]["expression"]),
        back_to=config["loop_back_to"],
        max_iterations=config["max_iterations"],
        break_path=_targets(config["break_path"]) or (),
        timeout_path=_targets(config.get("timeout_path")),
        form=analysis.form,
        body=frozenset(analysis.body),
        inner=analysis.inner,
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
