"""Numbers of things in messages."""


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 device` or `2 devices`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
