"""Requests to systemd through systemctl(1)."""

import subprocess

from osbuild.agent.errors import Problem

UNCORDON = "edge-kubernetes-uncordon.service"
TIMEOUT = 60.0  # seconds; longer than the 25 s after which systemctl itself gives up on the bus
STOPPED = ("inactive", "failed")  # states in which no process of a unit runs, starts or stops (systemd(1), "Units")


def systemctl(*arguments: str) -> str:
    """Run systemctl and return its output. Raises `Problem` if it fails or times out."""
    command = ["systemctl", *arguments]
    output = ""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        output = result.stdout
        error_text = "" if result.returncode == 0 else result.stderr.strip() or f"exit status {result.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        error_text = str(error)
    if error_text:
        raise Problem(error_text, where=" ".join(command), hint="check the state of systemd with `systemctl status`")
    return output


def find_active(*units: str) -> list[str]:
    """The units that run, start, stop or wait for a restart. Raises `Problem`."""
    # `systemctl is-active` reports a unit that is still stopping like a unit that has stopped.
    blocks = systemctl("show", "--property=Id,ActiveState", *units).strip().split("\n\n")
    states = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    return [state["Id"] for state in states if state.get("ActiveState") not in STOPPED and "Id" in state]


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
