"""Questions: what is missing, what it cost, what errs, is slow, fails; and a search, over recorded events."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from history.batches import NewBatch, NewItem
from history.entry import Entry
from history.history import History
from history.questions.criteria import Criterion, InvalidCriterion, criterion_sql, read_criterion
from history.questions.json_sql import readable
from history.questions.missing import UnknownNode, by_reason
from history.questions.moments import read_moment
from history.questions.scope import Scope, TooMuch, asking, page_of
from history.questions.search import Search, search
from history.questions.whereabouts import Trail, leads_to, place_of
from history.runs import InvalidCursor
from schemas.compiler.compiler import compile_workflow
from schemas.prices import Prices
from schemas.values import encode_value
from tests.store_postgres.samples import NOW, record, run_events

WORKFLOW: dict[str, Any] = {
    "id": "demo",
    "nodes": [
        {"id": "a", "type": "function", "config": {"handler": "a"}},
        {"id": "pick", "type": "branch", "config": {
            "rules": [{"condition": {"type": "cel", "expression": "input.n > 1"}, "next": ["long"]}],
            "default": ["short"]}},
        {"id": "long", "type": "function", "config": {"handler": "long"}, "on_error": ["short"]},
        {"id": "short", "type": "function", "config": {"handler": "short"}},
    ],
    "edges": [{"from": "a", "to": "pick"}],
}  # fmt: skip
IR = compile_workflow(WORKFLOW).ir
BATCH = Scope(batch_id="b")


def token(run: str, number: int, node: str, state: str, at: int, **more: Any) -> dict[str, Any]:
    record = {"node": node, "state": state, "attempt": 1, "depth": 0, "lane": "", "since": at, **more}
    return {f"{run}.{number}": record}


class Told:
    """Events of one run, numbered as they are told; each a second after the one before."""

    def __init__(self, run: str, **started: Any) -> None:
        self.run, self.entries = run, list[Entry]()
        first = {"workflow_id": "demo", "version": 1, "revision": 1, "digest": IR.digest, "input": {"n": 1}}
        self.add("run_started", **{**first, "batch_id": "b", "key": run, **started},
                 tokens=token(run, 1, "a", "queued", NOW), live=1)  # fmt: skip

    @property
    def at(self) -> int:
        return NOW + 1_000 * (len(self.entries) + 1)

    def add(self, kind: str, node: str = "", number: int = 0, **data: Any) -> "Told":
        place = f"{self.run}.{number}" if number else ""
        seq, text = len(self.entries) + 1, orjson.dumps(data)
        self.entries.append(Entry(self.run, seq, kind, self.at, node, place, "", text))
        return self

    def starts(self, node: str, number: int, **record: Any) -> "Told":
        moved = token(self.run, number, node, "running", self.at, **record)
        return self.add("task_started", node, number, attempt=1, runner="gpu-1", tokens=moved, live=1)

    def completes(self, node: str, number: int, follows: Mapping[str, Any] | None = None, **data: Any) -> "Told":
        given = {"outputs": {node: {"score": number}}, **data}
        gone = [f"{self.run}.{number}"]
        return self.add("node_completed", node, number, **given, gone=gone, tokens=follows or {}, live=1)

    def fails(self, kind: str, node: str, number: int, klass: str, **data: Any) -> "Told":
        state = "delayed" if kind == "task_retried" else "dead"
        moved = {"tokens": token(self.run, number, node, state, self.at), **data}
        return self.add(kind, node, number, error={"class": klass, "message": f"no {self.run}", "node": node}, **moved)


async def tell(history: History, database: psycopg.AsyncConnection, *runs: Told, admitted: int = 0) -> None:
    """A batch `b` with an item for each run, and some more that wait."""
    await history.workflows.add_ir(IR)
    items = [NewItem(told.run, told.run, "{}", None) for told in runs]
    items += [NewItem(f"wait_{n}", None, "{}", None) for n in range(2)]
    await history.batches.create(NewBatch("b", "demo", 1, IR.digest, items, NOW))
    await database.execute("UPDATE batch_items SET state = 'admitted' WHERE position < %s", (len(runs) + admitted,))
    await record(database, *[one for told in runs for one in told.entries])


def usage(model: str | None = "m1", ms: int = 100, **more: Any) -> dict[str, Any]:
    used = {"prompt_tokens": 10, "completion_tokens": 2, "execution_time_ms": ms, "load_ms": 0, "llm_model": model}
    return {name: value for name, value in (used | more).items() if value is not None}


# -- what is missing ---------------------------------------------------------------------------------


async def test_where_the_items_are_that_miss_an_output(history: History, database: psycopg.AsyncConnection) -> None:
    def decided(told: Told, rule: Any, node: str) -> Told:
        decisions = [{"node": "pick", "rule": rule, "next": [node]}]
        follows = token(told.run, 2, node, "queued", NOW + 5)
        return told.completes("a", 1, follows, decisions=decisions, note="\0")

    has = decided(Told("has"), 0, "long").completes("long", 2).add("run_completed")
    stored = {"outputs": {}, "stored": {"long": "artifact://x"}}
    large = decided(Told("large"), 0, "long").completes("long", 2, **stored)
    ended = decided(Told("ended"), 0, "long").completes("long", 2, **stored).add("run_completed")
    other = decided(Told("other"), "default", "short").completes("short", 2).add("run_completed")
    failed = Told("failed").fails("node_failed", "a", 1, "timeout")
    failed.add("run_failed", error={"class": "timeout", "message": "no \0", "node": "a"})
    live = decided(Told("live"), 0, "long").starts("long", 2)
    taken = decided(Told("taken"), 0, "long").fails("node_failed", "long", 2, "handler", gone=["taken.2"], tokens={})
    taken.add("run_completed")
    cancelled = Told("cancelled").add("run_cancelled", by="me", reason="enough")
    lost = Told("lost").completes("a", 1, token("lost", 7, "a", "queued", NOW))
    told = {"outputs": {"": {"a": "1"}}, "tokens": token("lost", 2, "pick", "deciding", NOW + 9)}
    lost.add("run_restated", reason="Postgres had lost it", state=told)
    kept = Told("kept").add("run_restated", state={"outputs": {"": {"long": "1"}}, "tokens": {}})
    runs = (has, large, ended, other, failed, live, taken, cancelled, lost, kept)
    await tell(history, database, *runs, admitted=1)

    answer = await history.questions.missing("b", "long")
    assert answer is not None
    found, total = answer
    assert total == 12
    where = {one.run_id: (one.status, one.place.reason, one.place.node, one.place.detail) for one in found}
    assert where == {
        "other": ("COMPLETED", "elsewhere", "pick", "default -> short"),
        "failed": ("FAILED", "failed", "a", "timeout"),
        "live": ("RUNNING", "live", "long", "running"),
        "lost": ("RUNNING", "live", "pick", "deciding"),
        "taken": ("COMPLETED", "taken over", "long", "handler"),
        "cancelled": ("CANCELLED", "cancelled", "", ""),
        "wait_0": ("RUNNING", "starting", "", ""),
        "wait_1": ("PENDING", "pending", "", ""),
    }
    assert [one.key for one in found][-2:] == ["10", "11"]
    assert next(one.place.since for one in found if one.run_id == "live") == NOW + 3_000
    assert {(row["reason"], row["node"]): row["items"] for row in by_reason(found)} == dict.fromkeys(
        [(reason, node) for _, reason, node, _ in where.values()], 1
    )
    assert await history.questions.missing("nobody", "long") is None
    with pytest.raises(UnknownNode, match="It has: a, long, pick, short"):
        await history.questions.missing("b", "lnog")


def test_a_decision_that_led_towards_the_node_is_no_reason() -> None:
    decisions = [{"node": "pick", "rule": "default", "next": ["short"]}, {"node": "a", "edges": ["pick"]}]
    earlier = {"node": "pick", "rule": 1, "next": ["short"]}
    place = place_of("long", Trail("done", "COMPLETED", decisions=[earlier, *decisions]), IR)
    assert (place.node, place.detail) == ("pick", "default -> short")
    assert place_of("gone", Trail("done", "COMPLETED"), IR).reason == "no such node"
    assert place_of("long", Trail("done", "COMPLETED"), IR).node == ""


def test_what_leads_to_a_node() -> None:
    assert leads_to("long", IR) == {"a", "pick", "long"}
    assert leads_to("short", IR) == {"a", "pick", "long", "short"}, "by on_error too"


# -- what it cost ------------------------------------------------------------------------------------


async def test_costs(history: History, database: psycopg.AsyncConnection) -> None:
    one = Told("one", labels={"team": "red"}).fails("task_retried", "a", 1, "timeout", usage=usage(ms=500, gpu_ms=200))
    one.completes("a", 1, usage=usage(load_ms=900, text="\0")).add("tool_called", "a", 1, usage=usage(ms=7_000))
    two = Told("two").completes("a", 1, usage=usage("m2", prompt_tokens="many", gpu_ms=None))
    two.completes("short", 2, usage=usage(None, 40)).add("node_failed", "a", 3, usage="nothing").add("run_completed")
    await tell(history, database, one, two)
    rows, total, cut = await history.questions.costs(BATCH, "model")
    assert [(row["name"], row["tasks"], row["failed"]) for row in rows] == [("m1", 2, 1), ("m2", 1, 0), ("", 2, 1)]
    first = rows[0]
    assert (first["prompt_tokens"], first["completion_tokens"], first["loads"], first["load_s"]) == (20, 4, 1, 0.9)
    assert (first["execution_s"], first["gpu_s"], first["failed_gpu_s"]) == (0.6, 0.3, 0.2)
    assert (rows[1]["prompt_tokens"], rows[1]["gpu_s"], rows[2]["gpu_s"], rows[2]["execution_s"]) == (0, 0.1, 0, 0.04)
    assert (total["tasks"], total["gpu_s"], cut) == (5, 0.4, False)

    async def named(by: str, **more: Any) -> dict[str, int]:
        return {row["name"]: row["tasks"] for row in (await history.questions.costs(BATCH, by, **more))[0]}

    assert await named("node") == {"a": 4, "short": 1}
    assert await named("day", model="m1") == {"2025-10-09": 2}
    assert await named("label", label="team") == {"red": 2, "": 3}
    assert await named("batch") == {"b": 5}
    assert await named("workflow") == {"demo": 5}
    assert (await history.questions.costs(Scope(until=NOW), "model"))[0] == []
    assert (await history.questions.costs(Scope(since=NOW, workflow_id="x"), "model"))[0] == []


async def test_money(history: History, database: psycopg.AsyncConnection) -> None:
    told = Told("one").completes("a", 1, usage=usage("m1")).completes("short", 2, usage=usage("m2", 3_600_000))
    await tell(history, database, told.completes("short", 3, usage=usage(None)))
    some = Prices.parse('{"models": {"m1": {"prompt": 1000, "completion": 500}}}')
    rows, total, _ = await history.questions.costs(BATCH, "model", price=some.cost)
    assert {row["name"]: row["money"] for row in rows} == {"m1": 0.011, "m2": None, "": 0}
    assert total["money"] is None
    every = Prices.parse('{"gpu_hour": 2, "models": {"m1": {"prompt": 1000, "completion": 500}}}')
    rows, total, _ = await history.questions.costs(BATCH, "workflow", price=every.cost)
    assert (rows[0]["money"], total["money"]) == (2.011, 2.011)


# -- what errs, is slow, fails -----------------------------------------------------------------------


async def test_conditions(history: History, database: psycopg.AsyncConnection) -> None:
    def fault(**more: Any) -> dict[str, Any]:
        return {"node": "pick", "rule": 0, "expression": "output.x > 1", "code": "no-such-field", **more}

    one = Told("one").completes("a", 1, condition_errors=[fault(message="old"), fault(rule=1)], outputs={"a": "\0"})
    one.completes("short", 2, condition_errors=[fault(message="new")])
    two = Told("two").completes("a", 1, outputs={"a": '"condition_errors"'})
    await tell(history, database, one, two)
    rows = await history.questions.conditions(BATCH)
    assert [(row["rule"], row["count"], row["runs"], row["message"]) for row in rows] == [
        ("0", 2, 1, "new"),
        ("1", 1, 1, None),
    ]
    assert (rows[0]["first_at"], rows[0]["last_at"]) == (NOW + 2_000, NOW + 3_000)
    assert (rows[0]["workflow_id"], rows[0]["examples"]) == ("demo", ["one"])


async def test_durations(history: History, database: psycopg.AsyncConnection) -> None:
    agent = "wf.tasks.agent.qwen2.5:7b"
    one = Told("one").starts("a", 1)  # queued at NOW, started 2 s later
    follows = token("one", 2, "long", "queued", NOW + 3_000, stream=agent)
    one.completes("a", 1, follows).starts("long", 2, stream=agent).completes(
        "long", 2, usage={"execution_time_ms": 9_000}
    )
    two = Told("two").starts("a", 1).fails("task_retried", "a", 1, "timeout").add("tool_called").add("tool_called")
    two.add("tool_called").starts("a", 1).completes("a", 1)
    await tell(history, database, one, two)
    rows = {row["name"]: row for row in await history.questions.durations(BATCH, "node")}
    assert list(rows) == ["long", "a"]
    assert rows["long"]["execution_s"] == {"p50": 9, "p95": 9, "max": 9}, "as the runner measured it"
    assert rows["long"]["waiting_s"] == {"p50": 1, "p95": 1, "max": 1}
    assert (rows["a"]["tasks"], rows["a"]["total_s"]) == (3, 3), "from its start to its end, the failed one too"
    assert rows["a"]["waiting_s"] == {"p50": 2, "p95": 2, "max": 2}, "a backoff is no waiting"
    assert rows["long"]["examples"] == ["one"]
    assert [row["name"] for row in await history.questions.durations(BATCH, "model")] == ["qwen2.5:7b"]


async def test_failures(history: History, database: psycopg.AsyncConnection) -> None:
    recovered = Told("recovered").starts("a", 1).fails("task_retried", "a", 1, "timeout", usage={"llm_model": "m"})
    recovered.fails("task_retried", "a", 1, "timeout").completes("a", 1)
    final = (
        Told("final").starts("a", 1).fails("task_retried", "a", 1, "timeout").fails("node_failed", "a", 1, "timeout")
    )
    final.add("run_failed", error={"class": "timeout", "message": "no", "node": "a"})
    taken = Told("taken").fails("node_failed", "long", 1, "handler", gone=["taken.1"], raw="\0")
    again = Told("again").fails("task_retried", "a", 1, "handler")
    await tell(history, database, recovered, final, taken, again)
    counted = ("attempts", "tasks", "recovered", "taken_over", "open", "final")
    rows = {row["name"]: row for row in await history.questions.failures(BATCH, "class")}
    assert [rows["timeout"][name] for name in counted] == [4, 2, 1, 0, 0, 1]
    assert [rows["handler"][name] for name in counted] == [2, 2, 0, 1, 1, 0]
    assert list(rows) == ["timeout", "handler"]
    assert rows["timeout"]["newest"]["message"] == "no final"
    assert rows["timeout"]["last_at"] == NOW + 4_000
    assert set(rows["timeout"]["examples"]) == {"recovered", "final"}
    by_node = {
        (row["workflow_id"], row["name"]): row["attempts"] for row in await history.questions.failures(BATCH, "node")
    }
    assert by_node == {("demo", "a"): 5, ("demo", "long"): 1}
    assert {row["name"] for row in await history.questions.failures(BATCH, "model")} == {"", "m"}
    by_runner = {row["name"]: row["attempts"] for row in await history.questions.failures(BATCH, "runner")}
    assert by_runner == {"gpu-1": 4, "": 2}


# -- search ------------------------------------------------------------------------------------------


async def found_by(history: History, scope: Scope = Scope(), **wanted: Any) -> list[str]:  # noqa: B008
    inputs = [read_criterion(text) for text in wanted.pop("inputs", ())]
    outputs = [(node, read_criterion(text)) for node, text in wanted.pop("outputs", ())]
    asked = Search(**wanted, inputs=inputs, outputs=outputs)
    answer = await history.questions.search(scope, asked, limit=50, cursor=None)
    return sorted(run["run_id"] for run in answer["runs"])


async def test_search(history: History, database: psycopg.AsyncConnection) -> None:
    large = encode_value({"who": "x" * 20_000})[0]
    await record(
        database,
        *run_events(
            "ada", {"score": 81, "why": ["late", "thin"]}, input={"who": "Ada \0 L.", "n": 3}, labels={"t": "x"}
        ),
        *run_events("bob", {"score": "81"}, input={"who": "Bob", "n": "3"}, batch_id="b"),
        *run_events("eve", error={"class": "timeout", "message": "no answer \0 in 60 s"}, input=["who"]),
        *run_events("big", {"score": 5}, stored_input=large),
        *run_events("now", input={"who": "ADA"})[:2],
        *run_events("fat", {"text": "x" * 20_000}, input=None),
    )
    assert await found_by(history, inputs=["who~ada"]) == ["ada", "now"]
    assert await found_by(history, inputs=["who=Bob", "n=3"]) == ["bob"]
    assert await found_by(history, inputs=["n=3"]) == ["ada", "bob"]
    assert await found_by(history, inputs=["n>2.5"]) == ["ada"], "a text is no number"
    assert await found_by(history, inputs=["[0]=who"]) == ["eve"]
    assert await found_by(history, inputs=["~who"]) == ["ada", "bob", "eve", "now"]
    assert await found_by(history, outputs=[("a", "score>=81")]) == ["ada"]
    assert await found_by(history, outputs=[("a", "score<81")], status="COMPLETED") == ["big"]
    assert await found_by(history, outputs=[("a", "why[1]=thin")], labels={"t": "x"}) == ["ada"]
    assert await found_by(history, error="NO ANSWER") == ["eve"]
    assert await found_by(history, error="timeout") == ["eve"]
    assert await found_by(history, error="%") == []
    assert await found_by(history, status="RUNNING") == ["now"]
    assert await found_by(history, Scope(batch_id="b")) == ["bob"]
    assert await found_by(history, inputs=["who='; DROP TABLE run_projection; --"]) == []
    wanted = Search(inputs=[read_criterion("who=x")], outputs=[("a", read_criterion("score=1"))])
    answer = await history.questions.search(Scope(), wanted, limit=5, cursor=None)
    assert answer["not_searched"] == {"inputs": 1, "outputs": 1, "unfinished": 1}
    assert (answer["looked_at"], answer["whole"], answer["next_cursor"]) == (6, True, None)


async def test_a_search_that_is_cut_goes_on(history: History, database: psycopg.AsyncConnection) -> None:
    for number in range(7):
        await record(database, *run_events(f"run_{number}", number, at=NOW + number // 2))
    wanted = Search(outputs=[("a", Criterion((), "<", "2"))])
    pages, cursor = [], None
    while True:
        answer = await search(history.pool, Scope(), wanted, limit=1, cursor=cursor, looked_at=3)
        pages.append([run["run_id"] for run in answer["runs"]])
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert pages == [[], ["run_1"], ["run_0"]]
    with pytest.raises(InvalidCursor):
        await search(history.pool, Scope(), wanted, cursor="bm9uZQ")


# -- criteria, moments, bounds -----------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["", "\0", "\\u0000", "1e999", "81"])
values = st.recursive(
    plain | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)
criteria = st.builds(
    Criterion,
    st.lists(st.sampled_from(["a", "b", "0", "1"]), max_size=2).map(tuple),
    st.sampled_from(["=", "~"]),
    st.text("aA1.\\u0e'%", min_size=1, max_size=4) | st.sampled_from(["true", "null", "81", "-0.5"]),
) | st.builds(
    Criterion,
    st.lists(st.sampled_from(["a", "b", "0"]), max_size=2).map(tuple),
    st.sampled_from(["<", ">", "<=", ">=", "="]),
    (st.integers(-100, 100) | st.floats(-1e9, 1e9)).map(str),
)


def naive(criterion: Criterion, value: Any) -> bool:
    for step in criterion.path:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return False
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and criterion.is_number and criterion.operator != "~":
        wanted = float(criterion.value)
        order = {"=": value == wanted, "<": value < wanted, ">": value > wanted, "<=": value <= wanted}
        return order.get(criterion.operator, value >= wanted)
    if criterion.operator not in ("=", "~") or (isinstance(value, dict | list) and criterion.operator == "="):
        return False
    text = value.replace("\0", "\ufffd") if isinstance(value, str) else orjson.dumps(value).decode()
    if criterion.operator == "~":
        return criterion.value.lower() in text.lower()
    return bool(text == criterion.value)


def test_criteria_against_a_naive_reading(database_url: str) -> None:
    """In Postgres they say what Python says, and no value makes them fail."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
        @given(values, criteria)
        @example({"a": "\0"}, Criterion(("b",), "=", "1"))
        @example({"a": []}, Criterion(("a",), "=", "[]"))
        @example({"a": 1e300}, Criterion(("a",), ">", "1"))
        @example({"a": None}, Criterion(("a",), "=", "null"))
        def check(value: Any, criterion: Criterion) -> None:
            text = orjson.dumps(value).decode()
            condition, parameters = criterion_sql(criterion, "value", "c")
            given = "(SELECT %(text)s AS given) AS t"
            query = f"SELECT {condition} FROM (SELECT {readable('given')} AS value FROM {given}) AS v"
            row = connection.execute(query, {**parameters, "text": text}).fetchone()
            if criterion.operator == "~" and isinstance(value, dict | list | float):
                return  # how Postgres and Python write a list, an object or a fraction may differ
            assert row is not None
            assert bool(row[0]) == naive(criterion, value)

        check()
        condition, parameters = criterion_sql(Criterion(("a",), ">", "1"), "value", "c")
        query = f"SELECT {condition} FROM (SELECT '{{\"a\": 1e999999}}'::json AS value) AS v"
        assert connection.execute(query, parameters).fetchone() == (False,), "a number that Postgres can not hold"


def test_criteria_are_read() -> None:
    assert read_criterion("a.b[0].c>=80") == Criterion(("a", "b", "0", "c"), ">=", "80")
    assert read_criterion("~x=y") == Criterion((), "~", "x=y")
    assert read_criterion("name = Ada L. ") == Criterion(("name",), "=", "Ada L.")


@pytest.mark.parametrize(
    "text", ["a", "a..b=1", "a[x]=1", ".a=1", "a<b", "a>1e9999", "a~", "[1]a=1", "a=" + "x" * 2_000, "a=\0",
             ".".join("a" * 20) + "=1"]
)  # fmt: skip
def test_criteria_that_are_none(text: str) -> None:
    with pytest.raises(InvalidCriterion):
        read_criterion(text)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own time is not UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_moments(far_east: None) -> None:
    assert read_moment("7d", NOW) == NOW - 7 * 86_400_000
    assert read_moment("90m", NOW) == NOW - 5_400_000
    assert read_moment("2025-10-09", NOW) == 1_759_968_000_000
    assert read_moment("2025-10-09T02:00:00+02:00", NOW) == 1_759_968_000_000
    assert read_moment(str(NOW), NOW) == NOW
    for text in ("", "yesterday", "7", "-7d", "7y", "1e3", "2025-13-01", "9999-01-01", "0001-01-01"):
        with pytest.raises(ValueError, match=r"7d|1970"):
            read_moment(text, NOW)


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_pages_hold_every_row_once(rows: Sequence[int], limit: int) -> None:
    found, cursor = [], None
    while True:
        page, cursor = page_of(rows, limit, cursor)
        found += page
        if cursor is None:
            break
    assert found == list(rows)


@pytest.mark.parametrize("cursor", ["?", "bm9uZQ", "é", "YXQgLTE", "YXQgOTk5OTk5OTk5OTk"])
def test_a_cursor_of_somebody_else(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        page_of([1], 1, cursor)


async def test_a_question_is_bounded_in_time_and_changes_nothing(history: History) -> None:
    with pytest.raises(TooMuch, match="shorter time"):
        async with asking(history.pool, timeout_ms=20) as connection:
            await connection.execute("SELECT pg_sleep(10)")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with asking(history.pool) as connection:
            await connection.execute("DELETE FROM run_projection")
    async with history.pool.connection() as connection:
        assert await (await connection.execute("SHOW statement_timeout")).fetchone() == ("0",)


async def test_a_time_is_found_by_its_index(history: History, database: psycopg.AsyncConnection) -> None:
    cursor = await database.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'execution_events_at'")
    assert "brin" in str(await cursor.fetchone())
