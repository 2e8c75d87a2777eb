"""Nodes, conditions, and the blocks that random workflows are built of."""

import random
from dataclasses import dataclass
from typing import Any

from tests.reference.graph import FAILING, every_node

Workflow = dict[str, Any]
CHILD = {"id": "child", "nodes": [{"id": "work", "type": "function", "config": {"handler": "scripted"}}], "edges": []}


@dataclass(frozen=True)
class Language:
    """What a workflow may be made of: the types of a step (the more often named the more likely), and maps."""

    steps: tuple[str, ...]
    map_levels: int = 0


SPINE = Language(("function",) * 8 + ("transform", "join"))
WHOLE = Language(
    ("function",) * 12 + ("transform", "transform", "join", "join", "human", "wait", "wait", "workflow", "http", "sql"),
    map_levels=3,
)


# Conditions


def test_of(expression: str) -> dict[str, str]:
    return {"type": "cel", "expression": expression}


def some_test(rng: random.Random, type: str = "", level: int = 0) -> dict[str, str]:
    """`type`: of the node that gave `output`, where that is known. `level`: how many maps are around."""
    number, operator = rng.randrange(4), rng.choice(["<", ">=", "==", "!="])
    forms = [
        f"output.k {operator} {number}",
        f"output.k {operator} {number}",
        "output.ok",
        "!output.ok",
        f"iteration {operator} {number % 3}",
        f"input.n {operator} {number % 3}",
    ]
    if level:
        forms += [f"index {operator} {number}", f"item.k {operator} {number}", "item.ok"]
    if type in ("map", "http", "sql"):
        of_type = {"map": f"size(output) {operator} {number}", "http": "output.body.ok", "sql": "size(output.rows) > 0"}
        forms = [of_type[type], *forms[4:]]
    if rng.random() < 0.03:
        return test_of("output.missing == 1")
    return test_of(rng.choice(forms))


# Nodes


def node_of(rng: random.Random, name: str, type: str, level: int = 0) -> dict[str, Any]:
    """A step that passes on to its edges: a task, transform or join, or what waits to be answered."""
    node: dict[str, Any] = {"id": name, "type": type, "config": {}}
    if type == "function":
        args = {"node": name, "output": "{{ output }}", "iteration": "{{ iteration }}"}
        if level:
            args |= {"index": "{{ index }}"} | ({"item": "{{ item }}"} if rng.random() < 0.5 else {})
        node["config"] = {"handler": "scripted", "args": args}
    elif type == "transform":
        number = rng.choice(["1", "iteration", "iteration + 1", *["index"] * level])
        node["config"] = {"set": {"k": number, "ok": "iteration < 1", "via": "output"}}
    elif type == "http":
        node["config"] = {"method": "POST", "url": "https://example.com/", "body": {"pass": "{{ iteration }}"}}
    elif type == "sql":
        node["config"] = {"connection": "main", "query": "select 1", "params": {"pass": "{{ iteration }}"}}
    elif type == "workflow":
        node["config"] = {"document": CHILD}
    elif type in ("human", "wait"):
        node["config"] = waiting_of(rng, type)
    if type in ("function", "http", "sql"):
        node["retry"] = {"max_attempts": rng.randint(1, 3), "backoff_ms": 1}
    return node


def waiting_of(rng: random.Random, type: str) -> dict[str, Any]:
    """The config of a human or a wait."""
    deadline = {"deadline_ms": 60_000} if rng.random() < 0.7 else {}
    if type == "human":
        more = {"choices": ["yes", "no"]} if rng.random() < 0.4 else {"form": {"type": "object", "required": ["k"]}}
        return {"prompt": "Pass {{ iteration }}?", **more, **deadline}
    time = {"for_ms": 1000} if rng.random() < 0.5 else {"until": "timestamp('2100-01-01T00:00:00Z')"}
    event = {"event": "signed", **rng.choice([{}, {"key": "k{{ iteration }}"}]), **deadline}
    return rng.choice([time, event, event])


def some_way(rng: random.Random) -> dict[str, Any]:
    """How a map goes through its items."""
    at_once = {"max_parallel": rng.choice([1, 2])} if rng.random() < 0.5 else {}
    fails = {"on_item_error": rng.choice(["fail", "collect", "collect"])} if rng.random() < 0.6 else {}
    return at_once | fails


def loop_of(rng: random.Random, name: str, head: str, after: list[str], late: list[str] | None) -> dict[str, Any]:
    tests = ["iteration < 2", "iteration < 3", "output.k < 3", "output.ok", "iteration != 9"]
    config: dict[str, Any] = {
        "condition": test_of(rng.choice(tests)),
        "loop_back_to": head,
        "break_path": after,
    }
    config["max_iterations"] = rng.randint(1, 3)
    if late:
        config["timeout_path"] = late
    return {"id": name, "type": "loop", "config": config}


class Builder:
    """Builds from the end: each method is told what comes after, and answers the targets that lead in."""

    def __init__(self, rng: random.Random, size: int, language: Language, around: str = "", level: int = 0) -> None:
        self.rng, self.left, self.language = rng, size, language
        self.around, self.level = around, level  # the map around, and how many there are
        self.item_has_items = False
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []

    def graph(self) -> dict[str, Any]:
        if self.rng.random() < 0.7:
            self.nodes.reverse()
        else:
            self.rng.shuffle(self.nodes)
        return {"nodes": self.nodes, "edges": self.edges}

    def name(self) -> str:
        self.left -= 1
        return f"{self.around}n{len(self.nodes)}"

    def block(self, after: list[str], exits: list[str], depth: int = 0) -> list[str]:
        kinds = [self.step, *[self.sequence] * 2, *[self.fork] * 2, self.choice, *[self.loop] * 2]
        if self.level < self.language.map_levels:
            kinds += [self.map] * 2
        if self.left < 3 or depth > 5:
            kinds = [self.step]
        return self.rng.choice(kinds)(after, exits, depth)

    def step(self, after: list[str], exits: list[str], depth: int, type: str = "") -> list[str]:
        type = type or self.rng.choice(self.language.steps)
        self.nodes.append(node_of(self.rng, self.name(), type, self.level))
        self.lead_on(self.nodes[-1], after, exits)
        return [self.nodes[-1]["id"]]

    def lead_on(self, node: dict[str, Any], after: list[str], exits: list[str]) -> None:
        some, type = self.rng.random() < 0.15, node["type"]
        for target in after:
            edge = {"from": node["id"], "to": target}
            self.edges.append(edge | {"condition": some_test(self.rng, type, self.level)} if some else edge)
        if type in FAILING and (after or exits) and self.rng.random() < 0.2 + 0.3 * (type != "function"):
            node["on_error"] = self.rng.choice([targets for targets in (after, exits) if targets])
        if "deadline_ms" in node["config"] and (after or exits) and self.rng.random() < 0.5:
            node["config"]["deadline_path"] = self.rng.choice([targets for targets in (after, exits) if targets])

    def sequence(self, after: list[str], exits: list[str], depth: int) -> list[str]:
        return self.block(self.block(after, exits, depth + 1), exits, depth + 1)

    def fork(self, after: list[str], exits: list[str], depth: int) -> list[str]:
        if self.rng.random() < 0.5:
            after = self.step(after, exits, depth, self.rng.choice(["function", "join"]))
            if self.rng.random() < 0.25:
                self.nodes[-1]["join"] = "any"
        arms = [self.block(after, exits, depth + 1) for _ in range(self.rng.choice([2, 2, 3]))]
        return list(dict.fromkeys(target for arm in arms for target in arm))

    def choice(self, after: list[str], exits: list[str], depth: int) -> list[str]:
        """A branch: its ways are new blocks, what comes after, one another's, an early exit, or none."""
        ways = [self.block(after, exits, depth + 1) for _ in range(self.rng.choice([1, 1, 2]))]
        ways += [targets for targets in (after, exits, exits) if targets]
        if self.rng.random() < 0.15:
            ways.append([])
        nexts = [self.rng.choice(ways) for _ in range(self.rng.choice([1, 2]))]
        with_default = self.rng.random() < 0.97
        if not with_default:
            nexts[0] = ways[0]
        rules = [{"condition": some_test(self.rng, level=self.level), "next": way} for way in nexts]
        config: dict[str, Any] = {"rules": rules}
        if with_default:
            config["default"] = ways[0]
        self.nodes.append({"id": self.name(), "type": "branch", "config": config})
        return [self.nodes[-1]["id"]]

    def loop(self, after: list[str], exits: list[str], depth: int) -> list[str]:
        after = after or self.step([], exits, depth)
        late = self.step(after, exits, depth) if self.rng.random() < 0.2 else None
        loop = loop_of(self.rng, self.name(), "", after, late)
        self.nodes.append(loop)
        inside = [loop["id"]] if self.rng.random() < 0.3 else self.block([loop["id"]], after, depth + 1)
        (head,) = self.step(inside, after, depth, "function")
        loop["config"]["loop_back_to"] = head
        form = self.rng.random()
        if form < 0.6:
            return [head]
        if form < 0.8:
            return [loop["id"]]  # while
        aside = self.step([loop["id"]], exits, depth) if self.rng.random() < 0.5 else [loop["id"]]
        config = {"rules": [{"condition": some_test(self.rng, level=self.level), "next": [head]}], "default": aside}
        self.nodes.append({"id": self.name(), "type": "branch", "config": config})
        return [self.nodes[-1]["id"]]

    def map(self, after: list[str], exits: list[str], depth: int) -> list[str]:
        node: dict[str, Any] = {"id": self.name(), "type": "map", "config": {}}
        size, items = self.rng.randint(1, max(1, min(6, self.left))), self.items()
        inner = Builder(self.rng, size, self.language, node["id"], self.level + 1)
        inner.item_has_items = items == "input.items"
        exit = inner.exit()
        if inner.left > 0:
            inner.block(exit, exit, 1)
        config = node["config"] = {"items": items, **inner.graph()}
        self.left -= len(every_node(config))
        config |= some_way(self.rng)
        self.nodes.append(node)
        self.lead_on(node, after, exits)
        return [node["id"]]

    def items(self) -> str:
        literals = ["[]", "[1, 2]", '[{"k": 1, "ok": true}, {"k": 2, "ok": false}, {"k": 3}]']
        if self.rng.random() < 0.03:
            return self.rng.choice(["output.missing", "input.k", "[1, null]"])
        return self.rng.choice([*["input.items"] * 4, *literals, *["item.items"] * 3 * self.item_has_items])

    def exit(self) -> list[str]:
        """What ends an item: a step, or a branch or a loop that leads nowhere."""
        form = self.rng.random()
        if form < 0.75:
            return self.step([], [], 0, self.rng.choice([*["function"] * 4, "transform", "join", "human", "workflow"]))
        if form < 0.85 and self.level < self.language.map_levels:
            return self.map([], [], 0)
        if form < 0.9:
            config = {"rules": [{"condition": some_test(self.rng, level=self.level), "next": []}], "default": []}
            self.nodes.append({"id": self.name(), "type": "branch", "config": config})
            return [self.nodes[-1]["id"]]
        loop = loop_of(self.rng, self.name(), "", [], None)
        self.nodes.append(loop)
        (head,) = self.step([loop["id"]], [], 0, "function")
        loop["config"]["loop_back_to"] = head
        return [head]
