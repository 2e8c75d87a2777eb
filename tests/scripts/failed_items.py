"""An item of a map of which a task has failed."""

from lua.run_store import Failed
from tests.play import Play
from tests.scripts.workflows import mapped


async def failed_item(redis, **config):
    play = Play(redis, mapped(**config))
    await play.start(input={"xs": ["x", "y"]})
    await play.settle()
    task = (await play.tasks())[0]
    started = await play.claim(task)
    body = b'{"error":{"class":"permanent","message":"no","attempts":1,"node":"a"}}'
    return play, Failed("run_1", task.token_id, "a", started.attempt, play.ir.digest, body)
