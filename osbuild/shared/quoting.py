"""Untrusted text in messages: one line, without control characters, of limited length."""

import re

LONGEST = 60  # characters of a quoted value


def printable(text: str, longest: int = 500) -> str:
    """`text` without control characters, which could move the cursor, cut to `longest` characters."""
    line = "".join(character if character.isprintable() else "·" for character in text[: longest + 1])
    return line if len(line) <= longest else line[: longest - 1] + "…"


def quoted(value: object) -> str:
    """A value for a message: one line in backquotes, cut to `LONGEST` characters."""
    return f"`{printable(str(value), LONGEST)}`"


def escaped(text: str, *, lines: bool = False) -> str:
    """`text` with control and unprintable characters as escapes such as `\\x1b`. `lines` keeps line breaks and tabs."""
    allowed = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in allowed else character.encode("unicode_escape").decode()
        for character in text
    )


def escaped_json(text: str) -> str:
    """JSON with control and unprintable characters in its texts as escapes such as `\\u009b` (RFC 8259, section 7)."""
    return "".join(
        character if character.isprintable() or character == "\n" else _escape_in_json(character) for character in text
    )


def _escape_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def redacted_beginning(line: str) -> str:
    """The beginning of a line of a seed for a message, without a value that may be secret."""
    if line.startswith("#"):
        return line[:40]
    match = re.match(r"[\w-]{1,40}(?=:( |$))", line)
    return f"{match.group()}:…" if match else "…" if line else ""
