"""eval: an expression, template or condition, tried on given or on recorded data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import print_json
from pavane.cli.workflows import json_argument
from pavane.client import Client
from pavane.documents import read_document
from pavane.moments import NoSuchMoment, RecordedRun, event_of
from schemas.compiler import checks
from schemas.compiler.survey import Place, Survey
from schemas.conditions.condition import Condition
from schemas.errors import Problem
from schemas.expressions.error import EvaluationError, ExpressionError, TemplateError
from schemas.expressions.expression import parse_expression
from schemas.expressions.fault import fault_position
from schemas.expressions.template import parse_template
from schemas.expressions.values import TYPE_NAMES
from schemas.ir import IR
from schemas.limits import LIMITS

Variables = Mapping[str, Any]


@dataclass(eq=False)
class Wrong(Exception):
    """What is in error: `position` is the offset into `expression`, which is empty where there is no one place."""

    code: str
    message: str
    expression: str = ""
    position: int | None = None


def register(app: typer.Typer) -> None:
    app.command(
        "eval",
        epilog=example(
            """pavane eval 'output.score >= 80' --with '{"output": {"score": 81}}'""",
            "pavane eval 'output.score' --run run_0193f2a4 --at quality --iteration 1",
            """pavane eval --condition '{"type": "jsonpath", "path": "$.rows[?@.ok]"}' --run run_0193f2a4 --at check""",
        ),
    )(evaluate)


def evaluate(
    expression: Annotated[str | None, typer.Argument(help="A CEL expression, as in conditions and in {{ }}.")] = None,
    variables: Annotated[
        str,
        typer.Option("--with", metavar="JSON", help="Variables by name: input, output, ctx ... `@FILE` reads a file."),
    ] = "{}",
    template: Annotated[bool, typer.Option("--template", help="The text is a template: CEL in {{ }}.")] = False,
    condition: Annotated[
        str | None, typer.Option(metavar="JSON|FILE", help="Instead of an expression: a condition, as in a workflow.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Variables as this run recorded them at --at.")] = None,
    at: Annotated[str | None, typer.Option(metavar="NODE", help="Of --run: as at this node's last execution.")] = None,
    leaving: Annotated[
        bool, typer.Option("--leaving", help="Of --at: as the conditions of its edges see it; output is its own.")
    ] = False,
    iteration: Annotated[int | None, typer.Option(min=0, help="Of --at: in this pass of its loop.")] = None,
    item: Annotated[
        str | None, typer.Option(metavar="I", help="Of --at: for this item of its map; `3.7` in nested maps.")
    ] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Try an expression: its value and type, or its error with the place. A false condition is a value: exit code 0."""
    if (expression is None) == (condition is None) or (template and condition is not None):
        raise typer.BadParameter("give an expression, an expression with --template, or --condition")
    if (run is None) != (at is None) or (at is None and (leaving or iteration is not None or item is not None)):
        raise typer.BadParameter("--run and --at go together; --leaving, --iteration and --item go with them")
    given = json_argument("--with", variables)
    if not isinstance(given, dict):
        raise typer.BadParameter("must be a JSON object of variables", param_hint="--with")
    try:
        if run is not None and at is not None:
            with client_of(api, data) as client:
                given = _recorded(client, run, at, leaving=leaving, iteration=iteration, item=item) | given
        if condition is not None:
            value, kind = _condition(condition, given), "bool"
        elif template:
            value, kind = _template(expression or "", given)
        else:
            value, kind = _expression(expression or "", given)
    except Wrong as wrong:
        _refuse(wrong, as_json=as_json)
    if as_json:
        print_json({"value": value, "type": kind})
    else:
        typer.echo(f"{orjson.dumps(value).decode()}  {kind}")


def _recorded(client: Client, run_id: str, node_id: str, **which: Any) -> dict[str, Any]:
    recorded = RecordedRun(
        client.get("runs", run_id),
        IR.from_json(orjson.dumps(client.get("runs", run_id, "ir"))),
        [event_of(event) for event in client.events(run_id)],
    )
    try:
        moment = recorded.moment(node_id, **which)
    except NoSuchMoment as none:
        raise Wrong("no-such-moment", str(none)) from None
    for name in moment.missing:
        typer.echo(f"a large value that a later one replaced is known by its name alone: {name}", err=True)
    return dict(moment.variables)


def _expression(text: str, variables: Variables) -> tuple[Any, str]:
    try:
        parsed = parse_expression(text)
        value = parsed.evaluate(variables)
        return value, TYPE_NAMES[type(parsed.value(variables))]
    except ExpressionError as error:
        raise Wrong(error.code, error.message, error.expression or text, error.position) from None
    except EvaluationError as error:
        raise _located(error.code, error.message, text, variables) from None


def _template(text: str, variables: Variables) -> tuple[Any, str]:
    try:
        value = parse_template(text).render(variables)
    except ExpressionError as error:
        raise Wrong(error.code, error.message, error.expression or text, error.position) from None
    except TemplateError as error:
        raise _located(error.code, error.reason, error.expression, variables) from None
    return value, TYPE_NAMES[type(value)]


def _condition(given: str, variables: Variables) -> bool:
    source = json_argument("--condition", given) if given.lstrip()[:1] in ("{", "@") else read_document(Path(given))
    survey = Survey(LIMITS)
    checks.condition(Place(survey), source)
    if survey.problems:
        raise _problem(survey.problems[0])
    condition = Condition(source)
    try:
        return condition.holds(variables)
    except EvaluationError as error:
        text = source["expression"] if source["type"] == "cel" else source.get("of", "")
        raise _located(error.code, error.message, text, variables) from None


def _problem(problem: Problem) -> Wrong:
    return Wrong(problem.code, f"{problem.path or '/'}: {problem.message}")


def _located(code: str, message: str, expression: str, variables: Variables) -> Wrong:
    """The error with its place. What takes too long is not looked into, part by part."""
    try:
        position = fault_position(expression, variables) if expression and code != "budget" else None
    except ExpressionError:  # the start of a text, which the error of a template may name
        position = None
    return Wrong(code, message, expression, position)


def _refuse(wrong: Wrong, *, as_json: bool) -> NoReturn:
    if as_json:
        error = {"code": wrong.code, "message": wrong.message, "position": wrong.position}
        print_json({"error": error | ({"expression": wrong.expression} if wrong.expression else {})})
    else:
        if wrong.position is not None:
            typer.echo(_pointed(wrong.expression, wrong.position), err=True)
        typer.echo(f"{wrong.code}: {wrong.message}", err=True)
    raise typer.Exit(1)


def _pointed(expression: str, position: int) -> str:
    """The line of the expression where the fault is, and a caret below it."""
    start = expression.rfind("\n", 0, position) + 1
    line = expression[start:].split("\n", 1)[0]
    before = "".join(char if char == "\t" else " " for char in expression[start:position])
    return f"  {line}\n  {before}^"
