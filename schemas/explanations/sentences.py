"""Sentences: an explanation for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.explanations.explanation import Arrival, Attempt, Execution, Explanation, Value
from schemas.explanations.reasons import STATES
from schemas.explanations.said import decided, money, names, size, span, values

SHOWN_NAMES = 8
"""Of what a node waits for."""


def sentences(told: Explanation) -> list[list[str]]:
    """A paragraph for each execution, or one that says why there is none. The first sentence of each is its heading."""
    kind = f" ({told.node_type})" if told.node_type else ""
    if not told.executions:
        never = "has not been reached yet" if told.reachable else "was not executed"
        kind += f" of item {told.item}" if told.item is not None else ""
        return [[f"{told.node_id}{kind} {never}.", *(f"{one.text[:-1]}{_at(one.seq)}." for one in told.reasons)]]
    several = told.total > 1
    paragraphs = [list(_execution(told, one, several)) for one in told.executions]
    if left := told.total - len(told.executions):
        paragraphs.append([f"{left} more of its {told.total} executions are not shown."])
    return paragraphs


def _execution(told: Explanation, one: Execution, several: bool) -> Iterator[str]:
    yield f"{told.node_id}{_place(one)} {_state(one)}{_at(one.ended_seq if one.is_over else one.seq)}."
    yield from _origin(one)
    yield from _waiting(one)
    if one.opened:
        yield _opened(one)
    yield from (_attempt(attempt) for attempt in one.attempts)
    if not one.attempts and one.is_over and one.step_of:
        yield f"It was decided in passing, in the step of {one.step_of}, under revision {one.revision}."
    yield from _end(one)


def _place(one: Execution) -> str:
    """` of item 3, pass 2`"""
    item = "".join(f"[{part.rpartition('-')[2]}]" for part in one.scope.split(".")) if one.scope else ""
    return item + (f", iteration {one.iteration}," if one.iteration else "")


def _state(one: Execution) -> str:
    known = {
        "completed": "completed", "failed": "failed", "withdrawn": "was withdrawn before it was done",
        "inherited": "was done in the run that this one goes on from",
    }  # fmt: skip
    return known.get(one.state) or STATES.get(one.state, one.state)


def _at(seq: int | None) -> str:
    return f" (event {seq})" if seq is not None else ""


def _origin(one: Execution) -> Iterator[str]:
    if one.state == "inherited":
        return
    if not one.arrivals:
        what = "item" if one.scope else "run"
        yield f"It is where the {what} begins: its token was made with the {what}{_at(one.seq)}."
    elif len(one.arrivals) == 1:
        yield f"Its token came from {_arrival(one.arrivals[0])}."
    else:
        yield f"{len(one.arrivals)} arrivals came together: {'; '.join(map(_arrival, one.arrivals))}."


def _arrival(arrival: Arrival) -> str:
    what = f"{arrival.source}, which failed," if arrival.failed else arrival.source
    return f"{what} with {_value(arrival.value)}{_at(arrival.seq)}" if arrival.value else f"{what}{_at(arrival.seq)}"


def _value(value: Value) -> str:
    if value.bytes is None:
        return f"the large value {value.preview}"
    return f"{value.preview} ({size(value.bytes)})" if value.preview.endswith("…") else value.preview


def _waiting(one: Execution) -> Iterator[str]:
    if one.released is not None:
        by = f"when {one.released.node} was done" if one.released.node else "at once"
        yield f"It began {by}{_at(one.released.seq)}: no other live token could reach it any more."
    elif one.blockers:
        shown = [f"{b.node}, which {STATES.get(b.state, b.state)}" for b in one.blockers[:SHOWN_NAMES]]
        more = f", and {len(one.blockers) - SHOWN_NAMES} more" if len(one.blockers) > SHOWN_NAMES else ""
        yield f"It waits, because it can still be reached from {'; '.join(shown)}{more}."


def _opened(one: Execution) -> str:
    what = one.opened
    by = f", and was answered by {one.answered_by}" if one.answered_by else ""
    match what.get("waits_for"):
        case "answer":
            asks = "asked" if one.is_over or by else "asks"
            return f"It {asks} {what.get('assignee') or 'somebody'}{by}."
        case "event":
            key = f" for {what['key']}" if what.get("key") else ""
            return f"It waited for the event {what.get('event')}{key}{by}."
        case "time":
            return f"It waited for a time{by}."
        case "items":
            return f"Of its {what['total']} items {what['done']} are done."
        case _:
            return f"It called the run {what.get('child', '?')}."


def _attempt(attempt: Attempt) -> str:
    of = f" of {attempt.of}" if attempt.of else ""
    queued = f" after {span(attempt.queued_ms)} in its queue" if attempt.queued_ms is not None else ""
    where = f" on {attempt.runner}" if attempt.runner else ""
    head = f"Attempt {attempt.number}{of} began{queued}{where} under revision {attempt.revision}{_at(attempt.seq)}"
    took = f" after {span(attempt.took_ms)}" if attempt.took_ms is not None else ""
    match attempt.ended:
        case "":
            return f"{head} and still runs."
        case "completed":
            return f"{head} and took {span(attempt.took_ms or 0)}{_usage(attempt)}."
        case "lost":
            return f"{head} and gave no answer{took}: its runner was gone, or it was begun anew."
        case _:
            error = attempt.error or {}
            again = _again(attempt)
            return f"{head} and failed{took}: {error.get('class', 'error')}: {error.get('message', '')}{again}"


def _again(attempt: Attempt) -> str:
    if attempt.again_in_ms is not None:
        return f"; it was tried again after {span(attempt.again_in_ms)}."
    if attempt.retryable is False:
        return "; a failure of this class is not tried again."
    return "; it was the last one." if attempt.of else "."


def _usage(attempt: Attempt) -> str:
    usage, said = attempt.usage, []
    if usage.get("llm_model"):
        said.append(
            f"{usage['llm_model']}, {usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
        )
    for name, what in (("load_ms", "loading"), ("gpu_ms", "of the GPU")):
        ms = usage.get(name)
        if isinstance(ms, int | float) and ms >= 1:
            said.append(f"{span(ms)} {what}")
    if attempt.tools:
        said.append("1 tool call" if attempt.tools == 1 else f"{attempt.tools} tool calls")
    if attempt.cost is not None:
        said.append(f"cost {money(attempt.cost)}")
    return f" ({'; '.join(said)})" if said else ""


def _end(one: Execution) -> Iterator[str]:
    for fault in one.condition_errors:
        yield f"The condition `{fault.get('expression')}` has no value and counts as false: {fault.get('message')}"
    if one.output is not None:
        passed_on = [arrival.value for arrival in one.arrivals] == [one.output]
        yield "It passed that on." if passed_on else f"It gave {_value(one.output)}."
    if one.error and not (one.attempts and one.attempts[-1].error == one.error):
        yield f"It failed: {one.error.get('class', 'error')}: {one.error.get('message', '')}."
    if one.undecided:
        yield f"No rule held{values(one.undecided)}, and it has no default."
    if one.state == "failed":
        taken = (one.taken_over or {}).get("path", "on_error")
        over = f"{names(one.next)} took over, as its {taken} says." if one.next else "Nothing took over."
        yield over
    elif one.state == "completed":
        why = f": {decided(one.decision)}" if one.decision else ""
        yield f"It went on to {names(one.next)}{why}." if one.next else f"Its path ends here{why}."
