"""The one kind of exception of the agent that a user is meant to see."""

# What to do about a disk that is full.
FREE = "free some: pods' data, images that are not used, journalctl --vacuum-size=16M"


class Problem(Exception):
    """Something can't be done: says what, where, and what to do next."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def lines(self) -> list[str]:
        """For people: the problem, and what to do about it."""
        return [f"edge-agent: {self}", *([f"  {self.hint}"] if self.hint else [])]
