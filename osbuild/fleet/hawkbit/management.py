"""A client of hawkBit's management API (`/rest/v1`)."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from osbuild.shared.errors import Error, UsageError

T = TypeVar("T")
TIMEOUT = httpx.Timeout(30.0, read=600.0)  # hawkBit computes the hashes of an artifact before it answers
LOGIN = "write USER:PASSWORD of a hawkBit user into the file or the variable of --login"
MOST_ROWS = 50


class HawkbitProblem(msgspec.Struct, rename="camel"):
    """hawkBit's answer to a request that it refuses."""

    error_code: str = ""
    message: str = ""


class HawkbitPage(msgspec.Struct, Generic[T]):
    """Rows of a list."""

    content: list[T]


@dataclass(frozen=True)
class HawkbitLogin:
    """The address of a hawkBit, and the user and password of its management API.

    `authority` is a file with the certificate of the server's authority (PEM). Without it, those of the system are
    trusted.
    """

    url: str
    user: str
    password: str
    authority: Path | None = None

    @classmethod
    def parse(cls, url: str, secret: str, authority: Path | None) -> "HawkbitLogin":
        """Return the login of the secret USER:PASSWORD. Raises `UsageError`, which never contains the secret."""
        check_address(url)
        user, colon, password = secret.partition(":")
        if not (user and colon and password):
            raise UsageError("the secret of --login is not USER:PASSWORD", hint=LOGIN)
        return cls(url.rstrip("/"), user, password, authority)


class HawkbitManagement:
    """Calls the management API. All methods raise `Error`."""

    def __init__(self, login: HawkbitLogin) -> None:
        self.url = login.url
        try:
            verify = ssl.create_default_context(cafile=login.authority)
        except OSError as error:
            hint = "name a file with the certificate (PEM) of the authority that has issued the server's certificate"
            raise Error(f"the authority can't be read: {error}", where=str(login.authority), hint=hint) from error
        # httpx.BasicAuth also sends users and passwords that are not ASCII.
        auth = httpx.BasicAuth(login.user.encode(), login.password.encode())
        self._client = httpx.Client(base_url=f"{login.url}/rest/v1", verify=verify, auth=auth, timeout=TIMEOUT)

    def find(self, path: str, kind: type[T], **values: str) -> list[T]:
        """Return the rows of a list whose fields have exactly these values."""
        query = ";".join(f"{name}=={quote_value(value)}" for name, value in values.items())
        body = self.call("GET", path, params={"q": query, "limit": MOST_ROWS})
        return parse_answer(body, HawkbitPage[kind], self.url).content  # type: ignore[valid-type]

    def read(self, path: str, kind: type[T]) -> T:
        """Return the resource at `path`."""
        return parse_answer(self.call("GET", path), kind, self.url)

    def create(self, path: str, document: object, kind: type[T]) -> T:
        """Create a resource, and return it."""
        return parse_answer(self.send("POST", path, document), kind, self.url)

    def send(self, method: str, path: str, document: object) -> bytes:
        """Send a document, and return the body of the answer."""
        headers = {"content-type": "application/json"}
        return self.call(method, path, content=msgspec.json.encode(document), headers=headers)

    def call(self, method: str, path: str, **options: Any) -> bytes:
        """Send a request, and return the body of the answer."""
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            hint = "check the address, and that hawkBit runs; --ca names the authority of its certificate"
            raise Error(f"hawkBit does not answer: {error}", where=self.url, hint=hint) from error
        if answer.is_success:
            return answer.content
        where, hints = f"{self.url}: {method} {path}", {401: LOGIN, 403: "this needs a user with more permissions"}
        raise Error(explain_refusal(answer), where=where, hint=hints.get(answer.status_code))


def check_address(url: str) -> None:
    """Raise `UsageError` unless `url` is an https address; http is allowed for this host only."""
    hint = "write an address such as https://hawkbit.example.com"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError("this is not an address of a hawkBit", hint=hint) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError("this is not an address of a hawkBit", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address of a hawkBit contains a user or a password", hint=LOGIN)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        message = f"http to {parts.hostname} would send the password as plain text"
        raise UsageError(message, hint="write https; http is only for a hawkBit on this host")


def is_loopback(host: str) -> bool:
    """Whether `host` is this host, by its name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def quote_value(text: str) -> str:
    """Return a value for a query of hawkBit (RSQL, "Grammar"). `*` stands for any text."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def parse_answer(body: bytes, kind: type[T], url: str) -> T:
    """Return the document of an answer. Raises `Error`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        hint = "check that this is the address of a hawkBit"
        raise Error(f"the answer is not hawkBit's: {error}", where=url, hint=hint) from error


def explain_refusal(answer: httpx.Response) -> str:
    """Return why hawkBit refuses a request."""
    try:
        problem = msgspec.json.decode(answer.content, type=HawkbitProblem)
    except msgspec.DecodeError:
        problem = HawkbitProblem()
    reason = problem.message or problem.error_code
    return f"hawkBit answers {answer.status_code}" + (f": {reason}" if reason else "")
