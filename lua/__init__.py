"""Every atomic change of Redis state: one script a file, and RunStore, one typed async method per script."""
