"""The setting PAVANE_CONNECTIONS: databases that `sql` nodes and the sources of batches name."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from history.connection_options import ConnectionOptions
from schemas.limits import LIMITS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DEFAULTS = ConnectionOptions("")


class ConnectionSetting(BaseModel):
    """One connection as the operator writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    url: SecretStr
    write: bool = _DEFAULTS.write
    max_rows: int = Field(_DEFAULTS.max_rows, ge=1, le=10_000_000)
    timeout_ms: int = Field(_DEFAULTS.timeout_ms, ge=1, le=LIMITS.duration_ms)
    pool_size: int = Field(_DEFAULTS.pool_size, ge=1, le=1_000)

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        from history.named_connections import check_url

        check_url(value.get_secret_value())
        return value

    def options(self) -> ConnectionOptions:
        return ConnectionOptions(**{**self.model_dump(), "url": self.url.get_secret_value()})


def read_connections(text: str) -> dict[str, ConnectionOptions]:
    """`{name: {url, write?, max_rows?, timeout_ms?, pool_size?}}` as JSON, or in the file at the path `text`: TOML, or
    JSON if it ends in `.json`. Raises ValueError, which shows nothing of it but names of connections and fields."""
    named = read_named(text)
    if not isinstance(named, dict) or not all(isinstance(fields, dict) for fields in named.values()):
        raise ValueError("it must be an object of objects: {name: {url}}")
    if any(NAME.fullmatch(name) is None for name in named):
        raise ValueError(f"the name of a connection must match {NAME.pattern}")
    return {name: _options(name, fields) for name, fields in named.items()}


def _options(name: str, fields: dict[str, Any]) -> ConnectionOptions:
    try:
        return ConnectionSetting(**fields).options()
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise ValueError(f"{name}: {'; '.join(faults)}".replace("Value error, ", "")) from None


def read_named(text: str) -> Any:
    """What a setting holds, or the file whose path it is. Raises ValueError, which shows nothing of it."""
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text)
        path = Path(text)
        content = path.read_text(encoding="utf-8")
        return json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except OSError:
        raise ValueError("it is neither a JSON object nor the path of a file that can be read") from None
    except ValueError:  # what the parsers say may quote it
        raise ValueError("it is neither JSON nor a file of TOML or JSON") from None
