"""Details of entries of the audit log, as people see them on the command line and on the page."""

TIMES = frozenset({"expires", "start", "written"})
"""details that are times"""
EMPTY: tuple[object, ...] = (None, "", {}, [])
"""values that are not shown"""


def format_detail(value: object) -> str:
    """Return one detail that is not a time: patterns as KEY=PATTERN, lists with `+` between their values."""
    if isinstance(value, dict):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
