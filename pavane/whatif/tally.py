"""Tally: what came of many runs, counted. Only counts and a few examples are kept, however many runs there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pavane.whatif.play import Played, changed
from pavane.whatif.recorded import Recorded

REASONS = {
    "not_executed": "it was not executed there",
    "changed": "its definition differs",
    "other_input": "it would be given something else",
    "not_finished": "it had not finished",
}
"""Why an output is one that nobody recorded."""
Way = tuple[str, str]
"""A node, and which way it took: a rule's number, `default`, a loop's result, or the target of an edge."""


def ways(decisions: Iterable[Mapping[str, Any]]) -> Counter[Way]:
    found: Counter[Way] = Counter()
    for decision in decisions:
        node = decision["node"]
        if "rule" in decision:
            found[node, str(decision["rule"])] += 1
        elif "result" in decision:
            found[node, str(decision["result"])] += 1
        else:
            for target in decision.get("edges") or ["no edge"]:
                found[node, f"-> {target}"] += 1
    return found


def errors(told: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    """Conditions in error, as events tell them."""
    return [(one["node"], str(one.get("expression", "")), str(one.get("message", ""))) for one in told]


@dataclass(slots=True)
class Mean:
    """Of the GPU times of one node's recorded executions."""

    ms: float = 0
    of: int = 0

    @property
    def value(self) -> float | None:
        return self.ms / self.of if self.of else None


@dataclass(slots=True)
class Gpu:
    """GPU time in ms. What would be added is counted by node, since its length is only known when all runs are."""

    saved_ms: float = 0
    saved: int = 0
    added: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Before:
    """What was recorded, the same for every change that is tried."""

    runs: int = 0
    unended: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> runs whose history can not be played
    statuses: Counter[str] = field(default_factory=Counter)
    decisions: Counter[Way] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # conditions: node, text, message -> times
    means: dict[str, Mean] = field(default_factory=dict)
    gpu_ms: float = 0

    def add(self, recorded: Recorded) -> None:
        self.runs += 1
        self.unended += recorded.run.status in ("RUNNING", "PAUSED")
        self.statuses[recorded.run.status] += 1
        for one in recorded.executions:
            if one.seq:
                self.executions.update(one.nodes)
                if one.decisions:
                    self.decisions.update(ways(one.decisions))
                if one.condition_errors:
                    self.errors.update(errors(one.condition_errors))
            if one.gpu_ms:
                mean = self.means.setdefault(one.node.id, Mean())
                mean.ms, mean.of = mean.ms + one.gpu_ms, mean.of + 1
                self.gpu_ms += one.gpu_ms


@dataclass(slots=True)
class Tally:
    """What would have come of the runs under one changed workflow."""

    shown: int = 20
    unchanged: int = 0
    changed: int = 0
    undecided: int = 0
    outputs_changed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    decisions: Counter[Way] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # node -> runs that would have gone without it
    reached: Counter[str] = field(default_factory=Counter)  # node -> runs that would have come to it, and had not
    items: Counter[Way] = field(default_factory=Counter)  # way -> runs that took it
    needed: dict[str, Needed] = field(default_factory=dict)
    errors: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # conditions in error
    gpu: Gpu = field(default_factory=Gpu)
    examples: list[dict[str, Any]] = field(default_factory=list)
    examples_undecided: list[dict[str, Any]] = field(default_factory=list)

    def add(self, recorded: Recorded, played: Played) -> None:
        differs = changed(recorded, played) if not played.needed else []
        if played.needed:
            self.undecided += 1
        elif differs:
            self.changed += 1
            self.outputs_changed += bool({"output", "status", "error"} & set(differs))
        else:
            self.unchanged += 1
        self.statuses["undecided" if played.needed else played.status] += 1
        self._count(recorded, played)
        self._spend(recorded, played)
        if differs or played.needed:
            examples = self.examples_undecided if played.needed else self.examples
            if len(examples) < self.shown:
                examples.append(_example(recorded, played, differs))

    def merge(self, other: Tally) -> None:
        """Add what another has counted, of other runs."""
        for name in ("unchanged", "changed", "undecided", "outputs_changed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("statuses", "decisions", "executions", "skipped", "reached", "items", "errors"):
            getattr(self, name).update(getattr(other, name))
        for node, needed in other.needed.items():
            mine = self.needed.setdefault(node, Needed())
            mine.runs += needed.runs
            mine.executions.update(needed.executions)
        self.gpu.saved_ms += other.gpu.saved_ms
        self.gpu.saved += other.gpu.saved
        self.gpu.added.update(other.gpu.added)
        for examples, more in (
            (self.examples, other.examples), (self.examples_undecided, other.examples_undecided),
        ):  # fmt: skip
            examples += more[: self.shown - len(examples)]

    def _count(self, recorded: Recorded, played: Played) -> None:
        taken = ways(played.decisions)
        self.decisions.update(taken)
        self.items.update(taken.keys())
        self.executions.update(played.path)
        self.errors.update(errors(played.condition_errors))
        needed = {node for node, _, _ in played.needed}
        for node, why, _ in played.needed:
            self.executions[node] += 1
            self.needed.setdefault(node, Needed()).executions[why] += 1
        for node in needed:
            self.needed[node].runs += 1
        before, after = set(recorded.path), set(played.path) | needed
        self.skipped.update(before - after - played.reachable)
        self.reached.update(after - before)

    def _spend(self, recorded: Recorded, played: Played) -> None:
        """An execution is saved where it surely would not happen as it did: with a run that can not be followed to its
        end, what may still come is not counted."""
        again = {one.number for _, _, one in played.needed if one is not None}
        for one in recorded.executions:
            surely = not played.needed or one.number in again or one.node.id not in played.reachable
            if surely and one.gpu_ms and one.number not in played.used:
                self.gpu.saved_ms += one.gpu_ms
                self.gpu.saved += 1
        self.gpu.added.update(node for node, _, _ in played.needed)


@dataclass(slots=True)
class Needed:
    runs: int = 0
    executions: Counter[str] = field(default_factory=Counter)  # by why


def _example(recorded: Recorded, played: Played, differs: list[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "run_id": recorded.run.run_id,
        "key": recorded.run.key,
        "differs": differs,
        "status": [recorded.run.status, played.status],
        "path": [_short(recorded.path), _short(played.path)],
    }
    if played.needed:
        del shown["differs"]
        shown["status"] = [recorded.run.status, None]
        shown["needs"] = [{"node": node, "why": why} for node, why, _ in played.needed[:PATH]]
    return shown


PATH = 100
"""Nodes of a path that are shown."""


def _short(path: list[str]) -> list[str]:
    return path if len(path) <= PATH else [*path[:PATH], "..."]
