"""`compile_workflow`: a workflow document -> its IR, or all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.compiler.analysis import analyses
from schemas.compiler.flow import Flow
from schemas.compiler.graph import Graph
from schemas.compiler.outputs import Outputs
from schemas.compiler.references import check_fields_read, check_names, check_order
from schemas.compiler.shape import check_shape
from schemas.compiler.survey import Place, Survey
from schemas.errors import InvalidDocument, Problem
from schemas.ir import IR
from schemas.limits import LIMITS, Limits
from schemas.workflow import json_problems

_SECTIONS = ("", "id", "description", "input_schema", "defaults", "nodes", "edges")
_MAX_PROBLEMS = 1_000


@dataclass(frozen=True, slots=True)
class Compiled:
    """warnings: what is valid and probably not meant; paths and codes as those of problems."""

    ir: IR
    warnings: tuple[Problem, ...]


def compile_workflow(document: Any, limits: Limits = LIMITS) -> Compiled:
    """The IR of a workflow document (any JSON value). Raises InvalidDocument with all problems."""
    survey = Survey(limits)
    survey.problems += json_problems(document, limits)
    if survey.problems:
        raise InvalidDocument(survey.problems)
    # A copy that is JSON and nothing else: what the caller does with its document later must not change the IR.
    workflow = orjson.loads(orjson.dumps(document, default=dict))
    check_shape(Place(survey), workflow)
    flow = _check_meaning(survey, workflow)
    if survey.problems or flow is None:
        raise InvalidDocument(_in_order(survey.problems)[:_MAX_PROBLEMS])
    ir = IR.build(workflow, flow.graph.names(flow.graph.entries), analyses(workflow, flow, survey.uses))
    return Compiled(ir, tuple(_in_order(survey.warnings)[:_MAX_PROBLEMS]))


def validate(document: Any, limits: Limits = LIMITS) -> list[Problem]:
    """All that is wrong with a workflow document, in its order; empty for a valid one. Never raises for JSON values."""
    try:
        compile_workflow(document, limits)
    except InvalidDocument as invalid:
        return list(invalid.problems)
    return []


def _check_meaning(survey: Survey, workflow: Any) -> Flow | None:
    """The graph and what its expressions read, as far as the shape of the document allows to look."""
    nodes = workflow.get("nodes") if isinstance(workflow, Mapping) else None
    if not isinstance(nodes, list):
        return None
    check_names(survey, [node["id"] for node in nodes if isinstance(node, Mapping) and isinstance(node.get("id"), str)])
    if survey.faulty:
        return None
    flow, problems = Flow.of(Graph.of(workflow))
    survey.problems += problems
    if flow is not None:
        check_order(survey, flow)
        check_fields_read(survey, flow, Outputs(workflow, flow.graph, flow.waiting))
    return flow


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By place in the document; each once."""
    return sorted(dict.fromkeys(problems), key=lambda problem: _place(problem.path))


def _place(path: str) -> tuple[int, int]:
    steps = path.split("/")[1:]
    section = _SECTIONS.index(steps[0]) if steps and steps[0] in _SECTIONS else 0
    return section, int(steps[1]) if len(steps) > 1 and steps[1].isdecimal() else -1
