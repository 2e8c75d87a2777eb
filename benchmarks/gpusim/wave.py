"""Wave barriers, as the seed project has them."""
from collections import deque

from benchmarks.gpusim.gpusim import TICK
from benchmarks.gpusim.policy import Base


class Wave(Base):
    """Seed wave barrier.  mode 'pipe': each cycle admits C items and moves every item one step, groups by ascending
    execution_order, barrier after each group; 'chunk': C items go through the whole pipeline, then the next C;
    'min': all items admitted, always the lowest execution_order, in chunks of C with a barrier after each chunk.
    One static partition of the items per GPU.  serial_cpu: no-model steps run one by one in the executor loop."""

    def __init__(self, C, mode, serial_cpu=True):
        self.C, self.mode, self.serial = C, mode, serial_cpu

    def bind(self, sim):
        super().bind(sim)
        self.p = [dict(pool=deque(), ready={}, cur=deque(), out=0, plan=deque(), gq=deque(), n=0, wait=False)
                  for _ in sim.gpus]

    def on_arrival(self, it):
        gs = self.sim.gpus                       # weighted static partition by GPU speed
        if not hasattr(self, "acc"):
            self.acc = [0.0] * len(gs)
        def put(c):
            k = min(c, key=lambda i: (self.acc[i] + 1) / gs[i].speed)
            self.acc[k] += 1
            return k
        it.gpu = None
        if any(m and self.sim.models[m].vram(self.sim.K) > min(x.cap for x in gs) for _, m, _ in it.path):
            big = [g.id for g in self.sim.gpus if g.cap == max(x.cap for x in self.sim.gpus)]
            it.gpu = put(big)
        else:
            it.gpu = put(range(len(gs)))
        self.p[it.gpu]["pool"].append(it)
        self.kick(it.gpu)

    def kick(self, k):
        p = self.p[k]
        if not p["wait"]:
            p["wait"] = True
            self.sim.at(self.sim.now, TICK, lambda: (p.__setitem__("wait", False), self.adv(k)))

    def on_item_done(self, it):
        p = self.p[it.gpu]
        p["n"] -= 1
        p["out"] -= 1
        self.kick(it.gpu)

    def _reach(self, it, st, what):
        p = self.p[it.gpu]
        p["ready"].setdefault(st, deque()).append(what)
        p["out"] -= 1
        self.kick(it.gpu)

    def on_cpu(self, it, st, w):
        self._reach(it, (st, ""), ("cpu", it, w))
        return True

    def on_task(self, t):
        self._reach(t.item, (t.step, t.model), ("llm", t, None))

    def adv(self, k):
        p, sim = self.p[k], self.sim
        g = sim.gpus[k]
        if p["cur"] or p["out"] > 0:
            return self.step(g)
        # barrier reached
        while True:
            if p["gq"]:                                   # next chunk of the current group
                p["cur"] = deque(p["gq"].popleft() for _ in range(min(self.C, len(p["gq"]))))
                break
            if p["plan"]:
                st, n = p["plan"].popleft()
                q = p["ready"].get(st)
                p["gq"] = deque(q.popleft() for _ in range(min(n, len(q)))) if q else deque()
                continue
            adm = self.C if self.mode == "pipe" else (self.C if p["n"] == 0 else 0) if self.mode == "chunk" else 10**9
            adm = min(adm, len(p["pool"]))
            if adm:
                p["n"] += adm
                p["out"] += adm
                for _ in range(adm):
                    sim.admit(p["pool"].popleft())
            rd = sorted((st, len(q)) for st, q in p["ready"].items() if q)
            if not rd:
                return
            p["plan"] = deque(rd if self.mode == "pipe" else rd[:1])
        p["out"] = len(p["cur"])
        if p["cur"] and p["cur"][0][0] == "cpu":
            if self.serial:
                tt = sim.now
                for _, it, w in p["cur"]:
                    tt += w
                    sim.at(tt, 1, it)
            else:
                for _, it, w in p["cur"]:
                    sim.at(sim.now + w, 1, it)
            p["cur"] = deque()
        else:
            self.step(g)

    def step(self, g):
        p, sim = self.p[g.id], self.sim
        if not p["cur"] or g.loading:
            return
        m = p["cur"][0][1].model
        i = g.insts.get(m)
        if i is None:
            need = sim.models[m].vram(sim.K)
            for x in sorted(g.insts.values(), key=lambda x: x.last):
                if g.freevram() >= need:
                    break
                if x.n:
                    return
                sim.sync(g)
                sim.evict(g, x.m)
            if g.freevram() >= need:
                sim.load(g, m)
            return
        while p["cur"] and i.free() > 0:
            i.last = sim.now
            sim.start(g, i, p["cur"].popleft()[1])
