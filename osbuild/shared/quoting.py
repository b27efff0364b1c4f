"""Text of others in messages: in one line, without control characters, not too long."""

LONGEST = 60  # characters of what a message quotes


def printable(text: str, longest: int = 500) -> str:
    """`text` for a console: without control characters, which move its cursor, and at most `longest` characters."""
    line = "".join(sign if sign.isprintable() else "·" for sign in text[: longest + 1])
    return line if len(line) <= longest else line[: longest - 1] + "…"


def quoted(value: object) -> str:
    """A value for a message: in one line, in backquotes, and at most `LONGEST` characters."""
    return f"`{printable(str(value), LONGEST)}`"
