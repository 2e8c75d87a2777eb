"""validate: checking without a server."""

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from pavane.cli.options import Json, example
from pavane.cli.output import print_json
from pavane.documents import read_document
from schemas.compiler.compiler import compile_workflow
from schemas.errors import InvalidDocument, Problem


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane validate examples/screening/workflow.yaml"))(validate)


def validate(
    workflow: Annotated[Path, typer.Argument(help="A workflow file, YAML or JSON; `-` reads from stdin.")],
    as_json: Json = False,
) -> None:
    """Check a workflow: all of its problems, each with its place, a code and a sentence."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = compile_workflow(read_document(workflow)).warnings
    except InvalidDocument as error:
        problems = error.problems
    if as_json:
        print_json(
            {
                "valid": not problems,
                "errors": [problem.as_dict() for problem in problems],
                "warnings": [problem.as_dict() for problem in warnings],
            }
        )
    else:
        _print_problems(workflow, problems, warnings)
    raise typer.Exit(1 if problems else 0)


def _print_problems(workflow: Path, problems: tuple[Problem, ...], warnings: tuple[Problem, ...]) -> None:
    for problem in problems:
        typer.echo(f"{problem.path or '/'}  {problem.code}: {problem.message}")
    for problem in warnings:
        typer.echo(f"{problem.path or '/'}  warning, {problem.code}: {problem.message}")
    if problems:
        typer.echo(f"{workflow}: {len(problems)} problem{'s' if len(problems) > 1 else ''}", err=True)
    else:
        typer.echo(f"{workflow}: valid")


def json_argument(name: str, text: str) -> Any:
    """JSON given on the command line, or as `@FILE` (`@-` is stdin). Raises BadParameter."""
    try:
        return orjson.loads(text_argument(name, text))
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=name) from None


def text_argument(name: str, text: str) -> str:
    """Text given on the command line, or as `@FILE` (`@-` is stdin). Raises BadParameter."""
    if not text.startswith("@"):
        return text
    try:
        return sys.stdin.read() if text == "@-" else Path(text[1:]).read_text("utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint=name) from None
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{text[1:]} is not UTF-8: {error}", param_hint=name) from None
