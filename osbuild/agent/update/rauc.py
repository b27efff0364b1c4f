"""RAUC 1.13 as the agent uses it: its service on the bus, and `rauc info` (RAUC's manual, "D-Bus API")."""

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
GONE = Reason("RAUC's service stopped while it installed", "`journalctl -u rauc` says why; try again", False)
SILENT = Reason("RAUC does not answer", "`systemctl status rauc` says how it is", False)
GRACE = 20.0  # seconds that the service gets to stop


@dataclass(frozen=True)
class BundleManifest:
    """What a bundle with a good signature says it is. `images` is slot class -> bytes; `meta` is `[meta.edge]`."""

    compatible: str
    version: str
    build: str
    hash: str
    images: dict[str, int] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RaucState:
    """What the service does now; `error` is that of the last installation, empty where that was good."""

    operation: str
    error: str
    percent: int
    message: str


def is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def inspect_bundle(source: ServerAddress, timeout: float) -> BundleManifest:
    """Check the signature of a bundle, and read its manifest. Raises `Failure`.

    `source` is an address or an absolute path, which can't be taken for an option.

    `timeout` is in seconds: a server that takes a connection and says nothing would be waited for without end.
    """
    headers = [f"--http-header=Authorization: {source.authorization}"] if source.authorization else []
    command = ["rauc", "info", "--output-format=json-2", *headers, source.url]
    try:
        done = run_with_timeout(command, timeout)
    except subprocess.TimeoutExpired as error:
        message = f"the server does not answer: nothing within {timeout:.0f} s"
        raise Failure(Reason(message, "check the network and the server", False)) from error
    except OSError as error:
        raise Failure(Reason(f"rauc can't be run: {error.strerror}", "is this an image with updates?")) from error
    if done.returncode:
        raise Failure(find_reason(source.hide(rauc_complaint(done.stderr)), remote=source.remote))
    return parse_manifest(done.stdout)


def run_with_timeout(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run it. After `timeout` seconds it ends with all that it has started: what fetches a bundle is a process of its
    own, which would go on, and keep its network block device. Raises `OSError` and `subprocess.TimeoutExpired`.
    """
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
    """Read what `rauc info --output-format=json-2` says. Raises `Failure`."""
    try:
        found = json.loads(text)
        update = found["update"]
        return BundleManifest(
            str(update["compatible"]), str(update.get("version", "")), str(update.get("build", "")),
            str(found["manifest-hash"]),
            {str(image["slot-class"]): int(image["size"]) for image in found["images"]},
            {str(name): str(value) for name, value in found.get("meta", {}).get("edge", {}).items()},
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(Reason(f"RAUC's description of it makes no sense: {error!r}")) from error


def rauc_complaint(text: str) -> str:
    """Why `rauc` failed: the last line that is not GLib's."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(r"\(?rauc(:\d+\))?.*?: ", line)]
    return lines[-1].strip() if lines else (text.strip().splitlines() or ["RAUC does not say why"])[-1]


class RaucService:
    """RAUC's service: the one program that had its name when this was made, or was started by it.

    Should it end, its successor knows nothing of the installation and says `idle`: that must not look like success.
    Raises `Failure` where there is none.
    """

    def __init__(self) -> None:
        try:
            self.slot, self.compatible = dbus.get_properties(NAME, PATH, INTERFACE, "BootSlot", "Compatible")
        except BusError as error:
            hint = "`systemctl status rauc` says why"
            raise Failure(Reason(f"RAUC's service can't be reached: {error}", hint)) from error
        owner = dbus.name_owner(NAME)
        if owner is None:
            raise Failure(GONE)
        self.owner = owner

    def start_install(self, source: ServerAddress, transaction: str, *, any_version: bool = False) -> None:
        """Begin an installation; `any_version`: the floor does not count. Raises `Failure`."""
        values = [["transaction-id", "s", transaction]]
        if any_version:
            values.append(["ignore-version-limit", "b", "true"])
        if source.authorization:  # RAUC logs addresses, but no headers
            values.append(["http-headers", "as", "1", f"Authorization: {source.authorization}"])
        arguments = ["sa{sv}", source.url, str(len(values)), *itertools.chain(*values)]
        try:
            dbus.call_method(self.owner, PATH, INTERFACE, "InstallBundle", *arguments)
        except BusError as error:
            raise Failure(find_reason(source.hide(str(error)), remote=source.remote)) from error

    def read_state(self) -> RaucState:
        """Raises `Failure` where the service is gone or does not answer."""
        try:
            # Whether it is at work comes first: the error that is read after "idle" is the final one.
            found = dbus.get_properties(self.owner, PATH, INTERFACE, "Operation", "LastError", "Progress")
            operation, error, (percent, message, _) = found
        except (BusError, ValueError, TypeError) as problem:
            raise self.lost_failure() from problem
        return RaucState(str(operation), str(error), int(percent), str(message))

    def installed_hash(self, slot: str) -> str | None:
        """The manifest's hash of the bundle that is in a slot, None where RAUC does not know or it is not whole.

        Raises `Failure`: RAUC gives no answer while it installs.
        """
        try:
            found = dbus.call_method(self.owner, PATH, INTERFACE, "GetSlotStatus")[0]
        except (BusError, TypeError) as problem:
            why = find_reason(str(problem), remote=False)
            raise Failure(why) if why.kind == BUSY else self.lost_failure() from problem
        for _, metadata in found:
            values: dict[str, Any] = {name: value.get("data") for name, value in metadata.items()}
            if values.get("bootname") == slot and values.get("status") == "ok":
                return str(values["bundle.hash"]) if "bundle.hash" in values else None
        return None

    def stop(self) -> None:
        """End the service, and with it an installation, which RAUC can't be asked to give up.

        One that does not end by itself is killed with all that it has started: its hook, and what fetches the bundle.
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
        """Whether it does within its grace."""
        end = time.monotonic() + GRACE
        while (there := dbus.name_owner(NAME) == self.owner) and time.monotonic() < end:
            time.sleep(0.2)
        return not there

    def lost_failure(self) -> Failure:
        """Why there was no answer."""
        return Failure(SILENT if dbus.name_owner(NAME) == self.owner else GONE)
