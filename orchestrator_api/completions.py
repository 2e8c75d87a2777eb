"""Completions: what comes from outside: a person's answer, an outside worker's result, an outside event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, read_request
from orchestrator_api.openapi import answers, body, optional_body
from orchestrator_api.problems import Refusal, invalid, lost, not_found
from orchestrator_api.requests import CompleteRequest, EventName, EventRequest, FailureRequest, NodeId, RunId
from orchestrator_api.retries import AT_ONCE
from orchestrator_api.run_tokens import Found, RunTokens
from orchestrator_api.services import Backend, By, Services
from orchestrator_api.submissions import value_problems
from schemas.compiler.json_schema import schema_validator
from schemas.errors import Problem
from schemas.ir import IR, Node
from schemas.limits import LIMITS
from schemas.messages import RETRIABLE, CompletionSignal
from schemas.values import Artifact, ValueTooLarge, encode_value

router = APIRouter(tags=["answers"])

BODY_BYTES = LIMITS.output_bytes + 64_000
RUNS_SHOWN = 1_000
LISTENERS = 500
"""Listeners of an event that are read at once."""

_TASK = ("queued", "running", "delayed")
_ANSWERABLE: Mapping[str, tuple[str, ...]] = {
    "human": ("asked",), "wait": ("listening",),
    **dict.fromkeys(("agent", "function", "http", "sql"), _TASK),
}  # fmt: skip
"""States of a token in which somebody outside may say what its node comes to, by the node's type."""


@router.post(
    "/runs/{run_id}/nodes/{node_id}/complete",
    summary="Answer for a node: what a person decided, or an outside worker did",
    openapi_extra=body(CompleteRequest, {"output": {"choice": "approve"}}),
    responses=answers(
        {"run_id": "run_0193f2a4", "node_id": "review", "token_id": "run_0193f2a4.2", "status": "RUNNING"},
        400, 404, 409, 413, 415, 422,
    ),
)  # fmt: skip
async def complete(run_id: RunId, node_id: NodeId, request: Request, backend: Backend, by: By) -> Response:
    """The answer is checked (a human node's by its form and choices, an agent's by its response_format), stored with
    who gave it, and then the run goes on. 409 where nobody waits for it, or where `token_id` must say who."""
    asked = await read_request(request, CompleteRequest, "output_bytes", BODY_BYTES)
    ir = await _ir(backend, run_id)
    node = ir.nodes.get(node_id)
    if node is None:
        raise not_found("node", f"{node_id} in the run {run_id}")
    token = await _token(RunTokens(backend.store), run_id, ir, node, asked.token_id)
    if asked.error is None and (problems := await asyncio.to_thread(_output_problems, node, asked.output)):
        raise invalid(problems)
    signal, artifact = _signal(token, node, asked)
    event = {"by": by or "api"}
    answer, *rest = await backend.store.answer_task(
        run_id, token.token_id, signal, event, _ANSWERABLE[node.type], artifact=artifact
    )
    if answer != "answered":
        raise _late(run_id, token, answer, rest)
    status = await backend.states.status(run_id)
    return JsonResponse({"run_id": run_id, "node_id": node_id, "token_id": token.token_id, "status": status})


async def _ir(backend: Services, run_id: str) -> IR:
    """The IR of a run that Redis has. Raises Refusal."""
    text, _ = await backend.states.ir(run_id)
    status = await backend.states.status(run_id)
    if status is None:
        raise not_found("run", run_id)
    if status not in ("RUNNING", "PAUSED"):
        raise Refusal(409, f"The run has ended already: {status}.", run_status=status)
    if text is None:
        raise lost(status)
    return IR.from_json(text)


async def _token(tokens: RunTokens, run_id: str, ir: IR, node: Node, token_id: str | None) -> Found:
    """The token that is answered. Raises Refusal."""
    states = _ANSWERABLE.get(node.type, ())
    if token_id is not None:
        if not token_id.startswith(f"{run_id}."):
            raise invalid([Problem("/token_id", "bad-value", "This token is of another run.")])
        found = await tokens.get(run_id, token_id)
        if found is not None and found.record["node"] != node.id:
            raise invalid([Problem("/token_id", "bad-value", f"This token is at the node {found.record['node']}.")])
        if found is None or found.state not in states:
            raise _not_waiting(node, [found] if found else [])
        return found
    waiting = await tokens.at(run_id, ir, node.id, states) if states else []
    if not waiting:
        raise _not_waiting(node, await tokens.at(run_id, ir, node.id, ()))
    if len(waiting) > 1:
        detail = f"{len(waiting)} tokens of {node.id} wait: `token_id` says which one is answered."
        raise Refusal(409, detail, tokens=[_shown(token) for token in waiting])
    return waiting[0]


def _not_waiting(node: Node, tokens: Sequence[Found]) -> Refusal:
    states = ", ".join(sorted({token.state for token in tokens})) or "not there"
    return Refusal(
        409, f"{node.id} does not wait for an answer: its token is {states}.", tokens=[_shown(t) for t in tokens]
    )


def _shown(token: Found) -> dict[str, Any]:
    return {"token_id": token.token_id, "state": token.state, "since": token.record.get("since")}


def _late(run_id: str, token: Found, answer: str, rest: Sequence[str]) -> Refusal:
    """Somebody else was quicker."""
    if answer == "over":
        return Refusal(409, f"The run has ended already: {rest[0]}.", run_status=rest[0])
    state = rest[0] if rest else "gone"
    return Refusal(409, f"The token {token.token_id} does not wait any more: it is {state}.", token_state=state)


def _output_problems(node: Node, output: Any) -> list[Problem]:
    """Where an answer is not what the node allows."""
    schema = node.config.get({"human": "form", "agent": "response_format"}.get(node.type, ""))
    if node.type == "human" and not isinstance(output, dict):
        return [Problem("/output", "wrong-type", "The answer to a human node must be a JSON object.")]
    problems = value_problems(schema_validator(schema), output, "/output") if schema else []
    choices = node.config.get("choices") if node.type == "human" else None
    if choices and output.get("choice") not in choices:
        listed = ", ".join(f"`{choice}`" for choice in choices)
        problems.append(Problem("/output/choice", "bad-value", f"The choice must be one of {listed}."))
    return problems


def _signal(token: Found, node: Node, asked: CompleteRequest) -> tuple[CompletionSignal, Artifact | None]:
    if asked.error is not None:
        metadata = _failure(node, asked.error)
        return CompletionSignal(token.token_id, token.run_id, node.id, None, "failed", metadata=metadata), None
    return _completed(token, *_stored(asked.output), output=asked.output)


def _failure(node: Node, error: FailureRequest) -> dict[str, Any]:
    klass = error.klass or ("rejected" if node.type in ("human", "wait") else "handler")
    return {"error_type": klass, "error_message": error.message, "retryable": klass in RETRIABLE}


def _stored(output: Any) -> tuple[str, Artifact | None]:
    """Raises Refusal (422)."""
    try:
        return encode_value(output)
    except ValueTooLarge as error:
        raise invalid([Problem("/output", "too-large", f"{error}.")]) from None


def _completed(
    token: Found, text: str, artifact: Artifact | None, *, output: Any
) -> tuple[CompletionSignal, Artifact | None]:
    """The completion signal of an output, which is a reference where it is large."""
    result, reference = (None, text) if artifact else (output, None)
    signal = CompletionSignal(
        token.token_id, token.run_id, str(token.record["node"]), None, "completed", result, reference
    )
    return signal, artifact


@router.post(
    "/events/{name}",
    summary="Say that something happened outside: those who wait for it go on",
    openapi_extra=optional_body(EventRequest, {"key": "order-17", "output": {"paid": True}}),
    responses=answers({"completed": 1, "runs": ["run_0193f2a4"]}, 400, 413, 415, 422),
)
async def post_event(name: EventName, request: Request, backend: Backend, by: By) -> Response:
    """Completes the `wait` nodes that wait now for this event with this key, of all runs. Nothing is kept for those
    that begin to wait later."""
    asked = await read_request(request, EventRequest, "output_bytes", BODY_BYTES, optional=True)
    text, artifact = _stored(asked.output)
    event = {name_: value for name_, value in {"by": by or "api", "event": name, "key": asked.key}.items() if value}

    async def answer(token: Found) -> str | None:
        if asked.output is None:
            signal = CompletionSignal(
                token.token_id, token.run_id, str(token.record["node"]), None, "completed",
                metadata={"passes_on": True},
            )  # fmt: skip
        else:
            signal, _ = _completed(token, text, artifact, output=asked.output)
        said = await backend.store.answer_task(
            token.run_id, token.token_id, signal, event, _ANSWERABLE["wait"], artifact=artifact
        )
        return token.run_id if said[0] == "answered" else None

    completed, runs = 0, dict[str, None]()
    for found in await _listeners(backend, name, asked.key):
        done = [run_id for run_id in await asyncio.gather(*map(answer, found)) if run_id]
        completed += len(done)
        runs |= dict.fromkeys(done)
    return JsonResponse({"completed": completed, "runs": list(runs)[:RUNS_SHOWN]})


async def _listeners(backend: Services, name: str, key: str) -> list[list[Found]]:
    """The tokens that wait for an event with this key, in slices to be answered side by side."""
    wanted = key.encode()
    scan = backend.store.redis.hscan_iter(backend.store.keys.listeners(name), count=LISTENERS)
    token_ids = list(dict.fromkeys([token.decode() async for token, of in scan if of == wanted]))
    tokens = RunTokens(backend.store)
    found: list[Found] = []
    for first in range(0, len(token_ids), LISTENERS):
        named = await tokens.named(token_ids[first : first + LISTENERS])
        found += [token for token in named if token.state == "listening" and token.record.get("event") == name]
    return [found[first : first + AT_ONCE] for first in range(0, len(found), AT_ONCE)]
