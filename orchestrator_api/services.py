"""What the routes work with: one object, made once, reached from every request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from history.history import History
from history.named_connections import NamedConnections
from history.pace import Paces
from lua.patching import Patching
from lua.run_store import RunStore
from orchestrator_api.event_log import EventLog
from orchestrator_api.event_tail import EventTail
from orchestrator_api.family import Family
from orchestrator_api.model_rates import ModelRates
from orchestrator_api.options import ApiOptions
from orchestrator_api.revision_log import RevisionLog
from orchestrator_api.run_states import RunStates
from orchestrator_api.submissions import Submissions

if TYPE_CHECKING:  # it has routes, which have Services
    from orchestrator_api.whatif import WhatIf


class Services:
    """Everything of one API process."""

    def __init__(
        self, store: RunStore, history: History, options: ApiOptions, connections: NamedConnections,
        what_if: WhatIf | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.history = history
        self.connections = connections
        self.options = options
        self.submissions = Submissions(store, history.workflows, options)
        self.log = EventLog(store, history.events, history.dropped_events)
        self.tail = EventTail(store, self.log)
        self.states = RunStates(store, self.log, history.artifacts, Family(store, history.families))
        self.patching = Patching(store)
        self.revisions = RevisionLog(store, self.log, history.workflows)
        self.paces = Paces(history.pool)
        self.rates = ModelRates()
        self.what_if = what_if
        self.asking = asyncio.Lock()  # one what-if at a time
        self.comparing = asyncio.Semaphore(2)  # batches: each comparison holds two connections, and others need some


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _by(request: Request) -> str:
    """Who asks: the name of the API key, "" where none is needed."""
    return str(request.state.by)


Backend = Annotated[Services, Depends(_services)]
By = Annotated[str, Depends(_by)]
