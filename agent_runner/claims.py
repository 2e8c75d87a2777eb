"""Claims: from fetched entries to work that can be executed, many in one round trip."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from agent_runner import outcome
from agent_runner.failure import TaskFailed
from agent_runner.programs import Programs
from agent_runner.work import Fetched, Program, Work
from lua.answers import StartedTask
from lua.run_store import Claim, Finish, RunStore
from schemas.ir import Node
from schemas.kept import Kept
from schemas.messages import Task
from schemas.values import artifact_name, decode_value, unpack
from schemas.variables import item_index, make_variables, run_variables

log = logging.getLogger("pavane.runner")

MAX_STALE = 8
"""Times that a task is claimed again because its run was patched in between."""


@dataclass(slots=True)
class Claimed:
    """What came of starting a batch: work to execute, and outcomes that stand already."""

    work: list[Work] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)


class Claims:
    """Starts tasks in the name of one runner. `node_types` are those that it can execute."""

    def __init__(self, store: RunStore, runner_id: str, node_types: frozenset[str], default_timeout_ms: int) -> None:
        self._store = store
        self._runner_id = runner_id
        self._node_types = node_types
        self._default_timeout_ms = default_timeout_ms
        self._programs = Programs(store)
        self._packed = Kept()

    async def start(self, fetched: Sequence[Fetched]) -> Claimed:
        """Make the claims real. Entries with nothing left to do are gone from the answer.

        After an error all of it may be repeated: what was started answers the same attempt again.
        """
        await self._programs.prepare(one.task for one in fetched)
        claims = [self._claim(one, one.task.digest) for one in fetched]
        claimed = Claimed()
        for _ in range(MAX_STALE):
            behind = []
            for claim, started in zip(claims, await self._store.start_task(claims, self._runner_id), strict=True):
                if started.state in ("stale", "unadopted"):
                    behind.append((claim, started))
                elif started.state in ("started", "exhausted"):
                    await self._take(claimed, claim, started)
            if not behind:
                break
            await self._adopt(behind)
            claims = [await self._renewed(claim, started) for claim, started in behind]
        return claimed  # entries of a run that is patched all the time stay pending, and come again

    async def _take(self, claimed: Claimed, claim: Claim, started: StartedTask) -> None:
        try:
            claimed.work.append(await self._work(claim, started))
        except TaskFailed as failure:
            failure.metadata["runner"] = self._runner_id
            claimed.finishes.append(outcome.failed(claim.task, started.attempt, failure))

    async def _renewed(self, claim: Claim, started: StartedTask) -> Claim:
        """The claim under the newest IR: the run was patched since its task was queued."""
        program = await self._programs.get(started.digest, claim.task.run_id)
        return self._claim(Fetched(claim.task, claim.reclaimed), program.ir.digest if program else started.digest)

    async def _adopt(self, behind: Iterable[tuple[Claim, StartedTask]]) -> None:
        """Let the items that these tasks lie in follow the last patches of their runs, those of one map together."""
        scopes: dict[tuple[str, str], list[str]] = {}
        for claim, started in behind:
            if started.state == "unadopted":
                scopes.setdefault((claim.task.run_id, started.digest), []).append(claim.task.scope)
        for (run_id, digest), some in scopes.items():
            if program := await self._programs.get(digest, run_id):
                await self._store.adopt_scopes(run_id, some, program.ir)

    async def variables(self, work: Work) -> dict[str, Any]:
        """What the node's templates see. Raises TaskFailed if an artifact is not to be had."""
        started, node = work.started, work.node
        values = await self._values(work.task.run_id, _texts(node, started))
        token = started.token
        return make_variables(
            node_type=node.type,
            input=values.get(("input", "")),
            arrived={source: values.get(("arrived", source)) for source in started.arrived},
            ctx={name: values["ctx", name] for name in started.outputs},
            iteration=token.iteration if token is not None else 0,
            run=run_variables(work.task.run_id, work.program.ir.workflow_id, started.batch, started.key),
            item=values.get(("item", "")),
            index=item_index(work.task.scope),
        )

    def _claim(self, fetched: Fetched, digest: str) -> Claim:
        program = self._programs.known(digest)
        node = program.ir.nodes.get(fetched.task.node_id) if program is not None else None
        if program is None or node is None:  # the script says what is wrong with it
            return Claim(fetched.task, digest, (), None, fetched.reclaimed)
        return Claim(fetched.task, digest, _reads(program, node), node.timeout_ms, fetched.reclaimed)

    async def _work(self, claim: Claim, started: StartedTask) -> Work:
        """Raises TaskFailed where the task can not be executed here."""
        if started.state == "exhausted":
            message = f"given up: {started.attempt} executions, the last ones ended with their runners"
            raise TaskFailed("interrupted", message, retryable=False)
        program = await self._program(claim.task, started.digest)
        node = program.ir.nodes.get(claim.task.node_id)
        if node is None:
            raise TaskFailed("not_found", f"node {claim.task.node_id!r} is not in the workflow")
        if node.type not in self._node_types:
            raise TaskFailed("invalid_input", f"a node of type {node.type!r} came to runner {self._runner_id!r}")
        timeout_ms = node.timeout_ms if node.timeout_ms is not None else self._default_timeout_ms
        return Work(claim.task, node, program, started, timeout_ms / 1000)

    async def _program(self, task: Task, digest: str) -> Program:
        try:
            program = await self._programs.get(digest, task.run_id)
        except (RedisError, OSError):
            raise
        except Exception as error:
            log.exception("the IR of %s can not be read", task.run_id)
            raise TaskFailed("invalid_input", f"the run's IR can not be read: {error}") from None
        if program is None:
            raise TaskFailed("not_found", "the run's IR is gone")
        return program

    async def _values(self, run_id: str, texts: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], Any]:
        names = {place: name for place, text in texts.items() if (name := artifact_name(text)) is not None}
        artifacts = await self._artifacts(run_id, sorted(set(names.values()))) if names else {}
        return {
            place: artifacts[names[place]] if place in names else decode_value(text) for place, text in texts.items()
        }

    async def _artifacts(self, run_id: str, names: Sequence[str]) -> dict[str, Any]:
        """Packed ones that were read lately are at hand: many items of a map read one input. They are unpacked for each
        execution, since a handler may change what it is given."""
        missing = [name for name in names if name not in self._packed]
        loaded = await self._store.redis.hmget(self._store.keys.artifacts(run_id), missing) if missing else []
        packed = {name: self._packed.get(name) for name in names}
        for name, one in zip(missing, loaded, strict=True):
            if one is None:
                raise TaskFailed("not_found", f"artifact {name} is gone")
            packed[name] = self._packed.put(name, one, len(one))
        return {name: unpack(one) for name, one in packed.items()}


def _texts(node: Node, started: StartedTask) -> dict[tuple[str, str], str]:
    """The stored texts of the values that the node's templates read."""
    texts = {("ctx", name): text for name, text in started.outputs.items()}
    wanted = set(node.variables)
    if "output" in wanted:
        texts |= {("arrived", source): text for source, text in started.arrived.items()}
        if not started.arrived:  # an entry gets the run's input, or the item
            wanted.add("input" if started.item is None else "item")
    if "input" in wanted:
        texts["input", ""] = started.input
    if "item" in wanted and started.item is not None:
        texts["item", ""] = started.item
    return texts


def _reads(program: Program, node: Node) -> Sequence[str]:
    """Addresses of the outputs that its templates read: `<node>`, or `<node>@<level>` in an enclosing scope."""
    return program.ir.addresses(node.id, node.analysis.task_reads)
