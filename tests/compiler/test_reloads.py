"""One model with several load-time options: the warning, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.compiler.compiler import compile_workflow
from schemas.errors import Problem
from tests.compiler.documents import Document, agent, flow, mapped, opened


def tool(document: Document) -> Document:
    return {"workflow": {"name": "ask", "description": "Asks.", "document": document}}


def reloading(*nodes: Document) -> list[Problem]:
    return [w for w in compile_workflow(flow(*nodes)).warnings if w.code == "other-load-options"]


def test_it_names_both_nodes_the_options_and_the_way_out() -> None:
    first = agent("extract", options={"num_ctx": 4096, "temperature": 0.1})
    (warning,) = reloading(first, agent("grade", options={"num_ctx": 8192, "num_gpu": 20, "temperature": 0.9}))
    assert (warning.path, warning.code) == ("/nodes/1/config/options", "other-load-options")
    assert "`extract` and `grade` use the model `gemma3:4b`" in warning.message
    assert "`num_ctx` 4096, `num_gpu` unset in `extract`, `num_ctx` 8192, `num_gpu` 20 in `grade`" in warning.message
    assert warning.message.endswith("give both the same options.")


@pytest.mark.parametrize(
    ("nodes", "paths"),
    [
        ([agent("a"), agent("b", options={"temperature": 1})], []),
        ([agent("a", options={"num_ctx": 9}), agent("b", options={"num_ctx": 9, "seed": 1})], []),
        ([agent("a"), agent("b", model="phi3", options={"num_ctx": 9})], []),
        ([agent("a", options={"num_ctx": 9}), agent("b")], ["/nodes/1/config"]),
        # once for each other way, however many agents go it
        (
            [agent("a"), *(agent(f"n{n}", options={"num_ctx": 8 + n % 2}) for n in range(6))],
            ["/nodes/1/config/options", "/nodes/2/config/options"],
        ),
        (
            [mapped("m", agent("a", options={"num_ctx": 9})), agent("b")],
            ["/nodes/1/config"],
        ),
        (
            [agent("a"), opened("workflow", "c", document=flow(agent("b", options={"num_ctx": 9})))],
            ["/nodes/1/config/document/nodes/0/config/options"],
        ),
        (
            [agent("a", tools=[{"handler": "h"}, tool(flow(agent("b", options={"num_ctx": 9})))])],
            ["/nodes/0/config/tools/1/workflow/document/nodes/0/config/options"],
        ),
        ([agent("a"), opened("workflow", "c", workflow_id="other")], []),
    ],
)
def test_where_it_is_warned_of(nodes: list[Any], paths: list[str]) -> None:
    assert [warning.path for warning in reloading(*nodes)] == paths
