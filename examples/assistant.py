"""Tools of assistant.yaml: plain functions. Hints and docstrings are what the model is told of them."""

NOTES = {
    "backup": "Backups run at 02:00 and are kept for 30 days.",
    "access": "New colleagues get access from the platform team, usually within a day.",
    "release": "Releases are on Tuesdays; the checklist is in the handbook.",
}


def search_notes(words: str, limit: int = 3) -> list[str]:
    """Search the team's notes. Returns those that hold any of the words."""
    wanted = words.lower().split()
    return [text for text in NOTES.values() if any(word in text.lower() for word in wanted)][:limit]


def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())
