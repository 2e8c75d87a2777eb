"""The key of an engine's lease: one engine has one, from whatever machine it is driven."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def engine_key(url: str, machine: str) -> str:
    """`host:port/path`, a loopback host being `machine`: on another machine that is another engine."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{machine.lower() if _is_loopback(host) else host}:{port}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
