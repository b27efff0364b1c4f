"""Why an installation failed, from the messages of RAUC, its hook and the kernel; and whether a retry can help.

The patterns match messages of RAUC 1.13, OpenSSL, libcurl and the kernel's block layer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from osbuild.agent.errors import Problem

CORRUPT = "corrupt"  # may have happened during the transfer, so it is retried once
BUSY = "busy"  # RAUC runs an installation that another process started and that must not be stopped
WHOLE = "compare its size and sha256 with the output of `edge-osbuild bundle --json`"
SIGNED = "sign it with a key that this image trusts; see /usr/lib/edge-osbuild/trust.json"
LOG = "`edge-agent explain` shows RAUC's log"


@dataclass(frozen=True)
class Reason:
    """Why an attempt failed. `final` means that a retry cannot help. `kind` is empty, CORRUPT or BUSY."""

    message: str
    hint: str = LOG
    final: bool = True
    kind: str = ""


class Failure(Exception):
    """One attempt to install failed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason

    def problem(self, source: str) -> Problem:
        return Problem(self.reason.message, where=source, hint=self.reason.hint)


NO_TIME = Reason("the deadline has passed", "allow more time with --deadline SECONDS; blocks already written are kept")
MISSING = Reason("the server does not have this file (HTTP 404)", "check the address, for example in a browser")
REFUSED = Reason(
    "the server refuses to send the file (HTTP {})", "check the address and this device's access to the server"
)


def http_refusal(status: int) -> Reason:
    """The reason for an HTTP status of 400 or more (RFC 9110, 15)."""
    if status == 404:
        return MISSING
    if 400 <= status < 500 and status not in (408, 429):
        return replace(REFUSED, message=REFUSED.message.format(status))
    return Reason(f"the server has failed (HTTP {status})", "check the server", False)


# (pattern of a message of RAUC, reason); the groups of the pattern are inserted into the reason.
REASONS = (
    (r"failed to configure streaming: range requests not supported", Reason(
        "the server cannot send parts of a file", "use a server that answers range requests (RFC 9110, 14)")),
    (r"streaming: unexpected HTTP error code (4\d\d)|(401)\b.*unauthorized|unauthorized: ", REFUSED),
    (r"not found: ", MISSING),
    (r"streaming: unexpected HTTP error code (5\d\d)", Reason(
        "the server has failed (HTTP {})", "check the server", False)),
    (r"failed to configure streaming: (.*)", Reason(
        "the server cannot be reached: {}", "check the address, the network and the server", False)),
    (r"certificate revoked", Reason(
        "the certificate of the bundle's signer is revoked", SIGNED)),
    (r"certificate has expired|certificate is not yet valid", Reason(
        "the signer's certificate was not valid when the bundle was signed", SIGNED)),
    (r"unable to get (?:local )?issuer certificate|self-signed certificate", Reason(
        "the bundle's signer is not trusted by this device", SIGNED)),
    (r"(signature verification failed.*|failed to parse signature.*|.*no valid CMS.*|unsupported certificate purpose)",
     Reason("the bundle's signature is not valid: {}", SIGNED)),
    (r"Compatible mismatch: Expected '([^']*)' but bundle manifest has '([^']*)'", Reason(
        "the bundle is for {1}, but this device is {0}", "use the bundle for this board and profile")),
    (r"Version mismatch: Expected at least '([^']*)' but bundle manifest has (?:'([^']*)'|(no version))", Reason(
        "the bundle's version {1} is older than the minimum version {0} of this device",
        "`edge-osbuild bundle --allow-downgrade-from VERSION` signs an exception")),
    (r"(?:Invalid bundle format: )?(Signature size .*|Payload size .*|Bundle size .*|Invalid bundle format.*|"
     r"Bundle format .*|.*not a regular file.*)", Reason("this is not a complete bundle: {}", WHOLE)),
    (r"No such file", Reason("the file does not exist", "check the name; an address begins with http:// or https://")),
    (r"No space left on device.*?(\d+ bytes are needed, \d+ are free)|"
     r"(No space left on device|\d+ bytes are needed, \d+ are free)", Reason(
        "no space left to install the bundle: {}", "`edge-agent status` shows the free space")),
    (r"(Slot \(\d+ bytes\) is too small for image \(\d+ bytes\)|does not fit to slot)", Reason(
        "the slots of this disk are too small: {}", "flash the disk again with an image that has larger slots")),
    (r"already processing a different method", Reason(
        "RAUC is installing for another program", "wait until `rauc status` answers, then try again", kind=BUSY)),
)  # fmt: skip
DISK = re.compile(r"(?:I/O error, dev|Buffer I/O error on dev) (?!nbd|dm-|loop)(\w+)")
VERITY = re.compile(r"device-mapper: verity: \S+ (?:data|metadata) block \d+ is corrupted")
HOOK = re.compile(r"hook: \w+: (.*)")


def failing_disk(kernel: Sequence[str]) -> str | None:
    """The disk with an I/O error in these lines of the kernel log; None if there is none."""
    return next((match[1] for line in kernel if (match := DISK.search(line))), None)


def find_reason(error: str, *, remote: bool, kernel: Sequence[str] = (), log: Sequence[str] = ()) -> Reason:
    """Why an installation failed. `error` is RAUC's error; `kernel` and `log` are lines of the kernel and of RAUC.

    An unknown error is final for a file, and is retried for a bundle on a server (`remote`).
    """
    text = " ".join(error.split())
    hook_errors = [match[1] for line in log if (match := HOOK.search(line))]
    for pattern, reason in REASONS:
        if match := re.search(pattern, " ".join([text, *hook_errors[-1:]])):
            groups = [group for group in match.groups() if group]
            message = reason.message.format(*groups, *["?"] * 2)
            return Reason(message, reason.hint, reason.final or not remote, reason.kind)
    if disk := failing_disk(kernel):
        hint = "the running slot was not changed; check the disk and replace it"
        return Reason(f"the disk {disk} has failed: {text}", hint)
    if any(VERITY.search(line) for line in kernel):
        return Reason(
            "the bundle's contents do not match its signature: some blocks are damaged", WHOLE, not remote, CORRUPT
        )
    message = hook_errors[-1] if hook_errors else text or "RAUC gives no reason"
    if remote:
        hint = "check the network and the server; blocks already written are kept"
        return Reason(f"the connection was lost: {message}", hint, False)
    return Reason(message)
