"""Names in addresses: which ones the server accepts, and how the client writes them."""

from urllib.parse import quote

from osbuild.shared.errors import UsageError

FORBIDDEN = frozenset("/\\?#%")
RULE = "without white space, control characters, `/`, `\\`, `?`, `#` and `%`, and not `.` or `..`"


def is_safe_name(name: str) -> bool:
    """Whether a name is exactly one part of an address, however a program on the way reads the address (RFC 3986)."""
    if name in ("", ".", ".."):
        return False
    return all(character.isprintable() and not character.isspace() and character not in FORBIDDEN for character in name)


def make_path(*parts: str | int) -> str:
    """Return the path with these parts, each of them quoted. Raises `UsageError` for a name that is not one part."""
    for part in parts:
        check_part(str(part))
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def check_part(name: str) -> None:
    """Raise `UsageError` for a name that is not one part of an address."""
    if not is_safe_name(name):
        raise UsageError(f"this is not a name: {name!r}", hint=f"write a name {RULE}")
