"""Which model a GPU serves next, and how many tasks of each it takes. Pure: a view in, a choice out.

    A B C A B C  ->  A A B B C C

Item first, nearly every task costs a load. Here a model stays until its stream is empty, then
the one with the largest share of work is next.

Each runner decides alone, from one atomic look at what waits and who holds what (lua/lease_models.lua). Times are
seconds, on any clock that the whole view shares; memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

BID = 0.02  # of a switch's cost, for each task that runs: so much later a busier GPU claims an interactive task's model
ROUNDING = 1e-9  # of a GPU's memory: sums of fractions are no more exact
SLOWEST = 1e-9  # tasks per second, for a rate that is not known or was measured as nothing


@dataclass(frozen=True, slots=True)
class Policy:
    """The constants of the policy (docs/scheduling.md says why)."""

    beta: float = 5.0  # a switch during a tail must bring so many times its cost in work
    epsilon: float = 0.02  # the share of a GPU's time that ageing may cost
    kappa: float = 20.0  # so many times its cost must a switch have lasted before ageing ends it
    join: float = 3.0  # a second holder helps where the others would take longer than so many times its cost
    rho: float = 0.25  # of the ageing bound: how long a resident goes unserved beside another
    patience_s: float = 0.0  # how long an interactive task waits before it costs a switch


@dataclass(frozen=True, slots=True)
class Model:
    """One model as this GPU sees it: what waits, who else serves it, what a switch to it brings and costs."""

    queued: int = 0  # normal tasks that nobody has taken; of a resident, not those in this runner's hands
    interactive: int = 0  # likewise, in the fast lane
    head_at: float | None = None  # when the oldest normal task came
    interactive_at: float | None = None  # and the oldest interactive one
    served_at: float = 0.0  # when a task of it was last taken, here or elsewhere
    rate: float = 1.0  # tasks per second on this kind of GPU with full slots
    others: float = 0.0  # the rates of the other GPUs that hold, load or target it, together; 0: no other holder
    cost_s: float = 1.0  # of a switch: load time + half a drain
    memory: float = 0.0  # what it takes on this GPU, its slots included
    servable: bool = True  # False: this GPU never can (too large, missing), or its breaker is open


@dataclass(frozen=True, slots=True)
class Resident:
    """A model on this GPU. `running`: tasks of it in this runner's hands, fetched ahead or executed."""

    slots: int
    running: int = 0
    interactive: int = 0  # how many of `running` came by the fast lane
    memory: float = 0.0
    state: Literal["ready", "loading", "draining"] = "ready"


@dataclass(frozen=True, slots=True)
class View:
    """What one runner knows when it decides."""

    now: float
    gpus: int  # live agent runners, this one included
    memory: float  # usable by models on this GPU
    models: Mapping[str, Model]  # every model in use, by pool; residents among them
    residents: Mapping[str, Resident] = field(default_factory=dict)
    focus: str | None = None
    focus_since: float = 0.0
    target: str | None = None  # a switch to it was claimed and its load has not begun
    switched_at: float = float("-inf")  # when the last load ended


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to switch to (claim, make room, load); None: none now. `reason` is for people.

    `delay_s`: a bid for an interactive task; whoever bids less claims it first, so wait so long and look again.
    """

    model: str | None
    reason: str
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fill:
    """What to take now, by resident: normal tasks and interactive ones. `focus` as it is from now on."""

    focus: str | None
    normal: Mapping[str, int]
    interactive: Mapping[str, int]


def next_model(view: View, policy: Policy | None = None) -> Choice:
    """The switch to make, if any. Nothing while a load or a switch is under way."""
    policy = policy or Policy()
    if view.target is not None:
        return Choice(None, f"a switch to {view.target} is under way")
    if loading := [name for name, resident in view.residents.items() if resident.state == "loading"]:
        return Choice(None, f"{loading[0]} is loading")
    candidates = {
        name: model
        for name, model in view.models.items()
        if name not in view.residents and _waiting(model) and model.servable and model.memory <= view.memory
    }
    return (
        _interactive_switch(view, policy, candidates)
        or _aged_switch(view, policy, candidates)
        or _switch_after_work(view, policy, candidates)
        or _load_beside(view, policy, candidates)
        or _leave_to_others(view, policy, candidates)
        or Choice(None, "its models have work" if _backlog(view) else "nothing waits that a switch would bring forward")
    )


def victims(view: View, model: str) -> list[str]:
    """Residents to drain and unload so that `model` fits beside the rest: few, least backlog first, focus last.

    Models that are draining already count as gone and are not named. None where it would not fit an empty GPU either.
    """
    needed = view.models[model].memory - view.memory
    needed += sum(resident.memory for resident in view.residents.values() if resident.state != "draining")
    enough = view.memory * ROUNDING
    ready = _ready(view)

    def loss(name: str) -> tuple[bool, int, int, str]:
        waiting = _waiting(ready.get(name, Model()))
        return name == view.focus and waiting > 0, waiting, view.residents[name].running, name

    idle_first = sorted((name for name, resident in view.residents.items() if resident.state == "ready"), key=loss)
    chosen: list[str] = []
    for name in idle_first:
        if needed <= enough:
            break
        chosen.append(name)
        needed -= view.residents[name].memory
    if needed > enough:
        return []
    for name in reversed(chosen[:-1]):  # what a larger one behind it made needless stays
        if needed + view.residents[name].memory <= enough:
            chosen.remove(name)
            needed += view.residents[name].memory
    return chosen


def next_tasks(view: View, policy: Policy | None = None) -> Fill:
    """How many tasks of which residents this GPU takes now, fetching ahead not counted."""
    ready = _ready(view)
    running = {name: resident.running for name, resident in view.residents.items()}
    interactive: dict[str, int] = {}
    for name, model in ready.items():
        resident = view.residents[name]
        free = max(resident.slots + 1 - resident.running, 1 - resident.interactive)
        if taken := min(model.interactive, max(free, 0)):
            interactive[name] = taken
            running[name] += taken
    focus = _next_focus(view, policy or Policy(), ready, any(running.values()))
    normal: dict[str, int] = {}
    for name in sorted(ready, key=lambda name: (name != focus, -share_s(ready[name]), name)):
        queued, slots = ready[name].queued, view.residents[name].slots
        if name != focus and queued < slots / 2 and any(running.values()):
            continue  # so few would slow the others for longer than they would fill this GPU
        if taken := min(queued, max(slots - running[name], 0)):
            normal[name] = taken
            running[name] += taken
        if queued > normal.get(name, 0):
            break  # one model at a time: two that run together gain nothing, and both end later
    return Fill(focus, normal, interactive)


def ageing_s(view: View, policy: Policy) -> float:
    """A: how long a stream with work may go unserved before it costs a switch."""
    return sum(model.cost_s for model in view.models.values()) / (policy.epsilon * max(view.gpus, 1))


def share_s(model: Model) -> float:
    """Seconds of the model's waiting work that would fall to this GPU, beside the others that hold it."""
    return _waiting(model) / max(model.rate + model.others, SLOWEST)


def rates_given(rates: Mapping[str, float], waiting: Container[str]) -> dict[str, float]:
    """What one GPU gives each model that it holds, where those in `waiting` have work: they take turns.

    For `Model.others`, summed over the other GPUs. A model that drains is not held.
    """
    turns = max(sum(name in waiting for name in rates), 1)
    return {name: rate / turns for name, rate in rates.items()}


def _waiting(model: Model) -> int:
    return model.queued + model.interactive


def _unserved_since(model: Model, now: float) -> float:
    heads = [at for at in (model.head_at, model.interactive_at) if at is not None]
    return max(min(heads, default=now), model.served_at)


def _ready(view: View) -> dict[str, Model]:
    """The residents that may be given tasks. One that drains, or whose breaker is open, is not."""
    return {
        name: view.models[name]
        for name, resident in view.residents.items()
        if resident.state == "ready" and name in view.models and view.models[name].servable
    }


def _backlog(view: View) -> int:
    return sum(_waiting(model) for model in _ready(view).values())


def _running(view: View) -> int:
    return sum(resident.running for resident in view.residents.values())


def _largest(candidates: Mapping[str, Model]) -> str | None:
    return min(candidates, key=lambda name: (-share_s(candidates[name]), name), default=None)


def _free(view: View) -> float:
    return view.memory - sum(resident.memory for resident in view.residents.values())


def _interactive_switch(view: View, policy: Policy, candidates: Mapping[str, Model]) -> Choice | None:
    """Rule 0: an interactive task that nobody serves is worth a switch, on the GPU that gives up least for it.

    All bids count from the moment at which the task may cost a switch, so whoever looks again in time claims it. What
    was just loaded takes its own first: else two models that do not fit together displace each other for ever.
    """
    if any(model.interactive and model.served_at < view.switched_at for model in _ready(view).values()):
        return None
    since = {
        name: model.interactive_at + policy.patience_s
        for name, model in candidates.items()
        if model.interactive and not model.others and model.interactive_at is not None
    }
    due = [name for name in since if since[name] <= view.now]
    if not due:
        return None
    name = min(due, key=lambda name: (since[name], name))
    model = candidates[name]
    bid = 0.0
    if view.gpus > 1 and model.memory > _free(view):
        bid = BID * model.cost_s * (1 + _running(view))
    return Choice(name, "an interactive or a begun task waits for it", max(since[name] + bid - view.now, 0.0))


def _aged_switch(view: View, policy: Policy, candidates: Mapping[str, Model]) -> Choice | None:
    """Rule 1: the ageing bound. A GPU that is out of work anyhow need not have served its last switch out."""
    bound, lasted, leaving = ageing_s(view, policy), view.now - view.switched_at, not _backlog(view)
    since = {
        name: _unserved_since(model, view.now)
        for name, model in candidates.items()
        if not model.others and (leaving or lasted >= policy.kappa * model.cost_s)
    }
    oldest = min(since, key=lambda name: (since[name], name), default=None)
    if oldest is None or view.now - since[oldest] <= bound:
        return None
    return Choice(oldest, f"its tasks have waited {view.now - since[oldest]:.0f} s, more than {bound:.0f} s")


def _switch_after_work(view: View, policy: Policy, candidates: Mapping[str, Model]) -> Choice | None:
    """Rule 2: its models have nothing more to take. The next one is loaded while their last tasks still run."""
    if _backlog(view):
        return None
    worth = {name: model for name, model in candidates.items() if share_s(model) >= policy.beta * model.cost_s}
    if name := _largest(worth):
        return Choice(name, f"the largest share: {share_s(worth[name]):.0f} s of work")
    if _running(view):
        return Choice(None, "its last tasks are running, and no other model is worth a switch meanwhile")
    if name := _largest({name: model for name, model in candidates.items() if not model.others}):
        return Choice(name, "this GPU is idle, and no other serves it")
    slow = {
        name: model for name, model in candidates.items() if _waiting(model) > policy.join * model.cost_s * model.others
    }
    if name := _largest(slow):
        return Choice(name, f"this GPU is idle, and the others would need more than {policy.join:g} loads' time")
    return None


def _load_beside(view: View, policy: Policy, candidates: Mapping[str, Model]) -> Choice | None:
    """Rule 3: the next model beside those that still have work, so that its load hides behind the rest of it."""
    working = {name: model for name, model in _ready(view).items() if _waiting(model)}
    left = sum(share_s(model) for model in working.values())
    room = view.memory - sum(view.residents[name].memory for name in working)
    beside = {
        name: model
        for name, model in candidates.items()
        if model.memory <= room and share_s(model) >= policy.beta * model.cost_s and left < 2 * model.cost_s
    }
    name = _largest(beside)
    return Choice(name, "it fits beside the others, whose work is nearly done") if name else None


def _leave_to_others(view: View, policy: Policy, candidates: Mapping[str, Model]) -> Choice | None:
    """Rule 4: the others finish its models' work without it sooner than the next model's would be done with it.

    Without it the holders of a model run dry and switch all at once, wave after wave, and the end of a batch is long.
    """
    working = [model for model in _ready(view).values() if _waiting(model)]
    if not all(model.others for model in working):
        return None
    left = max((_waiting(model) / model.others for model in working), default=0.0)
    lasted = view.now - view.switched_at
    worth = {
        name: model
        for name, model in candidates.items()
        if share_s(model) >= max(left, policy.beta * model.cost_s) and lasted >= policy.beta * model.cost_s
    }
    name = _largest(worth)
    return Choice(name, "the others finish this GPU's models sooner than that one") if name else None


def _next_focus(view: View, policy: Policy, ready: Mapping[str, Model], busy: bool) -> str | None:
    """The resident that takes first: the focus while it has work, then the largest share; turns end at rho * A."""
    largest = _largest(ready)
    focus = view.focus if view.focus in ready else None
    if focus is None or largest is None:
        return largest
    if not ready[focus].queued:
        queued = ready[largest].queued
        return largest if queued and (not busy or queued >= view.residents[largest].slots / 2) else focus
    turn = policy.rho * ageing_s(view, policy)
    since = {name: _unserved_since(model, view.now) for name, model in ready.items() if model.queued and name != focus}
    longest = min(since, key=lambda name: (since[name], name), default=focus)
    if longest != focus and view.now - max(view.focus_since, since[longest]) > turn:
        return longest
    return focus
