"""The embedded servers: start, crash, restart, and who may run them."""
