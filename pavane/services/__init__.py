"""Each service as one process runs it: connections opened, settings handed on, stopped by SIGTERM."""
