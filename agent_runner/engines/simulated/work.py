"""How much GPU time a request is worth, in solo seconds on the 8 GB card."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent_runner.engines.simulated.gpu import ModelSpec


def tokens(text: str) -> int:
    """About four characters a token."""
    return (len(text) + 3) // 4


@dataclass(frozen=True, slots=True)
class WorkLaw:
    """Decoding reads all weights once a token, so both parts grow with them: GB times tokens, per second.

    `spread` is the sigma of a lognormal factor of mean 1. With the defaults, the texts of a typical workflow
    take 1 to 5 s.
    """

    fixed_s: float = 0.6
    prompt_rate: float = 6_000.0
    completion_rate: float = 120.0
    spread: float = 0.4
    scale: float = 1.0

    def parts(
        self, spec: ModelSpec, prompt_tokens: int, completion_tokens: int, draw: random.Random
    ) -> tuple[float, float]:
        """Seconds for (prompt, completion)."""
        factor = self.scale * draw.lognormvariate(-(self.spread**2) / 2, self.spread)
        prompt_s = self.fixed_s + prompt_tokens * spec.weights_gb / self.prompt_rate
        return prompt_s * factor, completion_tokens * spec.weights_gb / self.completion_rate * factor
