"""Everything on this machine: up."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pavane.cli.options import Data, Json, example, settings_of
from pavane.cli.service import engine_url
from pavane.data_folder import Instance
from pavane.settings import Settings, without_password


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane up --engine simulated --runners 2", "pavane up --handlers my_package.handlers --port 0 --json"
        )
    )(up)


def up(
    runners: Annotated[
        int | None, typer.Option(min=1, max=64, help="Agent runners, one a GPU. Default: one for each --url.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="ollama|simulated", help="What the agent runners drive.")] = "ollama",
    url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="An engine's URL, one a GPU; may be repeated. Default: OLLAMA_HOST."),
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
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Tasks that a runner executes at once.")] = 8,
    gpu: Annotated[str, typer.Option(metavar="8GB|24GB", help="The card that is simulated.")] = "8GB",
    speed: Annotated[float, typer.Option(min=0.01, help="Simulated seconds per second.")] = 50.0,
    as_json: Json = False,
) -> None:
    """Start everything on this machine: Redis, Postgres, API, coordinator, recorder, runners. Ctrl-C drains it."""
    from agent_runner.engines.simulated.gpu import CARDS
    from pavane import logs
    from pavane.services.process import apply_limits
    from pavane.services.runner import ENGINES
    from pavane.up import Layout, Up, ready_line

    if engine not in ENGINES:
        raise typer.BadParameter(f"{engine!r} is none of {', '.join(ENGINES)}", param_hint="--engine")
    if gpu not in CARDS:
        raise typer.BadParameter(f"{gpu!r} is none of {', '.join(CARDS)}", param_hint="--gpu")
    settings = settings_of(port=port, data=data, handlers=tuple(handlers) if handlers else None)
    layout = Layout(
        engine=engine, runners=runners or 1, urls=_engines(settings, engine, url, runners), gpu=gpu, speed=speed,
        slots=slots, handlers=settings.handlers, redis_port=redis_port, postgres_port=postgres_port,
    )  # fmt: skip
    logs.configure(settings.log_level, settings.log_format, service="up")
    apply_limits(settings)
    _warn_of_absent(layout.urls)

    def ready(instance: Instance) -> None:
        typer.echo(ready_line(instance) if as_json else _greeting(settings, layout.engine, instance))
        sys.stdout.flush()

    async def process() -> None:
        await Up(settings, layout, ready).run()

    try:
        asyncio.run(process())
    except OSError as error:
        raise typer.BadParameter(f"{error.filename or settings.data}: {error.strerror}", param_hint="--data") from None


def _engines(settings: Settings, engine: str, urls: list[str] | None, runners: int | None) -> list[str]:
    """URLs of the engines that are to be driven; none for the simulated one, which is started here."""
    if engine == "simulated":
        if urls:
            raise typer.BadParameter("the simulated engines are started here", param_hint="--url")
        return []
    found = [engine_url(host) for host in urls or [settings.ollama_host]]
    if runners is not None and runners != len(found):
        raise typer.BadParameter(
            f"there are {len(found)} engine URLs; give --url once for each GPU", param_hint="--runners"
        )
    return found


def _warn_of_absent(urls: Sequence[str]) -> None:
    from pavane.engine_choice import listed_models

    for url in urls:
        if listed_models(url) is None:
            logging.getLogger("pavane.up").warning(
                "no Ollama answers at %s: agent tasks wait until one does (--engine simulated needs none)", url
            )


def _greeting(settings: Settings, engine: str, instance: Instance) -> str:
    count = len(instance.engines)
    gpus = f"{count} simulated GPU{'s' if count > 1 else ''}"
    engines = gpus if engine == "simulated" else f"Ollama at {', '.join(instance.engines)}"
    return f"""Pavane is up, with {engines}
  API       {instance.api}
  Redis     {without_password(instance.redis)}   (pavane redis)
  Postgres  {without_password(instance.postgres)}   (pavane psql)
  data in   {settings.data}
Ctrl-C drains and stops everything; the next start goes on with what is unfinished."""
