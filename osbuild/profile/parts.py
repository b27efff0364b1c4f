"""What of a profile changes the image, and what only first-boot config: the content keys of the build."""

from typing import Any

from osbuild.profile.keys import Kind, keys, plain
from osbuild.profile.model import Profile


def image_part(profile: Profile) -> dict[str, Any]:
    """Every key that makes another image when it changes, as JSON has it. Holds no secret and no reference to one."""
    return _part(profile, "image")


def seed_part(profile: Profile) -> dict[str, Any]:
    """Every key that only changes the seed, as JSON has it. Secrets are still references."""
    return _part(profile, "seed")


def _part(block: Any, wanted: str) -> dict[str, Any]:
    part = {}
    for key in keys(type(block)).values():
        value, where = getattr(block, key.name), key.limits.get("where", "image")
        if where == "image" and key.shape.kind is Kind.BLOCK:
            if inner := _part(value, wanted):
                part[key.name] = inner
        elif where == wanted:
            part[key.name] = plain(value)
    return part
