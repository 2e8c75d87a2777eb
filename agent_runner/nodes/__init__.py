"""How the nodes of each task type are executed."""
