"""What is asked of systemd, by systemctl(1)."""

import subprocess

from osbuild.agent.errors import Problem

UNCORDON = "edge-kubernetes-uncordon.service"
TIMEOUT = 60.0  # seconds for an answer; systemd itself gives up on the bus after 25
RESTING = ("inactive", "failed")  # states (systemd(1), "Units") in which nothing of a unit runs, starts or stops


def systemctl(*arguments: str) -> str:
    """Ask for something; what systemctl prints. Raises `Problem` where that fails."""
    command = ["systemctl", *arguments]
    output = ""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        output = done.stdout
        said = "" if done.returncode == 0 else done.stderr.strip() or f"it ended with {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said:
        raise Problem(said, where=" ".join(command), hint="`systemctl status` says how systemd is")
    return output


def find_active(*units: str) -> list[str]:
    """Those of the units that run, start, stop or wait to be started again. Raises `Problem`.

    `systemctl is-active` takes a unit that is still stopping for one that is not there.
    """
    blocks = systemctl("show", "--property=Id,ActiveState", *units).strip().split("\n\n")
    states = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    return [state["Id"] for state in states if state.get("ActiveState") not in RESTING and "Id" in state]


def start_uncordon() -> None:
    """Have this node taken back into its cluster as soon as that answers, and do not wait for it. Raises `Problem`.

    Started at boot, its unit has found nothing to do, or is done: it only starts again by this.
    """
    systemctl("--no-block", "restart", UNCORDON)


def reboot() -> None:
    """Ask for a reboot, and do not wait for it. Raises `Problem`."""
    systemctl("--no-block", "reboot")


def force_reboot() -> None:
    """The same for a boot that must not go on: by force where systemd refuses or does not answer. Raises `Problem`.

    PID 1 that is deaf may still feed the watchdog, so nobody else would do it.
    """
    for words in (("--no-block", "reboot"), ("reboot", "--force"), ("reboot", "--force", "--force")):
        try:
            systemctl(*words)
            return
        except Problem as problem:
            failed = problem
            print(f"edge-agent: {problem}", flush=True)
    raise failed
