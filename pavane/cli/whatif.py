"""`pavane whatif`: what a batch's recorded runs would have done under a changed workflow."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pavane.cli.batches import BatchArgument
from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import print_json, print_shown, table
from pavane.cli.patches import operations_for
from pavane.client import Client
from pavane.documents import read_operations
from schemas.errors import InvalidDocument

PATIENCE_S = 600.0
MOST_VALUES = 200
_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
COLUMNS = 6
"""Ways of a threshold that have a column of their own."""


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane whatif batch_0193f2a4 changed.yaml",
            "pavane whatif batch_0193f2a4 --set 'nodes.quality.config.rules.0.condition.expression=output.score >= 70'",
            "pavane whatif batch_0193f2a4 --sweep nodes.quality.rules.0 60..90/5",
        )
    )(whatif)


def whatif(
    batch_id: BatchArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="The changed workflow, or operations (RFC 6902), as YAML or JSON; `-` is stdin."
        ),
    ] = None,
    members: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A member of the newest workflow, as in `pavane patch`."),
    ] = None,
    sweep: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--sweep", metavar="PATH VALUES",
            help="The number in one condition at several values: 60..90, 60..90/5 (steps of 5) or 60,70,80. PATH is a "
            "rule (nodes.quality.rules.0), a loop (nodes.again) or an edge (edges.3); with #2 its second number.",
        ),
    ] = None,
    shown: Annotated[int, typer.Option(min=0, max=1_000, help="Runs that are listed, of each kind.")] = 10,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:  # fmt: skip
    """Route the recorded runs of a batch again under a changed workflow, with their recorded outputs: what would have
    gone otherwise, and what it would have cost. Nothing is changed, and no model is asked."""
    if sum(bool(given) for given in (file, members, sweep)) != 1:
        raise typer.BadParameter("give a file, --set or --sweep")
    with client_of(api, data) as client:
        body = _body(client, batch_id, file, members or (), sweep)
        answer = client.post("batches", batch_id, "whatif", body={**body, "shown": shown}, timeout_s=PATIENCE_S)
    if as_json:
        print_json(answer)
    elif "values" in answer:
        _say_sweep(answer)
    else:
        _say(answer)


def _body(
    client: Client, batch_id: str, file: Path | None, members: Sequence[str], sweep: tuple[str, str] | None
) -> dict[str, Any]:
    if sweep is not None:
        return {"sweep": {"path": sweep[0], "values": sweep_values(sweep[1])}}
    if file is None:
        ir = client.get("batches", batch_id, "ir")
        return {"operations": operations_for(ir["workflow"], members)}
    try:
        found = read_operations(file)
    except InvalidDocument as error:
        raise typer.BadParameter(f"{file}: {error}") from None
    return {"operations": found["operations"]} if "operations" in found else {"workflow": found}


def sweep_values(text: str) -> list[float]:
    """`60..90`, `60..90/5` or `60,70,80`. Raises BadParameter."""
    found = _RANGE.fullmatch(text.strip())
    if not found:
        parts = [part.strip() for part in text.split(",")]
        if not all(_NUMBER.fullmatch(part) for part in parts):
            raise typer.BadParameter(f"{text}: write 60..90, 60..90/5 or 60,70,80", param_hint="--sweep")
        return [_number(part) for part in parts]
    first, last, step = _number(found[1]), _number(found[2]), _number(found[3] or "1")
    if first > last or not step:
        raise typer.BadParameter(f"{text}: a range begins with its smaller end, and its step is above 0",
                                 param_hint="--sweep")  # fmt: skip
    count = int((last - first) / step + 1e-9) + 1
    if count > MOST_VALUES:
        raise typer.BadParameter(
            f"{text}: {count} values, and at most {MOST_VALUES} are tried: write a larger step, as in "
            f"{found[1]}..{found[2]}/{_step_for(last - first)}", param_hint="--sweep",
        )  # fmt: skip
    return [_plain(first + number * step) for number in range(count)]


def _step_for(width: float) -> str:
    return f"{width / (MOST_VALUES - 1):.3g}" if width < MOST_VALUES else str(int(width // (MOST_VALUES - 1)) + 1)


def _number(text: str) -> float:
    return _plain(float(text))


def _plain(value: float) -> float:
    """Whole numbers as such; sums of steps without what floats add to them."""
    rounded = float(round(value, 9))
    return int(rounded) if rounded.is_integer() else rounded


# -- for people --------------------------------------------------------------------------------------
def _say(answer: Mapping[str, Any]) -> None:
    for sentence in answer["sentences"]:
        typer.echo(sentence)
    for warning in answer["warnings"]:
        typer.echo(f"warning: {warning['path']}: {warning['message']}", err=True)
    moved = [one for one in answer["rules"] if one["before"] != one["after"]]
    if moved:
        rules = table("NODE", "WAY", "CONDITION", "BEFORE>", "AFTER>")
        for one in moved:
            rules.add_row(one["node"], one["way"], one["condition"] or "", f"{one['before']:,}", f"{one['after']:,}")
        typer.echo()
        print_shown(rules)
    nodes = table("NODE", "BEFORE>", "AFTER>", "SKIPPED BY>", "REACHED BY>")
    for one in answer["nodes"]:
        nodes.add_row(one["node"], *(_count(one[name]) for name in ("before", "after", "skipped", "reached")))
    typer.echo()
    print_shown(nodes)
    if answer["runs"]["undecided"]:
        typer.echo("\nAFTER counts what could be followed, and the executions whose outputs nobody recorded.")
    _say_runs("Runs that would have gone otherwise", answer["changed"], answer["runs"]["changed"])
    _say_runs("Runs that can not be told", answer["undecided"], answer["runs"]["undecided"])


def _say_runs(title: str, runs: Sequence[Mapping[str, Any]], total: int) -> None:
    if not runs:
        return
    typer.echo(f"\n{title} ({total:,}):")
    for run in runs:
        before, after = run["path"]
        what = (
            f"needs {', '.join(one['node'] for one in run['needs'])}" if "needs" in run else ", ".join(run["differs"])
        )
        typer.echo(f"  {run['run_id']}  {run['key']}  {what}")
        typer.echo(f"    before  {_way(before)}")
        typer.echo(f"    after   {_way(after)}{' ...' if 'needs' in run else ''}")
    if total > len(runs):
        typer.echo(f"  ... and {total - len(runs):,} more (--shown)")


def _way(path: Iterable[str]) -> str:
    return " > ".join(path)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _say_sweep(answer: Mapping[str, Any]) -> None:
    for sentence in answer["sentences"]:
        typer.echo(sentence)
    rows = answer["values"]
    targets = list(dict.fromkeys(target for row in rows for target in row["targets"]))[:COLUMNS]
    made = table(
        "", "VALUE>", *(f"-> {target}>" for target in targets), "CHANGED>", "RESULTS>", "CAN NOT BE TOLD>", "GPU s>"
    )
    for row in rows:
        made.add_row(
            "now" if row["now"] else "", f"{row['value']:g}",
            *(_count(row["targets"].get(target, 0)) for target in targets),
            *(_count(row[name]) for name in ("changed", "outputs_changed", "undecided")),
            f"{row['gpu_s']:+,}" if row["gpu_s"] else "",
        )  # fmt: skip
    typer.echo()
    print_shown(made)
    typer.echo("\nItems by where they would go; runs that change, and those of them with another result; GPU time")
    typer.echo("beside what was recorded. To make the change, with the value of your choice, while the batch goes on:")
    chosen = next((number for number, row in enumerate(rows) if not row["now"]), 0)
    typer.echo(f"  {answer['apply'][chosen]}")
