"""What a GPU serves next: the pure scheduler, rule by rule, and on simulated GPUs."""
