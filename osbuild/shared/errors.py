"""The errors that the command line reports to its user."""


class Error(Exception):
    """An operation failed. `message` says why, `where` names the location, `hint` says what to do next.

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
    """The command line is wrong."""

    status = 2
