"""The setting PAVANE_MCP_SERVERS: servers whose tools agents may call, by name."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from agent_runner.tools.mcp_server import McpServer


class McpServerSetting(BaseModel):
    """One server as the operator writes it: a command, or a URL.

    `env` names the variables of our environment that the command sees, `headers` those that hold a header's value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    url: SecretStr | None = Field(None)
    headers: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give either command or url")
        if (self.env and self.url) or (self.headers and self.command):
            raise ValueError("env goes with command, and headers with url")
        if self.url is not None and not self.url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("the url must begin with http:// or https://")
        return self

    def server(self, name: str, environment: Mapping[str, str]) -> McpServer:
        """Raises LookupError with the name of a variable that is not set."""
        return McpServer(
            name,
            command=self.command,
            environment={variable: environment[variable] for variable in self.env},
            url=self.url.get_secret_value() if self.url else "",
            headers={header: environment[variable] for header, variable in self.headers.items()},
        )
