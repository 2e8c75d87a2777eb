"""How long a batch would take, and on which GPUs: plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import pairs, print_json, print_shown, span, table
from pavane.documents import UnusableFile, read_document
from schemas.errors import InvalidDocument

if TYPE_CHECKING:
    from agent_runner.engines.simulated.gpu import Card
    from pavane.planning.estimate import Change, Estimate
    from pavane.planning.given import Given
    from pavane.planning.recorded import Recorded

MAX_STEPS = 1_000_000
"""Of all items together: they take minutes, and some hundred megabytes."""


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane plan examples/screening/workflow.yaml --items 2000 --gpus 8GB,24GB --svg plan.svg",
            "pavane plan workflow.yaml --items 2000 --gpus 2x8GB --branch quality=0.55,0.45 --loop again=1.6",
            "pavane plan workflow.yaml --items 2000 --gpus 4x24GB --from-batch batch_0193f2a4",
        )
    )(plan)


Named = list[str] | None


@dataclass(frozen=True)
class _Asked:
    """What is planned, and what came of it."""

    workflow_id: str
    items: int
    slots: int
    seed: int
    estimate: "Estimate"
    changes: "Sequence[Change]"
    assumptions: Sequence[str]


def plan(
    workflow: Annotated[Path, typer.Argument(help="A workflow file, YAML or JSON.")],
    items: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many items, all given at once.")],
    gpus: Annotated[str, typer.Option(metavar="LIST", help="`8GB,2x24GB`; `16GB@1.4` says the pace, 8GB being 1.")],
    from_batch: Annotated[
        str | None, typer.Option(metavar="ID", help="Times, branches and loops as this batch recorded them.")
    ] = None,
    branch: Annotated[
        Named, typer.Option(metavar="NODE=N,N", help="Odds of a branch's rules and default, or of conditional edges.")
    ] = None,
    loop: Annotated[Named, typer.Option(metavar="NODE=N", help="Passes of a loop, on average.")] = None,
    map_: Annotated[Named, typer.Option("--map", metavar="NODE=N", help="Items of a map.")] = None,
    time: Annotated[
        Named, typer.Option(metavar="NODE=S", help="Seconds of a task; of an agent, alone on an 8 GB card.")
    ] = None,
    model: Annotated[
        Named, typer.Option(metavar="NAME=W,KV,S", help="Weights and KV cache of a slot in GB, load time in seconds.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Tasks that a model on a GPU executes at once.")] = 8,
    measured_on: Annotated[str, typer.Option(metavar="GPU", help="The kind of GPU that --from-batch ran on.")] = "8GB",
    speed: Annotated[float, typer.Option(min=0.01, help="How much too fast its GPUs were; simulated: 50.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the chance that items are drawn by.")] = 1,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the GPUs over time, a colour a model.")] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """How long a batch would take on which GPUs: simulated around the scheduler that runners use, with no server."""
    from pavane.planning.fault import PlanFault
    from pavane.planning.fleet import read_fleet
    from pavane.planning.given import read_given
    from pavane.planning.recorded import read_batch

    try:
        given = read_given(branch or (), loop or (), map_ or (), time or (), model or ())
        cards, kinds = read_fleet(gpus), set(read_fleet(measured_on))
        if len(kinds) > 1:
            raise PlanFault("--measured-on: one kind of GPU; times of a batch on several kinds can not be told apart")
        recorded = None
        if from_batch is not None:
            with client_of(api, data) as client:
                recorded = read_batch(client, from_batch, pace=kinds.pop().pace, speed=speed)
        asked = _simulate(workflow, items, cards, slots, given, recorded, seed)
    except PlanFault as fault:
        raise typer.BadParameter(str(fault)) from None
    if svg is not None:
        _draw(asked, svg)
    if as_json:
        print_json(_as_json(asked))
    else:
        _show(asked)


def _simulate(
    file: Path, count: int, cards: "Sequence[Card]", slots: int, given: "Given", recorded: "Recorded | None", seed: int
) -> _Asked:
    """Raises PlanFault, and typer.Exit for a workflow that is refused."""
    import random

    from pavane.planning.assumptions import assumptions
    from pavane.planning.course import Course
    from pavane.planning.estimate import changes, estimate
    from pavane.planning.fault import PlanFault
    from pavane.planning.fleet import check_fits, models_of
    from pavane.planning.paths import sample_item
    from pavane.planning.workflow import PlannedWorkflow

    try:
        workflow = PlannedWorkflow.of(read_document(file))
    except InvalidDocument as error:
        for problem in error.problems:
            typer.echo(f"{file}: {problem.path or '/'}  {problem.code}: {problem.message}", err=True)
        raise typer.Exit(1) from None
    given.check(workflow)
    models = models_of(workflow, given.models)
    check_fits(models, cards, slots)
    draw = random.Random(seed)
    items, steps = [], 0
    for number in range(1, count + 1):
        items.append(sample_item(workflow, Course(models, given, recorded, draw)))
        steps += len(items[-1].steps)
        if steps > MAX_STEPS or (number == 100 and steps * count > 110 * MAX_STEPS):
            raise PlanFault(f"{count:,} items take more than {MAX_STEPS:,} steps in all; plan for fewer items")
    return _Asked(
        workflow.ir.workflow_id, count, slots, seed, estimate(cards, models, items, slots),
        changes(cards, models, items, slots), assumptions(workflow, given, recorded, cards),
    )  # fmt: skip


def _draw(asked: _Asked, file: Path) -> None:
    from pavane.planning.picture import draw

    found = asked.estimate
    rows = [(f"{place} · {gpu.card.name}", gpu.segments) for place, gpu in enumerate(found.gpus, 1)]
    title = f"{asked.workflow_id}: {asked.items:,} items in {span(found.seconds * 1_000)}, {found.loads} loads"
    try:
        file.write_text(draw(rows, title), encoding="utf-8")
    except OSError as error:
        raise UnusableFile(f"{file}: {error.strerror}") from None


def _show(asked: _Asked) -> None:
    found = asked.estimate
    head = pairs(
        [
            ("workflow", asked.workflow_id),
            ("items", f"{asked.items:,}, {found.tasks:,} tasks of models"),
            (
                "takes",
                f"{span(found.seconds * 1_000)}, {asked.items / max(found.seconds, 1e-9) * 3_600:,.0f} items an hour",
            ),
            ("at best", f"{span(found.bound_s * 1_000)}; this is {found.of_bound:.1%} of what no schedule can beat"),
            ("loads", f"{found.loads} of models"),
            ("longest wait", f"{span(found.longest_wait_s * 1_000)} of a task in its stream"),
        ]
    )
    used = table("GPU>", "kind", "active>", "loading>", "idle>", "loads>", "models")
    for place, gpu in enumerate(found.gpus, 1):
        models = ", ".join(
            f"{name} {share:.0%}" for name, share in sorted(gpu.models.items(), key=lambda pair: -pair[1])
        )
        loads = str(sum(gpu.loads.values()))
        used.add_row(
            str(place), gpu.card.name, f"{gpu.active:.1%}", f"{gpu.loading:.1%}", f"{gpu.idle:.1%}", loads, models
        )
    other = table("with", "takes>", "against now>", "loads>", "of the best>")
    for change in asked.changes:
        then = change.estimate
        less = f"{then.seconds / max(found.seconds, 1e-9) - 1:+.0%}"
        other.add_row(change.text, span(then.seconds * 1_000), less, str(then.loads), f"{then.of_bound:.1%}")
    notes = "\n".join(f"- {sentence}" for sentence in asked.assumptions)
    print_shown(head, "", used, "", other, "", f"It rests on this:\n{notes}")


def _as_json(asked: _Asked) -> dict[str, Any]:
    return {
        "workflow_id": asked.workflow_id,
        "items": asked.items,
        "slots": asked.slots,
        "seed": asked.seed,
        **_figures(asked.estimate),
        "tasks": asked.estimate.tasks,
        "longest_wait_s": round(asked.estimate.longest_wait_s, 3),
        "gpus": [
            {
                "kind": gpu.card.name, "usable_gb": round(gpu.card.usable_gb, 2), "pace": gpu.card.pace,
                "active": round(gpu.active, 4), "loading": round(gpu.loading, 4), "idle": round(gpu.idle, 4),
                "loads": gpu.loads, "models": {name: round(share, 4) for name, share in gpu.models.items()},
            }
            for gpu in asked.estimate.gpus
        ],
        "changes": [{"with": change.text, **_figures(change.estimate)} for change in asked.changes],
        "assumptions": list(asked.assumptions),
    }  # fmt: skip


def _figures(found: "Estimate") -> dict[str, Any]:
    return {
        "duration_s": round(found.seconds, 3),
        "bound_s": round(found.bound_s, 3),
        "of_bound": round(found.of_bound, 4),
        "loads": found.loads,
    }
