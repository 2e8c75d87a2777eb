"""What expressions may read: known nodes, what has run before them (rule 7), fields that can be there (rule 8)."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.compiler.finding import Finding, Steps, Verdict
from schemas.compiler.outputs import Outputs
from schemas.compiler.region import Regions
from schemas.compiler.survey import Survey, Use
from schemas.errors import Problem

_RUN_FIELDS = ("id", "workflow_id", "batch_id", "key")
_MAP_ONLY = ("item", "index")


def check_names(survey: Survey, ids: Iterable[str]) -> None:
    """What needs no graph: only known nodes are read, only their `output`, and `item` and `index` in a map only."""
    known = dict.fromkeys(ids)
    for use in survey.uses:
        found = [*_wrong_variables(use)]
        for node in sorted(use.references.nodes - known.keys()):
            meant = survey.did_you_mean(node, known)
            found.append(Problem(use.path, "unknown-node", f"There is no node `{node}`{meant}, read as `ctx.{node}`."))
        for path in _paths(use):
            if path[0] == "ctx" and len(path) > 2 and path[1] in known and path[2] != "output":
                message = f"`{_dotted(path[:3])}`: of a node only its `output` can be read, `ctx.{path[1]}.output`."
                found.append(Problem(use.path, "no-such-field", message))
        survey.problems += dict.fromkeys(found)


def check_order(survey: Survey, regions: Regions) -> None:
    """Rule 7: `ctx.x` is read in n only where x can have run before n and does not run beside it.

    Where every read stands under `has()`, x need not be able to run before; but beside it would still make the
    result depend on what happened to finish first. In a map, x belongs to the same sub-graph, or to a graph around it,
    where it has to have run before the map.
    """
    for use in survey.uses:
        for name in sorted(use.references.nodes & regions.index.keys()):
            problem = _wrong_order(use, name, regions)
            if problem:
                survey.problems.append(problem)


def _wrong_order(use: Use, name: str, regions: Regions) -> Problem | None:
    region = regions.of_node[name]
    reader = regions.stand_in(use.node, region)
    if reader is None:
        message = f"`ctx.{name}` is read in `{use.node}`, and `{name}` belongs to the items of the map `{region.map}`"
        return Problem(use.path, "inside-map", f"{message}; outside of it read `ctx.{region.map}.output`.")
    flow, read, at = region.flow, region.index[name], region.graph.ids[reader]
    where = f"in `{use.node}`" if at == use.node else f"in `{use.node}`, inside the map `{at}`"
    before = region.graph.reach[read] >> reader & 1 or (use.result and name == use.node)
    if not before and name not in use.references.guarded_nodes:
        message = f"`ctx.{name}` is read {where}, and no path leads from `{name}` to `{at}`."
        return Problem(use.path, "not-run-before", message)
    if region.graph.forks and flow.parallel.running(read, reader):
        message = (
            f"`ctx.{name}` is read {where}, and `{name}` may run at the same time, so that its output "
            f"may be there or not; let the paths meet before `{at}`."
        )
        return Problem(use.path, "read-in-parallel", message)
    return None


def check_fields_read(survey: Survey, regions: Regions, outputs: Outputs) -> None:
    """Rule 8: fields that a schema rules out are errors, fields that an open schema does not name are warnings."""
    for use in survey.uses:
        for path in _paths(use):
            finding = _find(path, use, regions, outputs)
            if finding is None:
                continue
            known = ", ".join(f"`{name}`" for name in finding.known[:20])
            meant = survey.did_you_mean(finding.missing, finding.known) if known else ""
            there = f"; there are {known}" if known else ""
            if finding.verdict == Verdict.RULED_OUT:
                message = f"`{_dotted(path)}`: there can be no `{finding.missing}`{meant}{there}."
                survey.problems.append(Problem(use.path, "no-such-field", message))
            elif finding.verdict == Verdict.UNDECLARED and path in use.references.paths:
                message = f"`{_dotted(path)}`: the schema does not name `{finding.missing}`{meant}{there}."
                survey.warnings.append(Problem(use.path, "undeclared-field", message))
            elif path[0] == "output" and not use.result and path in use.references.paths:
                lacking = outputs.lacking(use.node, path[1:])
                if lacking:
                    message = (
                        f"`{_dotted(path)}` is an error when `{use.node}` is reached from `{lacking}`: use `has()`."
                    )
                    survey.warnings.append(Problem(use.path, "missing-on-a-path", message))


def _find(path: Steps, use: Use, regions: Regions, outputs: Outputs) -> Finding | None:
    """What is known about a path; None if nothing can be."""
    match path:
        case ("input", *rest):
            return outputs.of_input(tuple(rest))
        case ("output", *rest):
            look = outputs.of_node if use.result else outputs.arrived
            return look(use.node, tuple(rest))
        case ("ctx", node, "output", *rest) if node in regions.index:
            return outputs.of_node(node, tuple(rest))
        case ("run", field, *_) if field not in _RUN_FIELDS:
            return Finding(Verdict.RULED_OUT, field, _RUN_FIELDS)
    return None


def _wrong_variables(use: Use) -> Iterable[Problem]:
    if use.references.whole_ctx:
        message = "`ctx` can not be read as a whole; read the output of a named node, `ctx.<node>.output`."
        yield Problem(use.path, "whole-ctx", message)
    for name in _MAP_ONLY:
        if name in use.references.variables and not use.in_map:
            yield Problem(use.path, "outside-map", f"`{name}` exists inside a map only.")


def _paths(use: Use) -> list[Steps]:
    return sorted(use.references.paths | use.references.optional_paths)


def _dotted(path: Steps) -> str:
    text = ".".join(path)
    return text if len(text) <= 120 else text[:117] + "..."
