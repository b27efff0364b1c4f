"""Numbers that people send in forms and addresses."""

LONGEST_NUMBER = 15
"""digits of a number that always fits into the database, and into a number of JavaScript"""


def parse_number(text: str) -> int | None:
    """Return a number of decimal digits, such as the id of a row; None if it is none, or too large for the database."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= LONGEST_NUMBER else None
