"""Where an API listens and whom it serves, by the settings: known without loading the API itself."""

import socket
from collections.abc import Sequence

from orchestrator_api.guard import check_binding
from orchestrator_api.options import ApiKey, ApiOptions, hash_key
from pavane.settings import Settings, SettingsError

BACKLOG = 2_048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # What it accepts inherits this. asyncio sets it only where the socket's protocol is named, and every answer would
    # else wait some 40 ms for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_host(settings: Settings) -> None:
    """Raises SettingsError where the API would listen beyond this machine without keys."""
    try:
        check_binding(settings.host, api_options(settings))
    except ValueError as error:
        raise SettingsError(f"PAVANE_HOST: {error}") from None


def api_options(settings: Settings) -> ApiOptions:
    return ApiOptions(
        keys=read_keys([key.get_secret_value() for key in settings.api_keys]),
        hosts=settings.hosts if settings.host in ("0.0.0.0", "::") else (settings.host, *settings.hosts),
        origins=settings.origins,
        events_limit=settings.limits.waiting_events,
        retention_ms=settings.retention_s * 1_000,
        prices=settings.prices,
    )


def read_keys(entries: Sequence[str]) -> tuple[ApiKey, ...]:
    """Keys as `name:role:key`, or the bare key of an admin. Raises SettingsError, which never shows a key."""
    keys = []
    for number, entry in enumerate(entries, 1):
        name, role, key = entry.split(":", 2) if entry.count(":") >= 2 else (f"key{number}", "admin", entry)
        if role not in ("reader", "operator", "admin"):
            raise SettingsError(f"PAVANE_API_KEYS: key {number} has no role: reader, operator or admin")
        keys.append(ApiKey(name, role, hash_key(key)))  # type: ignore[arg-type]
    return tuple(keys)
