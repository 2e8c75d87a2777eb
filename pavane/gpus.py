"""GPUs as a command line names them, and what this machine says of its own."""

import ipaddress
import re
import subprocess
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST = 64
"""GPUs on one command line."""
ANSWER_S = 5.0
"""How long nvidia-smi may take."""
USABLE = 0.93
"""Of a card's memory: the driver, the desktop and fragmentation take the rest."""
_UNITS = {"MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s?([MG]B)", re.IGNORECASE | re.ASCII)
_CARDS = re.compile(r"(?:(\d{1,3})x)?(\w+)", re.ASCII)
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class GpuCard:
    """Its kind, fit for a name ("" if unknown), and the bytes that models may take there (0 if unknown)."""

    kind: str = ""
    memory: int = 0


def memory_bytes(text: str) -> int:
    """`7.4GB`, `24GB`, `800MB`, decimal as on the box. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size: write 7.4GB or 800MB")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def simulated_cards(text: str) -> list[str]:
    """The cards that `8GB,24GB` or `2x8GB` names, one a GPU. Raises ValueError."""
    from agent_runner.engines.simulated.gpu import CARDS

    cards: list[str] = []
    for part in text.split(","):
        found = _CARDS.fullmatch(part.strip())
        if found is None or found[2] not in CARDS:
            raise ValueError(f"{part.strip()!r} is none of {', '.join(CARDS)}, nor 2x of one")
        cards += [found[2]] * int(found[1] or 1)
    if not 1 <= len(cards) <= MOST:
        raise ValueError(f"{len(cards)} GPUs; 1 to {MOST} can be simulated")
    return cards


def local_gpu(url: str) -> GpuCard:
    """The GPU that the engine at `url` drives, if it runs on this machine and nvidia-smi shows exactly one here. Else,
    and where nvidia-smi does not answer, nothing is known."""
    if not _is_loopback(urlsplit(url).hostname or ""):
        return GpuCard()
    lines = _ask().strip().splitlines()
    name, _, mebibytes = lines[0].rpartition(",") if len(lines) == 1 else ("", "", "")
    if not mebibytes.strip().isdecimal():
        return GpuCard()
    words = re.findall(r"[A-Za-z0-9.]+", name)
    kind = "-".join(word for word in words if word not in ("NVIDIA", "GeForce"))
    return GpuCard(kind[:64], int(int(mebibytes) * 2**20 * USABLE))


def _ask() -> str:
    """What nvidia-smi says of the GPUs, a line each; "" where it is not there, fails or is silent."""
    try:
        process = subprocess.Popen(
            _QUERY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError:
        return ""
    try:
        said, _ = process.communicate(timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: one that hangs in its driver does not die
        return ""
    return said if process.returncode == 0 else ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
