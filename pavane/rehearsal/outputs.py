"""Scripted outputs against what their node may give at all: one that no execution could give is the case's fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema.protocols import Validator

from agent_runner.failure import TaskFailed
from agent_runner.web.call import make_call
from agent_runner.web.caller import RETRIED
from pavane.rehearsal.fault import CaseFault
from pavane.rehearsal.reply import Reply
from schemas.compiler.json_schema import schema_validator
from schemas.ir import Node
from schemas.values import ValueTooLarge, encode_value


def check_status(node: Node, rendered: Mapping[str, Any], key: str, status: int) -> None:
    """Raises TaskFailed where the caller of http nodes would."""
    call = make_call(node.config, rendered, key)
    if not call.expects(status):
        klass = "rate_limit" if status == 429 else "http_status"
        raise TaskFailed(klass, f"{call.method} {call.url} answered {status}", retryable=status in RETRIED)


class OutputRules:
    """The rules of one workflow's nodes; schemas are compiled once."""

    def __init__(self) -> None:
        self._validators: dict[int, tuple[Any, Validator]] = {}  # by identity; the schema is kept alive with it

    def checked(self, node: Node, reply: Reply) -> Any:
        """The output as an execution would give it. Raises CaseFault."""
        value = reply.output
        try:
            encode_value(value)
        except ValueTooLarge as error:
            raise CaseFault(reply.place, str(error)) from None
        rule = getattr(self, f"_{node.type}", None)
        return rule(node, reply.place, value) if rule else value

    def check_schema(self, schema: Any, value: Any, place: str, what: str) -> None:
        """Raises CaseFault where `value` misses the schema of `what`."""
        known = self._validators.get(id(schema))
        if known is None:
            known = self._validators[id(schema)] = (schema, schema_validator(schema))
        fault = next(known[1].iter_errors(value), None)
        if fault is not None:
            raise CaseFault(place, f"misses {what} at {fault.json_path}: {fault.message[:300]}")

    def _agent(self, node: Node, place: str, value: Any) -> Any:
        schema = node.config.get("response_format")
        if schema is not None:
            self.check_schema(schema, value, place, "the node's response_format")
            return value
        text = value.get("text") if isinstance(value, Mapping) and value.keys() == {"text"} else value
        if not isinstance(text, str):
            raise CaseFault(place, "an agent without response_format gives text: write a string, or {text: ...}")
        return {"text": text}

    def _http(self, node: Node, place: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("status"), int):
            raise CaseFault(place, "an http node gives {status, headers?, body?}")
        if unknown := sorted(value.keys() - {"status", "headers", "body"}):
            raise CaseFault(place, f"`{unknown[0]}` is none of status, headers, body")
        return {"headers": {}, "body": None, **value}

    def _sql(self, node: Node, place: str, value: Any) -> Any:
        rows = value.get("rows") if isinstance(value, Mapping) and value.keys() == {"rows"} else value
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise CaseFault(place, "an sql node gives {rows: [{column: value}]}")
        return {"rows": rows}

    def _human(self, node: Node, place: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise CaseFault(place, "an answer is an object")
        if node.config.get("form") is not None:
            self.check_schema(node.config["form"], value, place, "the node's form")
        choices = node.config.get("choices")
        if choices is not None and value.get("choice") not in choices:
            raise CaseFault(place, f"`choice` must be one of {', '.join(choices)}")
        return value
