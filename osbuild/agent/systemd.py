"""What is asked of systemd, by systemctl(1)."""

import subprocess

from osbuild.agent.errors import Problem

UNCORDON = "edge-kubernetes-uncordon.service"
TIMEOUT = 60.0  # seconds for an answer; systemd itself gives up on the bus after 25


def systemctl(*words: str) -> None:
    """Ask for something. Raises `Problem` where that fails."""
    command = ["systemctl", *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        said = "" if done.returncode == 0 else done.stderr.strip() or f"it ended with {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said:
        raise Problem(said, where=" ".join(command), hint="`systemctl status` says how systemd is")


def uncordon() -> None:
    """Have this node taken back into its cluster as soon as that answers, and do not wait for it. Raises `Problem`.

    Started at boot, its unit has found nothing to do, or is done: it only starts again by this.
    """
    systemctl("--no-block", "restart", UNCORDON)


def reboot() -> None:
    """Ask for a reboot, and do not wait for it. Raises `Problem`."""
    systemctl("--no-block", "reboot")


def reboot_whatever() -> None:
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
