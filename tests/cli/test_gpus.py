"""GPUs as people write them, and what a machine says of its own: a script stands in for nvidia-smi."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pavane import gpus
from pavane.gpus import GpuCard, local_gpu, memory_bytes, simulated_cards
from schemas.ids import NAME

HERE = "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("text", "size"), [("7.4GB", 7_400_000_000), ("24GB", 24 * 10**9), ("800MB", 800 * 10**6), (" 1.5 gb ", 15 * 10**8)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "7", "7.4", "GB", "-1GB", "7.4GiB", "1e9GB", "٣GB", "7.4GB GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"7\.4GB"):
        memory_bytes(text)


@pytest.mark.parametrize(
    ("text", "cards"),
    [("8GB", ["8GB"]), ("8GB, 24GB", ["8GB", "24GB"]), ("2x8GB,24GB", ["8GB", "8GB", "24GB"])],
)
def test_cards(text: str, cards: list[str]) -> None:
    assert simulated_cards(text) == cards


@pytest.mark.parametrize("text", ["", "8gb", "8GB,", "2x", "x8GB", "0x8GB", "65x8GB", "64x8GB,8GB", "1000000x8GB"])
def test_what_is_no_card(text: str) -> None:
    with pytest.raises(ValueError, match=r"GB|GPUs"):
        simulated_cards(text)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that goes before all others on the PATH; the file for nvidia-smi in it."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "nvidia-smi"


def says(smi: Path, script: str) -> None:
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)


@pytest.mark.parametrize(
    ("line", "card"),
    [
        ("NVIDIA GeForce RTX 3070, 8192", GpuCard("RTX-3070", 7_988_639_170)),
        ("NVIDIA H100 80GB HBM3, 81559", GpuCard("H100-80GB-HBM3", 79_534_353_285)),
        ("Tesla T4, 15360", GpuCard("Tesla-T4", 14_978_698_444)),
        ("NVIDIA RTX 6000 Ada, Generation (50%), 49140", GpuCard("RTX-6000-Ada-Generation-50", 47_920_132_915)),
    ],
)
def test_the_one_gpu_of_this_machine(smi: Path, line: str, card: GpuCard) -> None:
    says(smi, f'[ "$*" = "--query-gpu=name,memory.total --format=csv,noheader,nounits" ] && echo "{line}"')
    for url in (HERE, "http://localhost:11434", "http://[::1]:11434"):
        assert local_gpu(url) == card
    assert NAME.fullmatch(card.kind)
    assert local_gpu("http://10.0.0.7:11434") == local_gpu("http://ollama:11434") == GpuCard()


@pytest.mark.parametrize(
    "script",
    [
        "printf 'A, 8192\\nB, 8192\\n'",
        "true",
        "echo 'A, 8192'; exit 9",
        "echo 'No devices were found'",
        "echo 'A, [N/A]'",
        "printf '\\377, \\377'",
        "echo 'A, 8192' >&2",
    ],
    ids=["two", "silent", "failed", "none", "unknown memory", "no text", "stderr"],
)
def test_nothing_is_known(smi: Path, script: str) -> None:
    says(smi, script)
    assert local_gpu(HERE) == GpuCard()


def test_no_nvidia_smi(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(smi.parent))
    assert local_gpu(HERE) == GpuCard()


def test_one_that_hangs_is_not_waited_for(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "ANSWER_S", 0.05)
    says(smi, "exec sleep 600")
    began = time.monotonic()
    assert local_gpu(HERE) == GpuCard()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("words", "kind", "memory"),
    [
        (["ollama"], "RTX-3070", 7_988_639_170),
        (["ollama", "--memory", "6GB"], "RTX-3070", 6 * 10**9),
        (["ollama", "--kind", "mine", "--memory", "6GB"], "mine", 6 * 10**9),
        (["ollama", "--url", "http://10.0.0.7:11434"], "", 0),
        (["simulated"], "", 0),
    ],
)
def test_what_a_runner_knows_of_its_gpu(
    smi: Path, pavane: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: list[str], kind: str, memory: int
) -> None:
    says(smi, "echo 'NVIDIA GeForce RTX 3070, 8192'")
    started: list[functools.partial[Any]] = []
    monkeypatch.setattr("pavane.services.process.run_service", lambda name, settings, serve, fd: started.append(serve))
    assert pavane("runner", "--engine", *words).exit_code == 0
    given = started[0].keywords["runner"]
    assert (given.kind, given.memory) == (kind, memory)
