"""A GPU with an Ollama on it, simulated: a real HTTP server, real scheduling rules, no model."""
