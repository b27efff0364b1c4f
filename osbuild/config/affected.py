"""Separates the keys of a profile that change the image from those that change only the seed, for content keys."""

from typing import Any

from osbuild.config.key_table import Kind, keys_of, to_json
from osbuild.config.profile import Profile


def image_keys(profile: Profile) -> dict[str, Any]:
    """Return every key that changes the image, as JSON values. Contains neither secrets nor references to secrets."""
    return _part(profile, "image")


def seed_keys(profile: Profile) -> dict[str, Any]:
    """Return every key that changes only the seed, as JSON values. Secrets are references."""
    return _part(profile, "seed")


def _part(block: Any, affected: str) -> dict[str, Any]:
    values = {}
    for key in keys_of(type(block)).values():
        value, affects = getattr(block, key.name), key.limits.get("affects", "image")
        if affects == "image" and key.shape.kind is Kind.BLOCK:
            if inner := _part(value, affected):
                values[key.name] = inner
        elif affects == affected:
            values[key.name] = to_json(value)
    return values
