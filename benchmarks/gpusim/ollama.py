"""Ollama's own scheduling, behind a queue of items or of tasks."""
from collections import deque

from benchmarks.gpusim.gpusim import TICK
from benchmarks.gpusim.policy import Base


class Ollama(Base):
    """FIFO queue of requests behind Ollama's own scheduler (server/sched.go): a request whose model is loaded goes to
    that runner; otherwise load if it fits, else expire one runner (idle first, else LRU) and block every later
    request until it has drained.  W = client workers per GPU (Celery/BullMQ concurrency).
    mode 'fifo': workers take tasks from one shared FIFO.   mode 'item': a worker runs one item start to end."""

    def __init__(self, W, mode="fifo"):
        self.W, self.mode = W, mode

    def bind(self, sim):
        super().bind(sim)
        self.q = deque()
        self.idle = {g.id: self.W for g in sim.gpus}

    # item mode ------------------------------------------------------------
    def on_arrival(self, it):
        if self.mode == "fifo":
            return super().on_arrival(it)
        (self.pool.appendleft if it.prio else self.pool.append)(it)
        self._pull()

    def _pull(self):
        while self.pool:
            gid = max(self.idle, key=lambda k: self.idle[k])
            if self.idle[gid] <= 0:
                return
            self.idle[gid] -= 1
            it = self.pool.popleft()
            it.gpu = gid
            self.sim.admit(it)

    def on_item_done(self, it):
        if self.mode == "fifo":
            return super().on_item_done(it)
        self.idle[it.gpu] += 1
        self._pull()

    # tasks ----------------------------------------------------------------
    def on_task(self, t):
        if self.mode == "item":
            g = self.sim.gpus[t.item.gpu]
            if self.sim.models[t.model].vram(self.sim.K) > g.cap:     # must go to a larger GPU
                g = max(self.sim.gpus, key=lambda x: (x.cap, -len(x.pending)))
            g.pending.append(t)
            self.step(g)
        else:
            (self.q.appendleft if t.prio else self.q.append)(t)
            self._feed()

    def _feed(self):
        big = None
        while self.q:
            t = self.q[0]
            need = self.sim.models[t.model].vram(self.sim.K)
            c = [g for g in self.sim.gpus if self.idle[g.id] > 0 and g.cap >= need]
            if not c:
                return
            g = max(c, key=lambda x: self.idle[x.id])
            self.q.popleft()
            self.idle[g.id] -= 1
            g.pending.append(t)
            self.step(g)

    def on_task_done(self, g, t):
        if self.mode == "fifo":
            gap = self.sim.gap

            def back():
                self.idle[g.id] += 1
                self._feed()
            if gap > 0:
                self.sim.at(self.sim.now + gap, TICK, back)
            else:
                back()

    def step(self, g):
        sim = self.sim
        for i in list(g.insts.values()):
            while i.state == "ready" and i.q and i.n < i.slots:
                sim.start(g, i, i.q.popleft())
        while g.pending:
            if g.victim:
                v = g.insts[g.victim]
                if v.n or v.q:
                    return                    # head-of-line block until drained
                sim.sync(g)
                sim.evict(g, g.victim)
                g.victim = None
            t = g.pending[0]
            i = g.insts.get(t.model)
            if i:
                g.pending.popleft()
                if i.state == "ready" and i.n < i.slots:
                    sim.start(g, i, t)
                else:
                    i.q.append(t)
                continue
            if g.loading:
                return
            if g.freevram() >= sim.models[t.model].vram(sim.K):
                sim.load(g, t.model)
                continue
            idle = [x for x in g.insts.values() if not x.n and not x.q]
            g.victim = min(idle or g.insts.values(), key=lambda x: x.last).m
