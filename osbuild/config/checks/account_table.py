"""The names and numbers in passwd(5) and group(5)."""


def parse_account_table(data: bytes) -> dict[str, int]:
    """Return the numbers of users or groups by name. Raises `ValueError`, whose message has the line."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip() or line.startswith((b"#", b"+", b"-")):  # skipped by the C library, or for NIS
            continue
        fields = line.split(b":")
        try:
            name, text = fields[0].decode(), fields[2].decode("ascii")
        except (UnicodeDecodeError, IndexError):
            raise ValueError(f"has an invalid line {number}: it needs a name in UTF-8 and a number") from None
        if not name or not text.isdigit() or len(text) > 10:
            raise ValueError(f"has an invalid line {number}: its third field is not a number, or its name is empty")
        numbers.setdefault(name, int(text))  # as getpwnam(3): the first one counts
    return numbers
