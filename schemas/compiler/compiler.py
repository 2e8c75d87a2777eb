"""`compile_workflow`: a workflow document -> its IR, or all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from schemas.compiler.analysis import analyses
from schemas.compiler.outputs import Outputs
from schemas.compiler.references import check_fields_read, check_names, check_order
from schemas.compiler.region import Regions
from schemas.compiler.reloads import reloads
from schemas.compiler.shape import check_shape
from schemas.compiler.survey import Place, Survey
from schemas.errors import InvalidDocument, Problem
from schemas.ir import IR, Patched
from schemas.limits import LIMITS, Limits
from schemas.workflow import json_problems

_SECTIONS = ("id", "description", "input_schema", "defaults", "nodes", "edges")
_MAX_PROBLEMS = 1_000


@dataclass(frozen=True, slots=True)
class Compiled:
    """warnings: what is valid and probably not meant; paths and codes as those of problems."""

    ir: IR
    warnings: tuple[Problem, ...]


def compile_workflow(document: Any, limits: Limits = LIMITS, patched: Patched | None = None) -> Compiled:
    """The IR of a workflow document (any JSON value); `patched` if it is a revision of one that runs. Raises
    InvalidDocument with all problems."""
    survey = Survey(limits)
    survey.problems += json_problems(document, limits)
    if survey.problems:
        raise InvalidDocument(survey.problems)
    # A copy that is JSON and nothing else: what the caller does with its document later must not change the IR.
    workflow = orjson.loads(orjson.dumps(document, default=dict))
    regions = _check(survey, workflow)
    if survey.problems or regions is None:
        raise InvalidDocument(_in_order(survey.problems)[:_MAX_PROBLEMS])
    survey.warnings += reloads(workflow)
    graph = regions.inside[None].graph
    ir = IR.build(workflow, graph.names(graph.entries), analyses(regions, survey.uses), patched)
    return Compiled(ir, tuple(_in_order(survey.warnings)[:_MAX_PROBLEMS]))


def validate(document: Any, limits: Limits = LIMITS) -> list[Problem]:
    """All that is wrong with a workflow document, in its order; empty for a valid one. Never raises for JSON values."""
    try:
        compile_workflow(document, limits)
    except InvalidDocument as invalid:
        return list(invalid.problems)
    return []


def _check(survey: Survey, workflow: Mapping[str, Any]) -> Regions | None:
    """Notes all that is wrong with a document. Gives its graphs, as far as its shape allows to look."""
    declared = check_shape(Place(survey), workflow)
    for place, document in survey.documents:
        _check_inside(place, document)
    if not declared:
        return None
    check_names(survey, declared)
    if survey.faulty:
        return None
    regions, problems = Regions.of(workflow)
    survey.problems += problems
    if regions is not None:
        check_order(survey, regions)
        if not survey.faulty_schemas:
            check_fields_read(survey, regions, Outputs(workflow, regions))
    return regions


def _check_inside(place: Place, document: Mapping[str, Any]) -> None:
    """A workflow that stands in another one, whose child runs execute it."""
    outer = place.survey
    level, limit = outer.level + 1, outer.limits.child_depth
    if level > limit:
        place.refuse("too-deep", f"At most {limit} workflows may lie in each other (limit child_depth).", harmless=True)
        return
    survey = Survey(outer.limits, level=level, suggestions=outer.suggestions)
    _check(survey, document)
    outer.suggestions = survey.suggestions
    outer.problems += [replace(problem, path=place.path + problem.path) for problem in survey.problems]
    outer.warnings += [replace(warning, path=place.path + warning.path) for warning in survey.warnings]


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By place in the document; each once."""
    return sorted(dict.fromkeys(problems), key=lambda problem: _place(problem.path))


def _place(path: str) -> tuple[int, ...]:
    """The position of a field in the document, down to its node, through maps and workflows in workflows."""
    place: list[int] = []
    steps = path.split("/")[1:]
    while steps and steps[0] in _SECTIONS:
        place.append(_SECTIONS.index(steps[0]))
        if len(steps) > 1 and steps[1].isdecimal():
            place.append(int(steps[1]))
        if steps[2:3] != ["config"]:
            break
        steps = steps[4:] if steps[3:4] == ["document"] else steps[3:]
    return tuple(place)
