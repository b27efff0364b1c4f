"""Requests that the update server refuses."""

RETRY_AFTER = 3600  # seconds: what is used up is not soon free again


class Refused(Exception):
    """A request is refused with an HTTP status. `code` names the reason for programs, `message` for people."""

    def __init__(self, status: int, code: str, message: str, retry_after: int = RETRY_AFTER) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds; only sent with 429 and 503
        self.status = status
        self.code = code
        self.message = message

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer that any client needs (RFC 6585, section 4; RFC 9110, section 15.6.4)."""
        return {"retry-after": str(self.retry_after)} if self.status in (429, 503) else {}


def not_found(message: str) -> Refused:
    """Return the refusal of a request for something that does not exist."""
    return Refused(404, "not-found", message)
