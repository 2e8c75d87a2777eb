"""Workloads S (seed), M (mixed, Poisson), H (heterogeneous GPUs), P (priority stream) and lower bounds."""
import math
import random
from itertools import combinations
from benchmarks.gpusim.gpusim import ModelSpec, Item, S

G3, G2, Q7, P3 = "gemma3:4b", "gemma2:2b", "qwen2.5:7b", "phi3"
L8, Q14 = "llama3.1:8b", "qwen2.5:14b"
# weights GB (Ollama Q4), KV GB per slot (about 3k tokens, q8 KV), load seconds
MODELS = {m.name: m for m in [
    ModelSpec(G3, 3.3, 0.125, 3.0), ModelSpec(G2, 1.6, 0.16, 1.8), ModelSpec(Q7, 4.7, 0.17, 4.5),
    ModelSpec(P3, 2.2, 0.40, 2.2), ModelSpec(L8, 4.9, 0.18, 4.8), ModelSpec(Q14, 9.0, 0.30, 8.0)]}
V8, V24 = 7.4, 22.5      # usable VRAM of 8 GB and 24 GB cards
CPU = 0.15               # a no-model step (seed: 2,062 gate steps in 323 s = 157 ms each)


def ln(r, mean, sig=0.5):
    return r.lognormvariate(math.log(mean) - sig * sig / 2, sig)


def wf3001(r):
    """21 steps; summary block, skills block, IHL block, each behind a gate."""
    p = [(1, None, CPU), (2, None, CPU)]
    f = ln(r, 1.0, 0.3)                      # item size factor (long postings are slow in every step)
    if r.random() < 0.97:
        p += [(3, G3, f * ln(r, 4.0)), (4, G2, f * ln(r, 1.5)), (5, Q7, f * ln(r, 2.5))]
        if r.random() > 0.55:                # grade FAIL -> improve/regrade up to 3 times
            for it in range(3):
                p += [(6, Q7, f * ln(r, 4.0)), (7, Q7, f * ln(r, 2.0))]
                if r.random() < 0.6:
                    break
            else:
                p += [(8, None, CPU)]
        p += [(9, P3, f * ln(r, 2.5)), (10, None, CPU)]
    p += [(11, None, CPU)]
    if r.random() < 0.95:
        p += [(12, G3, f * ln(r, 3.0)), (13, G2, f * ln(r, 1.2)), (14, P3, f * ln(r, 1.8)), (15, None, CPU)]
    p += [(16, None, CPU)]
    if r.random() < 0.95:
        p += [(17, None, CPU), (18, None, CPU), (19, Q7, f * ln(r, 2.5)), (20, G2, f * ln(r, 1.8)),
              (21, Q7, f * ln(r, 2.5))]
    return p


def wf_match(r):
    return [(1, None, CPU), (2, L8, ln(r, 3.0)), (3, Q7, ln(r, 2.5)), (4, G2, ln(r, 1.2)), (5, L8, ln(r, 3.5)),
            (6, None, CPU)]


def wf_report(r):
    p = [(1, G3, ln(r, 4.0)), (2, P3, ln(r, 2.0))]
    if r.random() < 0.5:
        p += [(3, L8, ln(r, 4.0))]
    return p + [(4, Q7, ln(r, 3.0)), (5, None, CPU)]


def wf_deep(r):
    return [(1, G3, ln(r, 3.0)), (2, Q14, ln(r, 5.0)), (3, Q7, ln(r, 2.0)), (4, Q14, ln(r, 4.0)), (5, None, CPU)]


def llm(path):
    return sum(w for _, m, w in path if m)


def seed_S(n=2062, seed=1):
    r = random.Random(seed)
    return [Item(i, "3001", 0.0, wf3001(r)) for i in range(n)]


def mixed_M(K, rho=0.85, hours=6.0, seed=2, gpus=((V8, 1.0),)):
    r = random.Random(seed)
    gens = [("3001", wf3001, .5), ("match", wf_match, .3), ("report", wf_report, .2)]
    mean = sum(p * sum(llm(g(r)) for _ in range(2000)) / 2000 for _, g, p in gens)
    lam = rho * S(K) * sum(s for _, s in gpus) / mean
    t, items = 0.0, []
    while True:
        t += r.expovariate(lam)
        if t > hours * 3600:
            return items
        u, acc = r.random(), 0
        for name, g, p in gens:
            acc += p
            if u <= acc:
                break
        items.append(Item(len(items), name, t, g(r)))


def hetero_H(seed=3, n=(2062, 1000, 700, 600), poisson_rho=None, K=8, hours=2.0):
    """Batch at t=0 (shuffled) or Poisson, on 4 GPUs 8/8/24/24 GB with speeds 1/1/1.8/1.8."""
    r = random.Random(seed)
    gens = [("3001", wf3001), ("match", wf_match), ("report", wf_report), ("deep", wf_deep)]
    wfs = [k for k, c in enumerate(n) for _ in range(c)]
    r.shuffle(wfs)
    items = [Item(i, gens[k][0], 0.0, gens[k][1](r)) for i, k in enumerate(wfs)]
    if poisson_rho:
        cap = bound(MODELS, H_GPUS, items, K)["work"]
        # spread arrivals so that the fluid bound is rho of the window
        span, t = cap / poisson_rho, 0.0
        for it in items:
            t += r.expovariate(len(items) / span)
            it.arr = t
    return items


S_GPUS = ((V8, 1.0),)
H_GPUS = ((V8, 1.0), (V8, 1.0), (V24, 1.8), (V24, 1.8))


def add_prio(items, every=40.0, until=None, seed=9, models=(Q7, G3)):
    r = random.Random(seed)
    out, t, i = list(items), 0.0, 10 ** 6
    while True:
        t += r.expovariate(1 / every)
        if t > until:
            return out
        m = models[0] if r.random() < 0.7 else models[1]
        out.append(Item(i, "prio", t, [(1, m, ln(r, 2.0))], prio=True))
        i += 1


# ---- lower bounds ---------------------------------------------------------
def min_loads(models, seqs, cap, K):
    """Fewest loads (and least load seconds) any single GPU needs for the worst item path (shortest path over
    residency sets; loading may evict anything)."""
    best_n, best_t = 0, 0.0
    for seq in seqs:
        st = {frozenset(): (0, 0.0)}
        for m in seq:
            nx = {}
            for res, (n, t) in st.items():
                if m in res:
                    c = [(res, n, t)]
                else:
                    c = []
                    rs = list(res)
                    for k in range(len(rs) + 1):
                        for keep in combinations(rs, k):
                            ns = frozenset(keep) | {m}
                            if sum(models[x].vram(K) for x in ns) <= cap + 1e-9:
                                # a load that can run beside a kept model may be hidden; only a forced stop-the-GPU load is charged
                                c.append((ns, n + 1, t + (0.0 if keep else models[m].load)))
                for r_, n_, t_ in c:                      # keep both minima (component-wise lower bound)
                    o = nx.get(r_)
                    nx[r_] = (n_, t_) if o is None else (min(n_, o[0]), min(t_, o[1]))
            st = nx
        n, t = min(x[0] for x in st.values()), min(x[1] for x in st.values())
        best_n, best_t = max(best_n, n), max(best_t, t)
    return best_n, best_t


def bound(models, gpus, items, K):
    W, byarr = {}, []
    seqs = set()
    for it in items:
        s = []
        w = 0
        for _, m, x in it.path:
            if m:
                W[m] = W.get(m, 0) + x
                w += x
                if not s or s[-1] != m:
                    s.append(m)
        seqs.add(tuple(s))
        byarr.append((it.arr, w))
    ms = list(W)
    work = 0.0
    for k in range(1, len(ms) + 1):          # exact LP value for nested/uniform eligibility (max over model subsets)
        for sub in combinations(ms, k):
            sp = sum(s for c, s in gpus if any(models[m].vram(K) <= c for m in sub))
            work = max(work, sum(W[m] for m in sub) / (sp * S(K)))
    cap = sum(s for _, s in gpus) * S(K)
    byarr.sort()
    tail, arr_b = 0.0, 0.0
    for a, w in reversed(byarr):
        tail += w
        arr_b = max(arr_b, a + tail / cap)
    nl = tl = 0
    if len(gpus) == 1:
        nl, tl = min_loads(models, seqs, gpus[0][0], K)
    else:
        nl, tl = len(ms), min(models[m].load for m in ms)
    first = min(models[m].load for m in ms)
    return dict(work=work, arr=arr_b, loads=nl, loadt=tl, total=max(work + tl, arr_b) if len(gpus) == 1
                else max(work + first, arr_b), W=W, cap=cap)
