"""The choreography: pop a completion, decide, advance; supervision, timers and recovery."""
