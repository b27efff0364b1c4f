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
class Outcome:
    """`finished` is whether the stage ran to its end, whatever was wrong with single entries."""

    finished: bool
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def configure(system: System) -> Outcome:
    """Run every step before the network."""
    system.path(DONE).unlink(missing_ok=True)
    found = run(system, "init-local", ["init", "--local"], TIMEOUT)
    if found.finished and not system.path(DONE).exists():
        found.errors.append(f"cloud-init ended before it had taken every step: {LOG} says why")
    found.finished = system.path(DONE).exists()
    return found


def run_scripts(system: System) -> Outcome:
    """Run the scripts of the seed, which may take as long as they like."""
    return run(system, "modules-final", ["modules", "--mode=final"], None)


def run(system: System, stage: str, arguments: list[str], timeout: float | None) -> Outcome:
    """Run one stage. What it prints goes to the journal."""
    before = outcome(system, stage, "")
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
    sys.stderr.write(said)
    sys.stderr.flush()
    last = late or next((line for line in reversed(said.splitlines()) if line.strip()), "")
    found = outcome(system, stage, last or f"exit status {process.returncode}")
    found.errors = [line for line in found.errors if line not in before.errors]
    found.warnings = [line for line in found.warnings if line not in before.warnings]
    return found


def outcome(system: System, stage: str, last: str) -> Outcome:
    """What status.json (cloud-init's documentation, "Reported status") says of a stage; `last` is its last line."""
    found = part(part(system.json(STATUS), "v1"), stage)
    recoverable = part(found, "recoverable_errors")
    errors = [text(line) for level in ("CRITICAL", "ERROR") for line in recoverable.get(level) or []]
    # The error itself, with its reason, is among `errors`.
    lines = [str(line) for line in recoverable.get("WARNING") or []]
    warnings = [text(line) for line in lines if not FAILED.match(line) and not USUAL.match(line)]
    finished = isinstance(found.get("finished"), int | float)
    errors += [text(line) for line in found.get("errors") or []]
    if not finished and last:
        errors.append(f"cloud-init did not finish: {text(last)}")
    return Outcome(finished, list(dict.fromkeys(errors)), list(dict.fromkeys(warnings)))


def part(found: Any, name: str) -> dict[str, Any]:
    """A mapping below `name`, empty if there is none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, dict) else {}


def text(line: Any) -> str:
    """A message in one line."""
    said = " ".join(str(line).split())
    if said.startswith(SCHEMA):
        return "user-data does not follow cloud-init's schema: `sudo cloud-init schema --system` shows where"
    return f"{match[1]}: {match[2]}" if (match := PAIR.fullmatch(said)) else said
