"""HTTP nodes: a call to a host that the document or the operator names, and its answer as the output."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.web.call import make_call
from agent_runner.web.caller import WebCaller
from agent_runner.work import Result, Work


class HttpNodes:
    """Executes http nodes. The output is {status, headers, body}."""

    def __init__(self, caller: WebCaller) -> None:
        self._caller = caller

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        rendered = {name: template.render(variables) for name, template in work.node.templates.items()}
        # The token's id stays the same over all attempts.
        call = make_call(work.node.config, rendered, work.task.token_id)
        began = time.monotonic()
        try:
            async with asyncio.timeout(work.timeout_s):
                output = await self._caller.call(call)
        except TimeoutError:
            raise TaskFailed("timeout", f"the {call.method} gave no answer within {work.timeout_s:g} s") from None
        return Result(output, {"execution_time_ms": round((time.monotonic() - began) * 1000)})

    async def close(self) -> None:
        await self._caller.close()
