"""From a request to what starts: the workflow compiled (once), the input checked, room for new work."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from jsonschema.protocols import Validator
from psycopg import OperationalError

from history.workflows import Workflows, WorkflowVersion
from lua.run_store import RunStore
from orchestrator_api.offers import Offers
from orchestrator_api.options import ApiOptions
from orchestrator_api.problems import SHOWN, not_found, unavailable
from orchestrator_api.requests import WorkflowChoice
from schemas.agents import agents_of
from schemas.compiler.compiler import compile_workflow
from schemas.compiler.json_schema import schema_validator
from schemas.errors import InvalidDocument, Problem, pointer
from schemas.ir import IR

KEPT = 200  # compiled workflows
WORKFLOW_TTL_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workflow that runs can be started of. `version` is None for an inline document."""

    ir: IR
    version: int | None
    validator: Validator | None  # of the input
    warnings: tuple[Problem, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)  # that its agents name -> the first place in the document

    def input_problems(self, value: Any, path: str) -> list[Problem]:
        """Where `value`, which stands at `path`, misses the workflow's input_schema; at most SHOWN places."""
        if self.validator is None or self.validator.is_valid(value):
            return []
        return value_problems(self.validator, value, path)


class Submissions:
    """Prepares workflows. What it compiled or read is kept by content, so that 2,000 runs compile once."""

    def __init__(self, store: RunStore, workflows: Workflows, options: ApiOptions) -> None:
        self.store = store
        self.workflows = workflows
        self.options = options
        self._offers = Offers(store)
        self._compiled: OrderedDict[str, Prepared] = OrderedDict()
        self._registered: OrderedDict[tuple[str, int], Prepared] = OrderedDict()
        self._compiling = asyncio.Lock()

    async def refuse_when_full(self) -> None:
        """Raises Refusal (503) while the events that wait for Postgres fill their share of Redis."""
        waiting = await self.store.redis.xlen(self.store.keys.events)
        if waiting >= self.options.events_limit:
            raise unavailable(
                f"{waiting} events wait to be recorded in Postgres; the limit events_limit is "
                f"{self.options.events_limit}. New work is taken when the recorder has caught up.",
                self.options.retry_after_s,
            )

    async def warnings(self, prepared: Prepared) -> dict[str, Any]:
        """The field `warnings` of an answer, if there are any: what is valid and probably not meant so."""
        found = [*prepared.warnings, *await self._offers.missing(prepared.models)]
        return {"warnings": [problem.as_dict() for problem in found]} if found else {}

    async def choose(self, choice: WorkflowChoice) -> Prepared:
        """The workflow that a request names or brings. Raises Refusal, or InvalidDocument with paths as in the body."""
        if choice.workflow is None:
            assert choice.workflow_id is not None
            return await self.registered(choice.workflow_id, choice.version)
        try:
            return await self.compiled(choice.workflow)
        except InvalidDocument as error:
            raise InvalidDocument(Problem("/workflow" + p.path, p.code, p.message) for p in error.problems) from None

    async def compiled(self, document: Any) -> Prepared:
        """A document compiled. Raises InvalidDocument."""
        digest = hashlib.sha256(orjson.dumps(document)).hexdigest()
        async with self._compiling:  # one at a time, beside the event loop: it is pure computing
            known = self._compiled.get(digest)
            if known is None:
                result = await asyncio.to_thread(compile_workflow, document)
                known = _keep(self._compiled, digest, _prepared(result.ir, None, result.warnings))
            self._compiled.move_to_end(digest)
        return known

    async def register(self, prepared: Prepared) -> tuple[WorkflowVersion, bool]:
        """The version of a compiled document, and whether it is new."""
        version, created = await self.workflows.register(prepared.ir)
        await self._cache(version.workflow_id, version.version, prepared.ir.text)
        return version, created

    async def registered(self, workflow_id: str, version: int | None) -> Prepared:
        """A registered workflow, by default its latest version; without Postgres, of those used lately.

        Raises Refusal: 404, or 503 where Postgres is away and it was not used lately.
        """
        if version is not None and (known := self._registered.get((workflow_id, version))):
            return known
        try:
            found = await self.workflows.get(workflow_id, version)
        except OperationalError:
            cached = await self._cached(workflow_id, version)
            if cached is None:
                raise
            return cached
        if found is None:
            raise not_found("workflow", workflow_id if version is None else f"{workflow_id} version {version}")
        prepared = self._registered.get((workflow_id, found.version))
        if prepared is None:
            text = await self.workflows.ir(found.digest)
            assert text is not None, "workflow_versions.digest references irs"
            prepared = self._remember(workflow_id, found.version, text)
            await self._cache(workflow_id, found.version, text)
        return prepared

    async def _cached(self, workflow_id: str, version: int | None) -> Prepared | None:
        key = self.store.keys.workflow(workflow_id)
        if version is None:
            versions = [int(name) for name in await self.store.redis.hkeys(key)]
            if not versions:
                return None
            version = max(versions)
        text = await self.store.redis.hget(key, str(version))
        return self._remember(workflow_id, version, text.decode()) if text else None

    async def _cache(self, workflow_id: str, version: int, text: str) -> None:
        key = self.store.keys.workflow(workflow_id)
        async with self.store.redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, str(version), text)
            pipe.expire(key, WORKFLOW_TTL_S)
            await pipe.execute()

    def _remember(self, workflow_id: str, version: int, text: str) -> Prepared:
        return _keep(self._registered, (workflow_id, version), _prepared(IR.from_json(text), version))


def _prepared(ir: IR, version: int | None, warnings: Iterable[Problem] = ()) -> Prepared:
    schema = ir.workflow.get("input_schema")
    validator = None if schema is None else schema_validator(schema)
    models: dict[str, str] = {}
    for agent in agents_of(ir.workflow):
        models.setdefault(agent.config["model"], agent.path("model"))
    return Prepared(ir, version, validator, tuple(warnings), models)


def _keep(kept: OrderedDict[Any, Prepared], key: Any, value: Prepared) -> Prepared:
    kept[key] = value
    if len(kept) > KEPT:
        kept.popitem(last=False)
    return value


def value_problems(validator: Validator, value: Any, path: str) -> list[Problem]:
    """Where `value`, which stands at `path`, misses a schema; at most SHOWN places."""
    return list(islice(_problems(validator, value, path), SHOWN))


def _problems(validator: Validator, value: Any, path: str) -> Iterator[Problem]:
    for error in validator.iter_errors(value):
        message = error.message if len(error.message) <= 300 else error.message[:297] + "..."
        yield Problem(path + pointer(*error.absolute_path), "schema", message)
