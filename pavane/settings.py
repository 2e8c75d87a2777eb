"""Every setting of Pavane, read from the environment here and nowhere else."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

import pavane
from agent_runner.tools.mcp_server import McpServer
from agent_runner.web.origin import Hosts
from history.connection_options import ConnectionOptions
from history.store_options import StoreOptions
from pavane.mcp_servers import McpServerSetting
from pavane.named_connections import NAME, read_connections, read_named
from schemas.ids import MCP_SERVER
from schemas.limits import LIMITS, Limits
from schemas.prices import NO_PRICES, Prices


class SettingsError(ValueError):
    """A setting has a value that it can not have; the text names the variable, not the value."""


class CredentialSetting(BaseModel):
    """A header with a secret, and the hosts that it may go to."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    header: str = Field("Authorization", pattern=r"^[A-Za-z0-9-]{1,128}$")
    value: SecretStr
    hosts: tuple[str, ...] = Field(min_length=1)

    @field_validator("value")
    @classmethod
    def _check_value(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", value.get_secret_value()):
            raise ValueError("a value is printable ASCII without spaces around it")
        return value

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Hosts(value)
        return value


def default_data_folder() -> Path:
    """Where data lies by the XDG base directory specification: `~/.local/share/pavane`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "pavane"


class Settings(BaseModel):
    """One field an environment variable; what the command line gives goes on top with `with_options`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    redis_url: SecretStr | None = Field(
        None,
        alias="REDIS_URL",
        description="Redis or Valkey, 7.0 or newer, maxmemory-policy noeviction. Unset: an embedded Valkey.",
    )
    database_url: SecretStr | None = Field(
        None, alias="DATABASE_URL", description="Postgres, 14 or newer. Unset: an embedded Postgres."
    )
    ollama_host: str = Field(
        "http://127.0.0.1:11434", alias="OLLAMA_HOST", description="Ollama's URL, as Ollama itself reads it."
    )
    engine_key: SecretStr | None = Field(
        None,
        alias="PAVANE_ENGINE_KEY",
        description="The key that engines want, if they want one: sent to them alone, as `Authorization: Bearer`.",
    )
    data: Path = Field(
        default_factory=default_data_folder,
        alias="PAVANE_DATA",
        description="Folder of the embedded servers. Unset: `pavane` in XDG_DATA_HOME or ~/.local/share.",
    )
    prefix: str = Field(
        "",
        alias="PAVANE_PREFIX",
        max_length=64,
        pattern=r"^[A-Za-z0-9_.:{}-]*$",
        description="Put before every Redis key and Pub/Sub channel.",
    )
    handlers: tuple[str, ...] = Field(
        (),
        alias="PAVANE_HANDLERS",
        description="Modules whose public functions are handlers of `function` nodes, separated by commas.",
    )
    http_hosts: tuple[str, ...] = Field(
        (),
        alias="PAVANE_HTTP_HOSTS",
        description="Hosts that an `http` node may call although its document does not name them: `example.org`, "
        "`*.example.org`, `http://10.0.0.7:8000`, separated by commas.",
    )
    credentials: Mapping[Annotated[str, Field(pattern=rf"^{NAME.pattern}$")], CredentialSetting] = Field(
        {},
        alias="PAVANE_CREDENTIALS",
        description="Credentials of `http` nodes, as JSON, or the path of a TOML or JSON file: "
        "`{name: {value, hosts: [...], header?}}`; the header is `Authorization` if none is given, and a host without "
        "a scheme means https.",
    )
    connections: dict[str, ConnectionOptions] = Field(
        default_factory=dict,
        alias="PAVANE_CONNECTIONS",
        description="Postgres databases that documents name, as JSON, or the path of a TOML or JSON file: "
        "`{name: {url, write?, max_rows?, timeout_ms?, pool_size?}}`.",
    )
    mcp_servers: Mapping[Annotated[str, Field(pattern=rf"^{MCP_SERVER.pattern}$")], McpServerSetting] = Field(
        {},
        alias="PAVANE_MCP_SERVERS",
        description="MCP servers whose tools agents may call, as JSON, or the path of a TOML or JSON file: "
        "`{name: {command: [...], env?: [variables]}}` or `{name: {url, headers?: {header: variable}}}`.",
    )
    retention_s: int = Field(
        86_400,
        alias="PAVANE_RETENTION_S",
        ge=0,
        description="Seconds that the Redis keys of an ended run stay.",
    )
    snapshot_every: int = Field(
        500,
        alias="PAVANE_SNAPSHOT_EVERY",
        ge=10,
        le=1_000_000,
        description="Events of a run after which the recorder keeps its whole state again, so that a state of long ago "
        "is read quickly.",
    )
    recover: bool = Field(
        False,
        alias="PAVANE_RECOVER",
        description="Whether the recorder, unasked, lets unfinished runs go on when Redis has come back empty "
        "(`pavane recover`); `pavane up --recover` sets it.",
    )
    history_days: int | None = Field(
        None,
        alias="PAVANE_HISTORY_DAYS",
        ge=1,
        le=36_500,
        description="Days that the events of an ended run stay in Postgres; the recorder drops older ones, a month at "
        "a time. Unset: for ever.",
    )
    history_export: Path | None = Field(
        None,
        alias="PAVANE_HISTORY_EXPORT",
        description="Folder of the recorder into which events are exported before they are dropped.",
    )
    artifact_store: str | None = Field(
        None,
        alias="PAVANE_ARTIFACT_STORE",
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.!*'()-]+)*/?$",
        description="Where recorded artifacts go instead of Postgres: `s3://bucket` or `s3://bucket/prefix`; endpoint, "
        "region and credentials from the standard `AWS_` variables. It needs the extra `pavane[s3]`.",
    )
    admit_per_gpu: int = Field(
        500,
        alias="PAVANE_ADMIT_PER_GPU",
        ge=1,
        description="Items of one batch that are in flight at most, for each live agent runner; the rest wait.",
    )
    host: str = Field("127.0.0.1", alias="PAVANE_HOST", description="Address that the API listens on.")
    port: int = Field(8080, alias="PAVANE_PORT", ge=0, le=65_535, description="Port of the API; 0: any free one.")
    hosts: tuple[str, ...] = Field(
        (),
        alias="PAVANE_HOSTS",
        description="Host names besides loopback under which the API is asked, separated by commas.",
    )
    origins: tuple[str, ...] = Field(
        (),
        alias="PAVANE_ORIGINS",
        description="Origins of other pages that may call the API (`https://ui.example.org`), separated by commas.",
    )
    api_keys: tuple[SecretStr, ...] = Field(
        (),
        alias="PAVANE_API_KEYS",
        description="API keys as `name:role:key`, separated by commas; roles: reader, operator, admin. "
        "With none, the API listens on loopback only.",
    )
    api: str | None = Field(
        None,
        alias="PAVANE_API",
        description="URL of the API that commands talk to. Unset: the instance in PAVANE_DATA, else this machine's.",
    )
    api_key: SecretStr | None = Field(
        None, alias="PAVANE_API_KEY", description="The key that commands show to the API."
    )
    limits: Limits = Field(
        LIMITS,
        alias="PAVANE_LIMITS",
        description="Limits that differ from the default, as `name=number` separated by commas.",
    )
    prices: Prices = Field(
        NO_PRICES,
        alias="PAVANE_PRICES",
        description="What models and GPUs cost, as JSON: `{gpu_hour?, models?: {name: {prompt, completion}}}`; tokens "
        "per million, all in one currency. Costs are computed when they are read.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="PAVANE_LOG_LEVEL", description="The least severe level that is logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto",
        alias="PAVANE_LOG_FORMAT",
        description="json: one object a line; text: for people; auto: text on a terminal, else json.",
    )

    @field_validator("handlers", "api_keys", "hosts", "origins", "http_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("credentials", "mcp_servers", mode="before")
    @classmethod
    def _parse_named(cls, value: Any) -> Any:
        return read_named(value) if isinstance(value, str) else value

    @field_validator("connections", mode="before")
    @classmethod
    def _parse_connections(cls, value: Any) -> Any:
        return read_connections(value) if isinstance(value, str) else value

    @field_validator("engine_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("a key is printable ASCII without spaces")
        return value

    @field_validator("http_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Hosts(value)
        return value

    @field_validator("prices", mode="before")
    @classmethod
    def _parse_prices(cls, value: Any) -> Any:
        return Prices.parse(value) if isinstance(value, str) else value

    @field_validator("limits", mode="before")
    @classmethod
    def _parse_limits(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        given: dict[str, int] = {}
        for pair in filter(None, map(str.strip, value.split(","))):
            name, _, number = pair.partition("=")
            if name not in Limits.__dataclass_fields__:
                raise ValueError(f"there is no limit named {name!r}")
            if not number.isdecimal() or int(number) == 0:
                raise ValueError(f"the limit {name} needs a positive whole number")
            given[name] = int(number)
        return replace(LIMITS, **given)

    def mcp(self, environment: Mapping[str, str] | None = None) -> list[McpServer]:
        """The MCP servers, with what they name of `environment` (default: the process's). Raises SettingsError."""
        given = os.environ if environment is None else environment
        servers = []
        for name, setting in self.mcp_servers.items():
            try:
                servers.append(setting.server(name, given))
            except LookupError as error:
                raise SettingsError(f"PAVANE_MCP_SERVERS: {name}: the variable {error.args[0]} is not set") from None
        return servers

    def store(self, environment: Mapping[str, str] | None = None) -> StoreOptions | None:
        """Where artifacts go, with what `environment` (default: the process's) says of it; None: to Postgres."""
        if self.artifact_store is None:
            return None
        given = os.environ if environment is None else environment
        return StoreOptions(
            self.artifact_store,
            endpoint=given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL") or None,
            region=given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or None,
            access_key_id=given.get("AWS_ACCESS_KEY_ID") or None,
            secret_access_key=given.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=given.get("AWS_SESSION_TOKEN") or None,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings that `environment` (default: the process's) gives; an empty variable counts as unset.

        Raises SettingsError with one line for each bad variable.
        """
        given = os.environ if environment is None else environment
        known = [field.alias for field in cls.model_fields.values() if field.alias]
        return cls._checked({name: given[name] for name in known if given.get(name)})

    def with_options(self, **options: Any) -> Self:
        """A copy where each option that is not None replaces the field of its name. Raises SettingsError."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return self._checked(values | {name: value for name, value in options.items() if value is not None})

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
            raise SettingsError("\n".join(lines)) from None


def described() -> list[tuple[str, str, str]]:
    """(variable, default, description) of every setting: what the documentation must contain."""
    return [
        (
            field.alias or name,
            "" if field.default in (None, (), {}, LIMITS, NO_PRICES) else _shown(field.default),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _shown(default: object) -> str:
    return "" if "Undefined" in type(default).__name__ else str(default)


def default_variables() -> dict[str, str]:
    """This process's environment without our settings: for a private instance that shares nothing with others."""
    ours = {name for name, _, _ in described()}
    return {name: value for name, value in os.environ.items() if name not in ours}


def without_password(url: str) -> str:
    """A URL fit for logs and terminals: the password replaced by `***`."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    login, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login.split(':')[0]}:***@{place}"))


def examples_folder() -> Path:
    """The examples: inside the installed package, or at the top of the repository it is run from."""
    package = Path(pavane.__file__).parent
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "examples"
