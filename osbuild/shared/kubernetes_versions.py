"""Versions of Kubernetes, such as `v1.36.3` and K3s' `v1.35.0+k3s1`."""

import re

VERSION = re.compile(r"v(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:\+k3s(\d{1,9}))?")
MINOR = re.compile(r"v(\d{1,9})\.(\d{1,9})\.")


def version_numbers(version: str) -> tuple[int, int, int, int] | None:
    """Major, minor, patch and K3s' own number, for comparisons; None if it is not a version."""
    match = VERSION.fullmatch(version)
    if match is None:
        return None
    major, minor, patch, k3s = (int(part or 0) for part in match.groups())
    return major, minor, patch, k3s


def minor_version(version: str) -> tuple[int, int] | None:
    """Major and minor number of a version or release candidate; None if it is neither."""
    match = MINOR.match(version)
    return (int(match[1]), int(match[2])) if match else None
