"""A task's generation settings, as `generate` takes them, and its stop strings."""

from __future__ import annotations

from typing import Any

MOST_NEW_TOKENS = 1024  # where a task does not say


def decoding(wanted: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `generate`; greedy decoding has no temperature."""
    temperature = float(wanted.get("temperature") or 0)
    found: dict[str, Any] = {
        "max_new_tokens": int(wanted.get("max_new_tokens") or MOST_NEW_TOKENS),
        "num_beams": int(wanted.get("num_beams") or 1),
        "do_sample": temperature > 0,
        "temperature": temperature if temperature > 0 else None,
        "top_p": wanted.get("top_p") if temperature > 0 else None,
    }
    return found


def cut(text: str, until: str | list[str] | None) -> str:
    """The answer up to its first stop string; stop strings of white space alone are ignored."""
    for stop in [until] if isinstance(until, str) else until or []:
        if stop.strip():
            text = text.split(stop)[0]
    return text.strip()
