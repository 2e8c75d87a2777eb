"""The yardstick: a discrete-event simulator of models on GPUs, its workloads and baselines. README.md says what."""
