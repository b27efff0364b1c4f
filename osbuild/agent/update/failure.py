"""Why an installation failed, out of what RAUC, its hook and the kernel said: in one sentence, and whether to go on.

The words are those of RAUC 1.13, of OpenSSL and libcurl below it, and of the kernel's block layer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from osbuild.agent.errors import Problem

CORRUPT = "corrupt"  # may have happened on the way here: worth a second try, and no third
BUSY = "busy"  # what RAUC is doing was not begun here, and is not to be ended here
WHOLE = "is it whole? compare its size and sha256 with what `edge-osbuild bundle --json` said"
SIGNED = "sign it with the keys that this image trusts: /usr/lib/edge-osbuild/trust.json names them"
LOG = "`edge-agent explain` shows RAUC's log"


@dataclass(frozen=True)
class Reason:
    """`final`: trying again changes nothing. `kind` is empty, CORRUPT or BUSY."""

    message: str
    hint: str = LOG
    final: bool = True
    kind: str = ""


class Failure(Exception):
    """One attempt failed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason

    def problem(self, source: str) -> Problem:
        return Problem(self.reason.message, where=source, hint=self.reason.hint)


NO_TIME = Reason(
    "it did not get done in time", "give it more: --deadline SECONDS; what was written already is not fetched again"
)
MISSING = Reason("the server does not have it (HTTP 404)", "check the address; open it in a browser")
REFUSED = Reason("the server refuses to send it (HTTP {})", "check the address and this device's access to the server")


def http_refusal(status: int) -> Reason:
    """What an answer other than the bundle means: `status` is HTTP's (RFC 9110, 15)."""
    if status == 404:
        return MISSING
    if 400 <= status < 500 and status not in (408, 429):
        return replace(REFUSED, message=REFUSED.message.format(status))
    return Reason(f"the server fails (HTTP {status})", "check the server", False)


# What RAUC says -> what to say; the groups of the first fill the second.
SAYS = (
    (r"failed to configure streaming: range requests not supported", Reason(
        "the server can't send parts of a file", "use a server that answers range requests (RFC 9110, 14)")),
    (r"streaming: unexpected HTTP error code (4\d\d)|(401)\b.*unauthorized|unauthorized: ", REFUSED),
    (r"not found: ", MISSING),
    (r"streaming: unexpected HTTP error code (5\d\d)", Reason(
        "the server fails (HTTP {})", "check the server", False)),
    (r"failed to configure streaming: (.*)", Reason(
        "the server can't be reached: {}", "check the address, the network and the server", False)),
    (r"certificate revoked", Reason(
        "the certificate of its signer was revoked", SIGNED)),
    (r"certificate has expired|certificate is not yet valid", Reason(
        "it was signed at a time at which the signer's certificate was not valid", SIGNED)),
    (r"unable to get (?:local )?issuer certificate|self-signed certificate", Reason(
        "it is signed by nobody whom this device trusts", SIGNED)),
    (r"(signature verification failed.*|failed to parse signature.*|.*no valid CMS.*|unsupported certificate purpose)",
     Reason("its signature is not good: {}", SIGNED)),
    (r"Compatible mismatch: Expected '([^']*)' but bundle manifest has '([^']*)'", Reason(
        "it is for {1}, and this device is {0}", "take the bundle of this board and profile")),
    (r"Version mismatch: Expected at least '([^']*)' but bundle manifest has (?:'([^']*)'|(no version))", Reason(
        "it is older than {0}, below which this device does not go: {1}",
        "`edge-osbuild bundle --allow-downgrade-from VERSION` signs an exception")),
    (r"(?:Invalid bundle format: )?(Signature size .*|Payload size .*|Bundle size .*|Invalid bundle format.*|"
     r"Bundle format .*|.*not a regular file.*)", Reason("this is no bundle, or a part of one: {}", WHOLE)),
    (r"No such file", Reason("there is no such file", "check the name; an address begins with http:// or https://")),
    (r"No space left on device.*?(\d+ bytes are needed, \d+ are free)|"
     r"(No space left on device|\d+ bytes are needed, \d+ are free)", Reason(
        "there is no space left to install it: {}", "`edge-agent status` says how much is free")),
    (r"(Slot \(\d+ bytes\) is too small for image \(\d+ bytes\)|does not fit to slot)", Reason(
        "this disk's slots are too small for it: {}", "the disk must be written anew with larger slots")),
    (r"already processing a different method", Reason(
        "RAUC is at work for somebody else", "wait until `rauc status` answers, and try again", kind=BUSY)),
)  # fmt: skip
DISK = re.compile(r"(?:I/O error, dev|Buffer I/O error on dev) (?!nbd|dm-|loop)(\w+)")
VERITY = re.compile(r"device-mapper: verity: \S+ (?:data|metadata) block \d+ is corrupted")
HOOK = re.compile(r"hook: \w+: (.*)")


def failing_disk(kernel: Sequence[str]) -> str | None:
    """The disk that the kernel has had errors of: its lines are looked through."""
    return next((match[1] for line in kernel if (match := DISK.search(line))), None)


def find_reason(said: str, *, remote: bool, kernel: Sequence[str] = (), log: Sequence[str] = ()) -> Reason:
    """Why it failed. `said` is RAUC's error, `kernel` and `log` are lines of the kernel and of RAUC from that time.

    Unknown errors are final for a file, and worth another try for what comes over a network (`remote`).
    """
    text = " ".join(said.split())
    hooks = [match[1] for line in log if (match := HOOK.search(line))]
    for pattern, found in SAYS:
        if match := re.search(pattern, " ".join([text, *hooks[-1:]])):
            groups = [group for group in match.groups() if group]
            message = found.message.format(*groups, *["?"] * 2)
            return Reason(message, found.hint, found.final or not remote, found.kind)
    if failed := failing_disk(kernel):
        hint = "the slot that runs was not touched; look at the disk's health, and have it replaced"
        return Reason(f"the disk {failed} fails: {text}", hint)
    if any(VERITY.search(line) for line in kernel):
        return Reason("its contents are not what was signed: some blocks are damaged", WHOLE, not remote, CORRUPT)
    message = hooks[-1] if hooks else text or "RAUC does not say why"
    if remote:
        hint = "check the network and the server; what was written already is not fetched again"
        return Reason(f"the connection was lost: {message}", hint, False)
    return Reason(message)
