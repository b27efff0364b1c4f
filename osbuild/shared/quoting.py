"""Untrusted text in messages: one line, without control characters, of limited length."""

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
