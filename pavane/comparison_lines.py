"""A comparison as lines for people: what differs first, then how much there is of it; and as rows of a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pavane.cli.output import compact, span

Found = Mapping[str, Any]
CSV_COLUMNS = ("key", "run_a", "status_a", "run_b", "status_b", "place", "path", "before", "after", "difference")
FIELDS_SHOWN = 20
VALUES_SHOWN = 5  # of what a decision read
KEYS_SHOWN = 10
ITEM_FIELDS = 5
PATH_WIDTH = 40
SHORT = 50  # characters of two values that stand in one line


def run_lines(found: Found, width: int) -> list[str]:
    """Of two runs. `width`: characters of a line."""
    a, b = found["a"], found["b"]
    lines = [_run_head("A", a), _run_head("B", b), *_figures(a, b, "duration_ms"), ""]
    if found["same"]:
        return [*lines, "the same: input, status, ways and outputs"]
    if found["parted"]:
        lines += [f"they part {parted_line(found['parted'])}"]
    lines += _executed(found["nodes"])
    for name in ("input", "error", "output"):
        lines += _changes(name, found[name], width)
    for node in found["nodes"]:
        lines += _changes(f"{node['node_id']} gave", node, width)
    if found["same_nodes"]:
        lines += ["", f"the same: {', '.join(found['same_nodes'])}"]
    return lines


def batch_lines(found: Found, width: int) -> list[str]:
    """Of two batches, or of the items of one with and without its patch."""
    by_patch = found["matched_by"] == "patch"
    titles = ("without the patch", "with it") if by_patch else (found["a"], found["b"])
    a, b = (found["groups"][name] for name in ("a", "b"))
    lines = [_group_head("A", titles[0], a), _group_head("B", titles[1], b), *_figures(a, b, "mean_duration_ms"), ""]
    if by_patch:
        lines.append("Their items are not the same: the groups are compared, not one item with another.")
    else:
        how = "their keys" if found["matched_by"] == "key" else "position, where the inputs are equal"
        lines.append(
            f"{_items(found['matched'])} in both, by {how}: {found['same']} the same, {found['differ']} differ"
        )
        for side in ("a", "b"):
            if (only := found[f"only_{side}"])["items"]:
                more = ", ..." if only["items"] > KEYS_SHOWN else ""
                lines.append(f"only in {side.upper()}: {only['items']} ({', '.join(only['keys'][:KEYS_SHOWN])}{more})")
    lines += [f"{_items(move['items'])} went from {move['a']} to {move['b']}" for move in found["moves"]]
    lines += [*_executed(found["executed"]), *_fields(found)]
    if found["items"]:
        lines += ["", f"items that differ most, {len(found['items'])} of {found['differ']}"]
        for item in found["items"]:
            lines += _item(item, width)
    if found["not_loaded"]:
        lines += ["", f"{found['not_loaded']} large outputs differ and were not looked into"]
    return lines


def parted_line(parted: Found) -> str:
    """`at quality: rule 1 (output.score >= 80; output.score = 82) -> format, against default -> improve`"""
    where = parted["node_id"] + (f" in {parted['scope']}" if parted["scope"] else "")
    again = f", the {parted['nth']}. time" if parted["nth"] > 1 else ""
    return f"at {where}{again}: A {_choice(parted['a'])}, B {_choice(parted['b'])}"


def _choice(told: Found | None) -> str:
    if told is None:
        return "did not come by"
    if "node" not in told:
        return str(told["result"])
    to = ", ".join(told.get("next", told.get("edges", ()))) or "nothing"
    if "rule" in told:
        name = "default" if told["rule"] == "default" else f"rule {told['rule'] + 1}"
    elif "pass" in told:
        name = {"back": "once more", "break": "done", "timeout": "no more passes"}[told["result"]]
    else:
        name = "went on"
    return f"{name}{_why(told)} -> {to}"


def _why(told: Found) -> str:
    """` (output.score >= 80; output.score = 82)`: the condition that was true, and what was read."""
    said = [told["true"]] if isinstance(told.get("true"), str) else []
    read = {**(told.get("values") or {}), **(told.get("cut") or {})}
    said += [f"{path} = {compact(value, 60)}" for path, value in list(read.items())[:VALUES_SHOWN]]
    return f" ({'; '.join(said)})" if said else ""


def csv_rows(found: Found) -> Iterator[tuple[Any, ...]]:
    """A row for each field that differs, as CSV_COLUMNS; of an item that has none but is no match, one without."""
    if found["kind"] == "runs":
        a, b = found["a"], found["b"]
        head = (a["key"] or b["key"], a["run_id"], a["status"], b["run_id"], b["status"])
        places = [(name, found[name]) for name in ("input", "error", "output")]
        for place, changes in [*places, *((node["node_id"], node) for node in found["nodes"])]:
            yield from ((*head, place, *_cells(change)) for change in changes["changes"])
        return
    for item in found["items"]:
        a, b = item["a"], item["b"]
        head = (item["key"], a["run_id"], a["status"], b["run_id"], b["status"])
        rows = [(*head, "output", *_cells(change)) for change in item["changes"]]
        yield from rows or [(*head, None, None, None, None, None)]


def _cells(change: Found) -> tuple[Any, ...]:
    return change["path"], change.get("before"), change.get("after"), change.get("difference")


# -- parts -------------------------------------------------------------------------------------------


def _run_head(name: str, run: Found) -> str:
    more = [run["run_id"], run["status"], f"revision {run['revision']}", *([run["key"]] if run["key"] else [])]
    return f"{name}  {'  '.join(more)}"


def _group_head(name: str, title: str, group: Found) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in group["statuses"].items())
    return f"{name}  {title}  {_items(group['items'])}: {statuses or 'none'}"


Form = Callable[[float | None], str]


def _figures(a: Found, b: Found, took: str) -> list[str]:
    """What it took, side by side; what is nought in both is left out."""
    rows: list[tuple[str, Form, Any, Any]] = [
        ("took" if took == "duration_ms" else "mean time", span, a[took], b[took])
    ]
    rows += [(shown, form, a["usage"][name], b["usage"][name]) for name, (shown, form) in _USAGE.items()]
    told = [
        (shown, form(left), form(right), _less(left, right, form)) for shown, form, left, right in rows if left or right
    ]
    return _aligned([("", "A", "B", "B LESS A"), *told])


def _less(left: float | None, right: float | None, form: Form) -> str:
    if left is None or right is None or left == right:
        return ""
    return f"{'+' if right > left else '-'}{form(abs(right - left))}"


def _executed(nodes: Sequence[Found]) -> list[str]:
    """Nodes that were executed another number of times."""
    rows = [(node["node_id"], *map(str, node["executed"])) for node in nodes if len(set(node["executed"])) > 1]
    return ["", "executed", *_aligned([("NODE", "A", "B"), *rows])] if rows else []


def _fields(found: Found) -> list[str]:
    apart = found["matched_by"] == "patch" or not found["matched"]
    fields = [field for field in found["fields"] if field["changed"] or apart]
    if not fields:
        return []
    rows = [("FIELD", "CHANGED IN", "MEAN IN A", "MEAN IN B", "MEAN DIFFERENCE")]
    for field in fields[:FIELDS_SHOWN]:
        means = [_number(field[name]["mean"]) for name in ("a", "b")]
        changed = "" if apart else f"{field['changed']} of {found['matched']}"
        rows.append((field["path"], changed, *means, _signed(field["mean_difference"])))
    left = len(fields) - FIELDS_SHOWN
    more = [f"  and {left} more" + (" at least" if found["more_fields"] else "")] if left > 0 else []
    return ["", "fields of the outputs", *_aligned(rows), *more]


def _item(item: Found, width: int) -> list[str]:
    statuses = [item[name]["status"] for name in ("a", "b")]
    moved = f"  {statuses[0]} -> {statuses[1]}" if statuses[0] != statuses[1] else ""
    lines = ["", f"  {item['key']}{moved}  ({item['a']['run_id']}, {item['b']['run_id']})"]
    if item.get("parted"):
        lines.append(f"    they part {parted_line(item['parted'])}")
    return lines + _changed(item, width, "    ", ITEM_FIELDS)


def _changes(name: str, found: Found, width: int) -> list[str]:
    return ["", name, *_changed(found, width, "  ", len(found["changes"]))] if found["count"] else []


def _changed(found: Found, width: int, indent: str, most: int) -> list[str]:
    """Short values in one line, `$.score  71 -> 82  (+11)`; long ones below each other."""
    lines = []
    paths = max((len(change["path"]) for change in found["changes"][:most]), default=0)
    for change in found["changes"][:most]:
        head = f"{indent}{change['path']:<{min(paths, PATH_WIDTH)}}  "
        room = max(20, width - len(head) - 3)
        a, b = (compact(change[side], room) if side in change else "nothing" for side in ("before", "after"))
        difference = f"  ({_signed(change['difference'])})" if "difference" in change else ""
        if len(a) + len(b) < SHORT:
            lines.append(f"{head}{a} -> {b}{difference}")
        else:
            lines += [f"{head}A  {a}", f"{' ' * len(head)}B  {b}{difference}"]
    left = found["count"] - min(most, len(found["changes"]))
    return [*lines, *([f"{indent}and {left} more field{'' if left == 1 else 's'}"] if left > 0 else [])]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


_USAGE: dict[str, tuple[str, Form]] = {
    "tasks": ("executions", _number),
    "prompt_tokens": ("prompt tokens", _number),
    "completion_tokens": ("tokens written", _number),
    "gpu_ms": ("GPU time", span),
    "load_ms": ("loading", span),
}


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.6g}"
