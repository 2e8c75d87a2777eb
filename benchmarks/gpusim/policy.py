"""What is common to all policies."""
from collections import deque


class Base:
    """What the simulator asks of a policy; this one admits items, at most `wip` at a time, and serves nothing."""

    order = "fifo"
    wip = None                      # CONWIP cap on items in flight

    def bind(self, sim):
        self.sim = sim
        self.pool, self.inflight = deque(), 0

    def on_arrival(self, it):
        if it.prio or self.wip is None or self.inflight < self.wip:
            if not it.prio:
                self.inflight += 1
            self.sim.admit(it)
        else:
            self.pool.append(it)

    def on_item_done(self, it):
        if it.prio:
            return
        self.inflight -= 1
        if self.pool:
            self.inflight += 1
            self.sim.admit(self.pool.popleft())

    def on_cpu(self, it, st, w):
        return False

    def on_task(self, t): ...
    def on_task_done(self, g, t): ...
    def on_loaded(self, g, inst): ...
    def step(self, g): ...
