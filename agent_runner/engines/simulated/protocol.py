"""Ollama's HTTP protocol as the server side sees it: requests checked, replies shaped (its docs/api.md)."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for

from agent_runner.engines.engine import short_name
from agent_runner.engines.simulated.gpu import KV_CONTEXT, LoadOptions, ModelSpec
from agent_runner.engines.simulated.tool_calls import Call, InvalidTools, OfferedTool, parse_tools

MAX_BODY = 64 * 1024 * 1024
FOREVER = timedelta(days=292 * 365)  # Go's longest duration: what Ollama shows for `keep_alive: -1`

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_predict", "seed")


class Refused(Exception):
    """A request that is answered with an HTTP error and {"error": message}."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Ask:
    """A chat or generate request. `prompt` holds all messages but the system's, `opening` those before the model's
    first one. `has_results`: the last message is a tool's. An `empty` request is about the model itself: to load it
    or, with `keep_alive_s` 0, to unload it.
    """

    model: str
    prompt: str
    system: str
    schema: Mapping[str, Any] | str | None
    load_options: LoadOptions
    keep_alive_s: float | None
    stream: bool
    num_predict: int | None
    seed: int | None
    chat: bool
    empty: bool
    opening: str = ""
    tools: tuple[OfferedTool, ...] = ()
    has_results: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took, for the reply: tokens, and times in nanoseconds."""

    prompt_tokens: int
    completion_tokens: int
    load_ns: int
    total_ns: int
    prompt_ns: int
    completion_ns: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The bodies that answer an Ask: many for a stream, one otherwise."""

    ask: Ask
    text: str = ""
    calls: tuple[Call, ...] = ()
    thinking: str = ""
    done_reason: str = "stop"
    usage: Usage | None = None
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def whole(self) -> dict[str, Any]:
        return self._body(self.text, done=True)

    def chunks(self) -> list[dict[str, Any]]:
        """A word at a time, and a last one without text."""
        words = re.findall(r"\S+\s*|\s+", self.text)
        return [*(replace(self, calls=())._body(word, done=False) for word in words), replace(self, text="").whole()]

    def _body(self, text: str, *, done: bool) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.thinking:
            message["thinking"] = self.thinking
        if self.calls:
            message["tool_calls"] = [{"function": call} for call in self.calls]
        said: dict[str, Any] = {"message": message} if self.ask.chat else {"response": text}
        body = {"model": self.ask.model, "created_at": stamp(self.made_at), **said, "done": done}
        if done:
            body["done_reason"] = self.done_reason
        if done and self.usage is not None:
            body |= {
                "total_duration": self.usage.total_ns,
                "load_duration": self.usage.load_ns,
                "prompt_eval_count": self.usage.prompt_tokens,
                "prompt_eval_duration": self.usage.prompt_ns,
                "eval_count": self.usage.completion_tokens,
                "eval_duration": self.usage.completion_ns,
            }
        return body


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises Refused."""
    if not raw:
        raise Refused(400, "missing request body")
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"invalid JSON: {error}"[:300]) from error
    if not isinstance(body, dict):
        raise Refused(400, "invalid JSON: the body must be an object")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_ask(body: Mapping[str, Any], *, chat: bool) -> Ask:
    """A chat or generate request. Raises Refused, naming the field."""
    options = body.get("options") or {}
    if not isinstance(options, Mapping):
        raise Refused(400, "options must be an object")
    for name in _INTEGERS:
        if not isinstance(options.get(name), int | None) or isinstance(options.get(name), bool):
            raise Refused(400, f'option "{name}" must be of type integer')
    system, prompt = _messages(body) if chat else (_string(body, "system"), _string(body, "prompt"))
    roles = [message.get("role") for message in body.get("messages") or ()] if chat else []
    try:
        tools = parse_tools(body.get("tools")) if chat else ()
    except InvalidTools as error:
        raise Refused(400, str(error)) from None
    if not isinstance(stream := body.get("stream", True), bool | None):
        raise Refused(400, "stream must be a boolean")
    return Ask(
        model=parse_model(body),
        prompt=prompt,
        system=system,
        schema=_format(body.get("format")),
        load_options=_load_options(options),
        keep_alive_s=parse_keep_alive(body.get("keep_alive")),
        stream=stream is not False,
        num_predict=options.get("num_predict"),
        seed=options.get("seed"),
        chat=chat,
        empty=not body.get("messages") if chat else not prompt,
        opening=_messages({"messages": body["messages"][: roles.index("assistant")]})[1]
        if "assistant" in roles
        else prompt,
        tools=tools,
        has_results=roles[-1:] == ["tool"],
    )


def parse_model(body: Mapping[str, Any]) -> str:
    """The model's name as it was sent, from `model` or the older `name`. Raises Refused."""
    model = body.get("model") or body.get("name")
    if not isinstance(model, str):
        raise Refused(400, "model is required")
    return model


def parse_keep_alive(value: object) -> float | None:
    """Seconds: from a number of seconds or a Go duration ("5m", "1h30m"); below zero it is for ever."""
    if value is None:
        return None
    if isinstance(value, str):
        seconds = _duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise Refused(400, "keep_alive must be a number of seconds or a duration")
    return math.inf if seconds < 0 or math.isnan(seconds) else seconds


def _duration(text: str) -> float:
    if text in ("0", "-1"):
        return float(text)
    if not (whole := _DURATION.fullmatch(text)):
        raise Refused(400, f"time: invalid duration {json.dumps(text[:100])}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -seconds if whole[1] == "-" else seconds


def _messages(body: Mapping[str, Any]) -> tuple[str, str]:
    """(system text, everything else) of a chat."""
    messages = body.get("messages", [])
    if not isinstance(messages, list):
        raise Refused(400, "messages must be a list")
    system: list[str] = []
    rest: list[str] = []
    for place, message in enumerate(messages):
        content = message.get("content", "") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            raise Refused(400, f"messages[{place}] must be an object with a text as content")
        (system if message.get("role") == "system" else rest).append(content)
    return "\n".join(system), "\n".join(rest)


def _string(body: Mapping[str, Any], key: str) -> str:
    if not isinstance(value := body.get(key) or "", str):
        raise Refused(400, f"{key} must be a string")
    return value


def _format(value: object) -> Mapping[str, Any] | str | None:
    if value is None or value == "":
        return None
    if value == "json":
        return "json"
    if not isinstance(value, dict):
        shown = json.dumps(value)[:100]
        raise Refused(400, f'invalid format: {shown}; expected "json" or a valid JSON Schema object')
    if (fault := _schema_fault(json.dumps(value))) is not None:
        raise Refused(400, f"invalid JSON schema in format: {fault}")
    return value


@functools.lru_cache(maxsize=256)
def _schema_fault(schema: str) -> str | None:
    """What is wrong with a JSON Schema. The same few come with every request."""
    try:
        validator_for(parsed := json.loads(schema), default=Draft202012Validator).check_schema(parsed)
    except SchemaError as error:
        return f"{error.json_path}: {error.message}"[:300]
    return None


def _load_options(options: Mapping[str, Any]) -> LoadOptions:
    """What decides whether a model has to be loaded again. `num_gpu: -1` is Ollama's own choice."""
    named = {name: options.get(name) for name in LoadOptions.__dataclass_fields__}
    given = {name: value for name, value in named.items() if value is not None}
    if given.get("num_gpu") == -1:
        del given["num_gpu"]
    if "num_ctx" in given:
        given["num_ctx"] = min(max(given["num_ctx"], 4), 10_000_000)
    return LoadOptions(**given)


def stamp(moment: datetime) -> str:
    """RFC 3339, as Go writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def describe(spec: ModelSpec) -> dict[str, Any]:
    """A model as /api/tags and /api/ps list it."""
    name = short_name(spec.name)
    full = name if ":" in name else f"{name}:latest"
    family, _, size = name.partition(":")
    return {
        "name": full,
        "model": full,
        "digest": f"{sum(map(ord, full)):064x}",
        "details": {
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": size.upper(),
            "quantization_level": "Q4_K_M",
            "parent_model": "",
        },
    }


def model_info(spec: ModelSpec) -> dict[str, Any]:
    """What /api/show tells of a model's inside: one layer, wide enough that its f16 KV cache takes `kv_gb`.

    The width is whole, so the cache comes out at most 16 KB a slot too large.
    """
    family = short_name(spec.name).partition(":")[0]
    width = math.ceil(spec.kv_gb * 1e9 / KV_CONTEXT / 2 / 2)  # f16; keys and values
    return {
        "general.architecture": family,
        f"{family}.block_count": 1,
        f"{family}.context_length": 131_072,
        f"{family}.embedding_length": width,
        f"{family}.attention.head_count": 1,
        f"{family}.attention.head_count_kv": 1,
        f"{family}.attention.key_length": width,
        f"{family}.attention.value_length": width,
    }
