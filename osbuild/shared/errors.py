"""The one kind of exception that a user is meant to see."""


class Error(Exception):
    """Something went wrong: says what, where, and what to do next.

    The command line prints it without a traceback (unless `--debug`) and exits with `status`.
    """

    status = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UsageError(Error):
    """The command line itself was wrong."""

    status = 2
