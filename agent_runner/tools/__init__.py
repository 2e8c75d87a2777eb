"""Tools that agents call: the loop of model and tools, and each kind of tool."""
