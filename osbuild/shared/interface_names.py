"""Names of network interfaces, as systemd takes them (its ifname_valid_full). It ignores a line with another one.

Standard library only, and no import of other modules of the agent: the host checks profiles by it too.
"""

import re

LONGEST, LONGEST_OTHER = 15, 127  # characters of a name, and of an alternative name, which can only be matched
# A number in any notation would be taken for an interface's index.
NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+")


def name_problem(name: str, *, made: bool) -> str | None:
    """Say why no interface can be called `name`, None if one can. `made`: it is to get the name."""
    if name in ("all", "default", ".", ".."):
        return f"`{name}` stands for something else"
    if NUMBER.fullmatch(name):
        return "it is a number"
    longest = LONGEST if made else LONGEST_OTHER
    if not 1 <= len(name) <= longest:
        return f"it has more than {longest} characters" if name else "it is empty"
    if bad := re.search(r"[^!-~]|[:/%]", name):
        return f"it contains `{bad.group()}`"
    return None
