"""A real engine: llama.cpp on this CPU, with models of random weights that the tests write themselves."""
