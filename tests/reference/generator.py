"""Random workflows that `refused` accepts, with an input and scripted outcomes.

Two kinds: *structured* ones, built from the end to the start out of steps, forks, branches and the three
forms of loop, then bent a little (an extra edge, a `join: any`, an `on_error` ...) as long as nothing is
refused; and *wild* ones, edges thrown on a row of nodes until something is accepted.
"""

import copy
import random
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.reference.graph import Graph, reach, refused
from tests.reference.script import Script

Workflow = dict[str, Any]
MAX_NODES = 14


@dataclass(frozen=True)
class Case:
    workflow: Workflow
    input: dict[str, Any]
    outcome_of: Script


def cases() -> st.SearchStrategy[Case]:
    """`case`, driven by hypothesis; thousands are made faster with a plain random.Random."""
    return st.builds(case, st.randoms(use_true_random=False))


def case(rng: random.Random) -> Case:
    workflow = structured(rng) if rng.random() < 0.75 else wild(rng)
    add_reads(rng, workflow)
    tasks = [node for node in workflow["nodes"] if node["type"] == "function"]
    flaky, dies = {}, set()
    for node in tasks:
        attempts = node["retry"]["max_attempts"]
        if rng.random() < 0.2:
            flaky[node["id"]] = rng.randint(1, attempts) if "on_error" in node else attempts - 1
        if rng.random() < (0.7 if "on_error" in node else 0.02):
            dies.add(node["id"])
    script = Script(rng.randrange(1000), flaky, frozenset(dies))
    return Case(workflow, {"k": rng.randrange(4), "ok": rng.random() < 0.5, "n": rng.randrange(3)}, script)


# Conditions


def test_of(expression: str) -> dict[str, str]:
    return {"type": "cel", "expression": expression}


def some_test(rng: random.Random) -> dict[str, str]:
    number, operator = rng.randrange(4), rng.choice(["<", ">=", "==", "!="])
    forms = [
        f"output.k {operator} {number}",
        f"output.k {operator} {number}",
        "output.ok",
        "!output.ok",
        f"iteration {operator} {number % 3}",
        f"input.n {operator} {number % 3}",
    ]
    if rng.random() < 0.03:
        return test_of("output.missing == 1")
    return test_of(rng.choice(forms))


# Nodes


def node_of(rng: random.Random, name: str, type: str) -> dict[str, Any]:
    """A step that passes on to its edges: function, transform or join."""
    if type == "function":
        args = {"node": name, "output": "{{ output }}", "iteration": "{{ iteration }}"}
        retry = {"max_attempts": rng.randint(1, 3), "backoff_ms": 1}
        return {"id": name, "type": type, "config": {"handler": "scripted", "args": args}, "retry": retry}
    if type == "transform":
        number = rng.choice(["1", "iteration", "iteration + 1"])
        config = {"set": {"k": number, "ok": "iteration < 1", "via": "output"}}
        return {"id": name, "type": type, "config": config}
    return {"id": name, "type": type, "config": {}}


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

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng, self.left = rng, size
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []

    def workflow(self) -> Workflow:
        if self.rng.random() < 0.7:
            self.nodes.reverse()
        else:
            self.rng.shuffle(self.nodes)
        return {"id": "random", "nodes": self.nodes, "edges": self.edges}

    def name(self) -> str:
        self.left -= 1
        return f"n{len(self.nodes)}"

    def block(self, after: list[str], exits: list[str], depth: int = 0) -> list[str]:
        kinds = [self.step, *[self.sequence] * 2, *[self.fork] * 2, self.choice, *[self.loop] * 2]
        if self.left < 3 or depth > 5:
            kinds = [self.step]
        return self.rng.choice(kinds)(after, exits, depth)

    def step(self, after: list[str], exits: list[str], depth: int, type: str = "") -> list[str]:
        type = type or self.rng.choice(["function"] * 8 + ["transform", "join"])
        node = node_of(self.rng, self.name(), type)
        self.nodes.append(node)
        some = self.rng.random() < 0.15
        for target in after:
            edge = {"from": node["id"], "to": target}
            self.edges.append(edge | {"condition": some_test(self.rng)} if some else edge)
        if type == "function" and (after or exits) and self.rng.random() < 0.2:
            node["on_error"] = self.rng.choice([targets for targets in (after, exits) if targets])
        return [node["id"]]

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
        config: dict[str, Any] = {"rules": [{"condition": some_test(self.rng), "next": way} for way in nexts]}
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
        config = {"rules": [{"condition": some_test(self.rng), "next": [head]}], "default": aside}
        self.nodes.append({"id": self.name(), "type": "branch", "config": config})
        return [self.nodes[-1]["id"]]


def structured(rng: random.Random) -> Workflow:
    while True:
        builder = Builder(rng, rng.randint(3, MAX_NODES))
        heads = builder.block([], [])
        while len(builder.nodes) < 3 or (len(heads) > 1 and rng.random() < 0.8):
            heads = builder.step(heads, [], 0, "function")
        workflow = builder.workflow()
        if len(workflow["nodes"]) <= MAX_NODES and not refused(workflow):
            for _ in range(rng.randrange(4)):
                workflow = bent(rng, workflow)
            return workflow


def wild(rng: random.Random) -> Workflow:
    while True:
        names = [f"n{i}" for i in range(rng.randint(3, 9))]
        workflow: Workflow = {"id": "wild", "nodes": [], "edges": []}
        for i, name in enumerate(names):
            later = names[i + 1 :]
            targets = sorted(rng.sample(later, min(len(later), rng.choice([1, 1, 2, 2]))))
            if later and i > 0 and rng.random() < 0.3:
                workflow["nodes"].append(loop_of(rng, name, rng.choice(names[:i]), targets[:1], None))
            elif later and rng.random() < 0.15:
                config = {
                    "rules": [{"condition": some_test(rng), "next": targets}],
                    "default": [rng.choice(later)],
                }
                workflow["nodes"].append({"id": name, "type": "branch", "config": config})
            else:
                node = node_of(rng, name, rng.choice(["function"] * 4 + ["join"]))
                workflow["nodes"].append(node)
                for target in targets:
                    edge = {"from": name, "to": target}
                    workflow["edges"].append(edge | {"condition": some_test(rng)} if rng.random() < 0.2 else edge)
                if later and node["type"] == "function" and rng.random() < 0.2:
                    node["on_error"] = [rng.choice(later)]
        if not refused(workflow) and has_task_in_each_loop(workflow):
            return workflow


def has_task_in_each_loop(workflow: Workflow) -> bool:
    """A task answers briefly whatever arrives; without one, what goes round a loop could double each time."""
    graph = Graph(workflow)
    return all(any(graph.type(n) == "function" for n in graph.bodies[loop]) for loop in graph.loops)


# Bending


def bent(rng: random.Random, workflow: Workflow) -> Workflow:
    """The workflow with one random change, or as it was if the change is refused."""
    changed = copy.deepcopy(workflow)
    rng.choice([add_edge, add_edge, make_any, add_on_error, add_test, shorten])(rng, changed)
    return workflow if refused(changed) else changed


def add_edge(rng: random.Random, workflow: Workflow) -> None:
    source, target = rng.choice(workflow["nodes"]), rng.choice(workflow["nodes"])["id"]
    if source["type"] == "branch":
        rule = rng.choice(source["config"]["rules"])
        rule["next"] = list(dict.fromkeys([*rule["next"], target]))
    elif source["type"] == "loop":
        source["config"]["timeout_path"] = [target]
    elif (source["id"], target) not in {(edge["from"], edge["to"]) for edge in workflow["edges"]}:
        workflow["edges"].append({"from": source["id"], "to": target})


def make_any(rng: random.Random, workflow: Workflow) -> None:
    graph = Graph(workflow)
    joins = sorted(node for node in graph.waits if graph.type(node) != "loop")
    if joins:
        graph.nodes[rng.choice(joins)]["join"] = "any"


def add_on_error(rng: random.Random, workflow: Workflow) -> None:
    tasks = [node for node in workflow["nodes"] if node["type"] == "function"]
    if tasks:
        rng.choice(tasks)["on_error"] = [rng.choice(workflow["nodes"])["id"]]


def add_test(rng: random.Random, workflow: Workflow) -> None:
    if workflow["edges"]:
        rng.choice(workflow["edges"])["condition"] = some_test(rng)


def shorten(rng: random.Random, workflow: Workflow) -> None:
    if workflow["edges"]:
        workflow["edges"].remove(rng.choice(workflow["edges"]))


# Reading ctx


def add_reads(rng: random.Random, workflow: Workflow) -> None:
    """Some conditions and args read `ctx`, where rule 7 allows it; args only of nodes that surely ran."""
    graph = Graph(workflow)
    edges = graph.forward | graph.back
    for node in workflow["nodes"]:
        seen = [
            other
            for other in graph.nodes
            if other != node["id"] and node["id"] in reach(other, edges) and graph.type(other) == "function"
            if frozenset((other, node["id"])) not in graph.parallel
        ]
        if not seen or rng.random() < 0.7:
            continue
        read = rng.choice(seen)
        test = test_of(f"ctx.{read}.output.k < {rng.randint(1, 3)}")
        tested = [edge for edge in workflow["edges"] if edge["from"] == node["id"] and "condition" in edge]
        if node["type"] == "branch":
            rng.choice(node["config"]["rules"])["condition"] = test
        elif node["type"] == "loop":
            node["config"]["condition"] = test
        elif tested:
            rng.choice(tested)["condition"] = test
        elif node["type"] == "function" and graph.always_passes(node["id"], via=read):
            node["config"]["args"]["seen"] = f"{{{{ ctx.{read}.output.via }}}}"
