"""Options that many commands share, and the settings that they make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pavane.client import Client
from pavane.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Api = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The API. Default: PAVANE_API, else the `pavane up` that runs in --data."),
]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for; kept with it.")]
LiveTokens = Annotated[
    Literal["refuse", "cancel"] | None, typer.Option(help="Of nodes that are removed. Default: refuse the patch.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew what runs under another definition.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Data folder of a `pavane up`. Default: PAVANE_DATA.")]
ReadyFd = Annotated[int | None, typer.Option(hidden=True)]


def settings_of(**options: Any) -> Settings:
    """The environment's settings with the given options on top. Raises SettingsError."""
    return Settings.from_environment().with_options(**options)


def client_of(api: str | None, data: Path | None) -> Client:
    """A client of the API that the options, the environment or the data folder name."""
    return Client.of(settings_of(api=api, data=data))


def read_labels(given: Sequence[str]) -> dict[str, str]:
    """`--label NAME=VALUE`, repeated. Raises BadParameter."""
    labels = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text}: not NAME=VALUE", param_hint="--label")
        labels[name] = value
    return labels


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "[bold]Example[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)
