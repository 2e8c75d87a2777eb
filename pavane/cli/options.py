"""Options that many commands share, and the settings that they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pavane.client import Client
from pavane.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Api = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The API. Default: PAVANE_API, else the `pavane up` that runs in --data."),
]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Data folder of a `pavane up`. Default: PAVANE_DATA.")]
ReadyFd = Annotated[int | None, typer.Option(hidden=True)]


def settings_of(**options: Any) -> Settings:
    """The environment's settings with the given options on top. Raises SettingsError."""
    return Settings.from_environment().with_options(**options)


def client_of(api: str | None, data: Path | None) -> Client:
    """A client of the API that the options, the environment or the data folder name."""
    return Client.of(settings_of(api=api, data=data))


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "[bold]Example[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)
