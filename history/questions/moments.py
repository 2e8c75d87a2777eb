"""Moments as people write them: `7d`, `12h`, `2026-03-01`, `2026-03-01T08:00Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LATEST_MS = 4_102_444_800_000  # the year 2100


def read_moment(text: str, now_ms: int) -> int:
    """Ms since the epoch of so long ago, of an ISO date or time (UTC unless it says otherwise), or of such ms.

    Raises ValueError, which says what is understood.
    """
    text = text.strip()
    if ago := _AGO.fullmatch(text):
        return max(0, now_ms - int(ago[1]) * _SECONDS[ago[2]] * 1_000)
    if text.isascii() and text.isdigit() and 12 <= len(text) <= 13:
        moment = int(text)
    else:
        try:
            at = datetime.fromisoformat(text)
            moment = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)
        except (ValueError, OverflowError):
            raise ValueError(f"{text[:80]!r} is no time: write 7d, 12h, 30m, 2026-03-01 or 2026-03-01T08:00Z") from None
    if not 0 <= moment < _LATEST_MS:
        raise ValueError(f"{text[:80]!r} must lie between 1970 and 2100")
    return moment
