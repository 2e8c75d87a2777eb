"""What a plan rests on that nobody has measured, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent_runner.engines.simulated.gpu import CATALOGUE, Card
from pavane.planning.course import COMPLETION_TOKENS, MAP_ITEMS, PROMPT_TOKENS, assumed_passes, assumed_wait
from pavane.planning.fleet import is_guessed
from pavane.planning.given import Given, conditional
from pavane.planning.recorded import Recorded
from pavane.planning.workflow import PlannedWorkflow
from schemas.ir import Node


def assumptions(workflow: PlannedWorkflow, given: Given, recorded: Recorded | None, cards: Sequence[Card]) -> list[str]:
    """One sentence each, with the option that replaces it."""
    known = {(kind, node) for kind, node in recorded.pooled} if recorded is not None else set()
    nodes = list({node.id: node for node in workflow.nodes()}.values())
    return [
        *_measured(recorded),
        *_times(nodes, given, known),
        *_ways(nodes, given, known),
        *_models(workflow, given),
        *_cards(cards),
        "no task fails or is tried again; nothing else uses the GPUs",
    ]


def _measured(recorded: Recorded | None) -> Iterator[str]:
    if recorded is not None:
        tasks = sum(recorded.measured.values())
        yield f"each item follows one of {len(recorded.runs)} runs of {recorded.batch_id}, with {tasks} measured tasks"
        yield (
            f"they ran on GPUs of one kind, of pace {recorded.pace:g}, at {recorded.speed:g} times their real speed "
            "(--measured-on, --speed): otherwise the times are wrong"
        )


def _times(nodes: Sequence[Node], given: Given, known: set[tuple[str, str]]) -> Iterator[str]:
    left = [node for node in nodes if node.id not in given.times and ("seconds", node.id) not in known]
    if agents := [node for node in left if node.analysis.pool]:
        yield (
            f"times of {_names(agents)} are assumed, not measured: {PROMPT_TOKENS} tokens read and {COMPLETION_TOKENS} "
            "written by a model of that size (--time NODE=SECONDS, --from-batch)"
        )
    others = [node for node in left if node.is_task or node.type in ("human", "wait", "workflow")]
    for seconds in sorted({assumed_wait(node) for node in others if not node.analysis.pool}):
        some = [node for node in others if not node.analysis.pool and assumed_wait(node) == seconds]
        if some := [node for node in some if "document" not in node.config]:
            yield f"{_names(some)} take {seconds:g} s (--time)"
    if tools := [node for node in left if node.config.get("tools")]:
        yield f"{_names(tools)} call no tools"


def _ways(nodes: Sequence[Node], given: Given, known: set[tuple[str, str]]) -> Iterator[str]:
    left = [node for node in nodes if node.id not in given.branches]
    if branches := [node for node in left if node.type == "branch" and ("rule", node.id) not in known]:
        yield f"every way out of {_names(branches)} is equally likely (--branch NODE=0.7,0.3)"
    if edges := [node for node in left if conditional(node) and ("edges", node.id) not in known]:
        yield f"each condition on the edges of {_names(edges)} holds half of the time (--branch)"
    for node in nodes:
        if node.loop and node.id not in given.loops and ("again", node.id) not in known:
            yield f"{node.id} makes {assumed_passes(node):g} passes on average (--loop {node.id}=PASSES)"
        if node.map and node.id not in given.maps and ("items", node.id) not in known:
            yield f"{node.id} has {MAP_ITEMS} items (--map {node.id}=ITEMS)"


def _models(workflow: PlannedWorkflow, given: Given) -> Iterator[str]:
    names = sorted({node.config["model"] for node in workflow.agents().values()})
    listed = [name for name in names if name in CATALOGUE and name not in given.models]
    if listed:
        yield f"sizes and load times of {', '.join(listed)} are those of pavane's list (--model)"


def _cards(cards: Iterable[Card]) -> Iterator[str]:
    for card in dict.fromkeys(card for card in cards if is_guessed(card)):
        yield f"{card.name}: {card.usable_gb:.1f} GB usable, pace {card.pace:g}, on a line through known cards (@PACE)"


def _names(nodes: Sequence[Node]) -> str:
    return ", ".join(node.id for node in nodes)
