"""What happens beside the work while a random workflow is played, and the courses of the tests by name."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unrest:
    """Shares are of the steps. `mortal`: the share of nodes whose failure ends the run."""

    mortal: float = 0.03
    pauses: float = 0.0
    cancel_at: int | None = None  # the step at which the run is cancelled
    retries: bool = False  # a run that fails is retried, and what failed succeeds
    losses: float = 0.0  # Redis is emptied, and the run rebuilt from what was recorded
    late: float = 0.2  # executions that end some steps after they began
    check_every: int = 5  # steps from one look at the books to the next


COURSES: dict[str, Callable[[random.Random], Unrest]] = {
    "orders": lambda rng: Unrest(),
    "pauses": lambda rng: Unrest(pauses=0.12),
    "cancels": lambda rng: Unrest(cancel_at=rng.randrange(60), pauses=rng.choice([0, 0.05])),
    "losses": lambda rng: Unrest(losses=0.06, pauses=rng.choice([0, 0, 0.05])),
    "retries": lambda rng: Unrest(mortal=0.2, retries=True, pauses=rng.choice([0, 0, 0.05])),
}
