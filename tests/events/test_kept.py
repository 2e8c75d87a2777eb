from schemas.kept import Kept


def test_the_least_used_go_when_it_is_full() -> None:
    kept = Kept(10)
    kept.put("a", 1, 4)
    kept.put("b", 2, 4)
    assert kept.get("a") == 1
    kept.put("c", 3, 4)
    assert ["a" in kept, "b" in kept, "c" in kept] == [True, False, True]


def test_what_is_too_heavy_alone_is_not_kept() -> None:
    kept = Kept(10)
    kept.put("a", None, 4)
    assert kept.put("b", 2, 11) == 2
    assert "b" not in kept
    assert "a" in kept


def test_one_is_kept_once() -> None:
    kept = Kept(10)
    for _ in range(5):
        kept.put("a", 1, 4)
    kept.put("b", 2, 4)
    assert "a" in kept
