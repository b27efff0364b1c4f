"""Sizes in bytes as text with a unit. Rounding never gives a number that the next unit would show better."""

import re
from decimal import Decimal

MOST_MIB = 10 * 2**10  # from here on, GiB are shown
DECIMAL = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
FACTORS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> Decimal | None:
    """The bytes of a size such as `512 MiB`, `2G` or `1.5 GiB`; a bare number is in MiB. None if it is not a size."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?)i?b?", text.strip(), re.IGNORECASE)
    return Decimal(match[1]) * FACTORS[match[2].lower() or "m"] if match else None


def format_bytes(size: float | None) -> str:
    """A size in B, KiB, MiB or GiB, used for memory and files; empty if it is unknown."""
    if size is None:
        return ""
    if round(size) < 2**10:
        return f"{size:.0f} B"
    if round(size / 2**10) < 2**10:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**20:.0f} MiB" if round(size / 2**20) < MOST_MIB else f"{size / 2**30:.1f} GiB"


def format_decimal(size: float) -> str:
    """A size in decimal units, used for cards and transfers: 1 GB is 1,000,000,000 bytes."""
    for factor, unit in DECIMAL:
        if round(size / (factor // 1000)) >= 1000:
            return f"{size / factor:.{0 if round(size / factor, 1) >= 100 else 1}f} {unit}"
    return f"{size:.0f} bytes"
