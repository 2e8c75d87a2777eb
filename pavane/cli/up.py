"""Everything on this machine: up."""

import asyncio
import functools
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pavane.cli.options import Data, Json, example, settings_of
from pavane.cli.service import Slots, Speed, engine_location
from pavane.data_folder import Instance
from pavane.gpus import simulated_cards
from pavane.settings import Settings, without_password

Recover = Annotated[
    bool | None,
    typer.Option(
        "--recover/--no-recover",
        help="Let unfinished runs that Redis has lost go on, now and whenever it comes back empty. Default: ask now; "
        "without a terminal leave them.",
    ),
]
_NAMES = {"ollama": "Ollama", "openai": "OpenAI-compatible server"}


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane up --engine simulated --gpus 8GB,24GB", "pavane up --handlers my_package.handlers --port 0 --json"
        )
    )(up)


def up(
    runners: Annotated[
        int | None, typer.Option(min=1, max=64, help="Agent runners, one a GPU. Default: one for each --url or GPU.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="ollama|openai|simulated", help="What runners drive.")] = "ollama",
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="An engine's URL, one a GPU; may be repeated. Default: OLLAMA_HOST; openai has none."
        ),
    ] = None,
    handlers: Annotated[
        list[str] | None, typer.Option(metavar="MODULE", help="Module whose functions are handlers; may be repeated.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Of the API; 0 takes any free one. Default: 8080.")
    ] = None,
    data: Data = None,
    redis_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Of the embedded Valkey; 0 takes any free one.")
    ] = 0,
    postgres_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Of the embedded Postgres; 0 takes any free one.")
    ] = 0,
    slots: Slots = 8,
    gpus: Annotated[
        str | None, typer.Option(metavar="LIST", help="The GPUs that are simulated: `8GB,24GB`, `2x8GB`. Default: 8GB.")
    ] = None,
    speed: Speed = 50.0,
    recover: Recover = None,
    as_json: Json = False,
) -> None:
    """Start everything on this machine: Redis, Postgres, API, coordinator, recorder, runners. Ctrl-C drains it."""
    from pavane import logs
    from pavane.services.process import apply_limits
    from pavane.services.runner import ENGINES
    from pavane.up import Layout, Up, ready_line

    if engine not in ENGINES:
        raise typer.BadParameter(f"{engine!r} is none of {', '.join(ENGINES)}", param_hint="--engine")
    settings = settings_of(port=port, data=data, handlers=tuple(handlers) if handlers else None, recover=recover)
    layout = Layout(
        engine=engine, cards=_cards(engine, gpus, runners), urls=_engines(settings, engine, url, runners), speed=speed,
        slots=slots, handlers=settings.handlers, redis_port=redis_port, postgres_port=postgres_port,
        recovers=functools.partial(_recovers, settings.recover or recover),
    )  # fmt: skip
    logs.configure(settings.log_level, settings.log_format, service="up")
    apply_limits(settings)
    _warn_of_absent(engine, layout.urls)

    def ready(instance: Instance) -> None:
        typer.echo(ready_line(instance) if as_json else _greeting(settings, layout.engine, instance))
        sys.stdout.flush()

    try:
        asyncio.run(Up(settings, layout, ready).run())
    except OSError as error:
        raise typer.BadParameter(f"{error.filename or settings.data}: {error.strerror}", param_hint="--data") from None


def _recovers(wanted: bool | None, runs: int) -> bool:
    """Whether to rebuild what Redis has lost; a person is asked."""
    if wanted is None and sys.stdin.isatty():
        return typer.confirm(f"Redis has lost {runs} unfinished runs that Postgres knows. Let them go on?", err=True)
    return bool(wanted)


def _engines(settings: Settings, engine: str, urls: list[str] | None, runners: int | None) -> list[str]:
    """URLs of the engines that are to be driven; none for the simulated one, which is started here."""
    if engine == "simulated":
        if urls:
            raise typer.BadParameter("the simulated engines are started here", param_hint="--url")
        return []
    given: list[str | None] = [*urls] if urls else [None]
    found = [engine_location(engine, url, settings) for url in given]
    if runners is not None and runners != len(found):
        raise typer.BadParameter(
            f"there are {len(found)} engine URLs; give --url once for each GPU", param_hint="--runners"
        )
    return found


def _cards(engine: str, gpus: str | None, runners: int | None) -> list[str]:
    """The cards that are simulated, one a runner."""
    if engine != "simulated":
        if gpus is not None:
            raise typer.BadParameter("real GPUs are behind their engines: give --url for each", param_hint="--gpus")
        return []
    try:
        cards = simulated_cards(gpus or "8GB")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--gpus") from None
    if runners is None or runners == len(cards):
        return cards
    if len(cards) > 1:
        raise typer.BadParameter(f"--gpus names {len(cards)}, and a runner drives one", param_hint="--runners")
    return cards * runners


def _warn_of_absent(engine: str, urls: Sequence[str]) -> None:
    from pavane.engine_choice import answers

    for url in urls:
        if not answers(engine, url):
            logging.getLogger("pavane.up").warning(
                "no %s answers at %s: agent tasks wait until one does (--engine simulated needs none)",
                _NAMES[engine],
                url,
            )


def _greeting(settings: Settings, engine: str, instance: Instance) -> str:
    count = len(instance.engines)
    gpus = f"{count} simulated GPU{'s' if count > 1 else ''}"
    engines = gpus if engine == "simulated" else f"{_NAMES[engine]} at {', '.join(instance.engines)}"
    return f"""Pavane is up, with {engines}
  API       {instance.api}
  Redis     {without_password(instance.redis)}   (pavane redis)
  Postgres  {without_password(instance.postgres)}   (pavane psql)
  data in   {settings.data}
Ctrl-C drains and stops everything; the next start goes on with what is unfinished."""
