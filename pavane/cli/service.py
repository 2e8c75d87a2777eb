"""The single services, each as one process: api, coordinator, recorder, runner, engine."""

import asyncio
import functools
import re
from typing import TYPE_CHECKING, Annotated

import typer

from pavane.cli.options import Data, Json, ReadyFd, example, settings_of
from pavane.gpus import GpuCard, local_gpu, memory_bytes
from pavane.settings import Settings
from schemas.ids import NAME

if TYPE_CHECKING:
    from agent_runner.handlers import Handlers

Slots = Annotated[int, typer.Option(min=1, max=1024, help="Tasks at once.")]
MAX_SPEED = 50.0
_ENGINE_URL = re.compile(r"https?://(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?(?:/[\w.~/-]*)?", re.ASCII)


def _speed(given: float) -> float:
    if given > MAX_SPEED:
        raise typer.BadParameter(
            f"{given:g}: at most {MAX_SPEED:g} times faster; beyond that the 2 ms in which a task is handed on are no "
            "longer small beside the task, and the GPU looks idle without being so"
        )
    return given


Speed = Annotated[float, typer.Option(min=0.01, callback=_speed, help="Simulated seconds per second, at most 50.")]


def _size(given: str) -> int:
    try:
        return memory_bytes(given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _name(given: str | None) -> str | None:
    if given is not None and NAME.fullmatch(given) is None:
        raise typer.BadParameter(f"{given!r} does not match {NAME.pattern}")
    return given


def register(app: typer.Typer) -> None:
    app.command(epilog=example("REDIS_URL=... DATABASE_URL=... pavane api --host 127.0.0.1 --port 8080"))(api)
    app.command(epilog=example("REDIS_URL=... DATABASE_URL=... pavane coordinator"))(coordinator)
    app.command(epilog=example("REDIS_URL=... DATABASE_URL=... pavane recorder"))(recorder)
    app.command(
        epilog=example(
            "REDIS_URL=... pavane runner --engine ollama --url http://10.0.0.7:11434 --kind L4 --memory 22.5GB",
            "REDIS_URL=... pavane runner --types function,http --handlers my_package.handlers",
        )
    )(runner)
    app.command(epilog=example("pavane engine --gpu 24GB --speed 10 --port 11434"))(engine)


def api(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; beyond loopback it needs PAVANE_API_KEYS.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = None,
    json_logs: Json = False,
    data: Data = None,
    descriptor: Annotated[int | None, typer.Option(hidden=True)] = None,
    ready_fd: ReadyFd = None,
) -> None:
    """Serve the HTTP API."""
    from pavane.services import api as service
    from pavane.services.process import run_service

    settings = _settings(json_logs, data=data, host=host, port=port)
    run_service("api", settings, functools.partial(service.serve, settings, descriptor=descriptor), ready_fd)


def coordinator(json_logs: Json = False, data: Data = None, ready_fd: ReadyFd = None) -> None:
    """Route completions; any number run side by side."""
    from pavane.services import coordinator as service
    from pavane.services.process import run_service

    settings = _settings(json_logs, data=data)
    run_service("coordinator", settings, functools.partial(service.serve, settings), ready_fd)


def recorder(json_logs: Json = False, data: Data = None, ready_fd: ReadyFd = None) -> None:
    """Copy events to Postgres; one records, others stand by. Makes the tables of a new database."""
    from pavane.services import recorder as service
    from pavane.services.process import run_service

    settings = _settings(json_logs, data=data)
    run_service("recorder", settings, functools.partial(service.serve, settings), ready_fd)


def runner(
    engine_name: Annotated[
        str | None, typer.Option("--engine", metavar="ollama|openai|simulated", help="Serve agent tasks on one engine.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The engine's URL. Default: OLLAMA_HOST; openai has none.")] = None,
    types: Annotated[
        str | None, typer.Option(metavar="function,http,sql", help="Serve task types that need no engine.")
    ] = None,
    handlers: Annotated[
        list[str] | None, typer.Option(metavar="MODULE", help="Module whose functions are handlers; may be repeated.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="What people call the GPU.")] = "",
    kind: Annotated[
        str | None,
        typer.Option(
            callback=_name, help="GPUs of one kind share measured rates. Default: from nvidia-smi, if it can."
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(metavar="SIZE", parser=_size, help="Of the GPU, as 7.4GB. Default: from nvidia-smi, if it can."),
    ] = None,
    slots: Slots = 8,
    drain: Annotated[
        int, typer.Option(min=0, metavar="S", help="How long running tasks may go on after SIGTERM.")
    ] = 30,
    runner_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", callback=_name, help="Default: by host and process.")
    ] = None,
    json_logs: Json = False,
    data: Data = None,
    ready_fd: ReadyFd = None,
) -> None:
    """Execute tasks: of one GPU with --engine, or of types that need none with --types."""
    from agent_runner.settings import RunnerSettings
    from pavane.services import runner as service
    from pavane.services.process import run_service

    served = list(dict.fromkeys(name.strip() for name in types.split(","))) if types is not None else []
    if (engine_name is None) == (types is None):
        raise typer.BadParameter("give either --engine or --types")
    settings = _settings(json_logs, data=data, handlers=tuple(handlers) if handlers else None)
    location = engine_location(engine_name, url, settings)
    card = _card(location, kind, memory, asks=engine_name not in (None, "simulated"))
    work = RunnerSettings(slots=slots, drain_ms=drain * 1_000, gpu=gpu, kind=card.kind, memory=card.memory)
    if engine_name is not None:
        _check_choice("--engine", engine_name, service.ENGINES)
        serve = functools.partial(
            service.serve_engine, settings, handlers=_handlers(settings), runner=work, engine_name=engine_name,
            url=location, runner_id=runner_id or service.default_runner_id("gpu"),
        )  # fmt: skip
        run_service(runner_id or "runner", settings, serve, ready_fd)
        return
    for name in served:
        _check_choice("--types", name, service.TYPES)
    tasks = functools.partial(
        service.serve_tasks, settings, types=served, handlers=_handlers(settings), runner=work,
        runner_id=runner_id or service.default_runner_id("tasks"),
    )  # fmt: skip
    run_service(runner_id or "tasks", settings, tasks, ready_fd)


def _handlers(settings: Settings) -> "Handlers":
    from agent_runner.handlers import HandlerConflict
    from pavane.services.runner import load_handlers

    try:
        return load_handlers(settings.handlers)
    except HandlerConflict as error:
        raise typer.BadParameter(str(error), param_hint="--handlers") from None


def _card(url: str, kind: str | None, memory: int | None, *, asks: bool) -> GpuCard:
    """The runner's GPU: as it was given, and what was not is asked of this machine."""
    known = local_gpu(url) if asks and (kind is None or memory is None) else GpuCard()
    return GpuCard(known.kind if kind is None else kind, known.memory if memory is None else memory)


def engine(
    gpu: Annotated[str, typer.Option(metavar="8GB|24GB", help="The card that is simulated.")] = "8GB",
    speed: Speed = 50.0,
    slots: Slots = 8,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one.")] = 0,
    json_logs: Json = False,
    ready_fd: ReadyFd = None,
) -> None:
    """Simulate a GPU with Ollama on it: its protocol, memory, loads and speed; the answers are made up."""
    from pavane.services import engine as service
    from pavane.services.process import Readiness, run_service

    settings = _settings(json_logs)

    async def serve(stop: asyncio.Event, readiness: Readiness) -> None:
        try:
            await service.serve(stop, readiness, gpu=gpu, speed=speed, slots=slots, port=port)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    run_service("engine", settings, serve, ready_fd)


def engine_location(engine: str | None, url: str | None, settings: Settings) -> str:
    """The URL of the engine that is driven. Raises BadParameter."""
    if engine != "openai":
        return engine_url(url or settings.ollama_host)
    if url is None:
        raise typer.BadParameter("give the URL of the server, one for each GPU", param_hint="--url")
    if not _ENGINE_URL.fullmatch(url):
        raise typer.BadParameter(
            "give http://HOST:PORT, and a key that it wants as PAVANE_ENGINE_KEY", param_hint="--url"
        )
    return url.rstrip("/").removesuffix("/v1")


def engine_url(host: str) -> str:
    """OLLAMA_HOST as a URL: Ollama itself also takes `host`, `host:port` and `:port`."""
    if "://" in host:
        return host.rstrip("/")
    name, _, port = host.rpartition(":") if ":" in host else (host, "", "11434")
    # 0.0.0.0 is where a server listens; a client means this machine.
    return f"http://{name if name not in ('', '0.0.0.0') else '127.0.0.1'}:{port or 11434}"


def _settings(json_logs: bool, **options: object) -> Settings:
    return settings_of(log_format="json" if json_logs else None, **options)


def _check_choice(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise typer.BadParameter(f"{given!r} is none of {', '.join(known)}", param_hint=option)
