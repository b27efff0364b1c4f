"""Runs of cloud-init, and their errors and warnings."""

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
# This file with steps and logging is read before user-data, so that user-data cannot remove the step for users.
STEPS = f"{FOLDER}/steps.cfg"
STATUS = "/run/cloud-init/status.json"
DONE = "/run/cloud-init/edge-done"  # written by the last step, see cc_edge.py
LOG = "/run/cloud-init/cloud-init.log"
TIMEOUT = 240.0  # seconds
FAILED = re.compile(r"Running module \S+ \(.*\) failed|Failed to (create user|set passwords|set 'expire'|set hashed)")
USUAL = re.compile(r"Stdout, stderr changing to")  # warnings that do not report a problem
PAIR = re.compile(r"\('(\w+)', \w+\([\"'](.*)[\"']\)\)")  # how cloud-init prints a module and its exception
SCHEMA = "cloud-config failed schema validation"


@dataclass
class CloudInitResult:
    """`finished` means that the stage ran to its end, even if there were errors in single entries."""

    finished: bool
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_local_stage(system: System) -> CloudInitResult:
    """Run all steps that cloud-init takes before the network is up."""
    system.path(DONE).unlink(missing_ok=True)
    result = run_stage(system, "init-local", ["init", "--local"], TIMEOUT)
    if result.finished and not system.path(DONE).exists():
        result.errors.append(f"cloud-init ended before its last step; see {LOG}")
    result.finished = system.path(DONE).exists()
    return result


def run_scripts(system: System) -> CloudInitResult:
    """Run the scripts of the seed, without a time limit."""
    return run_stage(system, "modules-final", ["modules", "--mode=final"], None)


def run_stage(system: System, stage: str, arguments: list[str], timeout: float | None) -> CloudInitResult:
    """Run one stage. Its output goes to the journal."""
    before = read_result(system, stage, "")
    # The kernel command line may name another seed, which cloud-init would prefer.
    variables = {"PYTHONPATH": FOLDER, "PYTHONDONTWRITEBYTECODE": "1", "DEBUG_PROC_CMDLINE": ""}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [PROGRAM, arguments[0], "--file", STEPS, *arguments[1:]],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
        timeout_message = ""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            timeout_message = f"timed out after {timeout:g} s"
        output.seek(0)
        text = output.read().decode(errors="replace")
    sys.stderr.write(text.encode(errors="replace").decode())
    sys.stderr.flush()
    last_line = timeout_message or next((line for line in reversed(text.splitlines()) if line.strip()), "")
    result = read_result(system, stage, last_line or f"exit status {process.returncode}")
    result.errors = [line for line in result.errors if line not in before.errors]
    result.warnings = [line for line in result.warnings if line not in before.warnings]
    return result


def read_result(system: System, stage: str, last_line: str) -> CloudInitResult:
    """The result of a stage in status.json (cloud-init documentation, "Reported status").

    `last_line` of its output is the error if it did not finish.
    """
    stage_status = nested_mapping(nested_mapping(system.json(STATUS), "v1"), stage)
    recoverable = nested_mapping(stage_status, "recoverable_errors")
    errors = [message_line(line) for level in ("CRITICAL", "ERROR") for line in recoverable.get(level) or []]
    # Warnings that match FAILED repeat an error of `errors` without its reason.
    lines = [str(line) for line in recoverable.get("WARNING") or []]
    warnings = [message_line(line) for line in lines if not FAILED.match(line) and not USUAL.match(line)]
    finished = isinstance(stage_status.get("finished"), int | float)
    errors += [message_line(line) for line in stage_status.get("errors") or []]
    if not finished and last_line:
        errors.append(f"cloud-init did not finish: {message_line(last_line)}")
    return CloudInitResult(finished, list(dict.fromkeys(errors)), list(dict.fromkeys(warnings)))


def nested_mapping(value: Any, name: str) -> dict[str, Any]:
    """The mapping at key `name` of a mapping; empty if there is none."""
    nested = value.get(name) if isinstance(value, dict) else None
    return nested if isinstance(nested, dict) else {}


def message_line(line: Any) -> str:
    """A message of cloud-init as one printable line."""
    text = printable(" ".join(str(line).split()))
    if text.startswith(SCHEMA):
        return "user-data does not match cloud-init's schema; run `sudo cloud-init schema --system` for details"
    return f"{match[1]}: {match[2]}" if (match := PAIR.fullmatch(text)) else text
