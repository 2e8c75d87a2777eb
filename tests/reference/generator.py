"""Random workflows that `refused` accepts, with an input and scripted outcomes.

Two kinds: *structured* ones, built from the end to the start out of steps, forks, branches, the three forms of
loop, and maps, then bent a little (an extra edge, a `join: any`, an `on_error` ...) as long as nothing is
refused; and *wild* ones, edges thrown on a row of nodes until something is accepted. They are written in a
*language*: `SPINE`, without maps and without what waits to be answered, or the `WHOLE`.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.reference.blocks import (
    SPINE,
    WHOLE,
    Builder,
    Language,
    Workflow,
    loop_of,
    node_of,
    some_test,
    some_way,
    test_of,
)
from tests.reference.graph import FAILING, Graph, every_node, may_read, refused
from tests.reference.interpreter import judge
from tests.reference.records import StuckError
from tests.reference.script import Script

MAX_NODES = 14
MAX_NODES_WITH_MAPS = 20
MAX_EXECUTIONS = 150
"""Of a case in the whole language: maps in loops in maps multiply."""


@dataclass(frozen=True)
class Case:
    workflow: Workflow
    input: dict[str, Any]
    outcome_of: Script


def cases(language: Language = SPINE) -> st.SearchStrategy[Case]:
    """`case`, driven by hypothesis; thousands are made faster with a plain random.Random."""
    make = case if language is SPINE else whole_case
    return st.builds(make, st.randoms(use_true_random=False))


def case(rng: random.Random) -> Case:
    workflow = structured(rng, SPINE) if rng.random() < 0.75 else wild(rng, SPINE)
    add_reads(rng, Graph(workflow))
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


def whole_case(rng: random.Random, mortal: float = 0.03) -> Case:
    """A case in the whole language, with a map in it. `mortal`: the share of nodes whose failure ends the run."""
    while True:
        workflow = structured(rng, WHOLE) if rng.random() < 0.8 else wild(rng, WHOLE)
        if not any(node["type"] == "map" for node in workflow["nodes"]):
            continue
        add_reads(rng, Graph(workflow))
        flaky, classes = dict[str, int](), dict[str, str]()
        add_failures(rng, workflow, mortal, False, flaky, classes)
        types = {node["id"]: node["type"] for node in every_node(workflow)}
        script = Script(rng.randrange(1000), flaky, frozenset(classes), classes, types)
        made = Case(workflow, some_input(rng), script)
        try:
            if len(judge(workflow, made.input, script, max_steps=2 * MAX_EXECUTIONS).trace) <= MAX_EXECUTIONS:
                return made
        except StuckError:
            continue


def some_input(rng: random.Random) -> dict[str, Any]:
    def item() -> Any:
        inner = [rng.randrange(4) for _ in range(rng.randrange(3))]
        return {"k": rng.randrange(4), "ok": rng.random() < 0.5, "items": inner}

    items = [item() for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4]))]
    return {"k": rng.randrange(4), "ok": rng.random() < 0.5, "n": rng.randrange(3), "items": items}


def add_failures(
    rng: random.Random, graph: Workflow, mortal: float, safe: bool, flaky: dict[str, int], classes: dict[str, str]
) -> None:
    """Says which nodes fail, and how. `safe`: a map around takes over what fails."""
    for node in graph["nodes"]:
        name, type, config = node["id"], node["type"], node["config"]
        caught = "on_error" in node or "deadline_path" in config
        if type == "map":
            kept = config.get("on_item_error") == "collect" or "on_error" in node
            add_failures(rng, config, mortal, safe or kept, flaky, classes)
        if "retry" in node and rng.random() < 0.2:
            attempts = node["retry"]["max_attempts"]
            flaky[name] = rng.randint(1, attempts) if caught else attempts - 1
        ways = (
            ["child_failed", "child_cancelled", "timeout"]
            if type == "workflow"
            else ["rejected"]
            if type == "human"
            else []
        )
        ways += ["invalid_input"] if "retry" in node else []
        ways += ["deadline"] * 2 if "deadline_ms" in config else []
        if ways and rng.random() < (0.7 if caught else 0.4 if safe else mortal):
            classes[name] = rng.choice(ways)


def structured(rng: random.Random, language: Language) -> Workflow:
    limit = MAX_NODES if language is SPINE else MAX_NODES_WITH_MAPS
    while True:
        builder = Builder(rng, rng.randint(3, limit), language)
        heads = builder.block([], [])
        while len(builder.nodes) < 3 or (len(heads) > 1 and rng.random() < 0.8):
            heads = builder.step(heads, [], 0, "function")
        workflow = {"id": "random", **builder.graph()}
        if len(every_node(workflow)) <= limit and not refused(workflow):
            for _ in range(rng.randrange(4)):
                workflow = bent(rng, workflow)
            return workflow


def wild(rng: random.Random, language: Language) -> Workflow:
    while True:
        workflow = {"id": "wild", **thrown(rng, language, rng.randint(3, 9))}
        if not refused(workflow) and has_task_in_each_loop(workflow):
            return workflow


def thrown(rng: random.Random, language: Language, size: int, around: str = "", level: int = 0) -> Workflow:
    """Nodes in a row, and edges that lead on in it: only the last node leads nowhere."""
    names = [f"{around}n{i}" for i in range(size)]
    graph: Workflow = {"nodes": [], "edges": []}
    steps = ["function"] * 4 + ["join"]
    if language is not SPINE:
        steps += [rng.choice(language.steps), *["map"] * 2 * (level < language.map_levels)]
    for i, name in enumerate(names):
        later = names[i + 1 :]
        targets = sorted(rng.sample(later, min(len(later), rng.choice([1, 1, 2, 2]))))
        if later and i > 0 and rng.random() < 0.3:
            graph["nodes"].append(loop_of(rng, name, rng.choice(names[:i]), targets[:1], None))
        elif later and rng.random() < 0.15:
            config = {
                "rules": [{"condition": some_test(rng, level=level), "next": targets}],
                "default": [rng.choice(later)],
            }
            graph["nodes"].append({"id": name, "type": "branch", "config": config})
        else:
            node = node_of(rng, name, rng.choice(steps), level)
            graph["nodes"].append(node)
            if node["type"] == "map":
                inside = thrown(rng, language, rng.randint(1, 5), name, level + 1)
                node["config"] = {"items": "input.items", **inside} | some_way(rng)
            for target in targets:
                edge = {"from": name, "to": target}
                test = {"condition": some_test(rng, node["type"], level)} if rng.random() < 0.2 else {}
                graph["edges"].append(edge | test)
            if later and node["type"] in FAILING and rng.random() < 0.2:
                node["on_error"] = [rng.choice(later)]
    return graph


def every_graph(workflow: Workflow) -> list[Workflow]:
    """The document and the sub-graphs in it."""
    maps = [node for node in workflow["nodes"] if node["type"] == "map"]
    return [workflow, *(graph for map in maps for graph in every_graph(map["config"]))]


def has_task_in_each_loop(workflow: Workflow) -> bool:
    """A task answers briefly whatever arrives; without one, what goes round a loop could double each time."""
    graphs = [Graph(graph) for graph in every_graph(workflow)]
    return all(any(g.type(n) == "function" for n in g.bodies[loop]) for g in graphs for loop in g.loops)


# Bending


def bent(rng: random.Random, workflow: Workflow) -> Workflow:
    """The workflow with one random change, or as it was if the change is refused."""
    changed = copy.deepcopy(workflow)
    change = rng.choice([add_edge, add_edge, make_any, add_on_error, add_test, shorten])
    graphs = every_graph(changed)
    change(rng, graphs[0] if len(graphs) == 1 else rng.choice(graphs))
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
    tasks = [node for node in workflow["nodes"] if node["type"] in FAILING]
    if tasks:
        rng.choice(tasks)["on_error"] = [rng.choice(workflow["nodes"])["id"]]


def add_test(rng: random.Random, workflow: Workflow) -> None:
    if workflow["edges"]:
        rng.choice(workflow["edges"])["condition"] = some_test(rng)


def shorten(rng: random.Random, workflow: Workflow) -> None:
    if workflow["edges"]:
        workflow["edges"].remove(rng.choice(workflow["edges"]))


# Reading ctx


def add_reads(rng: random.Random, graph: Graph, around: Sequence[tuple[Graph, str]] = ()) -> None:
    """Some conditions, args and items read `ctx`, where rule 7 allows it; args and items only of nodes that
    surely ran. `around`: as in `may_read`."""
    levels = [*around, (graph, "")]
    for node in graph.nodes.values():
        places = [(g, map or node["id"]) for g, map in levels]
        seen = [
            (other, g.always_passes(place, via=other))
            for g, place in reversed(places)
            for other in g.nodes
            if other != place and g.type(other) == "function" and may_read(g, place, other, [])
        ]
        if node["type"] == "map":
            add_reads(rng, graph.inside[node["id"]], [*around, (graph, node["id"])])
            add_items(rng, graph, node, [other for other, always in seen if always])
        if not seen or rng.random() < 0.7:
            continue
        read, always = rng.choice(seen)
        test = test_of(f"ctx.{read}.output.k < {rng.randint(1, 3)}")
        tested = [edge for edge in graph.edges_of[node["id"]] if "condition" in edge]
        if node["type"] == "branch":
            rng.choice(node["config"]["rules"])["condition"] = test
        elif node["type"] == "loop":
            node["config"]["condition"] = test
        elif tested:
            rng.choice(tested)["condition"] = test
        elif node["type"] == "function" and always:
            node["config"]["args"]["seen"] = f"{{{{ ctx.{read}.output.via }}}}"


def add_items(rng: random.Random, graph: Graph, map: dict[str, Any], always: list[str]) -> None:
    """The items of some maps are what a task gave."""
    before = graph.predecessors(map["id"])
    if before and map["id"] not in graph.waits and all(graph.type(n) == "function" for n in before):
        if rng.random() < 0.4:
            map["config"]["items"] = "output.items"
    elif always and rng.random() < 0.4:
        map["config"]["items"] = f"ctx.{rng.choice(always)}.output.items"
