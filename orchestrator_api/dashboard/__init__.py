"""The dashboard: one page that reads the JSON API, free of dependencies."""
