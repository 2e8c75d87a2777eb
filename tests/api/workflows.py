"""Workflows that the tests submit."""

from typing import Any

HELLO: dict[str, Any] = {
    "id": "hello",
    "input_schema": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1}},
    },
    "nodes": [
        {"id": "greet", "type": "function", "config": {"handler": "greet", "args": {"name": "{{ input.name }}"}}},
        {"id": "sign", "type": "function", "config": {"handler": "sign"}},
    ],
    "edges": [{"from": "greet", "to": "sign"}],
}

ASK: dict[str, Any] = {
    "id": "ask",
    "nodes": [{"id": "answer", "type": "agent", "config": {"model": "gemma3:4b", "prompt": "Say {{ input.q }}"}}],
    "edges": [],
}


def sized(name: str, size: int) -> dict[str, Any]:
    """An input of HELLO with about `size` bytes."""
    return {"name": name, "text": "x" * size}


REVIEW: dict[str, Any] = {
    "id": "review",
    "nodes": [
        {"id": "draft", "type": "function", "config": {"handler": "draft"}},
        {
            "id": "review",
            "type": "human",
            "config": {
                "prompt": "Publish {{ output.node }}?",
                "assignee": "{{ input.editor }}",
                "choices": ["approve", "reject"],
                "form": {
                    "type": "object",
                    "required": ["choice"],
                    "properties": {"choice": {"type": "string"}, "score": {"type": "integer", "maximum": 10}},
                },
            },
        },
        {"id": "publish", "type": "function", "config": {"handler": "publish"}},
    ],
    "edges": [{"from": "draft", "to": "review"}, {"from": "review", "to": "publish"}],
}

PAID: dict[str, Any] = {
    "id": "paid",
    "nodes": [
        {"id": "order", "type": "function", "config": {"handler": "order"}},
        {"id": "payment", "type": "wait", "config": {"event": "paid", "key": "{{ input.order }}"}},
    ],
    "edges": [{"from": "order", "to": "payment"}],
}

EACH: dict[str, Any] = {
    "id": "each",
    "nodes": [
        {
            "id": "all",
            "type": "map",
            "config": {
                "items": "input.names",
                "nodes": [
                    {"id": "clean", "type": "transform", "config": {"set": {"name": "item"}}},
                    {"id": "judge", "type": "function",
                     "config": {"handler": "judge", "args": {"name": "{{ ctx.clean.output.name }}"}}},
                ],
                "edges": [{"from": "clean", "to": "judge"}],
            },
        }
    ],
    "edges": [],
}  # fmt: skip

CALLS: dict[str, Any] = {
    "id": "calls",
    "nodes": [
        {"id": "ask", "type": "workflow", "config": {"document": HELLO, "input": {"name": "{{ input.name }}"}}},
    ],
    "edges": [],
}
