"""Calls on the system bus through busctl(1)."""

import json
import os
import time
from typing import Any

from osbuild.agent.command import CommandNotFinished, run_command

TIMEOUT = 120.0  # seconds; a slow board that is writing a card answers late


class BusError(Exception):
    """A call failed. The message is that of the bus or of the called service."""


def busctl(*arguments: str) -> list[Any]:
    """Run busctl. Returns the `data` of each line of the answer. Raises `BusError`."""
    command = ["busctl", "--system", "--json=short", f"--timeout={TIMEOUT:g}", *arguments]
    # `--timeout` applies to calls only; for properties it would be 25 s (sd_bus_set_method_call_timeout(3)).
    env = {**os.environ, "SYSTEMD_BUS_TIMEOUT": f"{TIMEOUT:g}"}
    try:
        result = run_command(command, timeout=TIMEOUT + 10, env=env)
    except CommandNotFinished as error:
        raise BusError(str(error)) from error
    if result.returncode:
        raise BusError(
            result.stderr.strip().removeprefix("Call failed: ") or f"busctl: exit status {result.returncode}"
        )
    try:
        return [json.loads(line)["data"] for line in result.stdout.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise BusError(f"invalid answer of busctl: {result.stdout.strip()[:200]}") from error


def get_properties(service: str, path: str, interface: str, *names: str) -> list[Any]:
    """The properties in the order of `names`. Starts the service if it is not running. Raises `BusError`."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return busctl("get-property", service, path, interface, *names)
        except BusError as error:
            # The bus reports a timeout if a service takes more than 25 s to start, but systemd continues to start it
            # (dbus-daemon(1), <limit>).
            if "timed out" not in str(error) or time.monotonic() > end:
                raise


def call_method(service: str, path: str, interface: str, method: str, *arguments: str) -> Any:
    """Call a method. Returns the list of its results; None if it has none. Raises `BusError`."""
    results = busctl("call", service, path, interface, method, *arguments)
    return results[0] if results else None


def name_owner(name: str) -> str | None:
    """The unique name of the owner of `name`; None if it has no owner. Does not start the service."""
    try:
        return str(_bus("GetNameOwner", "s", name)[0])
    except BusError:
        return None


def owner_process(name: str) -> int:
    """The process id of the owner of a unique name. Raises `BusError`."""
    return int(_bus("GetConnectionUnixProcessID", "s", name)[0])


def _bus(method: str, *arguments: str) -> Any:
    return call_method("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", method, *arguments)
