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
