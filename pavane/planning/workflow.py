"""The workflow of a plan: compiled, with the workflows that stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR, Node


@dataclass(frozen=True, slots=True)
class PlannedWorkflow:
    """`children`: the workflows of its `workflow` nodes that stand in the document in full, by node."""

    ir: IR
    children: Mapping[str, PlannedWorkflow]

    @classmethod
    def of(cls, document: Any) -> PlannedWorkflow:
        """Raises InvalidDocument."""
        ir = compile_workflow(document).ir
        called = {node.id: node.config["document"] for node in ir.nodes.values() if "document" in node.config}
        return cls(ir, {node: cls.of(child) for node, child in called.items()})

    def nodes(self) -> Iterator[Node]:
        """All nodes, those of maps and of children too; a node's id may come again in a child."""
        yield from self.ir.nodes.values()
        for child in self.children.values():
            yield from child.nodes()

    def agents(self) -> dict[str, Node]:
        """One agent of each pool: its model and its load-time options."""
        return {node.analysis.pool: node for node in self.nodes() if node.analysis.pool is not None}
