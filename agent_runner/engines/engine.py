"""What the agent runner asks of an engine: chat, load, unload, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from agent_runner.engines.fence import Fence

FailureClass = Literal["timeout", "connection", "rate_limit", "engine_busy", "not_found", "invalid_input", "too_large"]

# The same request may succeed later; the other classes are the request's own fault and permanent.
RETRYABLE: frozenset[FailureClass] = frozenset({"timeout", "connection", "rate_limit", "engine_busy"})


OVERHEAD = 500_000_000
"""Bytes that a loaded model takes beside weights and KV cache: buffers, the driver's context."""


class EngineError(Exception):
    """One request failed. `klass` is the failure's class, `retryable` whether trying again can help."""

    def __init__(self, klass: FailureClass, message: str) -> None:
        super().__init__(message)
        self.klass: FailureClass = klass
        self.message = message

    @property
    def retryable(self) -> bool:
        return self.klass in RETRYABLE


class EngineAway(EngineError):
    """The engine as a whole is not there: no item is to blame, so the runner holds its stream."""

    def __init__(self, message: str) -> None:
        super().__init__("connection", message)


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that the model may call; `parameters` is the JSON Schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool called; neither the name nor the arguments are checked.

    `fault` says why the arguments could not be read at all; then there are none.
    """

    name: str
    arguments: Mapping[str, Any]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message after the prompt: the model's with its `calls`, the result of the tool `tool`, or one more of ours."""

    role: Literal["assistant", "tool", "user"]
    text: str
    calls: Sequence[ToolCall] = ()
    thinking: str = ""  # of the model, which wants to have it back
    tool: str = ""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a model. `response_format` is a JSON Schema that the answer must satisfy.

    `options` go to the engine as they are (temperature, num_ctx ...); `timeout_s` bounds the whole exchange,
    queueing and loading in the engine included. `turns` is the conversation after the prompt.
    """

    model: str
    prompt: str
    timeout_s: float
    system: str | None = None
    response_format: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    turns: Sequence[Turn] = ()
    tools: Sequence[ToolOffer] = ()


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The model's text, as it came, and the tools that it wants to have called.

    `wait_ms` is the wait for the model (engine queue included), `total_ms` the whole request, both as the engine
    measured them.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    wait_ms: int
    total_ms: int
    calls: Sequence[ToolCall] = ()
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class LoadReply:
    """A model is loaded; `load_ms` is what that took, a drain and an eviction before it included."""

    load_ms: int


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in the engine's memory. Sizes are bytes; `size_vram < size` means a part on the CPU."""

    model: str
    size: int
    size_vram: int
    expires_at: datetime | None
    context_length: int | None


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes in memory, in bytes. `slots`: how many requests the engine takes at once, where it says so.

    An estimate from the model's own figures, before it is loaded; rather too large than too small.
    """

    weights: int
    kv_per_slot: int | None  # None: the engine does not say, and so the whole is not known
    slots: int | None = None

    def memory(self, slots: int) -> int | None:
        return None if self.kv_per_slot is None else self.weights + OVERHEAD + slots * self.kv_per_slot


def short_name(model: str) -> str:
    """`phi3:latest` and `phi3` are one model to Ollama; the short form is the one that we compare."""
    return model.removesuffix(":latest")


class Engine(Protocol):
    """Every method raises EngineError or EngineAway and nothing else, and always ends in bounded time.

    But for `chat`, `load` and `unload`, which look at the fence right before they send anything: NotOurs.
    """

    name: str
    url: str
    fence: Fence

    async def chat(self, request: ChatRequest) -> ChatReply: ...

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        """Load the model and keep it until `unload`. Returns when it can answer."""

    async def unload(self, model: str) -> None:
        """Let the model go. Drain it before: not every engine waits for what runs on it.

        Returns soon; with engines that do not wait for memory themselves, when it is free. Unloading what is not
        loaded is fine.
        """

    async def residents(self) -> list[Resident]: ...

    async def models(self) -> list[str]:
        """Short names of the models that the engine could load."""

    async def footprint(self, model: str, options: Mapping[str, Any]) -> Footprint | None:
        """What the model would take, loaded with these options; None where the engine does not say."""

    async def healthy(self) -> bool:
        """Whether the engine answers at all; never raises."""

    async def close(self) -> None: ...
