"""What of a profile changes the image, and what only first-boot config: the content keys of the build."""

from typing import Any

from osbuild.config.key_table import Kind, keys_of, to_json
from osbuild.config.profile import Profile


def image_keys(profile: Profile) -> dict[str, Any]:
    """Every key that makes another image when it changes, as JSON has it. Holds no secret and no reference to one."""
    return _part(profile, "image")


def seed_keys(profile: Profile) -> dict[str, Any]:
    """Every key that only changes the seed, as JSON has it. Secrets are still references."""
    return _part(profile, "seed")


def _part(block: Any, wanted: str) -> dict[str, Any]:
    part = {}
    for key in keys_of(type(block)).values():
        value, affects = getattr(block, key.name), key.limits.get("affects", "image")
        if affects == "image" and key.shape.kind is Kind.BLOCK:
            if inner := _part(value, wanted):
                part[key.name] = inner
        elif affects == wanted:
            part[key.name] = to_json(value)
    return part
