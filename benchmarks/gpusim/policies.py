from collections import deque
from benchmarks.gpusim.gpusim import S


class Base:
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
                from benchmarks.gpusim.gpusim import TICK
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
            from benchmarks.gpusim.gpusim import TICK
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


class Local(Base):
    """Barrier-free local policy family; see README.  Every decision uses only stream lengths, per-model mean times,
    head ages and the table of loaded models."""

    def __init__(self, select="work", leave="exhaust", beta=2.0, H=4.0, theta=0.0, age=None, minres=5.0, cores=True,
                 preload=True, lease="share", order="fifo", wip=None, prio=None, join=1.5, eps=None, pin=None, err=None, patience=0.0, measured=False, rot=0.5, topup="total"):
        self.select, self.leave, self.beta, self.H, self.theta = select, leave, beta, H, theta
        self.age, self.minres, self.cores, self.preload, self.lease = age, minres, cores, preload, lease
        self.order, self.wip, self.prio, self.join = order, wip, prio, join
        self.patience, self.measured, self.rot, self.topup = patience, measured, rot, topup
        self.eps, self.pin, self.err = eps, pin or {}, err or {}

    def bind(self, sim):
        super().bind(sim)
        self.fits = {m: [g for g in sim.gpus if sim.models[m].vram(sim.K) <= g.cap] for m in sim.models}
        self.sk = S(sim.K)
        self.elig = {m: sum(g.speed for g in gs) for m, gs in self.fits.items()}
        self.holders = {m: set() for m in sim.models}     # gpu ids that hold / load / target m (the lease table)
        self.tick = {}
        self.dr, self.tset = 2.0, {}                      # EWMA of drain time (decision -> load start)
        self.used = {m for it in sim.items for _, m, _ in it.path if m}
        if self.eps:                                      # ageing bound from the allowed overhead: A = sum(load)/eps
            self.age = sum(sim.models[m].load for m in self.used) / self.eps / len(sim.gpus)

    def C(self, m):
        """cost of switching to m: load plus the measured drain"""
        return self.sim.models[m].load + (0.5 * self.dr if self.measured else 0.0)

    # ---- table ------------------------------------------------------------
    def nother(self, m, g):
        """aggregate speed of the other GPUs that hold m"""
        if self.lease == "none":
            return 0.0
        return sum(self.sim.gpus[k].speed for k in self.holders[m] if k != g.id)

    def secs(self, m, speed):
        return self.sim.streams[m].work / (self.sk * speed)

    def share(self, m, g):
        """expected GPU seconds of m's backlog that would fall to g"""
        return self.sim.streams[m].work / (self.sk * (g.speed + self.nother(m, g)))

    # ---- events -----------------------------------------------------------
    def on_task(self, t):
        m = t.model
        self.sim.streams[m].push(t, self.sim.stepmean[(t.item.wf, t.step)] * self.err.get(m, 1.0))
        for k in sorted(self.holders[m]):
            g = self.sim.gpus[k]
            i = g.insts.get(m)
            if i and i.state == "ready" and i.free() > 0:
                self.step(g)
                if t.done:
                    return
        if t.prio:
            self.bid(m)
            if self.prio:
                from benchmarks.gpusim.gpusim import TICK
                self.sim.at(self.sim.now + self.prio + 1e-3, TICK, lambda: self.bid(m))
        else:
            for g in self.fits[m]:
                if g.nact() == 0 and not g.loading and not g.target:
                    self.step(g)
                    if t.done or m in g.insts or g.target == m:
                        return

    def bid(self, m):
        """cheapest runner takes the interactive switch (free VRAM, then fewest in-flight work); a runner bids by
        delaying its claim in proportion to its cost"""
        need = self.sim.models[m].vram(self.sim.K)
        for g in sorted(self.fits[m], key=lambda g: (bool(g.target or g.loading), g.freevram() < need, g.nact())):
            self.step(g)
            if self.holders[m]:
                return

    def on_loaded(self, g, inst):
        g.last_switch = self.sim.now
        f = g.insts.get(g.focus)
        if f is None or f.state != "ready" or not len(self.sim.streams[g.focus]):
            g.focus, g.fsince = inst.m, self.sim.now

    # ---- main -------------------------------------------------------------
    def step(self, g):
        if g.target:
            self.progress(g)
        self.fill(g)
        if not g.target and not g.loading:
            m = self.decide(g)
            if m:
                g.target = m
                self.holders[m].add(g.id)
                self.tset[g.id] = self.sim.now
                self.progress(g)

    def progress(self, g):
        sim = self.sim
        if g.loading:
            return
        m = g.target
        need = sim.models[m].vram(sim.K)
        # victims: fewest first, least own backlog first, focus last; without co-residency everything goes
        vs = sorted((i for i in g.insts.values() if i.m not in self.pin.get(g.id, ())), key=lambda i: (i.m == g.focus, len(sim.streams[i.m])))
        free = g.cap - sum(i.vram for i in g.insts.values() if i.state != "drain")
        for i in vs:
            if (free >= need and self.cores):
                break
            if i.state != "drain":
                i.state = "drain"
                free += i.vram
        for i in list(g.insts.values()):
            if i.state == "drain" and i.n == 0:
                sim.sync(g)
                sim.evict(g, i.m)
                self.holders[i.m].discard(g.id)
        if (g.freevram() >= need if self.cores else not g.insts):
            g.target = None
            self.dr += 0.1 * (sim.now - self.tset[g.id] - self.dr)
            if self.eps and self.measured:
                self.age = sum(self.C(x) for x in self.used) / self.eps / len(sim.gpus)
            sim.load(g, m)

    def fill(self, g):
        sim = self.sim
        K = sim.K
        rd = [i for i in g.insts.values() if i.state == "ready"]
        if not rd:
            return
        for i in rd:                                        # interactive lane first, one slot above K allowed
            st = sim.streams[i.m]
            while st.prio and i.n < i.slots + 1:
                sim.start(g, i, st.pop())
        f = g.insts.get(g.focus)
        if f is None or f.state != "ready" or not sim.streams[f.m].n:
            b = max(rd, key=lambda i: (sim.streams[i.m].work, i.n))
            ok = sim.streams[b.m].n and (self.topup != "batch" or sim.streams[b.m].n >= K / 2 or not g.nact())
            if ok or f is None or f.state != "ready":
                g.focus, g.fsince = b.m, sim.now
        elif self.rot and len(rd) > 1 and sim.now - g.fsince > self.rot * (self.age or 600):
            # free rotation among residents: the one unserved longest
            o = [(max(sim.streams[i.m].oldest(), sim.streams[i.m].last), i.m) for i in rd
                 if i.m != g.focus and sim.streams[i.m].n]
            if o and sim.now - min(o)[0] > self.rot * (self.age or 600):
                g.focus, g.fsince = min(o)[1], sim.now
        rd.sort(key=lambda i: (i.m != g.focus, -sim.streams[i.m].work))
        if self.topup == "total":                           # at most K requests on the GPU, others fill what is left
            tot = g.nblk()
            for i in rd:
                st = sim.streams[i.m]
                while st.n and tot < K and i.free() > 0:
                    sim.start(g, i, st.pop())
                    tot += 1
            return
        # one model at a time gets work; the next resident starts (with its own K slots) once the focus stream is empty
        for i in rd:
            st = sim.streams[i.m]
            if i.m != g.focus:
                if not st.n:
                    continue
                if self.topup == "batch" and st.n < K / 2 and g.nact():
                    continue
                if any(x is not i and sim.streams[x.m].n for x in rd if x.m == g.focus):
                    continue
            while st.n and i.free() > 0:
                sim.start(g, i, st.pop())
            if st.n:
                break

    def value(self, m, g):
        st = self.sim.streams[m]
        s = self.select
        if s == "longest":
            return st.n
        if s == "work":
            return self.share(m, g)
        if s == "cost":
            return self.share(m, g) / self.sim.models[m].load
        if s == "pressure":
            return st.work / (self.elig[m] * (1 + self.nother(m, g)))
        if s == "down":
            return -st.sumrem / st.n
        if s == "up":
            return st.sumrem / st.n
        if s == "oldest":
            return -st.oldest()
        raise ValueError(s)

    def best(self, cands, g, minshare):
        c = [m for m in cands if self.share(m, g) >= minshare * self.C(m)]
        return max(c, key=lambda m: self.value(m, g)) if c else None

    def decide(self, g):
        sim, now = self.sim, self.sim.now
        for m in self.pin.get(g.id, ()):
            if m not in g.insts:
                return m
        cands = [m for m, st in sim.streams.items() if m not in g.insts and st.n and g in self.fits[m]]
        if self.prio is not None:
            for m, st in sim.streams.items():
                if st.prio and m not in g.insts and g in self.fits[m] and not self.holders[m] \
                        and now - st.prio[0].t_enq >= self.prio:
                    g.aged_hold = True
                    return m
        if self.lease == "excl":
            cands = [m for m in cands if not self.nother(m, g)]
        if not cands:
            return None
        rd = [i for i in g.insts.values() if i.state == "ready"]
        nact = g.nact()
        bR = sum(sim.streams[i.m].n for i in rd)
        bw = sum(sim.streams[i.m].work / (self.sk * (g.speed + self.nother(i.m, g))) for i in rd)
        served = now - g.last_switch
        # 1. ageing bound
        if self.age is not None and nact:
            a = [(max(sim.streams[m].oldest(), sim.streams[m].last), m) for m in cands
                 if served >= self.minres * self.C(m) and not self.nother(m, g)]
            a = [(o, m) for o, m in a if now - o > self.age]
            if a:
                return min(a)[1]
        # 2. exhausted
        if (bR == 0 and (self.theta >= 0 or nact == 0)) or bR + nact < self.theta * sim.K:
            m = self.best(cands, g, self.beta)
            if m:
                return m
            if nact == 0 and bR == 0 and not g.nblk():
                m = self.best(cands, g, self.beta)
                if m:
                    return m
                c = [m for m in cands if self.nother(m, g) == 0]
                if self.patience and c:                     # ski rental: wait up to patience*C before paying C
                    w = {m: sim.streams[m].oldest() + self.patience * self.C(m) for m in c}
                    c = [m for m in c if w[m] <= now + 1e-9]
                    if not c:
                        if self.tick.get(g.id, 0) <= now:
                            from benchmarks.gpusim.gpusim import TICK
                            self.tick[g.id] = min(w.values())
                            sim.at(min(w.values()) + 1e-6, TICK, lambda: self.step(g))
                        return None
                if not c:                                   # help others only if they would not finish sooner
                    c = [m for m in cands
                         if sim.streams[m].work / (self.sk * self.nother(m, g)) > self.join * self.C(m)]
                if c:
                    return max(c, key=lambda m: self.value(m, g))
            return None
        # 3. leave while backlog remains
        if self.leave == "gain":
            m = self.best(cands, g, max(self.beta, self.minres))
            if m and served >= self.minres * self.C(m) and self.share(m, g) >= self.H * bw:
                return m
        elif self.leave == "down":
            f = sim.streams[g.focus] if g.focus in g.insts else None
            if f is not None and f.n and served >= self.minres * sim.models[g.focus].load:
                cur = f.sumrem / f.n
                c = [m for m in cands if sim.streams[m].sumrem / sim.streams[m].n < cur - 1e-9 and
                     self.share(m, g) >= self.minres * (sim.models[m].load + sim.models[g.focus].load)]
                if c:
                    return max(c, key=lambda m: self.value(m, g))
        # 4. preload into spare VRAM while the tail of the residents still covers the load
        if self.preload and self.cores:
            c = [m for m in cands if sim.models[m].vram(sim.K) <= g.freevram() + 1e-9]
            if c:
                m = max(c, key=lambda m: self.value(m, g))
                if self.share(m, g) >= self.beta * self.C(m) and bw < 2 * sim.models[m].load:
                    return m
        return None
