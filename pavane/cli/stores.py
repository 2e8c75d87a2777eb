"""The servers in use, by hand: redis, psql."""

import os
import shutil
from collections.abc import Sequence
from typing import Annotated

import typer

from pavane.cli.options import Data, Json, example, settings_of
from pavane.cli.output import print_json
from pavane.preflight import PreflightError
from pavane.redis_shell import RedisShell
from pavane.services.connections import database_url, redis_url

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def register(app: typer.Typer) -> None:
    app.command(
        "redis",
        context_settings=PASS_ON,
        epilog=example("pavane redis HGETALL run:run_123", "pavane redis --eval inspect_run run_123", "pavane redis"),
    )(redis_command)
    app.command(
        "psql",
        context_settings=PASS_ON,
        epilog=example("pavane psql -c 'select run_id, status from run_projection limit 5'", "pavane psql"),
    )(psql)


def redis_command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="One command; none: a prompt for many.")
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(
            "--eval", metavar="SCRIPT", help="Run inspect_run, inspect_model, or a .lua file: KEYS, then `,` and ARGV."
        ),
    ] = None,
    as_json: Json = False,
    data: Data = None,
) -> None:
    """A client on the Redis in use."""
    url = redis_url(settings_of(data=data))
    with RedisShell(url) as shell:
        if script is not None:
            answer = shell.eval(script, words or ())
        elif words:
            answer = shell.command(words)
        else:
            shell.repl()
            return
    if as_json:
        print_json(answer)
    elif script is not None and isinstance(answer, list):
        typer.echo("\n".join(str(line) for line in answer))  # a page, as the script laid it out
    else:
        typer.echo(shell.shown(answer))


def psql(
    words: Annotated[list[str] | None, typer.Argument(metavar="ARG", help="Passed on to psql.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With one query after it: its rows as JSON.")] = False,
    data: Data = None,
) -> None:
    """psql on the Postgres in use."""
    url = database_url(settings_of(data=data))
    if as_json:
        print_json(_rows(url, words or ()))
        return
    program = _psql()
    # The DSN goes in by the environment: on the command line everybody could read the password.
    os.environ |= _libpq(url)
    os.execv(program, [program, "--no-psqlrc", *(words or ())])


def _psql() -> str:
    """psql of the embedded Postgres, else one on the PATH. Raises PreflightError."""
    from pavane.embedded import postgres_binaries
    from pavane.embedded.folder import EmbeddedServerError

    try:
        program = postgres_binaries.installed() / "bin/psql"
        if program.exists():
            return str(program)
    except EmbeddedServerError:
        pass  # no wheel for this platform
    if found := shutil.which("psql"):
        return found
    raise PreflightError("there is no psql: neither with the embedded Postgres nor on the PATH")


def _libpq(url: str) -> dict[str, str]:
    """A DSN as libpq's environment variables."""
    from psycopg.conninfo import conninfo_to_dict

    names = {"user": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE",
             "sslmode": "PGSSLMODE"}  # fmt: skip
    return {names[name]: str(value) for name, value in conninfo_to_dict(url).items() if name in names}


def _rows(url: str, words: Sequence[str]) -> list[dict[str, object]]:
    import psycopg
    from psycopg.rows import dict_row

    given = [word for word in words if word != "-c"]
    if len(given) != 1:
        raise typer.BadParameter("--json takes one query")
    try:
        with psycopg.connect(url, row_factory=dict_row) as connection:
            cursor = connection.execute(given[0].encode())
            return cursor.fetchall() if cursor.description else []
    except psycopg.OperationalError as error:
        raise PreflightError(f"Postgres is not reachable: {error}") from None
    except psycopg.Error as error:
        raise typer.BadParameter(str(error).strip()) from None
