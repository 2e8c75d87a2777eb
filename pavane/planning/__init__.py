"""Planning: how long a batch would take on which GPUs, simulated around the scheduler that runners use."""
