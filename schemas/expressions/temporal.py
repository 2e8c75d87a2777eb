"""Timestamps and durations: their text (RFC 3339; `1h30m`), their ranges, their parts by time zone."""

from __future__ import annotations

import datetime
import functools
import re
import zoneinfo
from collections.abc import Callable
from typing import Any

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.values import Duration, Timestamp, no_overload

SECOND = 10**9
# The ranges of google.protobuf.Timestamp (years 1 to 9999) and Duration (10,000 years either way).
_TIMESTAMP_MIN, _TIMESTAMP_MAX = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1
_DURATION_MAX = 315_576_000_000 * SECOND + SECOND - 1
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097  # after which the calendar repeats, with its days of the week
LONGEST_TEXT = 128
_SCALE = 10**LONGEST_TEXT
_FAILED_ZONE_STEPS = 5_000

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
# No two of these alternatives match the same text, so there is nothing to backtrack into.
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|μs|ns)", re.ASCII)
_UNITS = {"h": 3600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
_UNITS |= {"µs": 10**3, "μs": 10**3}
_OFFSET = re.compile(r"([+-]?)(\d\d?):(\d\d)", re.ASCII)
_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")


def checked_timestamp(ns: int) -> Timestamp:
    """A timestamp, or EvaluationError `out-of-range` outside of the years 1 to 9999."""
    if _TIMESTAMP_MIN <= ns <= _TIMESTAMP_MAX:
        return Timestamp(ns)
    raise EvaluationError("out-of-range", "the timestamp is outside of the years 1 to 9999")


def checked_duration(ns: int) -> Duration:
    """A duration, or EvaluationError `out-of-range` beyond 10,000 years."""
    if -_DURATION_MAX <= ns <= _DURATION_MAX:
        return Duration(ns)
    raise EvaluationError("out-of-range", "the duration is longer than 10,000 years")


def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339, with up to nanoseconds; further digits are cut off."""
    match = _RFC3339.fullmatch(text) if len(text) <= LONGEST_TEXT else None
    if match is None:
        raise EvaluationError("bad-conversion", "the text is no RFC 3339 timestamp")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    sign, zone_hour, zone_minute = match[8], int(match[9] or 0), int(match[10] or 0)
    if zone_hour > 23 or zone_minute > 59:
        raise EvaluationError("bad-conversion", "the text is no RFC 3339 timestamp")
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError:
        raise EvaluationError("bad-conversion", "the text is no RFC 3339 timestamp") from None
    seconds = (moment - _EPOCH) // datetime.timedelta(seconds=1)
    offset = zone_hour * 3600 + zone_minute * 60
    seconds += offset if sign == "-" else -offset
    return checked_timestamp(seconds * SECOND + int((match[7] or "").ljust(9, "0")[:9]))


def format_timestamp(value: Timestamp) -> str:
    """RFC 3339 in UTC, with 0, 3, 6 or 9 digits after the second, as protobuf writes it."""
    seconds, ns = divmod(value.ns, SECOND)
    moment = _EPOCH + datetime.timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + _fraction(ns) + "Z"


def _fraction(ns: int) -> str:
    digits = f"{ns:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f".{digits}" if digits else ""


def parse_duration(text: str) -> Duration:
    """A sign, then numbers with units: h, m, s, ms, us, ns. `0` needs no unit."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return Duration(0)
    position, total = 0, 0  # in 1 / _SCALE ns, so that no digit is lost
    while position < len(body) and len(text) <= LONGEST_TEXT:
        match = _DURATION_PART.match(body, position)
        if match is None:
            break
        whole, _, fraction = match[1].partition(".")
        total += int(whole + fraction) * _UNITS[match[2]] * (_SCALE // 10 ** len(fraction))
        position = match.end()
    if not body or position < len(body):
        raise EvaluationError("bad-conversion", "the text is no duration such as 1h30m or 1.5s")
    ns = total // _SCALE
    return checked_duration(-ns if text[0] == "-" else ns)


def format_duration(value: Duration) -> str:
    """Seconds, as in `3601s` and `1.500s`."""
    seconds, ns = divmod(abs(value.ns), SECOND)
    return f"{'-' if value.ns < 0 else ''}{seconds}{_fraction(ns)}s"


@functools.lru_cache(maxsize=1024)
def _named_zone(name: str) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(name)


def _zone(name: Any, budget: Budget) -> datetime.tzinfo:
    if type(name) is str and len(name) <= 64:
        offset = _OFFSET.fullmatch(name)
        if offset is not None and int(offset[2]) < 24 and int(offset[3]) < 60:
            delta = datetime.timedelta(hours=int(offset[2]), minutes=int(offset[3]))
            return datetime.timezone(-delta if offset[1] == "-" else delta)
        if _ZONE_NAME.fullmatch(name):
            try:
                return _named_zone(name)
            except (KeyError, ValueError, OSError):
                budget.spend(_FAILED_ZONE_STEPS)  # not found, or no file: a search through folders each time
    raise EvaluationError("bad-conversion", "there is no such time zone")


def _timestamp_part(name: str, part: Callable[[datetime.datetime], int]) -> Callable[..., int]:
    def read(budget: Budget, value: Any, zone: Any = "UTC") -> int:
        if type(value) is not Timestamp:
            raise no_overload(f"{name}()", value)
        moment = _EPOCH + datetime.timedelta(microseconds=value.ns // 1000)
        if zone == "UTC":
            return part(moment)
        local = _zone(zone, budget)
        try:
            return part(moment.astimezone(local))
        except OverflowError:  # a local time in the year 0 or 10000
            years = -_CYCLE_YEARS if moment.year > 1 else _CYCLE_YEARS
            shifted = part((moment + datetime.timedelta(days=_CYCLE_DAYS * years // _CYCLE_YEARS)).astimezone(local))
            return shifted - years if name == "getFullYear" else shifted

    return read


def _either_part(name: str, part: Callable[[datetime.datetime], int], unit: int, modulus: int) -> Callable[..., int]:
    """A part that durations have too: their whole length in that unit (milliseconds: of the second)."""
    of_timestamp = _timestamp_part(name, part)

    def read(budget: Budget, value: Any, *zone: Any) -> int:
        if type(value) is Duration and not zone:
            whole = abs(value.ns) // unit
            whole = whole % modulus if modulus else whole
            return -whole if value.ns < 0 else whole
        return of_timestamp(budget, value, *zone)

    return read


def _day_of_week(moment: datetime.datetime) -> int:
    return moment.isoweekday() % 7


PARTS: dict[str, Callable[..., int]] = {
    "getFullYear": _timestamp_part("getFullYear", lambda moment: moment.year),
    "getMonth": _timestamp_part("getMonth", lambda moment: moment.month - 1),
    "getDate": _timestamp_part("getDate", lambda moment: moment.day),
    "getDayOfMonth": _timestamp_part("getDayOfMonth", lambda moment: moment.day - 1),
    "getDayOfWeek": _timestamp_part("getDayOfWeek", _day_of_week),
    "getDayOfYear": _timestamp_part("getDayOfYear", lambda moment: moment.timetuple().tm_yday - 1),
    "getHours": _either_part("getHours", lambda moment: moment.hour, 3600 * SECOND, 0),
    "getMinutes": _either_part("getMinutes", lambda moment: moment.minute, 60 * SECOND, 0),
    "getSeconds": _either_part("getSeconds", lambda moment: moment.second, SECOND, 0),
    "getMilliseconds": _either_part("getMilliseconds", lambda moment: moment.microsecond // 1000, 10**6, 1000),
}
