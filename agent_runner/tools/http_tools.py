"""HTTP calls as tools: what the document says of the call, filled in with the model's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.tools.tool import Call, Tool, ToolFailed, make_tool
from agent_runner.web.call import make_call
from agent_runner.web.caller import WebCaller
from schemas.compiler.tool_rules import ARGUMENTS
from schemas.expressions.error import TemplateError
from schemas.expressions.template import parse_value

_RENDERED = ("url", "query", "headers", "body")


def http_tool(config: Mapping[str, Any], caller: WebCaller) -> Tool:
    """The tool of `{http: {...}}`. Its result is {status, body}; headers would only cost the model its context."""
    templates = {name: parse_value(config[name], ARGUMENTS) for name in _RENDERED if name in config}

    async def execute(call: Call) -> Any:
        key = f"{call.work.task.token_id}:{call.work.attempt}:{call.number}"
        try:
            rendered = {name: template.render({"args": call.arguments}) for name, template in templates.items()}
            answer = await caller.call(make_call(config, rendered, key))
        except TemplateError as error:
            raise ToolFailed(str(error)) from None
        except TaskFailed as failure:
            raise ToolFailed(failure.message) from None
        return {"status": answer["status"], "body": answer["body"]}

    return make_tool("http", config["name"], config["description"], config["parameters"], execute)
