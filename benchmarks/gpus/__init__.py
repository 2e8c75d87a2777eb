"""GPUs end to end: the yardstick's items as runs on simulated GPUs, through all that a user's runs go through."""
