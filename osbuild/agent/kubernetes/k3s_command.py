"""Runs commands of K3s on a node."""

from pathlib import Path

from osbuild.agent.command import CommandNotFinished, run_command
from osbuild.agent.errors import Problem

TIMEOUT = 60.0  # seconds
SERVER_HINT = "run this command on a server node while Kubernetes runs: `systemctl status kubernetes.target`"


def run_k3s(root: Path, *arguments: str, timeout: float = TIMEOUT, hint: str = SERVER_HINT) -> str:
    """Run a command of K3s within `timeout` seconds, and return its output. Raises `Problem`."""
    where = " ".join(["k3s", *arguments[:2]])
    try:
        result = run_command([str(root / "usr/bin/k3s"), *arguments], timeout=timeout)
    except CommandNotFinished as error:
        raise Problem(str(error), where=where, hint=hint) from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise Problem(lines[-1], where=where, hint=hint)
    return result.stdout
