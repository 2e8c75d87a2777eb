"""Tables of GPUs and models, at the widths of terminals."""

from typing import Any, cast

import pytest
from rich.console import Console

from pavane.cli.show import held_models
from pavane.client import Client
from pavane.machines import machines

REASON = "connection refused at http://127.0.0.1:11434, asked 5 times"


def held(model: str, running: int, state: str = "ready") -> dict[str, Any]:
    return {"model": model, "state": state, "running": running, "slots": 8, "memory": 4_000_000_000, "loads": 1}


def gpu(number: int, *models: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "runner_id": f"runner-{number}", "gpu": f"gpu-{number}", "kind": "8GB", "engine": "simulated",
        "state": "working", "focus_model": None, "target": None, "models": list(models), "loads": 12, "held": None,
        "reason": None, "active_share": 0.93, "loading_share": 0.03, "idle_share": 0.04, **fields,
    }  # fmt: skip


def model(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": name, "queued": 90, "interactive": 0, "running": 8, "oldest_s": 12.5, "rate_per_min": 210.0,
        "holders": ["runner-1"], "breaker": None, "breakers": [], "loads": 4, "measured": {}, **fields,
    }  # fmt: skip


MODELS = [
    model("gemma3:4b", holders=["runner-1", "elsewhere"]),
    model("phi3", queued=12_345, interactive=3, oldest_s=4_000.0, rate_per_min=None),
    model("llama3.1:8b", oldest_s=0.2, holders=[], breakers=[{"runner": "runner-3", "reason": REASON}]),
    model("idle", queued=0, running=0, loads=0, oldest_s=None),
]
GPUS = [
    gpu(1, held("phi3", 2), held("gemma3:4b", 8), focus_model="gemma3:4b"),
    gpu(2, held("qwen2.5:7b", 0, "loading"), target="qwen2.5:7b", state="loading"),
    gpu(3, held("phi3", 3, "draining"), target="llama3.1:8b", state="held", held=REASON),
    gpu(4, state="waiting", reason="runner-1 drives this engine", active_share=None),
    gpu(5, engine=None),
]


def drawn(width: int, runners: list[dict[str, Any]] | None = None) -> list[str]:
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(machines(MODELS, GPUS if runners is None else runners))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_at_any_width(width: int) -> None:
    lines = drawn(width)
    words = " ".join(" ".join(lines).split())
    assert all(len(line) <= width for line in lines) and "…" not in words
    for part in ("gemma3:4b 8/8, phi3 2/8", "loading qwen2.5:7b", "12345 3 1 h 6 min", REASON):
        assert part in words


def test_a_line_a_gpu_and_a_line_a_model() -> None:
    assert drawn(120) == [
        "",
        "model        queued  fast     oldest  running  per min  loads  on",
        "gemma3:4b        90             12 s        8      210      4  gpu-1, elsewhere",
        "phi3          12345     3  1 h 6 min        8               4  gpu-1",
        "llama3.1:8b      90              1 s        8      210      4",
        f"llama3.1:8b is held by runner-3: {REASON}",
        "",
        "simulated GPU  state    models, slots in use                 loads  active  loading  idle",
        "gpu-1 8GB      working  gemma3:4b 8/8, phi3 2/8                 12     93%       3%    4%",
        "gpu-2 8GB      loading  loading qwen2.5:7b                      12     93%       3%    4%",
        "gpu-3 8GB      held     draining phi3 3/8, next llama3.1:8b     12     93%       3%    4%",
        "gpu-4 8GB      waiting                                          12               3%    4%",
        f"gpu-3 is held: {REASON}",
        "gpu-4 is waiting: runner-1 drives this engine",
    ]


def test_a_simulated_gpu_beside_a_real_one_says_so() -> None:
    lines = drawn(120, [gpu(1), gpu(2, engine="ollama", kind=None)])
    assert [line.split("working")[0].split() for line in lines[-2:]] == [["gpu-1", "8GB", "simulated"], ["gpu-2"]]


def test_nothing_works() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(machines([], []))
    assert capture.get().strip() == ""


def test_show_says_why_a_queued_tasks_model_is_not_served() -> None:
    class Api:
        def get(self, *path: str) -> dict[str, Any]:
            assert path == ("models",)
            return {"models": MODELS}

    tokens = [
        {"state": "queued", "stream": "wf.tasks.agent.llama3.1:8b:interactive"},
        {"state": "queued", "stream": "wf.tasks.agent.phi3"},
        {"state": "running", "stream": "wf.tasks.agent.gemma3:4b"},
    ]
    lines = held_models(cast(Client, Api()), tokens)
    assert [line.plain for line in lines] == [f"llama3.1:8b is held by runner-3: {REASON}"]
    assert held_models(cast(Client, None), [{"state": "queued", "stream": "wf.tasks.function"}]) == []
