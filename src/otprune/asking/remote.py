"""Fetching a photograph from the network."""

from __future__ import annotations

import urllib.error
import urllib.request

from otprune import __version__
from otprune.errors import OTPruneError

SCHEMES = ("http", "https")
LARGEST = 64 * 2**20  # bytes
TIMEOUT = 20.0  # seconds without a sign of life


def fetch(url: str) -> bytes:
    """The content behind a URL.

    Raises:
        OTPruneError: it has another scheme, cannot be reached, is refused, empty or too large.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise OTPruneError(f"{url}: expected a URL of {' or '.join(SCHEMES)}, or a file")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"otprune/{__version__}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            content: bytes = answer.read(LARGEST + 1)
    except urllib.error.HTTPError as cause:
        raise OTPruneError(f"{url}: the server says {cause.code} {cause.reason}") from cause
    except Exception as cause:  # of sockets, TLS, HTTP and of URLs that are none
        why = getattr(cause, "reason", None) or cause
        raise OTPruneError(f"{url} cannot be fetched: {why or type(cause).__name__}") from cause
    if len(content) > LARGEST:
        raise OTPruneError(f"{url} has more than {LARGEST >> 20} MiB: fetch it first, as a file")
    if not content:
        raise OTPruneError(f"{url} is empty")
    return content
