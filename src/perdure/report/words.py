"""Numbers as words: how the report writes a score, a duration, a size, a count, a setting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from perdure.errors import shorten

__all__ = [
    "chance",
    "count",
    "duration",
    "few",
    "interval",
    "listed",
    "lost",
    "mean",
    "moment",
    "number",
    "plain",
    "score",
    "signed",
    "size",
    "whole",
]

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def mean(values: list[float]) -> float:
    """Arithmetic mean of at least one number."""
    return sum(values) / len(values)


def score(value: float | None) -> str:
    """Three decimals; empty for None."""
    return "" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """A change, with its sign; `0` only where nothing changed at all."""
    return _small(value) or f"{value:+.3f}".replace("-", "−")


def lost(value: float) -> str:
    """A loss: three decimals, a true minus sign, `0` only where nothing changed at all."""
    return _small(value) or f"{value:.3f}".replace("-", "−")


def interval(low: float | None, high: float | None, sign: bool = False) -> str:
    """`0.120 – 0.140`, with `sign` as changes; empty where an end is not known."""
    if low is None or high is None:
        return ""
    return f"{signed(low)} to {signed(high)}" if sign else f"{score(low)} – {score(high)}"


def chance(p: float | None) -> str:
    """`p 0.012`, `p < 0.001`, not to be broken across lines; empty for None."""
    return "" if p is None else "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def few(names: Sequence[str], most: int = 4) -> str:
    """As `listed`; of more than `most`, the first of them and how many others."""
    if len(names) <= most:
        return listed(names)
    return f"{', '.join(names[: most - 1])} and {number(len(names) - most + 1)} others"


def _small(value: float) -> str:
    return "0" if value == 0 else "≈ 0" if abs(value) < 0.0005 else ""


def moment(text: str) -> str:
    """`2026-01-02T10:02:07+00:00` or `...Z` as `2026-01-02 10:02 UTC`; anything else as it is."""
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith(("+00:00", "Z")) and text[10:11] == "T" else text


def whole(value: Any) -> str:
    """A whole number with thousands apart; empty for None."""
    return "" if value is None else f"{int(value):,}"


def count(n: int, word: str, digits: bool = False) -> str:
    """`three tasks`, or `3 tasks` with `digits`."""
    return f"{n if digits else number(n)} {word}{'' if n == 1 else 's'}"


def number(n: int) -> str:
    """`three`, and `13` from there on."""
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(n: float | None) -> str:
    """Bytes as people say them (1 KB = 1000 B)."""
    if n is None:
        return ""
    for unit in ("B", "KB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def plain(value: Any) -> str:
    """Any setting or card entry on one line of at most 200 characters."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 200)
