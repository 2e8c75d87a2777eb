"""Random patches of random workflows: edits of every kind, as RFC 6902 operations on the document."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonpatch

from tests.reference.blocks import Workflow, node_of, some_test, test_of
from tests.reference.generator import (
    add_edge,
    add_on_error,
    add_test,
    every_graph,
    has_task_in_each_loop,
    make_any,
    shorten,
)
from tests.reference.graph import FAILING, TARGETS, every_node, refused

MOST_OPERATIONS = 100
STEPS = ("function", "function", "function", "transform", "join", "human", "wait", "workflow", "http", "sql")


@dataclass
class Editor:
    """One graph of a document, the workflow's own or that of a map, while it is edited in place."""

    rng: random.Random
    graph: Workflow
    level: int  # maps around
    taken: set[str]  # ids of nodes, those of gone revisions too
    live: frozenset[str]  # nodes with tokens: what happens to those is what a patch is judged by

    @property
    def nodes(self) -> list[dict[str, Any]]:
        return self.graph["nodes"]

    def some(self, *types: str) -> dict[str, Any] | None:
        """A node, of one of the types if any are given."""
        found = [node for node in self.nodes if not types or node["type"] in types]
        live = [node for node in found if node["id"] in self.live]
        if live and self.rng.random() < 0.7:
            found = live
        return self.rng.choice(found) if found else None

    def add(self, type: str) -> dict[str, Any]:
        """A new node at any place of the list."""
        name = next(f"x{i}" for i in range(1000) if f"x{i}" not in self.taken)
        self.taken.add(name)
        node = node_of(self.rng, name, type, self.level)
        self.nodes.insert(self.rng.randint(0, len(self.nodes)), node)
        return node

    def lead(self, source: str, target: str, **fields: Any) -> None:
        self.graph["edges"].append({"from": source, "to": target, **fields})

    def groups(self, node: dict[str, Any]) -> list[list[str]]:
        """The lists of targets that a node has beside its edges."""
        config = node["config"]
        lists = [rule["next"] for rule in config.get("rules", [])] + [
            config[name] for name in TARGETS if name in config
        ]
        return [*lists, *([node["on_error"]] if "on_error" in node else [])]

    def after(self, node: dict[str, Any]) -> list[str]:
        """Where a node mostly leads."""
        groups = [group for group in self.groups(node) if group is not node.get("on_error") and group]
        edges = [edge["to"] for edge in self.graph["edges"] if edge["from"] == node["id"]]
        return edges or (list(groups[0]) if groups else [])


# Edits of one node


def change_args(at: Editor) -> None:
    if node := at.some("function"):
        args = node["config"]["args"]
        more = {"revised": at.rng.randrange(9)}
        node["config"]["args"] = args | more if at.rng.random() < 0.8 else {"node": node["id"], **more}


def change_config(at: Editor) -> None:
    """Another prompt, query, url, time; on the same type."""
    if node := at.some("human", "wait", "workflow", "http", "sql", "transform"):
        kept = {name: node["config"][name] for name in ("deadline_path",) if name in node["config"]}
        fresh = node_of(at.rng, node["id"], node["type"], at.level)["config"]
        node["config"] = fresh | ({"deadline_ms": 60_000, **kept} if kept and "for_ms" not in fresh else {})
        if "for_ms" in node["config"] or "until" in node["config"]:
            node["config"].pop("deadline_path", None)
            node["config"].pop("deadline_ms", None)


def change_type(at: Editor) -> None:
    node = at.some("map") if at.rng.random() < 0.03 else at.some(*STEPS)
    if node:
        fresh = node_of(at.rng, node["id"], at.rng.choice(STEPS), at.level)
        kept = ("on_error",) if fresh["type"] in FAILING else ()
        fresh |= {name: node[name] for name in (*kept, "join") if name in node}
        at.nodes[at.nodes.index(node)] = fresh


def change_retry(at: Editor) -> None:
    if node := at.some("function", "http", "sql"):
        node["retry"] = {"max_attempts": at.rng.randint(1, 4), "backoff_ms": 1}


def change_loop(at: Editor) -> None:
    if loop := at.some("loop"):
        config = loop["config"]
        config["max_iterations"] = at.rng.randint(1, 3)
        if at.rng.random() < 0.5:
            config["condition"] = test_of(
                at.rng.choice(["iteration < 1", "iteration < 2", "output.k < 3", "output.ok"])
            )


def change_branch(at: Editor) -> None:
    if branch := at.some("branch"):
        rule = at.rng.choice(branch["config"]["rules"])
        if at.rng.random() < 0.6:
            rule["condition"] = some_test(at.rng, level=at.level)
        else:
            rule["next"], branch["config"]["default"] = branch["config"].get("default", rule["next"]), rule["next"]


def change_map(at: Editor) -> None:
    if map := at.some("map"):
        config = map["config"]
        change = at.rng.randrange(3)
        if change == 0:
            config["max_parallel"] = at.rng.randint(1, 4)
        elif change == 1:
            config["on_item_error"] = at.rng.choice(["fail", "collect"])
        else:
            config["items"] = at.rng.choice(["input.items", "[1, 2]", "[]"])


def drop_any(at: Editor) -> None:
    if found := [node for node in at.nodes if "join" in node]:
        del at.rng.choice(found)["join"]


# Edits of the graph


def split_edge(at: Editor) -> None:
    """A new node between two."""
    node = at.some()
    assert node
    edges = [edge for edge in at.graph["edges"] if edge["from"] == node["id"]]
    groups = [group for group in at.groups(node) if group]
    new = at.add(at.rng.choice(STEPS))
    if edges:
        edge = at.rng.choice(edges)
        at.lead(new["id"], edge["to"])
        edge["to"] = new["id"]
    elif groups:
        group = at.rng.choice(groups)
        at.lead(new["id"], group[0])
        group[0] = new["id"]
    else:
        at.lead(node["id"], new["id"])


def split_all(at: Editor) -> None:
    """A new node behind one, before all that came after it."""
    if node := at.some(*STEPS):
        edges = [edge for edge in at.graph["edges"] if edge["from"] == node["id"]]
        new = at.add(at.rng.choice(STEPS))
        for edge in edges:
            edge["from"] = new["id"]
            edge.pop("condition", None)
        at.lead(node["id"], new["id"])


def remove_node(at: Editor) -> None:
    """What led to it leads to what came after it."""
    node = at.some()
    if node is None or len(at.nodes) < 2:
        return
    name, after = node["id"], [target for target in at.after(node) if target != node["id"]]
    at.nodes.remove(node)

    def bridged(targets: list[str]) -> list[str]:
        return list(dict.fromkeys(t for target in targets for t in (after if target == name else [target])))

    edges = [edge for edge in at.graph["edges"] if edge["from"] != name]
    at.graph["edges"] = [edge | {"to": target} for edge in edges for target in bridged([edge["to"]])]
    for other in at.nodes:
        for group in at.groups(other):
            group[:] = bridged(group)
        if other["config"].get("loop_back_to") == name and after:
            other["config"]["loop_back_to"] = after[0]


def retarget(at: Editor) -> None:
    if at.graph["edges"]:
        at.rng.choice(at.graph["edges"])["to"] = at.rng.choice(at.nodes)["id"]


def drop_edges(at: Editor) -> None:
    """All but one of the edges to a node: where it waited it waits no more."""
    node = at.some()
    assert node
    edges = [edge for edge in at.graph["edges"] if edge["to"] == node["id"]]
    at.rng.shuffle(edges)
    for edge in edges[1:]:
        at.graph["edges"].remove(edge)


def add_arm(at: Editor) -> None:
    """A new node beside others, between any two: it makes joins wait, and is one more that they wait for."""
    source, target = at.some(*STEPS), at.rng.choice(at.nodes)["id"]
    if source:
        new = at.add(at.rng.choice(STEPS))
        at.lead(source["id"], new["id"])
        if at.rng.random() < 0.8:
            at.lead(new["id"], target)


def add_entry(at: Editor) -> None:
    target = at.rng.choice(at.nodes)["id"]
    at.lead(at.add("function")["id"], target)


def shuffle(at: Editor) -> None:
    at.rng.shuffle(at.nodes)


def bend(change: Callable[[random.Random, Workflow], None]) -> Callable[[Editor], None]:
    return lambda at: change(at.rng, at.graph)


EDITS: list[Callable[[Editor], None]] = [
    change_args, change_args, change_config, change_config, change_type, change_type, change_retry, change_loop,
    change_branch, change_map, change_map, drop_any, split_edge, split_edge, split_all, remove_node, remove_node,
    remove_node, retarget, drop_edges, drop_edges, add_arm, add_arm, add_entry, shuffle,
    *(bend(change) for change in (add_edge, add_edge, add_on_error, add_test, shorten, make_any)),
]  # fmt: skip


def random_patch(rng: random.Random, workflow: Workflow, taken: set[str], live: frozenset[str]) -> Workflow:
    """The workflow with one to four edits. What breaks the rules on graphs is mostly taken back; the compiler may
    still refuse it. `taken`: ids that no new node may have; those of new nodes are added. `live`: nodes with tokens."""
    patched = copy.deepcopy(workflow)
    for _ in range(rng.choice([1, 1, 2, 3, 4])):
        changed = copy.deepcopy(patched)
        graphs = every_graph(changed)
        lively = [graph for graph in graphs if any(node["id"] in live for node in graph["nodes"])]
        graph = rng.choice(lively if lively and rng.random() < 0.7 else graphs)
        level = next(i for i, graphs in enumerate(levels(changed)) if any(graph is one for one in graphs))
        taken |= {node["id"] for node in every_node(changed)}
        edit = rng.choice(EDITS)
        try:
            edit(Editor(rng, graph, level, taken, live))
            sound = not refused(changed) and has_task_in_each_loop(changed)
        except (KeyError, IndexError):  # a target that is gone
            continue
        if sound or rng.random() < 0.05:
            patched = changed
    return patched


def levels(workflow: Workflow) -> list[list[Workflow]]:
    """The document; the sub-graphs of its maps; those of the maps in them; ..."""
    found, inner = [], [workflow]
    while inner:
        found.append(inner)
        inner = [node["config"] for graph in inner for node in graph["nodes"] if node["type"] == "map"]
    return found


def operations_of(workflow: Workflow, patched: Workflow) -> list[dict[str, Any]]:
    """A JSON Patch that leads from one to the other."""
    operations: list[dict[str, Any]] = jsonpatch.make_patch(workflow, patched).patch
    try:
        if len(operations) <= MOST_OPERATIONS and jsonpatch.apply_patch(workflow, operations) == patched:
            return operations
    except jsonpatch.JsonPatchException:
        pass  # it makes wrong ones of some moves
    return [{"op": "replace", "path": "", "value": patched}]
