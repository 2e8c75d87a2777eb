"""The GPUs of a plan, and the models that they serve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent_runner.engines.simulated.gpu import CARDS, CATALOGUE, KV_CONTEXT, Card, ModelSpec
from pavane.planning.fault import PlanFault
from pavane.planning.workflow import PlannedWorkflow

MAX_GPUS = 256
USABLE = 0.93
_GPU = re.compile(r"(?:(\d{1,4})x)?(\d{1,4}(?:\.\d{1,2})?)GB(?:@(\d{1,3}(?:\.\d{1,3})?))?", re.IGNORECASE)


def read_fleet(text: str) -> tuple[Card, ...]:
    """`8GB,24GB,2x8GB,16GB@1.4`: counts, memory and, after the @, pace against the 8 GB card. Raises PlanFault."""
    fleet: list[Card] = []
    for part in text.split(","):
        found = _GPU.fullmatch(part.strip())
        if found is None:
            raise PlanFault(f"--gpus: {part.strip()!r} is no GPU: write 8GB, 2x24GB or 16GB@1.4")
        count, size, pace = found.groups()
        card = card_of(float(size), float(pace) if pace else None)
        if card.pace <= 0 or card.usable_gb <= 0 or count == "0":
            raise PlanFault(f"--gpus: {part.strip()!r} has a 0 in it")
        fleet += [card] * int(count or 1)
    if len(fleet) > MAX_GPUS:
        raise PlanFault(f"--gpus: {len(fleet)} GPUs; at most {MAX_GPUS} can be simulated")
    return tuple(fleet)


def card_of(size_gb: float, pace: float | None = None) -> Card:
    """A known card, else one with 93 % of its memory usable and a pace on the line through those that are known."""
    name = f"{size_gb:g}GB"
    if pace is not None:
        usable = CARDS[name].usable_gb if name in CARDS else USABLE * size_gb
        return Card(f"{name}@{pace:g}", usable, pace)
    return CARDS.get(name) or Card(name, USABLE * size_gb, round(_pace(size_gb), 2))


def _pace(size_gb: float) -> float:
    small, large = CARDS["8GB"], CARDS["24GB"]
    return max(0.1, small.pace + (size_gb - 8) * (large.pace - small.pace) / (24 - 8))


def is_guessed(card: Card) -> bool:
    """Nobody has measured or given its pace."""
    return card.name not in CARDS and "@" not in card.name


def next_larger(card: Card) -> Card | None:
    """The known card that is next in memory."""
    larger = [known for known in CARDS.values() if known.usable_gb > card.usable_gb]
    return min(larger, key=lambda known: known.usable_gb, default=None)


def models_of(workflow: PlannedWorkflow, given: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """The models of a workflow by pool, each named by it. Raises PlanFault for those that nobody knows."""
    known = {**CATALOGUE, **given}
    agents = workflow.agents()
    missing = sorted({node.config["model"] for node in agents.values()} - known.keys())
    if missing:
        raise PlanFault(
            f"the sizes of {', '.join(missing)} are not known: "
            "give --model NAME=WEIGHTS_GB,KV_GB_OF_A_SLOT,LOAD_SECONDS for each"
        )
    models = {}
    for pool, node in agents.items():
        spec, context = known[node.config["model"]], (node.config.get("options") or {}).get("num_ctx", KV_CONTEXT)
        models[pool] = replace(spec, name=pool, kv_gb=spec.kv_gb * max(1.0, context / KV_CONTEXT))
    return models


def check_fits(models: Mapping[str, ModelSpec], fleet: Sequence[Card], slots: int) -> None:
    """Raises PlanFault for a model that no card holds, with the numbers."""
    largest = max(fleet, key=lambda card: card.usable_gb)
    for spec in models.values():
        if spec.vram_gb(slots) > largest.usable_gb:
            raise PlanFault(
                f"{spec.name} takes {spec.vram_gb(slots):.1f} GB with {slots} slots "
                f"({spec.weights_gb:g} weights, {spec.kv_gb:.2g} a slot); "
                f"the largest GPU, {largest.name}, has {largest.usable_gb:.1f}"
            )
