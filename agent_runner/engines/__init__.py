"""What a runner drives: the engine's protocol, and one adapter per kind of engine."""
