"""Names of network interfaces that systemd accepts (`ifname_valid_full`). It ignores lines with other names."""

import re

LONGEST, LONGEST_PATTERN = 15, 127  # characters of a name, and of an alternative name, which can only be matched
# systemd reads a number in any notation as the index of an interface.
NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+")


def name_problem(name: str, *, assigned: bool) -> str | None:
    """Why `name` is not valid, or None. `assigned`: an interface gets this name; otherwise it only has to match."""
    if name in ("all", "default", ".", ".."):
        return f"`{name}` has a special meaning"
    if NUMBER.fullmatch(name):
        return "it is a number"
    longest = LONGEST if assigned else LONGEST_PATTERN
    if not 1 <= len(name) <= longest:
        return f"it has more than {longest} characters" if name else "it is empty"
    if invalid := re.search(r"[^!-~]|[:/%]", name):
        return f"it contains `{invalid.group()}`"
    return None
