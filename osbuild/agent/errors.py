"""The error that the agent reports to its user."""

# The hint for every error about a full data partition.
FREE = "free some space: delete data of pods or unused container images, or run `journalctl --vacuum-size=16M`"


class Problem(Exception):
    """An operation failed. `message` says why, `where` names the file or command, `hint` says what to do next."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def lines(self) -> list[str]:
        """The lines to print: the problem, then the hint."""
        return [f"edge-agent: {self}", *([f"  {self.hint}"] if self.hint else [])]
