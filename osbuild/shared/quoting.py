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
    """`text` for a terminal: what it would obey or not show becomes an escape, such as `\\x1b`. `lines` keeps lines."""
    kept = "\n\t" if lines else ""
    return "".join(
        sign if sign.isprintable() or sign in kept else sign.encode("unicode_escape").decode() for sign in text
    )
