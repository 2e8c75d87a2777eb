"""GPUs and models as tables: what is on each card and how its time went, what waits for each model. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pavane.cli.output import span, table

Shown = Mapping[str, Any]
STOPPED = ("held", "waiting")
"""States of a runner whose reason people must see."""


def machines(models: Sequence[Shown], runners: Sequence[Shown]) -> RenderableType:
    """Tables of the models that have or had work and of the GPUs, with a line for each that stands still, and why."""
    parts: list[RenderableType] = []
    engines = [runner for runner in runners if runner.get("engine")]
    if busy := [model for model in models if model["queued"] or model["running"] or model["loads"]]:
        parts += [Text(), _models(busy, {runner["runner_id"]: _name(runner) for runner in engines})]
        parts += [line for model in busy for line in breakers(model)]
    if engines:
        parts += [Text(), _gpus(engines)]
        parts += [line for runner in engines for line in _standstill(runner)]
    return Group(*parts)


def _models(models: Sequence[Shown], names: Mapping[str, str]) -> Table:
    """`fast` are those of the queued that are in the fast lane."""
    shown = table("model", "queued>", "fast>", "oldest>", "running>", "per min>", "loads>", "on")
    for model in models:
        oldest = model["oldest_s"]
        shown.add_row(
            model["model"], str(model["queued"]), str(model["interactive"] or ""),
            "" if oldest is None else span(max(1, round(oldest)) * 1_000), str(model["running"]),
            "" if model["rate_per_min"] is None else f"{model['rate_per_min']:,.0f}", str(model["loads"]),
            ", ".join(names.get(holder, holder) for holder in model["holders"]),
        )  # fmt: skip
    return shown


def breakers(model: Shown) -> Iterable[Text]:
    """A line for each runner that does not serve the model, with its reason."""
    for breaker in model["breakers"]:
        reason = breaker.get("reason") or "its engine is away"
        yield Text(f"{model['model']} is held by {breaker.get('runner')}: {reason}", style="yellow")


def _gpus(runners: Sequence[Shown]) -> Table:
    simulated = all(runner["engine"] == "simulated" for runner in runners)
    name = "simulated GPU" if simulated else "GPU"  # one is never shown as a real one
    shown = table(name, "state", "models, slots in use", "loads>", "active>", "loading>", "idle>")
    for runner in runners:
        shares = (runner[name] for name in ("active_share", "loading_share", "idle_share"))
        shown.add_row(
            _card(runner, mixed=not simulated), runner["state"], _residents(runner),
            str(runner["loads"] or 0), *("" if share is None else f"{share:.0%}" for share in shares),
        )  # fmt: skip
    return shown


def _residents(runner: Shown) -> Text:
    """`gemma3:4b 8/8, phi3 2/8, next qwen2.5:7b`: the focus first, and bold."""
    focus, target = runner["focus_model"], runner["target"]
    parts = [
        Text(_resident(model), style="bold" if model["model"] == focus else "")
        for model in sorted(runner["models"], key=lambda model: model["model"] != focus)
    ]
    if target and target not in (model["model"] for model in runner["models"]):
        parts.append(Text(f"next {target}", style="dim"))
    return Text(", ").join(parts)


def _resident(model: Shown) -> str:
    """`phi3 2/8`; one that is on its way in or out says so."""
    prefix = "" if model["state"] in ("ready", None) else f"{model['state']} "
    used = "" if model["state"] == "loading" else f" {model['running']}/{model['slots']}"
    return f"{prefix}{model['model']}{used}"


def _standstill(runner: Shown) -> Iterable[Text]:
    if runner["state"] in STOPPED:
        why = runner["held"] or runner["reason"] or "nobody knows why"
        yield Text(f"{_name(runner)} is {runner['state']}: {why}", style="yellow")


def _name(runner: Shown) -> str:
    return str(runner["gpu"] or runner["runner_id"])


def _card(runner: Shown, *, mixed: bool) -> str:
    """`gpu-1 8GB`"""
    engine = "simulated" if mixed and runner["engine"] == "simulated" else ""
    return " ".join(filter(None, (_name(runner), runner["kind"], engine)))
