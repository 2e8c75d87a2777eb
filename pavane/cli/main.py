"""`pavane`: the commands together, and what their failures mean for the exit code.

0 ok, 1 the run or check failed, 2 bad use, 3 not reachable.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import orjson
import typer
from typer.core import TyperGroup

from pavane.cli import (
    approvals,
    ask,
    batch_patches,
    batches,
    compare,
    control,
    demo,
    expire,
    explain,
    expressions,
    fork,
    history,
    letters,
    patches,
    plan,
    recover,
    rehearsal,
    replay,
    revisions,
    runs,
    service,
    show,
    stores,
    up,
    whatif,
    workflows,
)
from pavane.cli.expire import ExpireFailed
from pavane.client import Refused, Unreachable
from pavane.data_folder import FolderInUse
from pavane.documents import UnusableFile
from pavane.embedded.folder import EmbeddedServerError
from pavane.preflight import PreflightError
from pavane.process_group import StartFailed
from pavane.redis_shell import BadCommand
from pavane.settings import SettingsError

FAILED, BAD_USE, NOT_REACHABLE, INTERRUPTED = 1, 2, 3, 130
BAD_STATUS = (400, 401, 403, 404, 405, 415)
"""What the API answers to a request that names something wrong; its other refusals are failed checks."""

EXIT_CODES: dict[type[Exception], int] = {
    SettingsError: BAD_USE,
    UnusableFile: BAD_USE,
    Unreachable: NOT_REACHABLE,
    PreflightError: NOT_REACHABLE,
    FolderInUse: FAILED,
    EmbeddedServerError: FAILED,
    StartFailed: FAILED,
    BadCommand: FAILED,
    ExpireFailed: FAILED,
}


class Commands(TyperGroup):
    """The group of all commands: turns failures into one readable line, or JSON with --json, and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as refused:
            code = BAD_USE if refused.status in BAD_STATUS else FAILED
            _fail(ctx, code, refused.detail, refused.errors, {"status": refused.status, **refused.more})
        except tuple(EXIT_CODES) as error:
            code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
            _fail(ctx, code, str(error))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _fail(
    ctx: typer.Context, code: int, message: str, errors: Sequence[Any] = (), more: Mapping[str, Any] | None = None
) -> NoReturn:
    more = more or {}
    if ctx.obj:
        problem = {"error": message, "errors": list(errors), **more}
        text = orjson.dumps({name: value for name, value in problem.items() if value}).decode()
    else:
        text = f"pavane: {message}"
        if len(errors) > 1 or any(error["message"] not in message for error in errors):
            text += "".join(f"\n  {error['path'] or '/'}  {error['code']}: {error['message']}" for error in errors)
        text += "".join(f"\n  {t.get('node_id', '')}  {t['state']}  {t['token_id']}" for t in more.get("tokens") or ())
    typer.echo(text, err=True)
    raise typer.Exit(code) from None


app = typer.Typer(
    name="pavane",
    cls=Commands,
    help="Runs thousands of items through multi-model LLM workflows on a handful of GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    up,
    demo,
    runs,
    show,
    explain,
    control,
    patches,
    revisions,
    approvals,
    letters,
    ask,
    batches,
    batch_patches,
    whatif,
    history,
    workflows,
    expressions,
    rehearsal,
    plan,
    compare,
    replay,
    fork,
    stores,
    recover,
    expire,
    service,
):
    group.register(app)


def main() -> None:
    app(prog_name="pavane")
