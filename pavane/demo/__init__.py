"""`pavane demo`: the main job, whole, on text that every machine has."""
