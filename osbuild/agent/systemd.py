"""Requests to systemd through systemctl(1)."""

import time

from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.errors import Problem

UNCORDON = "edge-kubernetes-uncordon.service"
TIMEOUT = 60.0  # seconds; longer than the 25 s after which systemctl itself gives up on the bus
PAUSE = 0.5  # seconds between two looks at units that are stopping
STOPPED = ("inactive", "failed")  # states in which no process of a unit runs, starts or stops (systemd(1), "Units")


def systemctl(*arguments: str) -> str:
    """Run systemctl and return its output. Raises `Problem` if it fails or times out."""
    command = ["systemctl", *arguments]
    output = ""
    try:
        result = run_command(command, timeout=TIMEOUT)
        output = result.stdout
        error_text = "" if result.returncode == 0 else result.stderr.strip() or f"exit status {result.returncode}"
    except CommandNotFinished as error:
        error_text = str(error)
    if error_text:
        raise Problem(error_text, where=" ".join(command), hint="check the state of systemd with `systemctl status`")
    return output


def find_active(*units: str, patience: float = 0) -> list[str]:
    """The units that run, start, stop or wait for a restart.

    Waits for up to `patience` seconds while they are all stopping. Raises `Problem`.
    """
    # `systemctl is-active` reports a unit that is still stopping like a unit that has stopped.
    deadline = time.monotonic() + patience
    while True:
        blocks = systemctl("show", "--property=Id,ActiveState", *units).strip().split("\n\n")
        rows = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
        active = {row["Id"]: row.get("ActiveState") for row in rows if row.get("ActiveState") not in STOPPED}
        if set(active.values()) != {"deactivating"} or time.monotonic() >= deadline:
            return list(active)
        time.sleep(PAUSE)


def start_uncordon() -> None:
    """Start the unit that uncordons this node once the cluster answers, without waiting. Raises `Problem`."""
    # The unit has already run at boot, so it has to be restarted.
    systemctl("--no-block", "restart", UNCORDON)


def reboot() -> None:
    """Request a reboot without waiting for it. Raises `Problem`."""
    systemctl("--no-block", "reboot")


def force_reboot() -> None:
    """Reboot a boot that must not continue; by force if systemd refuses or does not answer. Raises `Problem`."""
    # A PID 1 that does not answer may still feed the watchdog, so the watchdog would not reset the device.
    for arguments in (("--no-block", "reboot"), ("reboot", "--force"), ("reboot", "--force", "--force")):
        try:
            systemctl(*arguments)
            return
        except Problem as problem:
            failed = problem
            print(f"edge-agent: {problem}", flush=True)
    raise failed
