"""Patches: patch, rollback; what came of them, for people."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from pavane.cli.batch_patches import batch_options, patch_batch
from pavane.cli.control import UNKNOWN, Target
from pavane.cli.options import Api, Data, Description, DryRun, Json, LiveTokens, Restart, client_of, example
from pavane.cli.output import print_json
from pavane.cli.workflows import text_argument
from pavane.client import Client, Refused
from pavane.documents import read_operations
from schemas.errors import InvalidDocument, pointer
from schemas.patch import apply_patch

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
IfMatch = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only if the run is at this revision.")]

WIDTH = 78
NAMES = (
    ("added", "added"), ("removed", "removed"), ("changed", "changed"), ("restarted", "begun anew"),
    ("cancelled", "cancelled"),
    ("reachable", "still to come"), ("unreachable", "in the past"),
)  # fmt: skip
"""Lists of nodes in an answer, and what people are told."""


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane patch run_0193f2a4 patch.yaml --description 'a warmer tone' --dry-run",
            "pavane patch run_0193f2a4 --set nodes.greet.config.prompt=@new.txt",
            "pavane patch batch_0193f2a4 patch.yaml --canary 5%",
        )
    )(patch)
    app.command(epilog=example("pavane rollback run_0193f2a4 1 --dry-run"))(rollback)


def patch(
    target: Target,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Operations (RFC 6902) as YAML or JSON: a list, or an object with options; `-` is stdin.",
        ),
    ] = None,
    members: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Replace or add a member of the document, nodes by their ids. VALUE is JSON, else text; `@FILE` is a "
            "file's text. Repeatable.",
        ),
    ] = None,
    description: Description = None,
    live_tokens: LiveTokens = None,
    restart: Restart = False,
    if_match: IfMatch = None,
    canary: Annotated[
        str | None, typer.Option(metavar="N|P%", help="Of a batch: the first N items, or P % of them, to begin with.")
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="Of a batch: the live run of this item. Repeatable."),
    ] = None,
    nodes: Annotated[
        list[str] | None, typer.Option("--node", metavar="ID", help="Of a batch: live runs at this node. Repeatable.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Edit the workflow of a run while it runs, or of all runs of a batch: all operations or none, at one moment."""
    if (file is None) == (not members):
        raise typer.BadParameter("give a file of operations, or --set")
    of_batch = batch_options(canary, keys, nodes)
    if of_batch and if_match:
        raise typer.BadParameter("a batch has no revision: --if-match is for a run")
    asked = Asked(_options(description, live_tokens, restart=restart), file, members or (), if_match)
    with client_of(api, data) as client:
        if not of_batch and not target.startswith("batch_"):
            try:
                return _say(_patch_run(client, target, asked, dry_run=dry_run), as_json=as_json)
            except Refused as refused:
                if refused.status != UNKNOWN or target.startswith("run_"):
                    raise
        try:
            patch_batch(client, target, asked.of_batch(client, target) | of_batch, dry_run=dry_run, as_json=as_json)
        except Refused as refused:
            if refused.status != UNKNOWN:
                raise
            raise Refused(UNKNOWN, f"There is no {'' if of_batch else 'run or '}batch {target}.") from None


def _patch_run(client: Client, run_id: str, asked: "Asked", *, dry_run: bool) -> dict[str, Any]:
    body, revision = asked.of_run(client, run_id)
    return _ask(client, run_id, "patch", body, revision, dry_run=dry_run)


def _ask(
    client: Client, run_id: str, action: str, body: Mapping[str, Any], revision: int | None, *, dry_run: bool
) -> dict[str, Any]:
    tag = f'"{revision}"' if revision else None
    answer: dict[str, Any] = client.post("runs", run_id, action, body=body, if_match=tag, dry_run=dry_run or None)
    return answer


def rollback(
    run_id: RunArgument,
    revision: Annotated[int, typer.Argument(min=1, help="The number of a revision: `pavane revisions`.")],
    description: Description = None,
    live_tokens: LiveTokens = None,
    restart: Restart = False,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Give a run the workflow of an earlier revision again, as a new revision."""
    body = {"revision": revision, **_options(description, live_tokens, restart=restart)}
    with client_of(api, data) as client:
        _say(_ask(client, run_id, "rollback", body, if_match, dry_run=dry_run), as_json=as_json)


# -- what is asked -----------------------------------------------------------------------------------
def _options(description: str | None, live_tokens: str | None, *, restart: bool) -> dict[str, Any]:
    running = "restart" if restart else None
    options = {"description": description, "live_tokens": live_tokens, "running": running}
    return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class Asked:
    """What a command line says of a patch."""

    options: Mapping[str, Any]
    file: Path | None
    members: Sequence[str]  # of --set
    revision: int | None

    def of_run(self, client: Client, run_id: str) -> tuple[dict[str, Any], int | None]:
        """The body, and the revision that it is for: with --set the newest, so that nobody is overwritten."""
        if self.file is not None:
            return {**self._in_file, **self.options}, self.revision
        ir, tag = client.get_tagged("runs", run_id, "ir")
        operations = operations_for(ir["workflow"], self.members)
        return {"operations": operations, **self.options}, self.revision or int((tag or "0").strip('"'))

    def of_batch(self, client: Client, batch_id: str) -> dict[str, Any]:
        """The body."""
        if self.file is not None:
            return {**self._in_file, **self.options}
        ir = client.get("batches", batch_id, "ir")
        return {"operations": operations_for(ir["workflow"], self.members), **self.options}

    @cached_property
    def _in_file(self) -> dict[str, Any]:
        assert self.file is not None
        try:
            return read_operations(self.file)
        except InvalidDocument as error:
            raise typer.BadParameter(f"{self.file}: {error}") from None


def operations_for(workflow: Mapping[str, Any], members: Sequence[str]) -> list[dict[str, Any]]:
    """The operations that set `path=value` members one after the other: what is there is replaced, else added.

    Raises BadParameter.
    """
    operations: list[dict[str, Any]] = []
    for member in members:
        path, equals, text = member.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"{member}: not PATH=VALUE", param_hint="--set")
        place = path if path.startswith("/") else pointer(*path.split("."))
        operation = {"op": "replace", "path": place, "value": _value(text)}
        try:
            workflow = apply_patch(workflow, [operation])
        except InvalidDocument:
            operation["op"] = "add"
            workflow = _added(workflow, operation, path)
        operations.append(operation)
    return operations


def _added(workflow: Mapping[str, Any], operation: dict[str, Any], path: str) -> Mapping[str, Any]:
    try:
        return apply_patch(workflow, [operation])
    except InvalidDocument as error:
        raise typer.BadParameter(f"{path}: {error.problems[0].message}", param_hint="--set") from None


def _value(text: str) -> Any:
    if text.startswith("@"):
        return text_argument("--set", text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


# -- what came of it ---------------------------------------------------------------------------------
def _say(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    revision = f"revision {answer['revision']}"
    head = f"would be {revision}; nothing was changed" if answer.get("dry_run") else f"{revision}, {answer['status']}"
    typer.echo(f"{answer['run_id']}: {head}")
    for line in patch_lines(answer):
        typer.echo(line)


def patch_lines(answer: Mapping[str, Any]) -> list[str]:
    """Nodes by what became of them, and warnings; lines fit into 80 columns."""
    lines: list[str] = []
    for name, said in NAMES:
        if nodes := answer.get(name):
            lines += _wrapped(f"  {said:<15}", ", ".join(nodes))
    if not lines:
        lines.append("  no node differs")
    for warning in answer.get("warnings") or ():
        lines += _wrapped("  warning        ", f"{warning['path']}: {warning['message']}")
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
