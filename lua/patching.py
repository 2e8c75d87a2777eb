"""Patching: a run's workflow is edited while it runs. Read, apply, compile, and switch the run over in one script.

Pure parts: schemas/patch.py (RFC 6902), schemas/revision.py (what differs, what is reached). What must be decided on
live tokens is decided by lua/patch_run.lua.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson
from redis.exceptions import ResponseError

from lua.run_store import PatchStep, RunStore
from schemas.batch_mark import BatchMark
from schemas.errors import InvalidDocument, Problem
from schemas.ir import IR
from schemas.ir import Patched as AgentAdditions
from schemas.kept import Kept
from schemas.plan import places
from schemas.revision import Difference, Revision, View, difference, reachable, restarted

FOLLOW_S = 5.0
"""How long a patch waits for the items of maps that still follow the one before."""
POLL_S = 0.02
SLICE = 100
"""Runs that are patched in one round trip."""
MAX_READS = 8
"""Times that a run and its IR are read until they fit each other."""
LIVE = ("RUNNING", "PAUSED")
_HEAD = ("status", "revision", "digest", "batch_patch", "adopting")


@dataclass(frozen=True, slots=True)
class Patch:
    """What is asked for. `event`: who and why, for the event's body; `revision`: the one it must be made on (If-Match).

    `revise` makes a run's revision (schemas/revision.py); it raises InvalidDocument, or PatchRefused.
    """

    revise: Callable[[IR], Revision]
    event: Mapping[str, Any]
    cancel: bool = False  # live tokens on nodes that are gone
    restart: bool = False  # tasks that run under another definition
    dry: bool = False
    revision: int | None = None
    author: tuple[str, int] | None = None  # token and attempt of the agent that asks: nothing, unless it still executes
    mark: str = ""  # name of the batch patch that it belongs to (schemas/batch_mark.py): no run gets it twice


@dataclass(frozen=True, slots=True)
class Patched:
    """What came of it. `revision` is the run's new one; of a dry run the one that it would have."""

    run_id: str
    status: str
    revision: int
    digest: str
    difference: Difference
    reachable: tuple[str, ...]  # of what was added or changed
    unreachable: tuple[str, ...]
    restarted: tuple[str, ...]
    cancelled: tuple[str, ...]  # nodes that had live tokens, and are gone
    warnings: tuple[Problem, ...] = ()


Reason = Literal[
    "unknown",
    "over",
    "already",
    "conflict",
    "precondition",
    "live_tokens",
    "retyped",
    "too_many",
    "following",
    "fenced",
]


class PatchRefused(Exception):
    """The run does not take the patch as it is now. `revision` is its current one, of `already` the one that the
    patch made; `tokens` stand in the way."""

    def __init__(
        self, reason: Reason, message: str, *, status: str = "", revision: int = 0,
        tokens: Sequence[tuple[str, str, str]] = (),
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.reason, self.status, self.revision, self.tokens = reason, status, revision, tuple(tokens)


@dataclass(frozen=True, slots=True)
class Base:
    """A run as it was read."""

    status: str
    revision: int
    ir: IR
    mark: BatchMark | None  # of the last batch patch that it had
    follows: bool  # items of its maps still go over to the patch before


class Patching:
    """Patches the runs of one shard. What it compiles, it compiles once for all runs of one IR."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._irs = Kept()

    async def patch(self, run_id: str, patch: Patch) -> Patched:
        """Patch one run. Raises InvalidDocument, PatchRefused."""
        (result,) = await self.patch_all([run_id], patch)
        if isinstance(result, Exception):
            raise result
        return result

    async def patch_all(self, run_ids: Sequence[str], patch: Patch) -> list[Patched | InvalidDocument | PatchRefused]:
        """Patch many runs, each for itself; what came of each, in their order."""
        results: dict[str, Patched | InvalidDocument | PatchRefused] = {}
        switches: dict[str, Switch | InvalidDocument | PatchRefused] = {}
        deadline = time.monotonic() + FOLLOW_S
        left = list(run_ids)
        while left:
            for first in range(0, len(left), SLICE):
                results |= await self._patch_slice(left[first : first + SLICE], patch, switches)
            left = [run_id for run_id in left if _follows(results[run_id])]
            if left and time.monotonic() > deadline:
                break
            if left:
                await asyncio.sleep(POLL_S)
        return [results[run_id] for run_id in run_ids]

    async def base(self, run_id: str) -> Base:
        """Raises PatchRefused (unknown)."""
        base = (await self.bases([run_id])).get(run_id)
        if base is None:
            raise _unknown()
        return base

    # -- read ----------------------------------------------------------------------------------------
    async def bases(self, run_ids: Sequence[str]) -> dict[str, Base]:
        """The runs that are known, each with the IR of the revision that it has. At most SLICE of them."""
        found: dict[str, Base] = {}
        left = list(run_ids)
        for _ in range(MAX_READS):  # patched in between, or Redis has lost its IR
            if not left:
                break
            async with self.store.redis.pipeline(transaction=False) as pipe:
                for run_id in left:
                    pipe.hmget(self.store.keys.run(run_id), *_HEAD)
                heads = dict(zip(left, await pipe.execute(), strict=True))
            irs = await self._irs_of({head[2].decode(): run_id for run_id, head in heads.items() if head[2]})
            for run_id, (status, revision, digest, mark, adopting) in heads.items():
                if digest and (ir := irs.get(digest.decode())):
                    was = BatchMark.read((mark or b"").decode())
                    found[run_id] = Base(status.decode(), int(revision), ir, was, adopting is not None)
            left = [run_id for run_id in left if heads[run_id][2] and run_id not in found]
        return found

    async def _irs_of(self, run_of: Mapping[str, str]) -> dict[str, IR]:
        """The IRs by digest; each is read from a run that has it, or had it a moment ago."""
        found: dict[str, IR] = {}
        for digest, run_id in run_of.items():
            ir = self._irs.get(digest)
            if ir is None and (text := await self.store.ir_text(run_id)):
                ir = await asyncio.to_thread(IR.from_json, text)
                self._irs.put(ir.digest, ir, len(text))
            if ir is not None:
                found[ir.digest] = ir
        return found

    # -- patch ---------------------------------------------------------------------------------------
    async def _patch_slice(
        self, run_ids: Sequence[str], patch: Patch, switches: dict[str, Switch | InvalidDocument | PatchRefused]
    ) -> dict[str, Patched | InvalidDocument | PatchRefused]:
        """`switches`: those made so far, by the digest that they lead away from."""
        bases = await self.bases(run_ids)
        results: dict[str, Patched | InvalidDocument | PatchRefused] = {}
        steps: dict[str, PatchStep] = {}
        for run_id in run_ids:
            base = bases.get(run_id)
            if refused := _refusal(base, patch):
                results[run_id] = refused
                continue
            assert base is not None
            if base.ir.digest not in switches:
                switches[base.ir.digest] = await _switch(base.ir, patch)
            switch = switches[base.ir.digest]
            if not isinstance(switch, Switch):
                results[run_id] = switch
            elif base.follows:
                results[run_id] = _following(base)
            else:
                steps[run_id] = switch.step(run_id, base.revision, dry=patch.dry)
        answers = await self.store.patch_run(list(steps.values()))
        for run_id, answer in zip(steps, answers, strict=True):
            base = bases[run_id]
            switch = switches[base.ir.digest]
            assert isinstance(switch, Switch)
            results[run_id] = _result(run_id, base, switch.revision, patch, answer)
        return results


@dataclass(frozen=True, slots=True)
class Switch:
    """What a patch makes of one IR, as patch_run takes it: made once for all the runs that have the IR."""

    revision: Revision
    change: bytes
    places: bytes
    facts: bytes  # of the event, but for the number of the revision: a JSON object that is not empty

    def step(self, run_id: str, number: int, *, dry: bool) -> PatchStep:
        """For a run at revision `number`."""
        ir = self.revision.ir
        body = b'{"revision":%d,' % (number + 1) + self.facts[1:]
        return PatchStep(run_id, number, ir.digest, ir.text, self.change, self.places, body, dry)


async def _switch(ir: IR, patch: Patch) -> Switch | InvalidDocument | PatchRefused:
    try:
        revision = await asyncio.to_thread(patch.revise, ir)  # pure computing, of what others send
    except (InvalidDocument, PatchRefused) as error:
        return error
    change = orjson.dumps(_change(ir, revision, patch))
    return Switch(revision, change, orjson.dumps(places(revision.ir)), orjson.dumps(_facts(ir, revision, patch)))


def _refusal(base: Base | None, patch: Patch) -> PatchRefused | None:
    if base is None:
        return _unknown()
    if base.status not in LIVE:
        return _over(base.status)
    if base.mark is not None and base.mark.name == patch.mark:
        return _already(base.mark.revision)
    if patch.revision is not None and patch.revision != base.revision:
        message = f"The run is at revision {base.revision}, and the patch was made on revision {patch.revision}."
        return PatchRefused("precondition", message, revision=base.revision)
    return None


def change_between(old: IR, new: IR) -> dict[str, Any]:
    """What the items of a patched run's maps have yet to follow, as its hash keeps it in `adopting`."""
    revision = Revision(new, (), difference(old, new))
    return _change(old, revision, Patch(lambda ir: revision, {}, cancel=True))


def _change(old: IR, revision: Revision, patch: Patch) -> dict[str, Any]:
    """As lua/patch_run.lua takes it."""
    new, difference = revision.ir, revision.difference
    looked_for = difference.retyped | (frozenset() if patch.cancel else difference.gone)
    change: dict[str, Any] = {
        "gone": dict.fromkeys(difference.gone, True),
        "retyped": dict.fromkeys(difference.retyped, True),
        "redefined": dict.fromkeys(difference.redefined, True) if patch.restart else {},
        "loops": list(difference.loops),
        "inside": any(old.nodes[node].analysis.map for node in looked_for),
        "cancel": patch.cancel,
        "restart": patch.restart,
        "unranked": _is_unranked(old, new),
        "all_loops": " ".join(dict.fromkeys([*old.loops, *new.loops])),
        "streams": sorted({node.analysis.stream for node in new.nodes.values() if node.analysis.stream}),
    }
    optional = {"author": patch.author, "mark": patch.mark}
    return change | {name: value for name, value in optional.items() if value}


def _facts(old: IR, revision: Revision, patch: Patch) -> dict[str, Any]:
    """The body of run_patched."""
    new, difference = revision.ir, revision.difference
    optional = {
        "live_tokens": "cancel" if patch.cancel else None,
        "running": "restart" if patch.restart else None,
        "loops": difference.loops,
        "unranked": _is_unranked(old, new),
        "agents": asdict(new.patched) if new.patched and new.patched != (old.patched or AgentAdditions()) else None,
    }
    return {
        "digest": new.digest, **patch.event, "operations": revision.operations,
        "added": difference.added, "removed": difference.removed, "changed": difference.changed,
        **{name: value for name, value in optional.items() if value},
    }  # fmt: skip


def _is_unranked(old: IR, new: IR) -> bool:
    """Ranks of executions that overlapped mean nothing any more."""
    return old.lanes and not new.lanes


def _result(run_id: str, base: Base, revision: Revision, patch: Patch, answer: Sequence[str]) -> Patched | PatchRefused:
    match answer:
        case ["patched", status, text]:
            return _patched(run_id, base, revision, patch, status, View(**orjson.loads(text)))
        case ["already", made]:
            return _already(int(made))
        case ["stale", current]:
            message = f"The run was patched meanwhile: it is at revision {current}, and no longer at {base.revision}."
            reason: Reason = "conflict" if patch.revision is None else "precondition"
            return PatchRefused(reason, message, revision=int(current))
        case ["over", status]:
            return _over(status)
        case ["fenced"]:
            return PatchRefused("fenced", "The attempt that asks was given up.", revision=base.revision)
        case ["adopting"]:
            return _following(base)
        case [("live_tokens" | "retyped") as kind, text]:
            tokens = [(token, node, state) for token, node, state in orjson.loads(text)]
            return PatchRefused(kind, _MESSAGES[kind], revision=base.revision, tokens=tokens)
        case ["too_many"]:
            return PatchRefused("too_many", _MESSAGES["too_many"], revision=base.revision)
        case ["unknown"]:
            return _unknown()
        case _:
            raise ResponseError(": ".join(answer))


_MESSAGES = {
    "live_tokens": 'Nodes that the patch removes have live tokens; they can be cancelled: "live_tokens": "cancel".',
    "retyped": "Nodes of another type now have begun their work; it can be begun anew, unless they are maps: "
    '"running": "restart".',
    "too_many": "More items of maps are alive than can be looked at in one step, and the patch removes nodes from them "
    '(which needs "live_tokens": "cancel" then), or changes a type there (which has to wait until fewer are alive).',
}


def _patched(run_id: str, base: Base, revision: Revision, patch: Patch, status: str, view: View) -> Patched:
    difference = revision.difference
    reached = reachable(revision.ir, difference, view, restart=patch.restart)
    touched = (*difference.added, *difference.changed)
    return Patched(
        run_id,
        status,
        base.revision + 1,
        revision.ir.digest,
        difference,
        tuple(node for node in touched if node in reached),
        tuple(node for node in touched if node not in reached),
        tuple(restarted(difference, view)) if patch.restart else (),
        tuple(node for node in view.nodes if node in difference.gone),
        revision.warnings,
    )


def _follows(result: object) -> bool:
    return isinstance(result, PatchRefused) and result.reason == "following"


def _following(base: Base) -> PatchRefused:
    message = "Items of its maps still follow the patch before; ask again in a moment."
    return PatchRefused("following", message, revision=base.revision)


def _already(made: int) -> PatchRefused:
    return PatchRefused("already", f"The run has this patch of its batch: it made revision {made}.", revision=made)


def _unknown() -> PatchRefused:
    return PatchRefused("unknown", "There is no such run, or it ended long ago.")


def _over(status: str) -> PatchRefused:
    return PatchRefused("over", f"The run has ended: {status}. A patch changes the future only.", status=status)
