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


def pattern_problem(name: str) -> str | None:
    """Why `name` matches no interface as a pattern (fnmatch(3)), or None."""
    rest = name
    while "[" in rest:
        # A `]` is part of the list if it is the first character.
        characters, bracket, rest = rest.partition("[")[2].partition("]")
        if not characters:
            characters, bracket, rest = rest.partition("]")
        if not bracket:
            return "it has a `[` without `]`"
        for first, last in re.findall(r"(.)-(.)", characters):
            if first > last:
                return f"its range `{first}-{last}` is empty"
    return None
