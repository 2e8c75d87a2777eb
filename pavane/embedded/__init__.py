"""Real Valkey and Postgres servers as child processes, for one machine without installation."""
