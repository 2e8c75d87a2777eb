"""The command `pavane`: one file a group of commands, each a thin layer over the API or a service."""
