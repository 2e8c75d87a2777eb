"""replay: a run as it was, at one event or step by step."""

import sys
import threading
from collections.abc import Iterator
from textwrap import wrap
from typing import Annotated, Any

import orjson
import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import console, print_json
from pavane.cli.runs import RunArgument
from pavane.client import Client
from pavane.replay.steps import Steps
from pavane.replay.view import change_lines, state_lines
from pavane.replay.walk import Walk

INDENT = " " * 8
PIPE_WIDTH = 160
LONGEST_GAP_S = 3.0
"""With --speed: a longer pause between two events is shown as this."""
_never = threading.Event()


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane replay run_0193f2a4 --step",
            "pavane replay run_0193f2a4 --at 12",
            "pavane replay run_0193f2a4 --json",
        )
    )(replay)


def replay(
    run_id: RunArgument,
    at: Annotated[
        int | None, typer.Option("--at", min=1, metavar="SEQ", help="Show the state after this event.")
    ] = None,
    begin: Annotated[int, typer.Option("--from", min=1, metavar="SEQ", help="Begin with this event.")] = 1,
    step: Annotated[
        bool, typer.Option("--step", help="Stop at each event: right and left, a number to go to, q to quit.")
    ] = False,
    speed: Annotated[
        float | None, typer.Option(min=0.01, max=1_000_000, metavar="N", help="N times as fast as it was.")
    ] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Show a run as it was: after one event, or event by event with what each of them changed."""
    if at is not None and (step or speed is not None or begin != 1):
        raise typer.BadParameter("--at shows one state; leave out --step, --speed and --from")
    if step and (speed is not None or as_json):
        raise typer.BadParameter("--step stops at each event; leave out --speed and --json")
    with client_of(api, data) as client:
        if at is not None:
            _show(client.get("runs", run_id, "state", at=at), as_json=as_json)
            return
        steps = Steps()
        steps.add(client.events(run_id))
        last = steps.events[-1]["seq"] if steps.events else 0
        if begin > last:
            raise typer.BadParameter(f"the last event of {run_id} is {last}", param_hint="--from")
        place = steps.place_of(begin)
        if step and sys.stdin.isatty() and sys.stdout.isatty():
            _walk(client, run_id, steps, place)
        else:
            _play(steps, place, speed, as_json=as_json)


def _show(state: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(state)
    else:
        typer.echo("\n".join([f"after event {state['seq']}", *state_lines(state, _width())]))


def _width() -> int:
    out = console()
    return out.width if out.is_terminal else PIPE_WIDTH


def _play(steps: Steps, begin: int, speed: float | None, *, as_json: bool) -> None:
    """Each step below the one before."""
    before = steps.state(begin - 1)
    for place in range(begin, len(steps.events)):
        if speed is not None and place > begin:
            gap = (steps.events[place]["at"] - steps.events[place - 1]["at"]) / 1_000 / speed
            _never.wait(min(max(gap, 0), LONGEST_GAP_S))
        state = steps.state(place)
        if as_json:
            typer.echo(orjson.dumps(state | {"event": steps.events[place]["type"]}).decode())
        else:
            typer.echo("\n".join(_step_lines(steps, place, before, state, _width())))
        before = state


def _step_lines(steps: Steps, place: int, before: Any, state: Any, width: int) -> Iterator[str]:
    yield f"{steps.events[place]['seq']:5} {steps.lines[place]}"
    yield from (INDENT + line for line in change_lines(before, state, width - len(INDENT)))


def _walk(client: Client, run_id: str, steps: Steps, begin: int) -> None:
    """One step on the screen at a time; at the last one the next key asks for what has happened since."""
    from pavane.replay.keys import pressed  # there are terminals on POSIX alone

    walk = Walk(begin)
    with pressed() as keys:
        sys.stdout.write("\x1b[?1049h")  # the other screen: what was there comes back
        try:
            _draw(steps, walk)
            for key in keys:
                if walk.place == len(steps.events) - 1 and key in ("enter", "right"):
                    steps.add(client.get("runs", run_id, "events", after=steps.events[-1]["seq"])["events"])
                walk = walk.press(key, len(steps.events) - 1, steps.place_of)
                if walk.over:
                    break
                _draw(steps, walk)
        finally:
            sys.stdout.write("\x1b[?1049l")
            sys.stdout.flush()


def _draw(steps: Steps, walk: Walk) -> None:
    size = console().size
    width = size.width - 1
    before, state = steps.state(walk.place - 1), steps.state(walk.place)
    sentence, *changed = _step_lines(steps, walk.place, before, state, width)
    lines = [*wrap(sentence, width, subsequent_indent=INDENT), *changed, "", *state_lines(state, width)]
    room = size.height - 2
    if len(lines) > room:
        lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} lines more"]
    go = f"go to {walk.typed}_" if walk.typed else "enter, right: next  left: back  number, enter: go to  q: quit"
    foot = f"event {walk.place + 1} of {len(steps.events)}   {go}"
    lines += [""] * (room - len(lines)) + ["", foot[:width]]
    sys.stdout.write("\x1b[H\x1b[2J" + "\r\n".join(lines))
    sys.stdout.flush()
