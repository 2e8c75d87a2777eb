"""Checking without a server: validate, eval."""

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
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import parse_expression


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane validate examples/screening/workflow.yaml"))(validate)
    app.command("eval", epilog=example("""pavane eval 'output.score >= 80' --with '{"output": {"score": 81}}'"""))(
        evaluate
    )


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


def evaluate(
    expression: Annotated[str, typer.Argument(help="A CEL expression, as in conditions and in {{ }}.")],
    variables: Annotated[
        str,
        typer.Option("--with", metavar="JSON", help="Variables by name: input, output, ctx ... `@FILE` reads a file."),
    ] = "{}",
    as_json: Json = False,
) -> None:
    """Try an expression: its value as JSON, or its error with the place."""
    given = json_argument("--with", variables)
    if not isinstance(given, dict):
        raise typer.BadParameter("must be a JSON object of variables", param_hint="--with")
    try:
        value = parse_expression(expression).evaluate(given)
    except ExpressionError as error:
        _refuse(as_json, error.code, error.message, error.expression or expression, error.position)
    except EvaluationError as error:
        _refuse(as_json, error.code, error.message, expression, None)
    if as_json:
        print_json({"value": value})
    else:
        typer.echo(orjson.dumps(value).decode())


def _refuse(as_json: bool, code: str, message: str, expression: str, position: int | None) -> None:
    if as_json:
        print_json({"error": {"code": code, "message": message, "position": position}})
    else:
        if position is not None:
            typer.echo(_pointed(expression, position), err=True)
        typer.echo(f"{code}: {message}", err=True)
    raise typer.Exit(1)


def _pointed(expression: str, position: int) -> str:
    """The line of the expression where the fault is, and a caret below it."""
    start = expression.rfind("\n", 0, position) + 1
    line = expression[start:].split("\n", 1)[0]
    before = "".join(char if char == "\t" else " " for char in expression[start:position])
    return f"  {line}\n  {before}^"


def json_argument(name: str, text: str) -> Any:
    """JSON given on the command line, or as `@FILE` (`@-` is stdin). Raises BadParameter."""
    try:
        if text.startswith("@"):
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text("utf-8")
        return orjson.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint=name) from None
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{text[1:]} is not UTF-8: {error}", param_hint=name) from None
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=name) from None
