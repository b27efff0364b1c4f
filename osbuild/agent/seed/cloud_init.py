"""Runs of cloud-init, and what it says of them."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

from osbuild.agent.system import System
from osbuild.shared.quoting import printable

PROGRAM = "/usr/bin/cloud-init"
FOLDER = "/usr/lib/edge-osbuild/cloud-init"
# Steps and logging are in a file that goes before user-data, which could otherwise leave out its own users.
STEPS = f"{FOLDER}/steps.cfg"
STATUS = "/run/cloud-init/status.json"
DONE = "/run/cloud-init/edge-done"  # written by the last step, see cc_edge.py
LOG = "/run/cloud-init/cloud-init.log"
TIMEOUT = 240.0  # seconds
FAILED = re.compile(r"Running module \S+ \(.*\) failed|Failed to (create user|set passwords|set 'expire'|set hashed)")
USUAL = re.compile(r"Stdout, stderr changing to")  # warnings that say nothing is wrong
PAIR = re.compile(r"\('(\w+)', \w+\([\"'](.*)[\"']\)\)")  # how cloud-init shows a module and its exception
SCHEMA = "cloud-config failed schema validation"


@dataclass
class CloudInitResult:
    """`finished` is whether the stage ran to its end, whatever was wrong with single entries."""

    finished: bool
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_local_stage(system: System) -> CloudInitResult:
    """Run every step before the network."""
    system.path(DONE).unlink(missing_ok=True)
    result = run_stage(system, "init-local", ["init", "--local"], TIMEOUT)
    if result.finished and not system.path(DONE).exists():
        result.errors.append(f"cloud-init ended before it had taken every step: {LOG} says why")
    result.finished = system.path(DONE).exists()
    return result


def run_scripts(system: System) -> CloudInitResult:
    """Run the scripts of the seed, which may take as long as they like."""
    return run_stage(system, "modules-final", ["modules", "--mode=final"], None)


def run_stage(system: System, stage: str, arguments: list[str], timeout: float | None) -> CloudInitResult:
    """Run one stage. What it prints goes to the journal."""
    before = read_result(system, stage, "")
    # The kernel command line may name another seed, which cloud-init would take instead.
    own = {"PYTHONPATH": FOLDER, "PYTHONDONTWRITEBYTECODE": "1", "DEBUG_PROC_CMDLINE": ""}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [PROGRAM, arguments[0], "--file", STEPS, *arguments[1:]],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
        late = ""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            late = f"no end within {timeout:g} s"
        output.seek(0)
        said = output.read().decode(errors="replace")
    sys.stderr.write(said.encode(errors="replace").decode())
    sys.stderr.flush()
    last = late or next((line for line in reversed(said.splitlines()) if line.strip()), "")
    result = read_result(system, stage, last or f"exit status {process.returncode}")
    result.errors = [line for line in result.errors if line not in before.errors]
    result.warnings = [line for line in result.warnings if line not in before.warnings]
    return result


def read_result(system: System, stage: str, last: str) -> CloudInitResult:
    """What status.json (cloud-init's documentation, "Reported status") says of a stage; `last` is its last line."""
    found = mapping_below(mapping_below(system.json(STATUS), "v1"), stage)
    recoverable = mapping_below(found, "recoverable_errors")
    errors = [message_line(line) for level in ("CRITICAL", "ERROR") for line in recoverable.get(level) or []]
    # The error itself, with its reason, is among `errors`.
    lines = [str(line) for line in recoverable.get("WARNING") or []]
    warnings = [message_line(line) for line in lines if not FAILED.match(line) and not USUAL.match(line)]
    finished = isinstance(found.get("finished"), int | float)
    errors += [message_line(line) for line in found.get("errors") or []]
    if not finished and last:
        errors.append(f"cloud-init did not finish: {message_line(last)}")
    return CloudInitResult(finished, list(dict.fromkeys(errors)), list(dict.fromkeys(warnings)))


def mapping_below(found: Any, name: str) -> dict[str, Any]:
    """A mapping below `name`, empty if there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, dict) else {}


def message_line(line: Any) -> str:
    """A message in one line."""
    said = printable(" ".join(str(line).split()))
    if said.startswith(SCHEMA):
        return "user-data does not follow cloud-init's schema: `sudo cloud-init schema --system` shows where"
    return f"{match[1]}: {match[2]}" if (match := PAIR.fullmatch(said)) else said
