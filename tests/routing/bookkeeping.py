"""What Redis must hold of a run at any moment: counters, keys, and what the events fold to."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from schemas.events import STATUS_OF, read_event
from schemas.fold import fold
from schemas.keys import agent_stream, path_of, scope_of
from schemas.run_state import RunState
from tests.reference.graph import Graph

if TYPE_CHECKING:
    from tests.routing.judged import JudgedPlay

RUN = "run_1"
AGENTS = agent_stream("")
OF_SHARD = (
    "events", "wf.", "streams", "counters", "model:", "backlog", "live_runs", "timers", "completion_signals",
)  # fmt: skip
"""Beginnings of keys that belong to no run."""
OF_SCOPE = ("tokens", "context", "ranks", "ends", "waiting", "pending", "arrivals", "outcomes", "scope", "loop")
OF_MAP = ("map", "results", "items", "held")
ONCE = ("node_completed", "node_opened", "node_answered", "map_started")
LIVE = ("RUNNING", "PAUSED")


class Bookkeeping:
    """Looks at the run of a `JudgedPlay`."""

    def __init__(self, play: JudgedPlay) -> None:
        self.play, self.redis, self.keys = play, play.redis, play.keys
        self.read, self.state = "-", RunState()  # the events folded so far
        self.follow(play.case.workflow)

    def follow(self, workflow: dict[str, Any]) -> None:
        """Hold what comes against this revision of the workflow."""
        self.root = Graph(workflow)
        self.graphs: dict[str, Graph] = {}  # map -> its sub-graph
        todo = [self.root]
        while todo:
            inside = todo.pop().inside
            self.graphs |= inside
            todo += inside.values()

    async def differences(self, over: bool = False) -> list[str]:
        """What is not as it must be, in words. `over`: nothing can happen any more."""
        state, records = await self.folded(), await self._records()
        found = await self._fold(state, records) + await self.backlog()
        if state.status in LIVE:
            found += await self._counters(records) + await self._maps(state, records)
            found += await self._pending(records) + await self._scopes(records)
            found += await self._loops()
        if over:
            found += await self._end(state, records) + await self._left(state)
        return found

    async def folded(self) -> RunState:
        """What the events say of the run."""
        entries = await self.redis.xrange(self.keys.events, self.read)
        if entries:
            events = [event for event in (read_event(fields) for _, fields in entries) if event.run_id == RUN]
            self.read, self.state = f"({entries[-1][0].decode()}", fold(events, self.state)
        return self.state

    # -- what is there ---------------------------------------------------------------------------
    async def _records(self) -> dict[str, dict[str, Any]]:
        """Every token's record as it is stored, those in items too."""
        found: dict[str, dict[str, Any]] = {}
        for key in [self.keys.tokens(RUN), *await self.redis.keys(f"{self.keys.tokens(RUN)}/*")]:
            found |= {t.decode(): orjson.loads(text) for t, text in (await self.redis.hgetall(key)).items()}
        return found

    async def _hash(self, key: str) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in (await self.redis.hgetall(key)).items()}

    # -- fold ------------------------------------------------------------------------------------
    async def _fold(self, state: RunState, records: dict[str, dict[str, Any]]) -> list[str]:
        """Folding the events gives what Redis holds."""
        fields = await self._hash(self.keys.run(RUN))
        sweeping = await self._sweeping()
        kept = {token: record for token, record in records.items() if token in state.tokens or not sweeping}
        pairs: dict[str, tuple[Any, Any]] = {
            "status": (state.status, fields.get("status", "")),
            "seq": (state.seq, int(fields["seq"])),
            "live": (state.live, int(fields["live"])),
            "revision": (state.revision, int(fields["revision"])),
            "digest": (state.digest, fields["digest"]),
            "tokens": (state.tokens, kept),
        }
        for scope in {"", *(path_of(RUN, token).rpartition(".")[0] for token in kept)}:
            at = f" in {scope}" if scope else ""
            outputs = await self._hash(self.keys.context(RUN, scope))
            ends = {node.decode() for node in await self.redis.smembers(self.keys.ends(RUN, scope))}
            pairs |= {
                f"outputs{at}": (state.outputs.get(scope, {}), {n: orjson.loads(v) for n, v in outputs.items()}),
                f"ends{at}": (set(state.ends.get(scope, ())), ends),
                f"arrivals{at}": await self._arrivals(state, scope),
                f"passes{at}": (no_zeros(state.passes.get(scope, {})), await self._passes(scope)),
            }
        return [f"fold: {what}: {apart(*pair)}" for what, pair in pairs.items() if pair[0] != pair[1]]

    async def _arrivals(self, state: RunState, scope: str) -> tuple[Any, Any]:
        """Of the values that are stored with their tokens: what fold has, and what Redis has."""
        stored = {name: orjson.loads(v) for name, v in (await self._hash(self.keys.arrivals(RUN, scope))).items()}
        of = {name: name.partition("/")[::2] for name in stored}
        return {name: state.arrivals.get(token, {}).get(source) for name, (token, source) in of.items()}, stored

    async def _passes(self, scope: str) -> dict[str, int]:
        keys = {loop: self.keys.loop(RUN, loop, scope) for loop in self.play.ir.loops}
        return no_zeros({n: int(await self.redis.hget(key, "current_iteration") or 0) for n, key in keys.items()})

    async def _sweeping(self) -> bool:
        """Items that are over are still being swept away."""
        return any(member.startswith(b"sweep ") for member in await self.redis.zrange(self.keys.timers, 0, -1))

    # -- counters --------------------------------------------------------------------------------
    async def _counters(self, records: dict[str, dict[str, Any]]) -> list[str]:
        """`live` is the number of tokens alive, in the run and in each item."""
        alive = Counter(path_of(RUN, token).rpartition(".")[0] for token, record in records.items() if is_alive(record))
        found = []
        for scope in {"", *alive}:
            key = self.keys.scope(RUN, scope) if scope else self.keys.run(RUN)
            live = int(await self.redis.hget(key, "live") or 0)
            if live != alive[scope] and goes_on(scope, records):
                found.append(f"live of {scope or 'the run'} is {live}, and {alive[scope]} tokens are alive")
        return found

    async def backlog(self) -> list[str]:
        """The backlog of each model's lane is what lies queued on its stream, of all runs; it began with the first."""
        streams = [name.decode() for name in await self.redis.smembers(self.keys.streams)]
        queued: dict[str, list[int]] = {}  # lane -> since when
        for lane in (name.removeprefix(AGENTS) for name in streams if name.startswith(AGENTS)):
            entries = await self.redis.xrange(self.keys.stream(AGENTS + lane))
            pipe = self.redis.pipeline(transaction=False)
            for _, fields in entries:
                run_id, token = fields[b"run"].decode(), fields[b"token"].decode()
                pipe.hget(self.keys.tokens(run_id, scope_of(run_id, token)), token)
            for (entry, _), text in zip(entries, await pipe.execute(), strict=True):
                record = orjson.loads(text) if text else {}
                if record.get("state") == "queued" and record["entry"] == entry.decode():
                    queued.setdefault(lane, []).append(record["since"])
        counts, since = await self._hash(self.keys.backlog), await self._hash(self.keys.backlog_since)
        pairs = {
            "backlog": ({lane: str(len(times)) for lane, times in queued.items()}, counts),
            "lanes of backlog_since": (queued.keys(), since.keys()),
            "lanes that began late": ([], [lane for lane in queued if int(since.get(lane, 0)) > min(queued[lane])]),
        }
        return [
            f"{what}: {found}, and not {expected}" for what, (expected, found) in pairs.items() if expected != found
        ]

    async def _maps(self, state: RunState, records: dict[str, dict[str, Any]]) -> list[str]:
        found = []
        for token, record in records.items():
            if record["state"] != "mapping" or token not in state.tokens:
                continue
            path = path_of(RUN, token)
            counts = await self._hash(self.keys.map(RUN, path))
            results = await self.redis.hlen(self.keys.results(RUN, path))
            scopes = {
                int(key.rpartition(b"-")[2])
                for key in await self.redis.keys(f"{self.keys.scope(RUN, path)}-*")
                if b"." not in key.rpartition(b"-")[2] and key.count(b".") == path.count(".")
            }
            at_once = str(self._graph_around(path, records).config(record["node"]).get("max_parallel", 1_000))
            adopted = await self._is_adopted(path.rpartition(".")[0])
            total, cursor, running, done = (int(counts.get(n, 0)) for n in ("total", "cursor", "running", "done"))
            folded = state.maps[token]
            claims = {
                "parallel = max_parallel": counts["parallel"] == at_once or not adopted,
                "running = cursor - done": running == cursor - done,
                "done = results": done == results,
                "running = items": running == len(scopes),
                "cursor <= total": cursor <= total,
                "running <= max_parallel": running <= int(counts.get("parallel") or 1_000) or state.revision > 1,
                "fold": (folded.total, folded.cursor, len(folded.results)) == (total, cursor, done),
            }
            found += [
                f"map {token}: {claim} does not hold: {counts | {'items': '...'}}, {scopes}"
                for claim, holds in claims.items()
                if not holds
            ]
        return found

    async def _pending(self, records: dict[str, dict[str, Any]]) -> list[str]:
        """`pending` of a waiting node: the live tokens that can still reach it, by the reference's graph."""
        found = []
        for scope in {path_of(RUN, token).rpartition(".")[0] for token in records}:
            if not goes_on(scope, records) or not await self._is_adopted(scope):
                continue
            graph = self._graph(scope, records)
            inside = [r for t, r in records.items() if path_of(RUN, t).rpartition(".")[0] == scope and is_alive(r)]
            expected = {node: sum(record["node"] in graph.blockers[node] for record in inside) for node in graph.waits}
            pending = {node: int(n) for node, n in (await self._hash(self.keys.pending(RUN, scope))).items()}
            if no_zeros(pending) != no_zeros(expected):
                found.append(f"pending in {scope or 'the run'}: {no_zeros(pending)}, and not {no_zeros(expected)}")
        return found

    async def _is_adopted(self, scope: str) -> bool:
        """The scope has followed the last patch of its run."""
        digest = await self.redis.hget(self.keys.run(RUN), "digest")
        if not scope or not await self.redis.hexists(self.keys.run(RUN), "adopting"):
            return True
        return bool(await self.redis.hget(self.keys.scope(RUN, scope), "adopted") == digest)

    def _graph(self, scope: str, records: dict[str, dict[str, Any]]) -> Graph:
        return self.graphs[records[f"{RUN}.{scope.rpartition('-')[0]}"]["node"]] if scope else self.root

    def _graph_around(self, path: str, records: dict[str, dict[str, Any]]) -> Graph:
        """The graph that a token's node is in."""
        return self._graph(path.rpartition(".")[0], records)

    async def _loops(self) -> list[str]:
        """No loop is counted that is none, in the run or in an item that has followed the last patch."""
        found = []
        for raw in await self.redis.keys(f"{self.keys.loop(RUN, '')[:-1]}*"):
            place, _, loop = raw.decode().rpartition(":")
            if loop not in self.play.ir.loops and await self._is_adopted(place.partition("/")[2]):
                found.append(f"{raw.decode()} counts what is no loop")
        return found

    async def _scopes(self, records: dict[str, dict[str, Any]]) -> list[str]:
        """Keys of items and maps are there only while their map's token is, and the item goes on."""
        if await self._sweeping():
            return []
        found = []
        for key in await self._run_keys(RUN):
            kind, _, path = key.partition(f":{RUN}/")
            if not path:
                continue
            if kind in OF_MAP:
                there = f"{RUN}.{path}" in records
            else:
                scope = path.partition(":")[0]
                there = kind in OF_SCOPE and await self.redis.exists(self.keys.scope(RUN, scope)) == 1
                there = there and f"{RUN}.{scope.rpartition('-')[0]}" in records
            if not there:
                found.append(f"{key} is left of what is over")
        return found

    # -- the end ---------------------------------------------------------------------------------
    async def _end(self, state: RunState, records: dict[str, dict[str, Any]]) -> list[str]:
        events = await self.play.events()
        ends = [event.type for event in events if event.type in STATUS_OF]
        anew = state.epoch or any(event.data.get("running") == "restart" for event in events)
        again = [] if anew else twice(events)
        claims = {
            f"no step is made twice {again}": not again,
            "the run ended once an epoch": len(ends) == 1 + state.epoch,
            "the end is its last event but for what is swept": events_after_end(events) <= {"items_held"},
            "nothing is alive": not [r for r in records.values() if is_alive(r)]
            and await self.play.field("live") == "0",
            "events are numbered without gaps": [e.seq for e in events] == list(range(1, len(events) + 1)),
            "no timer is left": not await self.redis.zcard(self.keys.timers),
            "no entry is left": not sum(
                [await self.redis.xlen(s.decode()) for s in await self.redis.smembers(self.keys.streams)]
            ),
            "no dead letter but a failed task": await self._letters() <= 1,
            "nobody is asked, nobody listens": not await self._asked(),
            "no run is live, but for children of one that may be retried": state.status == "FAILED"
            or not await self.redis.zcard(self.keys.live_runs),
        }
        return [f"broken: {claim}" for claim, holds in claims.items() if not holds]

    async def _asked(self) -> list[Any]:
        return [*await self.redis.keys("approvals"), *await self.redis.keys("listeners:*")]

    async def _letters(self) -> int:
        """Dead letters of the run; those of its child runs are theirs."""
        letters = await self.redis.xrange(self.keys.dead_letters)
        own = [fields for _, fields in letters if fields.get(b"run") == RUN.encode()]
        odd = [fields for _, fields in letters if fields[b"reason"] != b"task"]
        return len(own) + 2 * len(odd)

    async def _left(self, state: RunState) -> list[str]:
        """Once it is over, every key of the run has a TTL, and none is left of its items unless they are held."""
        found = []
        for raw in await self.redis.keys("*"):
            key = raw.decode()
            if key.startswith(OF_SHARD):
                continue
            if not re.match(rf"[a-z_]+:{RUN}\b", key):
                found.append(f"{key} is no key of a run")
            elif await self.redis.pttl(key) < 0 and not (state.status == "FAILED" and f":{RUN}:" in key):
                found.append(f"{key} has no TTL")
            elif "/" in key and state.status == "COMPLETED":
                found.append(f"{key} is left of an item")
        return found

    async def _run_keys(self, run_id: str) -> list[str]:
        return [key.decode() for key in await self.redis.keys(f"*:{run_id}/*")]


def is_alive(record: dict[str, Any]) -> bool:
    return record["state"] not in ("held", "dead")


def goes_on(scope: str, records: dict[str, dict[str, Any]]) -> bool:
    """No map around has failed: its items are not looked after any more, and swept away. Nor are they to be restored
    still, after a retry of their run."""
    if not scope:
        return True
    if any(record["state"] in ("held", "dead") and record.get("scope") == scope for record in records.values()):
        return False
    path = scope.rpartition("-")[0]
    map = records.get(f"{RUN}.{path}", {})
    return map.get("state") == "mapping" and goes_on(path.rpartition(".")[0], records)


def no_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def apart(folded: Any, stored: Any) -> str:
    """Where what the events fold to and what Redis holds differ."""
    if isinstance(folded, dict) and isinstance(stored, dict):
        names = [name for name in {**folded, **stored} if folded.get(name) != stored.get(name)]
        folded, stored = ({name: values.get(name) for name in names} for values in (folded, stored))
    return f"{folded}, and in Redis {stored}"


def twice(events: list[Any]) -> list[tuple[str, str]]:
    """What a token can do only once, and did again."""
    done = Counter((e.type, e.token_id) for e in events if e.type in ONCE)
    return [one for one, many in done.items() if many > 1]


def events_after_end(events: list[Any]) -> set[str]:
    last = max((event.seq for event in events if event.type in STATUS_OF), default=0)
    return {event.type for event in events if event.seq > last}
