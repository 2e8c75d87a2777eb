"""Barrier-free local policies."""
from benchmarks.gpusim.gpusim import S, TICK
from benchmarks.gpusim.policy import Base


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
        """The model to switch to now, or None."""
        for m in self.pin.get(g.id, ()):
            if m not in g.insts:
                return m
        cands = [m for m, st in self.sim.streams.items() if m not in g.insts and st.n and g in self.fits[m]]
        m = self.interactive(g)
        if m:
            return m
        if self.lease == "excl":
            cands = [m for m in cands if not self.nother(m, g)]
        if not cands:
            return None
        rd = [i for i in g.insts.values() if i.state == "ready"]
        nact = g.nact()
        m = self.aged(g, cands) if self.age is not None and nact else None
        if m:
            return m
        bR = sum(self.sim.streams[i.m].n for i in rd)
        if (bR == 0 and (self.theta >= 0 or nact == 0)) or bR + nact < self.theta * self.sim.K:
            return self.exhausted(g, cands, idle=nact == 0 and bR == 0 and not g.nblk())
        bw = sum(self.sim.streams[i.m].work / (self.sk * (g.speed + self.nother(i.m, g))) for i in rd)
        return self.better(g, cands, bw) or self.spare(g, cands, bw)

    def interactive(self, g):
        """whom an interactive task waits for"""
        if self.prio is None:
            return None
        for m, st in self.sim.streams.items():
            if st.prio and m not in g.insts and g in self.fits[m] and not self.holders[m] \
                    and self.sim.now - st.prio[0].t_enq >= self.prio:
                g.aged_hold = True
                return m
        return None

    def aged(self, g, cands):
        """1. ageing bound"""
        now, served = self.sim.now, self.sim.now - g.last_switch
        a = [(max(self.sim.streams[m].oldest(), self.sim.streams[m].last), m) for m in cands
             if served >= self.minres * self.C(m) and not self.nother(m, g)]
        a = [(o, m) for o, m in a if now - o > self.age]
        return min(a)[1] if a else None

    def exhausted(self, g, cands, idle):
        """2. the residents have (nearly) no backlog; idle: nothing runs either"""
        m = self.best(cands, g, self.beta)
        if m or not idle:
            return m
        c = [m for m in cands if self.nother(m, g) == 0]
        if self.patience and c:                             # ski rental: wait up to patience*C before paying C
            c = self.waited(g, c)
            if not c:
                return None
        if not c:                                           # help others only if they would not finish sooner
            c = [m for m in cands
                 if self.sim.streams[m].work / (self.sk * self.nother(m, g)) > self.join * self.C(m)]
        return max(c, key=lambda m: self.value(m, g)) if c else None

    def waited(self, g, c):
        """those that waited for patience*C; without any, this GPU looks again when the first has"""
        now = self.sim.now
        w = {m: self.sim.streams[m].oldest() + self.patience * self.C(m) for m in c}
        c = [m for m in c if w[m] <= now + 1e-9]
        if not c and self.tick.get(g.id, 0) <= now:
            self.tick[g.id] = min(w.values())
            self.sim.at(min(w.values()) + 1e-6, TICK, lambda: self.step(g))
        return c

    def better(self, g, cands, bw):
        """3. leave while backlog remains (bw: the residents', in seconds)"""
        sim, served = self.sim, self.sim.now - g.last_switch
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
        return None

    def spare(self, g, cands, bw):
        """4. preload into spare VRAM while the tail of the residents still covers the load"""
        if not (self.preload and self.cores):
            return None
        c = [m for m in cands if self.sim.models[m].vram(self.sim.K) <= g.freevram() + 1e-9]
        if c:
            m = max(c, key=lambda m: self.value(m, g))
            if self.share(m, g) >= self.beta * self.C(m) and bw < 2 * self.sim.models[m].load:
                return m
        return None
