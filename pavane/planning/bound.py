"""What no schedule can beat: a lower bound of the time that given items take on given GPUs.

1. Work. A set of models can only be served by the GPUs that hold one of them, each at most at its pace times S(slots).
   Of all sets only those count that hold every model from some size on: memory alone says which GPU holds what.
2. Loads that nothing can hide. Before the first work comes the load of a model that some item begins with. On one GPU
   more is forced: a model that fits beside no other has the GPU for itself while it loads, each time that an item comes
   to it. The item whose way costs most counts.
3. One item. Its longest chain of steps, each at solo speed on the fastest GPU, follows a load.

The bound is the larger of 1 + 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent_runner.engines.simulated.gpu import Card, ModelSpec
from pavane.planning.item import Item
from pavane.planning.planned_gpu import throughput


def lower_bound(cards: Sequence[Card], models: Mapping[str, ModelSpec], items: Sequence[Item], slots: int) -> float:
    """Seconds."""
    used = {pool: models[pool] for item in items for step in item.steps if (pool := step.pool) is not None}
    first = min((used[pool].load_s for item in items for pool in _first_models(item)), default=0.0)
    forced = first
    if len(cards) == 1:
        ways = {way for item in items if (way := _models_on_the_way(item))}
        alone = _fit_beside_none(used, cards[0], slots)
        forced = max((_forced_s(used, way, alone, first) for way in ways), default=0.0)
    fastest = max(card.pace for card in cards)
    longest = max((_chain_s(item, fastest) for item in items), default=0.0)
    begin_with_models = all(step.pool is not None for item in items for step in item.steps if not step.waits_for)
    return max(_work_s(cards, used, items, slots) + forced, longest + (first if begin_with_models else 0.0))


def _work_s(cards: Sequence[Card], used: Mapping[str, ModelSpec], items: Sequence[Item], slots: int) -> float:
    work = dict.fromkeys(used, 0.0)
    for item in items:
        for step in item.steps:
            if step.pool is not None:
                work[step.pool] += step.seconds
    most = 0.0
    for least in {spec.vram_gb(slots) for spec in used.values()}:
        pace = sum(card.pace for card in cards if card.usable_gb >= least)
        seconds = sum(work[pool] for pool, spec in used.items() if spec.vram_gb(slots) >= least)
        most = max(most, seconds / (pace * throughput(slots)))
    return most


def _first_models(item: Item) -> set[str]:
    """The models of steps that no step of a model comes before."""
    after_model = [False] * len(item.steps)
    found = set()
    for place, step in enumerate(item.steps):
        if step.pool is not None and not after_model[place]:
            found.add(step.pool)
        for follower in step.next:
            after_model[follower] = after_model[follower] or after_model[place] or step.pool is not None
    return found


def _models_on_the_way(item: Item) -> tuple[str, ...]:
    """The models along one chain of the item's steps, repeated ones once."""
    way: list[str] = []
    place = 0 if item.steps else None
    while place is not None:
        step = item.steps[place]
        if step.pool is not None and way[-1:] != [step.pool]:
            way.append(step.pool)
        place = step.next[0] if step.next else None
    return tuple(way)


def _fit_beside_none(used: Mapping[str, ModelSpec], card: Card, slots: int) -> frozenset[str]:
    sizes = {pool: spec.vram_gb(slots) for pool, spec in used.items()}
    return frozenset(
        pool
        for pool, size in sizes.items()
        if all(size + other > card.usable_gb + 1e-9 for name, other in sizes.items() if name != pool)
    )


def _forced_s(used: Mapping[str, ModelSpec], way: Sequence[str], alone: frozenset[str], first: float) -> float:
    """Load seconds of an item's way in which nothing else can run; if the first load is none of them, it too."""
    return sum(used[pool].load_s for pool in way if pool in alone) + (0.0 if way[0] in alone else first)


def _chain_s(item: Item, pace: float) -> float:
    """The longest chain of steps."""
    ends = [0.0] * len(item.steps)
    starts = [0.0] * len(item.steps)
    for place, step in enumerate(item.steps):
        ends[place] = starts[place] + (step.seconds / pace if step.pool is not None else step.seconds)
        for follower in step.next:
            starts[follower] = max(starts[follower], ends[place])
    return max(ends, default=0.0)
