"""The answer: sentences first, then what they rest on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pavane.whatif.question import Question
from pavane.whatif.tally import REASONS, Before, Tally
from pavane.whatif.threshold import Threshold, number_text, numbers
from schemas.ir import IR, Node

NODES_SAID = 8
"""Nodes that sentences are said of; the tables have all."""


def answer(batch_id: str, question: Question, before: Before, tallies: Sequence[Tally]) -> dict[str, Any]:
    """What one changed workflow would have made of the runs."""
    tally = tallies[0]
    return {
        "batch_id": batch_id,
        "sentences": [*_sentences(question, before, tally), *_left_out(before)],
        "warnings": [warning.as_dict() for warning in question.warnings],
        "runs": _runs(before, tally),
        "statuses": {"before": dict(before.statuses), "after": dict(tally.statuses)},
        "rules": _rules(question, before, tally),
        "nodes": _nodes(question, before, tally),
        "needed": _needed(tally),
        "gpu": _gpu(question, before, tally),
        "changed": tally.examples,
        "undecided": tally.examples_undecided,
    }


def answer_sweep(batch_id: str, question: Question, before: Before, tallies: Sequence[Tally]) -> dict[str, Any]:
    """What each value of a threshold would have made of them."""
    threshold = question.threshold
    assert threshold is not None
    rows = []
    for value, tally in zip(question.values, tallies, strict=True):
        items = {way: count for (node, way), count in sorted(tally.items.items()) if node == threshold.node}
        gpu = _gpu(question, before, tally)
        rows.append(
            {
                "value": value,
                "expression": threshold.at(value),
                "now": threshold.at(value) == threshold.expression,
                **{name: getattr(tally, name) for name in ("unchanged", "changed", "undecided", "outputs_changed")},
                "items": items,
                "targets": {_target(question, threshold.node, way): count for way, count in items.items()},
                "needed": {node: needed.runs for node, needed in tally.needed.items()},
                "gpu_s": gpu["difference_s"],
            }
        )
    return {
        "batch_id": batch_id,
        "sentences": [
            *_sweep_sentences(before, threshold, tallies, question.values),
            *_left_out(before),
        ],
        "path": threshold.path,
        "expression": threshold.expression,
        "runs": {"routed": before.runs, "unended": before.unended, "left_out": sum(before.left_out.values())},
        "gpu": {"before_s": _seconds(before.gpu_ms)},
        "values": rows,
        "apply": [apply_line(batch_id, threshold, value) for value in question.values],
    }


def apply_line(batch_id: str, threshold: Threshold, value: float) -> str:
    """The command that makes the change."""
    path = threshold.path.removeprefix("/").replace("/", ".")
    return f"pavane patch {batch_id} --set {shlex.quote(f'{path}={threshold.at(value)}')}"


# -- sentences ---------------------------------------------------------------------------------------
def _sentences(question: Question, before: Before, tally: Tally) -> list[str]:
    said = []
    lead = _change(question)
    moves = [(count, f"{_items(count)} would have skipped {node}") for node, count in tally.skipped.items()]
    moves += [(count, f"{_items(count)} would have come to {node} too") for node, count in tally.reached.items()]
    for _, text in sorted(moves, key=lambda one: (-one[0], one[1]))[:NODES_SAID]:
        said.append(f"{lead}{text}.")
        lead = ""
    if not moves and not tally.undecided:
        said.append(f"{lead or 'With this change '}no item would have taken another way.")
    said.append(_total(before, tally))
    for (node, expression, message), count in sorted(tally.errors.items())[:NODES_SAID]:
        if count > (was := before.errors[node, expression, message]):
            said.append(
                f"`{expression}` of {node} would have erred {count:,} times ({was:,} before), as false: {message}"
            )
    for node, needed in sorted(tally.needed.items(), key=lambda one: -one[1].runs)[:NODES_SAID]:
        whys = ", ".join(REASONS[why] for why in needed.executions)
        said.append(
            f"{_items(needed.runs)} would need an output of {node} that nobody recorded ({whys}): "
            "what follows there is not known, and not guessed."
        )
    return [*said, *_gpu_sentences(question, before, tally)]


def _total(before: Before, tally: Tally) -> str:
    parts = [f"{tally.unchanged:,} would have gone as they did"]
    if tally.changed or not tally.undecided:
        parts.append(f"{tally.changed:,} otherwise")
    if tally.changed:
        parts[-1] += f" ({tally.outputs_changed:,} with another result)"
    if tally.undecided:
        parts.append(f"of {tally.undecided:,} it can not be told")
    text = f"Of {before.runs:,} recorded runs {', '.join(parts)}"
    if before.unended:
        text += f"; {before.unended:,} had not ended and were followed as far as they had come"
    return f"{text}."


def _gpu_sentences(question: Question, before: Before, tally: Tally) -> list[str]:
    gpu = _gpu(question, before, tally)
    said = []
    if gpu["saved_s"]:
        said.append(f"{gpu['saved_s']:,} s of {gpu['before_s']:,} s of GPU time would have been saved.")
    if gpu["added_s"]:
        rests = sum(one["n"] for one in gpu["added"] if one["n"])
        said.append(
            f"About {gpu['added_s']:,} s would have been added: an estimate, by the mean of {rests:,} recorded "
            "executions of the same nodes, without what would follow on them."
        )
    if unknown := [one["node"] for one in gpu["added"] if one["mean_s"] is None]:
        said.append(f"What {', '.join(unknown)} would take is not known: no execution of it was recorded on a GPU.")
    return said


def _sweep_sentences(
    before: Before, threshold: Threshold, tallies: Sequence[Tally], values: Sequence[float]
) -> Iterable[str]:
    now = threshold.literal.text
    yield (
        f"{before.runs:,} recorded runs were routed again with {len(values)} values in `{threshold.expression}` of "
        f"{threshold.node}."
    )
    most = max(range(len(values)), key=lambda number: tallies[number].changed + tallies[number].undecided)
    tally = tallies[most]
    moves = [(count, f"{_items(count)} would have skipped {node}") for node, count in tally.skipped.items()]
    moves += [(count, f"{_items(count)} would have come to {node} too") for node, count in tally.reached.items()]
    if moves:
        value = number_text(values[most], now)
        yield f"With {value} instead of {now}, {max(moves)[1]}."
    else:
        yield "With none of them an item would have taken another way."
    if before.unended:
        yield f"{before.unended:,} runs had not ended and were followed as far as they had come."


def _left_out(before: Before) -> list[str]:
    return [f"{_items(count)} could not be routed again: {why}." for why, count in before.left_out.items()]


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _change(question: Question) -> str:
    """`With 70 instead of 80, `, where one condition differs and nothing else does."""
    found = []
    for name, node in question.ir.nodes.items():
        was = question.base.nodes.get(name)
        if was is None or was.type != node.type:
            return ""
        one, other = _texts(was), _texts(node)
        if len(one) != len(other):
            return ""
        found += [(before, after) for before, after in zip(one, other, strict=True) if before != after]
    if len(found) != 1:
        return ""
    before, after = found[0]
    was_numbers, now_numbers = numbers(before), numbers(after)
    differ = [
        (one.text, other.text) for one, other in zip(was_numbers, now_numbers, strict=False) if one.text != other.text
    ]
    if len(was_numbers) == len(now_numbers) and len(differ) == 1:
        return f"With {differ[0][1]} instead of {differ[0][0]}, "
    return f"With `{after}` instead of `{before}`, "


def _texts(node: Node) -> list[str]:
    found = [edge.condition.text if edge.condition else "" for edge in node.edges]
    found += [rule.condition.text for rule in node.rules]
    return found + ([node.loop.condition.text] if node.loop else [])


# -- tables ------------------------------------------------------------------------------------------
def _runs(before: Before, tally: Tally) -> dict[str, int]:
    return {
        "routed": before.runs, "unchanged": tally.unchanged, "changed": tally.changed, "undecided": tally.undecided,
        "outputs_changed": tally.outputs_changed, "unended": before.unended,
        "left_out": sum(before.left_out.values()),
    }  # fmt: skip


def _rules(question: Question, before: Before, tally: Tally) -> list[dict[str, Any]]:
    found = []
    for node, way in sorted(before.decisions.keys() | tally.decisions.keys()):
        found.append(
            {
                "node": node,
                "way": way,
                "condition": _condition(question.ir, node, way),
                "before": before.decisions[node, way],
                "after": tally.decisions[node, way],
            }
        )
    return found


def _condition(ir: IR, name: str, way: str) -> str | None:
    node = ir.nodes.get(name)
    if node is None:
        return None
    if node.loop:
        return node.loop.condition.text
    if way.isdecimal() and int(way) < len(node.rules):
        return node.rules[int(way)].condition.text
    for edge in node.edges:
        if edge.condition and way == f"-> {edge.to}":
            return edge.condition.text
    return None


def _target(question: Question, name: str, way: str) -> str:
    """Where a way leads, for a column's head."""
    node = question.ir.nodes[name]
    if way.isdecimal():
        targets: Sequence[str] = node.rules[int(way)].next
    elif way == "default":
        targets = node.default or ()
    elif node.loop:
        return way
    else:
        return way.removeprefix("-> ")
    return ", ".join(targets) or "end"


def _nodes(question: Question, before: Before, tally: Tally) -> list[dict[str, Any]]:
    order = [*question.ir.nodes, *(name for name in question.base.nodes if name not in question.ir.nodes)]
    names = [name for name in order if before.executions[name] or tally.executions[name]]
    names += sorted((before.executions.keys() | tally.executions.keys()) - set(names))
    return [
        {
            "node": name,
            "before": before.executions[name],
            "after": tally.executions[name],
            "skipped": tally.skipped[name],
            "reached": tally.reached[name],
        }
        for name in names
    ]


def _needed(tally: Tally) -> list[dict[str, Any]]:
    return [
        {
            "node": node,
            "runs": needed.runs,
            "executions": sum(needed.executions.values()),
            "why": dict(needed.executions),
        }
        for node, needed in sorted(tally.needed.items())
    ]


def _gpu(question: Question, before: Before, tally: Tally) -> Mapping[str, Any]:
    added = []
    for node, count in sorted(tally.gpu.added.items()):
        mean = before.means.get(node)
        if mean is None and question.ir.nodes[node].type != "agent":
            continue
        value = mean.value if mean else None
        added.append(
            {
                "node": node,
                "executions": count,
                "mean_s": None if value is None else _seconds(value),
                "n": mean.of if mean else 0,
            }
        )
    added_ms = sum(
        count * (before.means[node].value or 0) for node, count in tally.gpu.added.items() if node in before.means
    )
    return {
        "before_s": _seconds(before.gpu_ms),
        "saved_s": _seconds(tally.gpu.saved_ms),
        "added_s": _seconds(added_ms),
        "difference_s": _seconds(added_ms - tally.gpu.saved_ms),
        "added": added,
    }


def _seconds(ms: float) -> float:
    return round(ms / 1_000, 3 if abs(ms) < 10_000 else 1)
