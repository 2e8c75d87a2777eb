"""Histories of a workflow that grades and may improve, as the coordinator would have recorded them."""

from collections.abc import Mapping
from typing import Any

from pavane.whatif.definitions import Definitions
from pavane.whatif.play import Played, Player
from pavane.whatif.recorded import Recorded, Run, read_recorded
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event
from schemas.ir import IR


def grading(rule: str = "output.score >= 80", **changes: Any) -> IR:
    shape = {"type": "object", "properties": {"score": {"type": "number"}}}
    condition = {"type": "cel", "expression": rule}
    agents = {
        "grade": {"prompt": changes.get("prompt", "{{ input.text }}"), "response_format": shape},
        "improve": {"prompt": "{{ input.text }}"},
        "publish": {"prompt": changes.get("published", "{{ input.text }}")},
    }
    nodes: list[dict[str, Any]] = [
        {"id": name, "type": "agent", "config": {"model": "m", **config}} for name, config in agents.items()
    ]
    rules = {"rules": [{"condition": condition, "next": ["publish"]}], "default": ["improve"]}
    nodes.insert(1, {"id": "quality", "type": "branch", "config": rules})
    edges = [{"from": "grade", "to": "quality"}, {"from": "improve", "to": "publish"}]
    return compile_workflow({"id": "grading", "nodes": nodes, "edges": edges}).ir


def events_of(ir: IR, score: Any, number: int = 0, ended: bool = True) -> list[Event]:
    """grade, then improve where the score is under 80, then publish. Each took 1,000 ms of a GPU."""
    run_id = f"run_{number}"
    path = ["grade", "publish"] if score >= 80 else ["grade", "improve", "publish"]
    sources = ["", "quality", "improve"]

    def tokens(place: int) -> dict[str, Any]:
        record: dict[str, Any] = {"node": path[place], "iteration": 0, "state": "queued", "depth": place, "lane": ""}
        if place:
            record["from"] = [[sources[place], place, ""]]
        return {f"{run_id}.{place + 1}": record}

    start = {"workflow_id": "grading", "digest": ir.digest, "revision": 1, "input": {"text": f"text {number}"}}
    events = [Event(run_id, 1, "run_started", 0, data={**start, "tokens": tokens(0), "live": 1})]
    for place, node in enumerate(path if ended else path[:1]):
        token = f"{run_id}.{place + 1}"
        value = {"score": score} if node == "grade" else {"text": f"{node} {number}"}
        data: dict[str, Any] = {"outputs": {node: value}, "gone": [token], "usage": {"execution_time_ms": 1_000}}
        if node == "grade":
            data["outputs"]["quality"] = value
            rule: Any = 0 if score >= 80 else "default"
            data["decisions"] = [{"node": "quality", "rule": rule, "next": [path[1]]}]
        data |= {"tokens": tokens(place + 1)} if place + 1 < len(path) else {"ends": [node]}
        events.append(Event(run_id, len(events) + 1, "node_completed", 0, node, token, "", data))
    return events


def recorded_of(ir: IR, score: Any, number: int = 0, ended: bool = True) -> Recorded:
    status = "COMPLETED" if ended else "RUNNING"
    run = Run(f"run_{number}", f"k{number}", status, None, {"id": f"run_{number}"})
    return read_recorded(run, events_of(ir, score, number, ended), {ir.digest: ir}.get)


def route_again(recorded: Recorded, ir: IR, loaded: Mapping[str, Any] | None = None) -> Played:
    return Player(recorded, ir, Definitions(), loaded or {}).play()
