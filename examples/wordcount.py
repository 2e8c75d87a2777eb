"""Handlers of wordcount.yaml: plain functions, called with a node's `args`, returning JSON."""


def count_words(text: str) -> dict[str, int]:
    return {"words": len(text.split()), "characters": len(text)}
