"""Patching as tools: an agent reads the workflow of its run, and changes what of it is still to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agent_runner.failure import TaskFailed
from agent_runner.tools.tool import Call, Tool, ToolFailed, make_tool
from agent_runner.work import Work
from lua.patching import Base, Patch, Patched, Patching, PatchRefused
from lua.run_store import RunStore
from schemas.agent_patch import Bounds, revise_by_agent
from schemas.compiler.tool_rules import PATCHING
from schemas.errors import InvalidDocument, Problem
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.revision import Revision

DESCRIPTION_CHARS = 1_000
_PATCH = """\
Change the workflow that you are a step of, for the rest of this one run: what has been executed stays as it is, and no
other run changes. All operations are carried out or none. Call {read} first.
`operations` is a JSON Patch (RFC 6902): objects with `op` (add, remove, replace, move, copy, test), `path`, and `value`
or `from`. In a path a node may be named by its id: /nodes/summarize/config/prompt. /nodes/- and /edges/- append; other
edges are named by their index, from 0. A new node needs an edge that leads to it.
To put a new step between you and the node after you: add the step at /nodes/-, add an edge from it to that node
at /edges/-, and replace the `to` of your own edge, /edges/<index>/to.
You are the node `{node}`. You may add, change and remove nodes of these types: {allow}. New agents take models that the
workflow uses. At most {operations} operations a call; in the whole run at most {nodes} added nodes and {calls} model
calls, which count with attempts, 3 unless a node says otherwise. What is refused comes back with its errors: mend it
and call again."""
_READ = "Read the workflow that you are a step of, as it is now: its nodes and edges, and the revision of this run."
_OPERATION = {
    "type": "object",
    "required": ["op", "path"],
    "properties": {
        "op": {"type": "string", "enum": ["add", "remove", "replace", "move", "copy", "test"]},
        "path": {"type": "string", "description": "JSON pointer"},
        "from": {"type": "string", "description": "JSON pointer, for move and copy"},
        "value": {"description": "any JSON, for add, replace and test"},
    },
}
_PARAMETERS = {
    "type": "object",
    "required": ["operations"],
    "additionalProperties": False,
    "properties": {
        "operations": {"type": "array", "items": _OPERATION},
        "description": {"type": "string", "maxLength": DESCRIPTION_CHARS, "description": "Why, in a sentence"},
        "revision": {"type": "integer", "description": "The one that you read; refused if there is a newer one"},
    },
}
_ONE_NODE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"node": {"type": "string", "description": "Only this node, by its id"}},
}


class PatchTools:
    """Makes the tools of `{patch_workflow: {...}}`. `patching` keeps what it has compiled."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._patching = Patching(store)

    def tools(self, config: Mapping[str, Any], node_id: str) -> list[Tool]:
        """Those of the agent `node_id`."""
        bounds = Bounds(**config)
        patch, read = PATCHING
        text = _PATCH.format(
            read=read, node=node_id, allow=", ".join(bounds.allow), operations=bounds.max_operations,
            nodes=bounds.max_nodes, calls=bounds.max_model_calls,
        )  # fmt: skip
        return [
            make_tool(patch, patch, text, _PARAMETERS, self._patch),
            make_tool(patch, read, _READ, _ONE_NODE, self._read),
        ]

    async def _read(self, call: Call) -> Any:
        base = await self._base(call.work)
        asked = call.arguments.get("node")
        if asked is None:
            return _shown(base)
        node = next((node for node in _all_nodes(base.ir.workflow) if node["id"] == asked), None)
        if node is None:
            raise ToolFailed(f"the workflow has no node {asked!r}; it has {', '.join(base.ir.nodes)}"[:2_000])
        return {"revision": base.revision, "node": node}

    async def _patch(self, call: Call) -> Any:
        """{ok, revision, added, ...}, or {ok: false, revision, errors: [{path, code, message}]}."""
        work, given = call.work, call.arguments
        event = {"by": work.task.token_id, "node": work.node.id}
        if "description" in given:
            event["description"] = given["description"]

        def revise(ir: IR) -> Revision:
            return revise_by_agent(ir, given["operations"], work.node.id)

        author = (work.task.token_id, work.attempt)
        patch = Patch(revise, event, revision=given.get("revision"), author=author)
        try:
            return _done(await self._patching.patch(work.task.run_id, patch))
        except InvalidDocument as error:
            return _refused((await self._base(work)).revision, error.problems)
        except PatchRefused as error:
            if error.reason in ("fenced", "over", "unknown"):
                raise TaskFailed("interrupted", str(error)) from None
            problem = Problem("", error.reason, str(error))
            tokens = [{"token": token, "node": node, "state": state} for token, node, state in error.tokens]
            return _refused(error.revision, [problem], **({"tokens": tokens} if tokens else {}))

    async def _base(self, work: Work) -> Base:
        try:
            return await self._patching.base(work.task.run_id)
        except PatchRefused as error:
            raise TaskFailed("interrupted", str(error)) from None


def _done(patched: Patched) -> dict[str, Any]:
    difference = patched.difference
    answer: dict[str, Any] = {
        "ok": True, "revision": patched.revision, "added": difference.added, "removed": difference.removed,
        "changed": difference.changed, "reachable": patched.reachable, "unreachable": patched.unreachable,
    }  # fmt: skip
    return answer | ({"warnings": [p.as_dict() for p in patched.warnings]} if patched.warnings else {})


def _refused(revision: int, problems: Sequence[Problem], **more: Any) -> dict[str, Any]:
    return {"ok": False, "revision": revision, "errors": [problem.as_dict() for problem in problems], **more}


def _shown(base: Base) -> dict[str, Any]:
    """The workflow; of one that a model would not get whole, what is in it."""
    whole = {"revision": base.revision, "workflow": base.ir.workflow}
    if len(orjson.dumps(whole)) <= LIMITS.tool_result_bytes:
        return whole
    nodes = [{"id": node.id, "type": node.type} for node in base.ir.nodes.values()]
    edges = [{"from": edge["from"], "to": edge["to"]} for edge in base.ir.workflow.get("edges", ())]
    note = "The workflow is too large to be shown whole: ask for one node at a time."
    return {"revision": base.revision, "note": note, "nodes": nodes, "edges": edges}


def _all_nodes(graph: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nodes of a graph, and of the maps in it."""
    inside = [_all_nodes(node["config"]) for node in graph["nodes"] if node["type"] == "map"]
    return [*graph["nodes"], *(node for nodes in inside for node in nodes)]
