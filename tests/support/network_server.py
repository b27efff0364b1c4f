"""Runs `edge-agent network` in a sandbox, once for each line of standard input. Its imports take longer than the rest.

Arguments: the agent, the shell scripts before and after it. A line is a JSON object of environment variables; $DATA is
the folder for results. Each run has its own network and mounts. The answer is a line with the exit status.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

AGENT, BEFORE, AFTER = sys.argv[1:]


def run_agent() -> int:
    """Run the agent in this process, as its zipapp does. Returns the exit status."""
    with open("messages", "w") as messages, open("output", "w") as output:  # noqa: PTH123
        os.dup2(messages.fileno(), 2)
        os.dup2(output.fileno(), 1)
    os.chdir("/")
    os.umask(0o077)
    sys.argv = [AGENT, "network"]
    try:
        runpy.run_path(AGENT, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def run_case(settings: dict[str, str]) -> int:
    """Run both scripts and between them the agent. Returns the exit status of the first that fails."""
    os.setpgid(0, 0)
    if sys.version_info >= (3, 12):  # as in the sandbox
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWNET)
    os.environ.update(settings)
    os.chdir(settings["DATA"])
    with open("log", "w") as log:  # noqa: PTH123
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    steps: tuple[Callable[[], int], ...] = (
        lambda: subprocess.call(["sh", "-euc", BEFORE]),
        lambda: wait_for(run_agent)[1],
        lambda: subprocess.call(["sh", "-euc", AFTER]),
    )
    return next((status for step in steps if (status := step())), 0)


def wait_for(function: Callable[[], int]) -> tuple[int, int]:
    """Run `function` in a process of its own. Returns the process id and the result of `function`; 1 if it raises."""
    process = os.fork()
    if not process:
        status = 1
        try:
            status = function()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    return process, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    sys.path.insert(0, AGENT)
    for name in ("osbuild.agent.__main__", "osbuild.agent.commands.network"):
        import_module(name)
    import_module("osbuild.shared.pyyaml").import_yaml()
    for line in sys.stdin:
        process, status = wait_for(lambda line=line: run_case(json.loads(line)))  # type: ignore[misc]
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # systemd-networkd, if it was started
        print(status, flush=True)


main()
