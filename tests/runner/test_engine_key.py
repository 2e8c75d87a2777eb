"""Keys of engines' leases."""

import pytest

from agent_runner.engine_key import engine_key


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://127.0.0.1:11434", "box:11434"),
        ("http://localhost:11434/", "box:11434"),
        ("http://[::1]:11434", "box:11434"),
        ("http://127.9.9.9:80", "box:80"),
        ("http://Box:11434", "box:11434"),
        ("http://box.:11434", "box:11434"),
        ("http://10.0.0.7:8000/gpu0", "10.0.0.7:8000/gpu0"),
        ("https://gpu.example.org", "gpu.example.org:443"),
        ("http://gpu.example.org", "gpu.example.org:80"),
    ],
)
def test_one_engine_has_one_key(url: str, key: str) -> None:
    assert engine_key(url, "Box") == key
