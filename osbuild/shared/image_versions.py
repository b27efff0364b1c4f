"""Versions of images, compared as RAUC compares them for `min-bundle-version` (semver.org, 11)."""

import re

SEMANTIC = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]*)?")
LONGEST = 256  # characters; int() refuses some thousand digits
Key = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def version_key(version: str) -> Key | None:
    """What sorts versions; None where it is none."""
    match = SEMANTIC.fullmatch(version) if len(version) <= LONGEST else None
    if not match:
        return None
    parts = [part for part in (match[4] or "").split(".") if part]
    # Numbers are less than words; a version with such parts is less than the one without.
    order = tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
    return tuple(int(match[group] or 0) for group in (1, 2, 3)), not parts, order


def is_older(version: str, than: str) -> bool | None:
    """Whether `version` comes before `than`; None where the two can't be compared."""
    one, two = version_key(version), version_key(than)
    return None if one is None or two is None else one < two
