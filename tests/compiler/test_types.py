"""What nodes of the types human, wait, workflow, http and sql may have, and what is known of their outputs."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.compiler.compiler import compile_workflow, validate
from schemas.ir import IR
from schemas.limits import Limits
from tests.compiler.documents import Document, branch, closed, flow, mapped, opened, task, transform

B = task("b")
URL, METHOD = "/nodes/0/config/url", "/nodes/0/config/method"
OK = closed(ok={"type": "boolean"})


def human(**config: Any) -> Document:
    return opened("human", "x", **config)


def wait(**config: Any) -> Document:
    return opened("wait", "x", **config)


def child(**config: Any) -> Document:
    return opened("workflow", "x", **config)


def http(url: Any = "https://example.com/", **config: Any) -> Document:
    return opened("http", "x", **{"method": "GET", "url": url, **config})


def sql(**config: Any) -> Document:
    return opened("sql", "x", **{"connection": "erp", "query": "SELECT 1", **config})


def reading(first: Document, text: str, **fields: Any) -> Document:
    """first -> r, and r reads."""
    reader = task("r", config={"args": {"x": "{{ " + text + " }}"}})
    return flow(first, reader, edges=f"{first['id']} r", **fields)


READ = "/nodes/1/config/args/x"
INNER = "/nodes/0/config/document"
REFUSED: dict[str, tuple[Document, str, str]] = {
    # which fields a node may have
    "timeout of a human": (flow(human() | {"timeout_ms": 5}), "/nodes/0/timeout_ms", "task-only"),
    "retry of a workflow": (flow(child(workflow_id="c") | {"retry": {}}), "/nodes/0/retry", "task-only"),
    "queue timeout of a human": (flow(human() | {"queue_timeout_ms": 5}), "/nodes/0/queue_timeout_ms", "task-only"),
    "timeout of a workflow": (flow(child(workflow_id="c") | {"timeout_ms": 0}), "/nodes/0/timeout_ms", "out-of-range"),
    "on_error to nowhere": (flow(human() | {"on_error": ["z"]}), "/nodes/0/on_error/0", "unknown-node"),
    "on_error of a transform": (flow(transform("x", y="1") | {"on_error": []}), "/nodes/0/on_error", "task-only"),
    # human
    "a prompt of a wrong kind": (flow(human(prompt=3)), "/nodes/0/config/prompt", "wrong-type"),
    "a prompt with a fault": (flow(human(prompt="{{ inptu }}")), "/nodes/0/config/prompt", "unknown-variable"),
    "a form with a fault": (flow(human(form={"type": "objekt"})), "/nodes/0/config/form/type", "bad-schema"),
    "a form of text": (flow(human(form={"type": "string"})), "/nodes/0/config/form/type", "bad-schema"),
    "a form without the choice": (flow(human(form=OK, choices=["yes"])), "/nodes/0/config/form", "bad-schema"),
    "no choices": (flow(human(choices=[])), "/nodes/0/config/choices", "out-of-range"),
    "a choice of a wrong kind": (flow(human(choices=[True])), "/nodes/0/config/choices/0", "wrong-type"),
    "a choice twice": (flow(human(choices=["a", "b", "a"])), "/nodes/0/config/choices/2", "bad-value"),
    "reminders at once": (flow(human(remind_ms=0)), "/nodes/0/config/remind_ms", "out-of-range"),
    "deadline of text": (flow(human(deadline_ms="1h")), "/nodes/0/config/deadline_ms", "wrong-type"),
    "deadline_path without a deadline": (flow(human(deadline_path=[])), "/nodes/0/config/deadline_path", "needs-field"),
    "deadline_path to nowhere": (
        flow(human(deadline_ms=1, deadline_path=["z"])),
        "/nodes/0/config/deadline_path/0",
        "unknown-node",
    ),
    "a cycle over deadline_path": (
        flow(B, human(deadline_ms=1, deadline_path=["b"]), edges="b x"),
        "/nodes/0",
        "forward-cycle",
    ),
    # wait
    "a wait for nothing": (flow(wait()), "/nodes/0/config", "missing-field"),
    "a wait for two things": (flow(wait(for_ms=1, event="e")), "/nodes/0/config/event", "exclusive-fields"),
    "a negative time": (flow(wait(for_ms=-1)), "/nodes/0/config/for_ms", "out-of-range"),
    "a time in words": (flow(wait(for_ms="5 minutes")), "/nodes/0/config/for_ms", "wrong-type"),
    "a date that is no expression": (flow(wait(until="2030-01-01T00:00:00Z")), "/nodes/0/config/until", "bad-value"),
    "until with a fault": (flow(wait(until="timestamp(")), "/nodes/0/config/until", "syntax"),
    "an event from data": (flow(wait(event="{{ input.name }}")), "/nodes/0/config/event", "bad-name"),
    "a key without an event": (flow(wait(for_ms=1, key="k")), "/nodes/0/config/key", "needs-field"),
    "a deadline of a time": (flow(wait(for_ms=1, deadline_ms=5)), "/nodes/0/config/deadline_ms", "needs-field"),
    "a deadline_path of an event": (
        flow(wait(event="e", deadline_path=[])),
        "/nodes/0/config/deadline_path",
        "needs-field",
    ),
    # workflow
    "no child": (flow(child()), "/nodes/0/config", "missing-field"),
    "two children": (flow(child(workflow_id="c", document=flow(B))), INNER, "exclusive-fields"),
    "a version of a document": (flow(child(document=flow(B), version=1)), "/nodes/0/config/version", "needs-field"),
    "version 0": (flow(child(workflow_id="c", version=0)), "/nodes/0/config/version", "out-of-range"),
    "an id of a child": (flow(child(workflow_id="C C")), "/nodes/0/config/workflow_id", "bad-name"),
    "input": (flow(child(workflow_id="c", input=["{{ nope }}"])), "/nodes/0/config/input/0", "unknown-variable"),
    "a document of a wrong kind": (flow(child(document="c")), INNER, "wrong-type"),
    "a document without nodes": (flow(child(document={"id": "c"})), INNER, "missing-field"),
    "a fault in a document": (
        flow(child(document=flow(B, edges="b z"))),
        f"{INNER}/edges/0/to",
        "unknown-node",
    ),
    "a node of the parent": (
        flow(B, child(document=reading(task("y"), "ctx.b.output")), edges="b x"),
        "/nodes/1/config/document/nodes/1/config/args/x",
        "unknown-node",
    ),
    "the parent's item": (
        flow(mapped("m", child(document=reading(task("y"), "item")))),
        "/nodes/0/config/nodes/0/config/document/nodes/1/config/args/x",
        "outside-map",
    ),
    # http
    "no method": (flow(opened("http", "x", url="https://a.b/")), "/nodes/0/config", "missing-field"),
    "a method of small letters": (flow(http(method="get")), METHOD, "bad-value"),
    "a url of a wrong kind": (flow(http(7)), URL, "wrong-type"),
    "a url with a fault": (flow(http("https://a.b/{{ nope }}")), URL, "unknown-variable"),
    "no scheme": (flow(http("example.com/x")), URL, "bad-url"),
    "another scheme": (flow(http("file:///etc/passwd")), URL, "bad-url"),
    "another scheme before data": (flow(http("ftp://{{ input.host }}/")), URL, "bad-url"),
    "no host": (flow(http("https:///x")), URL, "bad-url"),
    "a port that is none": (flow(http("https://example.com:http/")), URL, "bad-url"),
    "a login": (flow(http("https://me:secret@example.com/")), URL, "bad-url"),
    "a login from data": (flow(http("https://{{ input.user }}@example.com/")), URL, "bad-url"),
    "a blank": (flow(http("https://example.com/a b")), URL, "bad-url"),
    "a backslash": (flow(http("https://example.com\\@evil.org/")), URL, "bad-url"),
    "link-local": (flow(http("http://169.254.169.254/latest")), URL, "bad-url"),
    "link-local as IPv6": (flow(http("http://[fe80::1]/")), URL, "bad-url"),
    "link-local inside IPv6": (flow(http("http://[::ffff:169.254.169.254]/")), URL, "bad-url"),
    "a header's name": (flow(http(headers={"X Y": "1"})), "/nodes/0/config/headers/X Y", "bad-name"),
    "a header that is the runner's": (flow(http(headers={"Host": "a"})), "/nodes/0/config/headers/Host", "bad-name"),
    "a header of a wrong kind": (flow(http(headers={"X": 1})), "/nodes/0/config/headers/X", "wrong-type"),
    "a body with a fault": (flow(http(body={"a": "{{ 1 + }}"})), "/nodes/0/config/body/a", "syntax"),
    "a status that is none": (flow(http(expect_status=99)), "/nodes/0/config/expect_status", "out-of-range"),
    "a list of statuses": (flow(http(expect_status=[200, "x"])), "/nodes/0/config/expect_status/1", "wrong-type"),
    "no status": (flow(http(expect_status=[])), "/nodes/0/config/expect_status", "out-of-range"),
    "a credential's name": (flow(http(auth="Bearer abc")), "/nodes/0/config/auth", "bad-name"),
    # sql
    "no connection": (flow(opened("sql", "x", query="SELECT 1")), "/nodes/0/config", "missing-field"),
    "an address as the connection": (
        flow(sql(connection="postgres://me:secret@db/x")),
        "/nodes/0/config/connection",
        "bad-name",
    ),
    "an empty query": (flow(sql(query="")), "/nodes/0/config/query", "out-of-range"),
    "a value in the query": (
        flow(sql(query="SELECT * FROM t WHERE id = {{ input.id }}")),
        "/nodes/0/config/query",
        "bad-query",
    ),
    "a parameter that is not given": (
        flow(sql(query="SELECT %(id)s, %(ud)s", params={"id": 1})),
        "/nodes/0/config/query",
        "bad-query",
    ),
    "keys without a gate": (flow(sql(query="SELECT %(keys)s")), "/nodes/0/config/query", "bad-query"),
    "a percent sign": (flow(sql(query="SELECT * FROM t WHERE a LIKE 'x%'")), "/nodes/0/config/query", "bad-query"),
    "a parameter's name": (flow(sql(params={"a b": 1})), "/nodes/0/config/params/a b", "bad-name"),
    "a parameter with a fault": (flow(sql(params={"a": "{{ nope }}"})), "/nodes/0/config/params/a", "unknown-variable"),
    "a gate of a wrong kind": (flow(sql(gate=["k"])), "/nodes/0/config/gate", "wrong-type"),
    "keys of a gate": (flow(sql(gate="k", params={"keys": []})), "/nodes/0/config/params/keys", "bad-name"),
    # outputs
    "a field that the form has not": (reading(human(form=OK), "output.okay"), READ, "no-such-field"),
    "a field of an answer": (reading(http(), "ctx.x.output.code"), READ, "no-such-field"),
    "a field of rows": (reading(sql(), "output.rows.id"), READ, "no-such-field"),
    "sql": (reading(sql(), "output.row"), READ, "no-such-field"),
    "what passes a wait": (
        flow(transform("t", y="1"), wait(for_ms=1), branch("w", ("output.z", [])), edges="t x, x w"),
        "/nodes/2/config/rules/0/condition/expression",
        "no-such-field",
    ),
    "what a deadline gives": (
        flow(human(deadline_ms=1, deadline_path=["r"]), task("r", config={"args": {"x": "{{ output.ok }}"}})),
        READ,
        "no-such-field",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "path", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(document: Document, path: str, code: str) -> None:
    assert [(problem.path, problem.code) for problem in validate(document)] == [(path, code)]


ACCEPTED = {
    "a human of nothing": flow(human()),
    "a human without config": flow({"id": "x", "type": "human"}),
    "an answer": reading(human(), "output.anything"),
    "a choice": reading(human(choices=["yes", "no"]), "output.choice"),
    "a choice beside an open form": reading(
        human(form={"type": "object", "properties": {"why": {}}}, choices=["yes"]), "output.choice + output.why"
    ),
    "a field of the form": reading(human(form=OK), "output.ok"),
    "a deadline without a path": flow(human(deadline_ms=1) | {"on_error": []}),
    "the error of a deadline": reading(human(deadline_ms=1, deadline_path=["r"]), "has(output.error)"),
    "a time": flow(wait(for_ms=1)),
    "a time from data": flow(wait(for_ms="{{ input.minutes * 60000 }}")),
    "until": flow(wait(until="timestamp(input.start) + duration('24h')")),
    "an event": reading(wait(event="order.paid", key="{{ input.id }}", deadline_ms=9, deadline_path=[]), "output.sum"),
    "what passes a wait": flow(transform("t", y="1"), wait(for_ms=1), branch("w", ("output.y", [])), edges="t x, x w"),
    "a child": reading(child(workflow_id="c", version=2, input="{{ input }}") | {"timeout_ms": 5}, "output.any.thing"),
    "a document": reading(child(document=flow(task("x")), input={"a": "{{ input.b }}"}), "output.any.thing"),
    "a port": flow(http("http://localhost:8000/x")),
    "a host alone": flow(http("https://example.com")),
    "an address": flow(http("http://10.1.2.3/")),
    "a path from data": flow(http("https://example.com/{{ input.a }}/b?c={{ input.d }}")),
    "a query from data": flow(http("https://example.com?{{ input.a }}")),
    "an answer's fields": reading(http(), "string(output.status) + output.headers.etag + output.body.a.b"),
    "headers": flow(http(headers={"Accept": "text/plain", "Authorization": "Bearer {{ input.token }}"}, auth="erp")),
    "statuses": flow(http(expect_status=[200, 404], method="POST", body=[1, {"a": "{{ input }}"}])),
    "rows": reading(sql(params={"a": {"b": "{{ input.c }}"}}, gate="{{ input.id }}"), "output.rows[0].name"),
    "what a query may name": flow(sql(query="SELECT %(a)s, 'x%%', %(idempotency_key)s", params={"a": 1})),
    "the keys of a gate": flow(sql(query="SELECT a AS key FROM t WHERE a = ANY(%(keys)s)", gate="{{ input.a }}")),
    "braces of SQL": flow(sql(query="SELECT '{{1,2},{3,4}}'::int[]")),
    "times of a task": flow(http() | {"timeout_ms": 5, "queue_timeout_ms": 5, "retry": {"max_attempts": 1}}),
}


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(document: Document) -> None:
    compiled = compile_workflow(document)
    assert compiled.warnings == ()
    assert IR.from_json(compiled.ir.text) == compiled.ir


@pytest.mark.parametrize(
    "url",
    ["{{ input.url }}", "https://{{ input.host }}/", "https://example.com{{ input.path }}", "http{{ input.s }}://a.b/",
     "https://api.{{ input.region }}.example.com/", "https://example.com:{{ input.port }}/", "HTTPS://{{ input.h }}"],
)  # fmt: skip
def test_a_host_from_data_is_a_warning(url: str) -> None:
    warnings = compile_workflow(flow(http(url))).warnings
    assert [(warning.path, warning.code) for warning in warnings] == [(URL, "host-not-literal")]
    assert "operator" in warnings[0].message


def test_a_secret_in_a_header_is_a_warning() -> None:
    warnings = compile_workflow(flow(http(headers={"authorization": "Bearer abc"}))).warnings
    assert [(w.path, w.code) for w in warnings] == [("/nodes/0/config/headers/authorization", "literal-secret")]


def test_what_a_document_inside_is_warned_of() -> None:
    inside = flow(http("{{ input.url }}"))
    warnings = compile_workflow(flow(child(document=inside))).warnings
    assert [(w.path, w.code) for w in warnings] == [(f"{INNER}/nodes/0/config/url", "host-not-literal")]


def test_documents_in_documents_are_bounded() -> None:
    document = flow(task("t"))
    for _ in range(3):
        document = flow(child(document=document))
    inner = "/nodes/0/config/document" * 3
    assert validate(document) == []
    found = validate(document, Limits(child_depth=2))
    assert [(problem.path, problem.code) for problem in found] == [(inner, "too-deep")]
    assert "child_depth" in found[0].message
    found = validate(document, Limits(workflow_nodes=3))
    assert [(problem.path, problem.code) for problem in found] == [("/nodes", "too-large")]


def test_streams_and_reads() -> None:
    ir = compile_workflow(
        flow(
            task("s"),
            http("https://example.com/{{ ctx.s.output.a }}", headers={"X": "{{ ctx.s.output.b }}"}),
            sql(params={"p": "{{ ctx.x.output.body }}"}, gate="{{ ctx.s.output.key }}") | {"id": "y"},
            human(prompt="{{ ctx.y.output.rows }}") | {"id": "h"},
            edges="s x, x y, y h",
        )
    ).ir  # fmt: skip
    found = {name: node.analysis for name, node in ir.nodes.items()}
    assert (found["x"].stream, found["y"].stream, found["h"].stream) == ("wf.tasks.http", "wf.tasks.sql", None)
    assert {name: node.task_reads for name, node in found.items() if node.task_reads} == {"x": ("s",), "y": ("s", "x")}
    assert {name: node.route_reads for name, node in found.items() if node.route_reads} == {"h": ("y",)}


def test_defaults_are_for_tasks() -> None:
    document = flow(http(), child(workflow_id="c") | {"id": "c"}, defaults={"timeout_ms": 5, "queue_timeout_ms": 6})
    nodes = compile_workflow(document).ir.nodes
    assert (nodes["x"].timeout_ms, nodes["x"].queue_timeout_ms) == (5, 6)
    assert (nodes["c"].timeout_ms, nodes["c"].queue_timeout_ms) == (None, None)
