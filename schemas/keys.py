"""Names of everything in Redis. One shard = one prefix (with a hash tag on a cluster).

`lua/parts/keys.lua` derives the same names inside the scripts; a test holds the two together.
A scope is "" for the run itself, else the path of the map item that a token lives in.
"""

from __future__ import annotations

from dataclasses import dataclass

RUNNERS_GROUP = "runners"
"""Consumer group of every task stream."""


_AGENT = "wf.tasks.agent."


def agent_stream(pool: str) -> str:
    """Stream of a model (a batch key: `<model>` or `<model>#<8 hex>`), without the shard's prefix."""
    return f"{_AGENT}{pool}"


def task_stream(node_type: str) -> str:
    """Stream of the task types that need no engine: function, http, sql."""
    return f"wf.tasks.{node_type}"


FAST_LANE = ":interactive"
"""Ends the name of a stream's fast lane."""


def is_fast_lane(stream: str) -> bool:
    return stream.endswith(FAST_LANE)


def pool_of(stream: str) -> str:
    """The pool that a task on this stream is for; "" for the task types that need no engine."""
    return stream.removeprefix(_AGENT).removesuffix(FAST_LANE) if stream.startswith(_AGENT) else ""


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names of one shard."""

    prefix: str = ""

    # -- of one run --------------------------------------------------------------------------------
    def run(self, run_id: str) -> str:
        """hash: status, workflow, revision, digest, seq, live ... (docs/redis.md lists the fields)"""
        return f"{self.prefix}run:{run_id}"

    def ir(self, run_id: str) -> str:
        """string: the IR as JSON, always the newest revision"""
        return f"{self.prefix}ir:{run_id}"

    def first_ir(self, run_id: str) -> str:
        """string: the IR of revision 1, of a run that was patched"""
        return f"{self.prefix}first_ir:{run_id}"

    def tokens(self, run_id: str, scope: str = "") -> str:
        """hash: token id -> record (JSON: node, state, attempt, stream, entry ...)"""
        return f"{self.prefix}tokens:{run_id}{_in(scope)}"

    def context(self, run_id: str, scope: str = "") -> str:
        """hash: node -> output as JSON, or `artifact://sha256-...`"""
        return f"{self.prefix}context:{run_id}{_in(scope)}"

    def ranks(self, run_id: str, scope: str = "") -> str:
        """hash: node -> rank (depth, lane) of the execution whose output `context` holds; `ends|<node>` of its last"""
        return f"{self.prefix}ranks:{run_id}{_in(scope)}"

    def ends(self, run_id: str, scope: str = "") -> str:
        """set: nodes whose last execution emitted nothing"""
        return f"{self.prefix}ends:{run_id}{_in(scope)}"

    def waiting(self, run_id: str, scope: str = "") -> str:
        """hash: waiting node -> its waiting token"""
        return f"{self.prefix}waiting:{run_id}{_in(scope)}"

    def pending(self, run_id: str, scope: str = "") -> str:
        """hash: waiting node -> live tokens that can still reach it in this pass"""
        return f"{self.prefix}pending:{run_id}{_in(scope)}"

    def loop(self, run_id: str, node_id: str, scope: str = "") -> str:
        """hash: current_iteration, the passes completed"""
        return f"{self.prefix}loop:{run_id}{_in(scope)}:{node_id}"

    def arrivals(self, run_id: str, scope: str = "") -> str:
        """hash: `<token>/<predecessor>` -> the value that arrived from there"""
        return f"{self.prefix}arrivals:{run_id}{_in(scope)}"

    def outcomes(self, run_id: str, scope: str = "") -> str:
        """hash: token -> the completion signal that was stored for it and not yet routed"""
        return f"{self.prefix}outcomes:{run_id}{_in(scope)}"

    def parked(self, run_id: str) -> str:
        """list: tokens that wait until the run is resumed"""
        return f"{self.prefix}parked:{run_id}"

    def adopting(self, run_id: str) -> str:
        """set: tokens of maps whose items still follow the run's last patch"""
        return f"{self.prefix}adopting:{run_id}"

    def children(self, run_id: str) -> str:
        """set: child runs that have not ended"""
        return f"{self.prefix}children:{run_id}"

    # -- of one map or item ------------------------------------------------------------------------
    def scope(self, run_id: str, scope: str) -> str:
        """hash: item, live (tokens alive), iteration (outside of the item's own loops)"""
        return f"{self.prefix}scope:{run_id}{_in(scope)}"

    def map(self, run_id: str, path: str) -> str:
        """hash: total, cursor (items started), running, done, parallel, items (the whole list) of a map's token"""
        return f"{self.prefix}map:{run_id}{_in(path)}"

    def results(self, run_id: str, path: str) -> str:
        """hash: index -> result of a map's item"""
        return f"{self.prefix}results:{run_id}{_in(path)}"

    def items(self, run_id: str, path: str) -> str:
        """set: indexes of a map's items that go on"""
        return f"{self.prefix}items:{run_id}{_in(path)}"

    def held(self, run_id: str, path: str) -> str:
        """set: indexes of a map's items that are held, their run having failed"""
        return f"{self.prefix}held:{run_id}{_in(path)}"

    def artifacts(self, run_id: str) -> str:
        """hash: `sha256-<hex>` -> packed bytes of a value over the inline limit"""
        return f"{self.prefix}artifacts:{run_id}"

    # -- of one shard ------------------------------------------------------------------------------
    @property
    def signals(self) -> str:
        """list: completion signals"""
        return f"{self.prefix}completion_signals"

    @property
    def events(self) -> str:
        """stream: what the recorder copies"""
        return f"{self.prefix}events"

    @property
    def dead_letters(self) -> str:
        """stream: what was given up, with its reason"""
        return f"{self.prefix}wf.dead_letters"

    @property
    def ended(self) -> str:
        """pub/sub channel: the id of each run that ends"""
        return f"{self.prefix}completion_events"

    @property
    def timers(self) -> str:
        """sorted set: `<kind> <run> <token> <attempt>` by due time in ms"""
        return f"{self.prefix}timers"

    @property
    def live_runs(self) -> str:
        """sorted set: runs that have not ended, by creation time in ms"""
        return f"{self.prefix}live_runs"

    @property
    def streams(self) -> str:
        """set: every task stream that was ever written to (without prefix)"""
        return f"{self.prefix}streams"

    @property
    def runners(self) -> str:
        """sorted set: runner ids by last heartbeat in ms"""
        return f"{self.prefix}runners"

    @property
    def counters(self) -> str:
        """hash: signals that changed nothing, by kind (duplicate, unknown, malformed, over)"""
        return f"{self.prefix}counters"

    def stream(self, name: str) -> str:
        """a task stream by its name as the IR has it"""
        return f"{self.prefix}{name}"

    def runner(self, runner_id: str) -> str:
        """hash with TTL: heartbeat of one runner"""
        return f"{self.prefix}runner:{runner_id}"

    def model(self, pool: str) -> str:
        """hash: queued, running, served_at, loads, breaker of one model"""
        return f"{self.prefix}model:{pool}"

    @property
    def backlog(self) -> str:
        """hash: lane of a model (`<pool>`, `<pool>:interactive`) -> tasks that are queued, if there are any"""
        return f"{self.prefix}backlog"

    @property
    def backlog_since(self) -> str:
        """hash: lane of a model -> since when there is always one queued, ms"""
        return f"{self.prefix}backlog_since"

    @property
    def served(self) -> str:
        """hash: pool -> when tasks of it were last taken, ms"""
        return f"{self.prefix}served"

    @property
    def leases(self) -> str:
        """hash: engine -> JSON of who drives it and what it holds; `version`, raised when who holds what changes"""
        return f"{self.prefix}leases"

    def measured(self, kind: str) -> str:
        """hash: `<pool>|<what was measured>` -> its moving average on this kind of GPU"""
        return f"{self.prefix}measured:{kind}"

    def workflow(self, workflow_id: str) -> str:
        """hash with TTL: version -> IR of a registered workflow that was used lately"""
        return f"{self.prefix}workflow:{workflow_id}"

    @property
    def approvals(self) -> str:
        """hash: token -> what a person is asked (JSON)"""
        return f"{self.prefix}approvals"

    def listeners(self, event: str) -> str:
        """hash: token that waits for the outside event -> its key"""
        return f"{self.prefix}listeners:{event}"

    def batch(self, batch_id: str) -> str:
        """hash: running, done, failed, and `<node>|<queued|running|done|failed>` counts of one batch"""
        return f"{self.prefix}batch:{batch_id}"


def path_of(run_id: str, token_id: str) -> str:
    """A token's path: its id without the run's. The scope that it lives in is all but the last part."""
    return token_id[len(run_id) + 1 :]


def scope_of(run_id: str, token_id: str) -> str:
    """The scope of a token: "" for the run itself, `<number>-<index>` for an item of the map's token, and so on."""
    return path_of(run_id, token_id).rpartition(".")[0]


def _in(scope: str) -> str:
    return f"/{scope}" if scope else ""
