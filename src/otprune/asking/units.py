"""Amounts as people read and write them."""

from __future__ import annotations

import re

from otprune.errors import OTPruneError

_BYTES = (" B", " KiB", " MiB", " GiB", " TiB")
_COUNT = ("", " k", " M", " G", " T", " P")
_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def in_bytes(value: float) -> str:
    """`1536` as "1.5 KiB"."""
    return _scaled(value, 1024, _BYTES)


def in_flops(value: float) -> str:
    """`2.5e12` as "2.5 T"."""
    return _scaled(value, 1000, _COUNT)


def in_seconds(value: float) -> str:
    """`0.0123` as "12.3 ms"."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if 0 < value < 1e-3 else f"{value * 1e3:.1f} ms"


def bytes_of(text: str) -> int:
    """ "500MiB", "2 GiB" or "1e9" in bytes.

    Raises:
        OTPruneError: it is no such amount.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e\+?\d+)?)\s*(?:([kmgt])?(i)?b)?\s*", text, re.I)
    try:
        if found is None:
            raise ValueError
        number, prefix, binary = found.groups()
        power = 0 if prefix is None else "kmgt".index(prefix.lower()) + 1
        return int(float(number) * (1024 if binary else 1000) ** power)
    except (ValueError, OverflowError):
        raise OTPruneError(
            f"{text}: expected an amount of memory, such as 500MiB, 2GiB or 8e9"
        ) from None


def seconds_of(text: str) -> float | None:
    """ "800ms" or "1.5s" in seconds; None for anything else."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*(us|ms|s)\s*", text)
    try:
        return None if found is None else float(found[1]) * _TIME[found[2]]
    except ValueError:
        return None


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    # 999.6 would be written as 1e+03 in three digits.
    while round(value) >= base and power < len(units) - 1:
        value /= base
        power += 1
    return f"{value:.3g}{units[power]}" if round(value) < 1000 else f"{value:.0f}{units[power]}"
