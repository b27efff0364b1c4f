"""Image versions, compared like RAUC compares `min-bundle-version` (semver.org, section 11)."""

import re

PATTERN = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"  # of a profile's version

SEMANTIC = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]*)?")
LONGEST = 256  # characters; int() rejects some thousand digits
Key = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def is_image_version(text: str) -> bool:
    """Whether `text` is a version that a profile may have: three numbers, so that every two can be compared."""
    return re.fullmatch(PATTERN, text) is not None


def version_key(version: str) -> Key | None:
    """The sort key of a version; None if it is not a version."""
    match = SEMANTIC.fullmatch(version) if len(version) <= LONGEST else None
    if not match:
        return None
    parts = [part for part in (match[4] or "").split(".") if part]
    # A numeric part is lower than a textual one. A version with such parts is lower than the same version without.
    order = tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
    return tuple(int(match[group] or 0) for group in (1, 2, 3)), not parts, order


def is_older(version: str, than: str) -> bool | None:
    """Whether `version` is lower than `than`; None if one of them is not a version."""
    key, than_key = version_key(version), version_key(than)
    return None if key is None or than_key is None else key < than_key
