"""Access to RAUC 1.13: its service on the bus, and `rauc info` (RAUC's manual, "D-Bus API")."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.http import ServerAddress
from osbuild.agent.systemd import systemctl
from osbuild.agent.update import dbus
from osbuild.agent.update.dbus import BusError
from osbuild.agent.update.failure import BUSY, Failure, Reason, find_reason
from osbuild.agent.update.rauc_journal import UNIT

NAME, PATH, INTERFACE = "de.pengutronix.rauc", "/", "de.pengutronix.rauc.Installer"
INSTALLING = "installing"
GONE = Reason("RAUC's service stopped during the installation", "see `journalctl -u rauc`, then try again", False)
SILENT = Reason("RAUC does not answer", "see `systemctl status rauc`", False)
GRACE = 20.0  # seconds until the service must have stopped


@dataclass(frozen=True)
class BundleManifest:
    """The manifest of a bundle with a valid signature. `images` is slot class -> bytes; `meta` is `[meta.edge]`."""

    compatible: str
    version: str
    build: str
    hash: str
    images: dict[str, int] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RaucState:
    """The state of the service. `error` is the error of the last installation; empty if it succeeded."""

    operation: str
    error: str
    percent: int
    message: str


def is_remote(source: str) -> bool:
    return ServerAddress(source).remote


def inspect_bundle(source: ServerAddress, timeout: float) -> BundleManifest:
    """Check the signature of a bundle, and read its manifest. Raises `Failure`.

    `source` is an address or an absolute path, so rauc cannot mistake it for an option. `timeout` is in seconds.
    """
    # rauc itself would wait forever for a server that accepts the connection and sends nothing.
    headers = [f"--http-header=Authorization: {source.authorization}"] if source.authorization else []
    if source.tls:
        headers += [f"--tls-ca={source.tls.authority}", f"--tls-cert={source.tls.certificate}"]
        headers.append(f"--tls-key={source.tls.key}")
    command = ["rauc", "info", "--output-format=json-2", *headers, source.url]
    try:
        result = run_with_timeout(command, timeout)
    except subprocess.TimeoutExpired as error:
        message = f"the server did not answer within {timeout:.0f} s"
        raise Failure(Reason(message, "check the network and the server", False)) from error
    except OSError as error:
        raise Failure(
            Reason(f"rauc cannot be run: {error.strerror}", "updates need an image that contains RAUC")
        ) from error
    if result.returncode:
        raise Failure(find_reason(source.hide(rauc_error(result.stderr)), remote=source.remote))
    return parse_manifest(result.stdout)


def run_with_timeout(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command. After `timeout` seconds it is killed with its children.

    Raises `OSError` and `subprocess.TimeoutExpired`.
    """
    # The child that fetches a bundle would otherwise continue and keep its network block device.
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            output, error = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, error)


def parse_manifest(text: str) -> BundleManifest:
    """Parse the output of `rauc info --output-format=json-2`. Raises `Failure`."""
    try:
        info = json.loads(text)
        update = info["update"]
        return BundleManifest(
            str(update["compatible"]), str(update.get("version", "")), str(update.get("build", "")),
            str(info["manifest-hash"]),
            {str(image["slot-class"]): int(image["size"]) for image in info["images"]},
            {str(name): str(value) for name, value in info.get("meta", {}).get("edge", {}).items()},
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(Reason(f"the output of `rauc info` is not valid: {error!r}")) from error


def rauc_error(text: str) -> str:
    """The error in the output of `rauc`: the last line that is not a log line of GLib."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(r"\(?rauc(:\d+\))?.*?: ", line)]
    return lines[-1].strip() if lines else (text.strip().splitlines() or ["RAUC gives no reason"])[-1]


class RaucService:
    """RAUC's service: the process that owns the bus name, which is started if needed. Raises `Failure`.

    All calls go to this one process. A restarted service would report `idle`, which must not look like success.
    """

    def __init__(self) -> None:
        try:
            self.slot, self.compatible = dbus.get_properties(NAME, PATH, INTERFACE, "BootSlot", "Compatible")
        except BusError as error:
            hint = "see `systemctl status rauc`"
            raise Failure(Reason(f"RAUC's service cannot be reached: {error}", hint)) from error
        owner = dbus.name_owner(NAME)
        if owner is None:
            raise Failure(GONE)
        self.owner = owner

    def start_install(self, source: ServerAddress, transaction: str, *, any_version: bool = False) -> None:
        """Start an installation. `any_version` ignores the minimum version. Raises `Failure`."""
        values = [["transaction-id", "s", transaction]]
        if any_version:
            values.append(["ignore-version-limit", "b", "true"])
        if source.authorization:  # RAUC logs addresses, but not headers
            values.append(["http-headers", "as", "1", f"Authorization: {source.authorization}"])
        if source.tls:
            files = {"ca": source.tls.authority, "cert": source.tls.certificate, "key": source.tls.key}
            values += [[f"tls-{name}", "s", str(path)] for name, path in files.items()]
        arguments = ["sa{sv}", source.url, str(len(values)), *itertools.chain(*values)]
        try:
            dbus.call_method(self.owner, PATH, INTERFACE, "InstallBundle", *arguments)
        except BusError as error:
            raise Failure(find_reason(source.hide(str(error)), remote=source.remote)) from error

    def read_state(self) -> RaucState:
        """Read the state. Raises `Failure` if the service has stopped or does not answer."""
        try:
            # `Operation` is read first, so that an error read after "idle" is the final one.
            properties = dbus.get_properties(self.owner, PATH, INTERFACE, "Operation", "LastError", "Progress")
            operation, error, (percent, message, _) = properties
        except (BusError, ValueError, TypeError) as problem:
            raise self.lost_failure() from problem
        return RaucState(str(operation), str(error), int(percent), str(message))

    def installed_hash(self, slot: str) -> str | None:
        """The manifest hash of the bundle in a slot; None if RAUC does not know it or the slot is not complete.

        Raises `Failure`, also while RAUC installs.
        """
        try:
            slots = dbus.call_method(self.owner, PATH, INTERFACE, "GetSlotStatus")[0]
        except (BusError, TypeError) as problem:
            reason = find_reason(str(problem), remote=False)
            raise Failure(reason) if reason.kind == BUSY else self.lost_failure() from problem
        for _, properties in slots:
            values: dict[str, Any] = {name: value.get("data") for name, value in properties.items()}
            if values.get("bootname") == slot and values.get("status") == "ok":
                return str(values["bundle.hash"]) if "bundle.hash" in values else None
        return None

    def stop(self) -> None:
        """Stop the service and its installation: RAUC has no call that cancels one.

        After `GRACE` seconds the service is killed with its children: the hook and the process that fetches the bundle.
        """
        try:
            os.kill(dbus.owner_process(self.owner), signal.SIGTERM)
        except (BusError, ProcessLookupError):
            return
        if not self.has_ended():
            try:
                systemctl("kill", "--signal=KILL", UNIT)
            except Problem as problem:
                print(f"edge-agent: {problem}", file=sys.stderr)
            self.has_ended()

    def has_ended(self) -> bool:
        """Wait for the end of the service. Returns whether it has ended within `GRACE` seconds."""
        end = time.monotonic() + GRACE
        while (running := dbus.name_owner(NAME) == self.owner) and time.monotonic() < end:
            time.sleep(0.2)
        return not running

    def lost_failure(self) -> Failure:
        """The failure for a missing answer: the service has stopped or does not answer."""
        return Failure(SILENT if dbus.name_owner(NAME) == self.owner else GONE)
