"""Requests that the update server refuses."""


class Refused(Exception):
    """A request is refused with an HTTP status. `code` names the reason for programs, `message` for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def not_found(message: str) -> Refused:
    """Return the refusal of a request for something that does not exist."""
    return Refused(404, "not-found", message)
