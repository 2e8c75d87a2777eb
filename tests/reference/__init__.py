"""The reference interpreter: routing.md once more, small and naive, as the judge of the engine.

It shares no line with the product and imports none of its packages: plain sets, recomputed at every step,
where the product has bit sets and counters; an evaluator of a handful of forms where the product has CEL.

| module | gives |
| --- | --- |
| `graph` | `Graph(workflow)`: entries, groups, bodies, blockers, waits, parallel; `refused(workflow)` |
| `expressions` | `evaluate(text, variables)`: `output.k < 3`, `output.ok`, `ctx.a.output.k == 1` |
| `records` | what moves and what is said: `Token`, `Scope`, `Execution`, `Result` |
| `interpreter` | `run(workflow, input, outcome_of, choose)`, `judge(workflow, input, outcome_of)` |
| `maps` | its part that goes through the items of maps |
| `switch` | a patch: `switch(run, workflow, cancel, restart, answered)`, what it refuses, what becomes of each token |
| `follower` | `Follower`: the interpreter led along the steps of a run of the engine, for runs that are patched |
| `orders` | which running token completes next: first, last, random, one node starved |
| `script` | `Script`: the outcome of a task, from its node, attempt, iteration and `output` alone |
| `blocks` | what random workflows are made of |
| `generator` | `case(rng) -> Case(workflow, input, outcome_of)`, `whole_case(rng)` with maps and all; `cases()` |
| `golden`, `golden_maps` | workflows with traces written by hand: the shapes of routing.md, its table of `iteration` |
| `golden_patches` | patches of runs under way, with what must come of them, by hand |
| `comparison` | `compare(judged, ProductResult(...)) -> [difference]` |

To hold the product against it, compile `case.workflow` and start a run on `case.input`; until the run is
over, take any task that is ready and answer it with

    case.outcome_of(node, attempt, iteration, output)   # Completed(value) | Failed(class, message, retryable)

where attempt counts from 1, iteration is the one stamped on the token, and output what the task sees as
`output` (a function node's args carry all but the attempt). Then

    assert compare(judge(case.workflow, case.input, case.outcome_of), ProductResult(...)) == []

What waits to be answered (human, wait, workflow) is answered likewise; `deadline` is the class of a deadline.

A run that completes is the same in every order of completions, so it is compared whole, but for what a map or an
item that failed did beside its failure. A run that fails stops at whichever failure came first: what it executed
must be among what can happen before any failure, and its error must be one that can come first.
"""
