"""The command and the composition root: settings, logging, embedded servers, CLI."""
