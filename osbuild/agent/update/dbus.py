"""Calls on the system bus, by busctl(1)."""

import json
import os
import subprocess
import time
from typing import Any

TIMEOUT = 120.0  # seconds for an answer: a slow board that writes a card takes its time


class BusError(Exception):
    """What the bus, or who was called on it, said."""


def busctl(*arguments: str) -> list[Any]:
    """What a call or properties are: for each line of the answer its `data`. Raises `BusError`."""
    command = ["busctl", "--system", "--json=short", f"--timeout={TIMEOUT:g}", *arguments]
    # Its option is for calls only, and a property would have 25 s (sd_bus_set_method_call_timeout(3)).
    env = {**os.environ, "SYSTEMD_BUS_TIMEOUT": f"{TIMEOUT:g}"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT + 10, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BusError(str(error)) from error
    if done.returncode:
        raise BusError(done.stderr.strip().removeprefix("Call failed: ") or f"busctl ended with {done.returncode}")
    try:
        return [json.loads(line)["data"] for line in done.stdout.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise BusError(f"busctl said what makes no sense: {done.stdout.strip()[:200]}") from error


def get_properties(service: str, path: str, interface: str, *names: str) -> list[Any]:
    """Properties in the order of their names; the service is started where it does not run. Raises `BusError`."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return busctl("get-property", service, path, interface, *names)
        except BusError as error:
            # The bus gives up on a service that starts after 25 s, systemd goes on (dbus-daemon(1), <limit>).
            if "timed out" not in str(error) or time.monotonic() > end:
                raise


def call_method(service: str, path: str, interface: str, method: str, *arguments: str) -> Any:
    """What a method returns, a list of values; None where it returns nothing. Raises `BusError`."""
    found = busctl("call", service, path, interface, method, *arguments)
    return found[0] if found else None


def name_owner(name: str) -> str | None:
    """The unique name of the program that has `name` now; None where none has. It is not started."""
    try:
        return str(_bus("GetNameOwner", "s", name)[0])
    except BusError:
        return None


def owner_process(name: str) -> int:
    """The process of a unique name. Raises `BusError`."""
    return int(_bus("GetConnectionUnixProcessID", "s", name)[0])


def _bus(method: str, *arguments: str) -> Any:
    return call_method("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", method, *arguments)
