"""Numbers and days of spreadsheets as their program shows them, without separators of thousands and currencies; pure."""

import math
import re
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum, auto

_DAYS_MAX = 2_958_466  # 10000-01-01; no program shows a later day
_SECONDS_PER_DAY = 86_400
# Day 60 of this calendar is the 29th of February 1900, which never was: https://learn.microsoft.com/office/troubleshoot/excel/wrongly-assumes-1900-is-leap-year
_FEIGNED_DAY = 60
_EPOCH = date(1899, 12, 30)
DAYS_TO_1904 = 1462
# A number has no more digits than these; what follows is the noise of binary fractions: 0.30000000000000004.
_DIGITS = 15
_MIDNIGHT = "00:00"
_STAMP = re.compile(
    r"(?P<day>-?\d{4,6}-\d\d-\d\d)(?:[T ](?P<hours>\d\d):(?P<minutes>\d\d)(?::(?P<seconds>\d\d)(?:[.,]\d+)?)?Z?)?"
)
_CODE_CHARACTERS_MAX = 255
_DECIMALS_MAX = 15

# Quoted and escaped characters, widths, and what stands in brackets besides hours, minutes and seconds that go on counting.
_LITERAL = re.compile(r'"[^"]*"?|\\.|[_*].|\[(?!(?:h+|m+|s+)\])[^\]]*\]?', re.IGNORECASE)
_ELAPSED = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
# `General`, and the names of eras and halves of days.
_WORDS = re.compile(r"general|standard|am/pm|a/p", re.IGNORECASE)
_PLACES = re.compile(r"[#0?][#0?, ]*(?:\.([#0?]*))?")


class Shown(Enum):
    """What a format makes of a number."""

    NUMBER = auto()
    PERCENT = auto()
    DATE = auto()
    TIME = auto()
    MOMENT = auto()
    ELAPSED = auto()


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How a number is shown; without `decimals` all its digits are."""

    shown: Shown = Shown.NUMBER
    decimals: int | None = None


GENERAL = NumberFormat()
_BUILT_IN = {
    **dict.fromkeys([1, 3, 37, 38], NumberFormat(decimals=0)),
    **dict.fromkeys([2, 4, 39, 40, 7, 8, 44], NumberFormat(decimals=2)),
    **dict.fromkeys([5, 6, 42, 41], NumberFormat(decimals=0)),
    43: NumberFormat(decimals=2),
    9: NumberFormat(Shown.PERCENT, 0),
    10: NumberFormat(Shown.PERCENT, 2),
    **dict.fromkeys([14, 15, 16, 17, *range(27, 32), 36, *range(50, 55), 57, 58], NumberFormat(Shown.DATE)),
    **dict.fromkeys([18, 19, 20, 21, 32, 33, 34, 35, 45, 47, 55, 56], NumberFormat(Shown.TIME)),
    22: NumberFormat(Shown.MOMENT),
    46: NumberFormat(Shown.ELAPSED),
}


def built_in_format(number: int) -> NumberFormat:
    """Return one of the formats that files name by number and do not describe."""
    return _BUILT_IN.get(number, GENERAL)


def read_format(code: str) -> NumberFormat:
    """Understand a format's code: `0.0%`, `yyyy-mm-dd`, `#,##0.00 [$€-407]`."""
    bare = _LITERAL.sub("", code[:_CODE_CHARACTERS_MAX]).split(";")[0]
    if _ELAPSED.search(bare):
        return NumberFormat(Shown.ELAPSED)
    letters = set(_WORDS.sub("", bare).lower())
    has_time = bool(letters & {"h", "s"})
    # An m beside hours or seconds is a minute, any other a month.
    has_day = bool(letters & {"d", "y"}) or ("m" in letters and not has_time)
    if has_day or has_time:
        return NumberFormat(Shown.MOMENT if has_day and has_time else Shown.DATE if has_day else Shown.TIME)
    if "e" in letters or "/" in bare or not (places := _PLACES.search(bare)):
        return GENERAL  # 1E+06, 3/4, text
    decimals = len(places[1] or "")
    if "%" in bare:
        return NumberFormat(Shown.PERCENT, decimals)
    is_scaled = places[0].rstrip(" ").endswith(",") or bare[places.end() :].startswith(",")
    return GENERAL if is_scaled else NumberFormat(decimals=decimals)


def number_text(value: float, number_format: NumberFormat = GENERAL, *, days_to_epoch: int = 0) -> str:
    """Write a number as its format shows it: `12`, `34.5%`, `2024-03-05 14:30`."""
    if not math.isfinite(value):
        return str(value)
    match number_format.shown:
        case Shown.NUMBER:
            return _decimal(value, number_format.decimals)
        case Shown.PERCENT:
            return _decimal(value * 100, number_format.decimals) + "%"
        case _ if 0 <= value < _DAYS_MAX - days_to_epoch:
            return _time_text(value + days_to_epoch, number_format.shown)
        case _:
            return _decimal(value, None)


def _decimal(value: float, decimals: int | None) -> str:
    if decimals is not None and abs(value) < 1e15:
        value = round(value, min(decimals, _DECIMALS_MAX))
    if abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.{_DIGITS}g}"


def _time_text(value: float, shown: Shown) -> str:
    seconds = round(value * _SECONDS_PER_DAY)
    days, seconds = divmod(seconds, _SECONDS_PER_DAY)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if shown is Shown.ELAPSED:
        return clock_text(days * 24 + hours, minutes, seconds)
    clock = clock_text(hours, minutes, seconds)
    if shown is Shown.TIME or (days == 0 and clock != _MIDNIGHT):
        return clock
    day = _day_text(days)
    return f"{day} {clock}" if shown is Shown.MOMENT else day


def clock_text(hours: int, minutes: int, seconds: int) -> str:
    """Write a time of day, or one that went on counting: `14:30`, `36:15:07`."""
    return f"{hours:02}:{minutes:02}" + (f":{seconds:02}" if seconds else "")


def moment_text(stamp: str) -> str:
    """Write an ISO day, with its time if that is not midnight: `2024-03-05`, `2024-03-05 14:30`."""
    found = _STAMP.fullmatch(stamp.strip())
    if found is None:
        return stamp.strip()
    clock = clock_text(int(found["hours"] or 0), int(found["minutes"] or 0), int(found["seconds"] or 0))
    return found["day"] if clock == _MIDNIGHT else f"{found['day']} {clock}"


def _day_text(days: int) -> str:
    if days == 0:
        return "0"
    if days == _FEIGNED_DAY:
        return "1900-02-29"
    if days > (date.max - _EPOCH).days:
        return str(days)
    return (_EPOCH + timedelta(days=days + (days < _FEIGNED_DAY))).isoformat()
