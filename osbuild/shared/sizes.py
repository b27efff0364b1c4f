"""Numbers of bytes as text with a unit."""

import re
from decimal import Decimal

FACTORS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> Decimal | None:
    """The bytes of a size such as `512 MiB`, `2G` or `1.5 GiB`; a bare number is in MiB. None if it is not a size."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgt]?)i?b?", text.strip(), re.IGNORECASE)
    return Decimal(match[1]) * FACTORS[match[2].lower() or "m"] if match else None


def format_bytes(size: float | None) -> str:
    """A size in B, KiB, MiB or GiB, used for memory and files; empty if it is unknown."""
    if size is None:
        return ""
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB" if size >= 2**10 else f"{size:.0f} B"
    return f"{size / 2**20:.0f} MiB" if size < 10 * 2**30 else f"{size / 2**30:.1f} GiB"


def format_decimal(size: float) -> str:
    """A size in decimal units, used for cards and transfers: 1 GB is 1,000,000,000 bytes."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 100 * factor else 1}f} {unit}"
    return f"{size:.0f} bytes"
