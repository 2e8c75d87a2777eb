"""Run image: a run's state as the keys that Redis has of it. Pure; `RunRebuild` writes it, `restore_run` wakes it.

Every token of the image is held, as those of a failed run are: waking the run is what a retry does. Tasks that were
queued or executed are queued anew, so nothing of the Redis that is gone (entries, timers, claims) is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from lua.run_control import Command, signal_of
from schemas.held import MADE_APART, held
from schemas.ir import IR
from schemas.keys import Keys, path_of
from schemas.run_state import Reference, RunState, stored_text
from schemas.values import encode_value, unpack

ITEM_MS = 7 * 24 * 3600 * 1000
"""How long an item's keys stay if nobody wakes its run (lua/sweep_map.lua makes them stay)."""
AT_ONCE = 500
"""Fields of a hash that are written by one command."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild needs beside the state. `change`: of a patch that items of its maps have yet to follow, as
    lua/patch_run.lua keeps it in `adopting`."""

    state: RunState
    ir: IR
    artifacts: Mapping[str, bytes]  # name -> packed
    first_ir: str = ""  # text of the IR of revision 1, of a run that was patched
    change: bytes = b""


class RunImage:
    """The keys of one run."""

    def __init__(self, keys: Keys, rebuilt: Rebuilt) -> None:
        self.keys = keys
        self.rebuilt = rebuilt
        self.state, self.ir, self.run_id = rebuilt.state, rebuilt.ir, rebuilt.state.run_id
        self._lists: dict[str, list[Any]] = {}  # token of a map -> its items
        self._items: dict[str, dict[str, Mapping[str, Any]]] = {}  # scope -> token -> record
        for token, record in self.state.tokens.items():
            self._items.setdefault(record.get("scope", ""), {})[token] = record

    # -- the run itself ----------------------------------------------------------------------------
    def run(self) -> Iterator[Command]:
        """Of the run's own scope, its maps' counts included."""
        keys, state, run_id = self.keys, self.state, self.run_id
        yield "HSET", keys.run(run_id), *_flat(self._fields() | self._questions(""))
        yield "SET", keys.ir(run_id), self.ir.text
        if self.rebuilt.first_ir:
            yield "SET", keys.first_ir(run_id), self.rebuilt.first_ir
        for name, packed in self.rebuilt.artifacts.items():
            yield "HSET", keys.artifacts(run_id), name, packed
        yield from self._scope("")
        for token, known in state.maps.items():
            path = path_of(run_id, token)
            yield "HSET", keys.map(run_id, path), *_flat(self._map_fields(token))
            results = {str(index): stored_text(value) for index, value in known.results.items()}
            yield from _hash(keys.results(run_id, path), results)
            if held := [i for i in range(known.cursor) if i not in known.results]:
                for first in range(0, len(held), AT_ONCE):
                    yield "SADD", keys.held(run_id, path), *held[first : first + AT_ONCE]
                yield "PEXPIRE", keys.held(run_id, path), ITEM_MS
            if state.ended_at is not None:  # as long as its items: a retry makes them stay
                yield "PEXPIRE", keys.map(run_id, path), ITEM_MS
                yield "PEXPIRE", keys.results(run_id, path), ITEM_MS

    def _fields(self) -> dict[str, str]:
        state, ir = self.state, self.ir
        streams = {n.analysis.stream for n in ir.nodes.values() if n.analysis.stream}
        if state.priority == "interactive":
            streams |= {f"{stream}:interactive" for stream in streams}
        known = {
            "status": state.status,
            "workflow": state.workflow_id,
            "version": "" if state.version is None else str(state.version),
            "batch": state.batch_id or "",
            "key": state.key or "",
            "priority": state.priority,
            "labels": orjson.dumps(state.labels).decode(),
            "request": str(state.started.get("request", "")),
            "digest": state.digest,
            "revision": str(state.revision),
            "loops": " ".join(ir.loops),
            "streams": " ".join(sorted(streams)),
            "created_at": str(state.created_at),
            "seq": str(state.seq),
            "live": str(state.live),
            "made": str(state.made + MADE_APART),
            "input": stored_text(state.input),
            **(state.started.get("fields") or {}),
        }
        optional = {
            "epoch": state.epoch,
            "paused_at": state.paused_at,
            "paused_ms": state.paused_ms,
            "ended_at": state.ended_at,
            "batch_patch": state.batch_mark,
            "adopting": self.rebuilt.change.decode(),
            "error": orjson.dumps({"error": state.error}).decode() if state.status == "FAILED" else "",
            "forked_from": "{run_id} {seq}".format(**origin) if (origin := state.started.get("forked_from")) else "",
            **{name: state.started.get(name) for name in ("parent", "parent_token")},
        }
        return known | {name: str(value) for name, value in optional.items() if value}

    def _map_fields(self, token: str) -> dict[str, str]:
        known = self.state.maps[token]
        node = self.ir.nodes.get(self.state.tokens[token]["node"])
        parallel = node.map.max_parallel if node and node.map else 1
        return {
            "total": str(known.total),
            "cursor": str(known.cursor),
            "running": str(known.running),
            "done": str(len(known.results)),
            "parallel": str(parallel),
            "items": stored_text(known.items),
            "adopt": "0",
        }

    @property
    def adopting(self) -> list[str]:
        """Tokens of maps whose items have yet to follow the run's last patch."""
        behind = {scope for scope, digest in self.state.adopted.items() if digest != self.state.digest}
        return [token for token in self.state.maps if any(_is_item(path_of(self.run_id, token), s) for s in behind)]

    def following(self) -> Iterator[Command]:
        """Of the items that have yet to follow the run's last patch."""
        if adopting := self.adopting:
            yield "SADD", self.keys.adopting(self.run_id), *adopting

    # -- items of maps -----------------------------------------------------------------------------
    def items(self) -> Iterator[Command]:
        """Of the items of maps: nobody sees them before the run itself is there."""
        for scope in self._items:
            if scope:
                yield from self._item(scope)

    def _item(self, scope: str) -> Iterator[Command]:
        keys, run_id, state = self.keys, self.run_id, self.state
        path, _, index = scope.rpartition("-")
        token = f"{run_id}.{path}"
        item, artifact = encode_value(self._items_of(token)[int(index)])
        if artifact:
            yield "HSET", keys.artifacts(run_id), artifact.name, artifact.packed
            yield "PEXPIRE", keys.artifacts(run_id), ITEM_MS
        iteration = str(state.tokens[token].get("iteration", 0))
        fields = {"live": str(len(self._items[scope])), "iteration": iteration, "item": item, **self._questions(scope)}
        if state.revision > 1:
            fields["adopted"] = state.adopted.get(scope, state.digest)
        yield "HSET", keys.scope(run_id, scope), *_flat(fields)
        yield from self._scope(scope)
        for name in (
            keys.scope, keys.tokens, keys.context, keys.ranks, keys.ends, keys.waiting, keys.pending, keys.arrivals,
            keys.outcomes,
        ):  # fmt: skip
            yield "PEXPIRE", name(run_id, scope), ITEM_MS
        for loop in state.passes.get(scope, {}):
            yield "PEXPIRE", keys.loop(run_id, loop, scope), ITEM_MS

    def _items_of(self, token: str) -> list[Any]:
        """The list that a map runs through."""
        if token not in self._lists:
            items = self.state.maps[token].items
            if isinstance(items, Reference):
                items = unpack(self.rebuilt.artifacts[items.name])
            self._lists[token] = items
        return self._lists[token]

    def _questions(self, scope: str) -> dict[str, str]:
        """What people are asked in a scope, as GET /approvals shows it, until its tokens go on. After a failure they
        are asked anew."""
        found: dict[str, str] = {}
        if self.state.ended_at is not None:
            return found
        for token, question in self.state.opened.items():
            record = self.state.tokens[token]
            if record.get("scope", "") != scope:
                continue
            config = self.ir.nodes[record["node"]].config
            fixed = {name: config[name] for name in ("form", "choices") if name in config}
            head = {"run_id": self.run_id, "node_id": record["node"], "token_id": token}
            approval = {**head, **question, **fixed, "since": record.get("since")}
            found[f"asked {token}"] = orjson.dumps(approval).decode()
        return found

    # -- a scope -----------------------------------------------------------------------------------
    def _scope(self, scope: str) -> Iterator[Command]:
        keys, run_id, state = self.keys, self.run_id, self.state
        tokens = self._items.get(scope, {})
        records = {token: orjson.dumps(self._record(token, record)).decode() for token, record in tokens.items()}
        yield from _hash(keys.tokens(run_id, scope), records)
        yield from _hash(
            keys.context(run_id, scope), {n: stored_text(v) for n, v in state.outputs.get(scope, {}).items()}
        )
        ranks = {name: f"{depth:08d}{lane}" for name, (depth, lane) in state.ranks.get(scope, {}).items()}
        yield from _hash(keys.ranks(run_id, scope), ranks)
        if ends := state.ends.get(scope):
            yield "SADD", keys.ends(run_id, scope), *sorted(ends)
        waiting = {record["node"]: token for token, record in tokens.items() if _is_waiting(record)}
        yield from _hash(keys.waiting(run_id, scope), waiting)
        yield from _hash(keys.pending(run_id, scope), self._pending(tokens.values()))
        for loop, passes in state.passes.get(scope, {}).items():
            yield "HSET", keys.loop(run_id, loop, scope), "current_iteration", str(passes)
        yield from _hash(keys.arrivals(run_id, scope), self._arrivals(tokens))
        yield from _hash(keys.outcomes(run_id, scope), self._outcomes(tokens))

    def _record(self, token: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.state.ended_at is not None and record["state"] in ("dead", "held"):
            return record  # it stays as it is until a retry
        return held(record, answered=token in self.state.answers)

    def _pending(self, records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        counts: Counter[str] = Counter()
        for record in records:
            if record["node"] in self.ir.nodes:
                counts.update(self.ir.nodes[record["node"]].analysis.blocks)
        return {node: str(count) for node, count in counts.items()}

    def _arrivals(self, tokens: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        return {
            f"{token}/{source}": stored_text(value)
            for token, record in tokens.items()
            if record.get("carries")
            for source, value in self.state.arrivals.get(token, {}).items()
        }

    def _outcomes(self, tokens: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        return {
            token: signal_of(self.state.answers[token], token, self.run_id, record["node"]).to_json()
            for token, record in tokens.items()
            if token in self.state.answers
        }


def _is_waiting(record: Mapping[str, Any]) -> bool:
    return "waiting" in (record["state"], record.get("held"))


def _is_item(path: str, scope: str) -> bool:
    return scope.rpartition("-")[0] == path


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _hash(key: str, fields: Mapping[str, str]) -> Iterator[Command]:
    flat = _flat(fields)
    for first in range(0, len(flat), 2 * AT_ONCE):
        yield "HSET", key, *flat[first : first + 2 * AT_ONCE]
