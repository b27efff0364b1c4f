"""Health: runs the checks of the `health.d` folders until all pass, and reboots a trial that has failed.

A check is an executable. Exit status 0 means that it has passed; otherwise its output gives the reason. The result of
each round is stored in /run/edge-osbuild/health.json. The result of the last round is the verdict on the boot:
`boot-complete.target`, and with it the blessing of the slot, waits for it.
"""

import argparse
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from osbuild.agent.boot.loader import read_boot
from osbuild.agent.console import print_on_console, run_with_timeout
from osbuild.agent.system import System
from osbuild.agent.systemd import force_reboot
from osbuild.shared.files import write_file

FOLDERS = ("/usr/lib/edge-osbuild/health.d", "/etc/edge-osbuild/health.d")
RESULT_FILE = "/run/edge-osbuild/health.json"
CHECK_TIMEOUT = 30.0  # seconds
CHECK_RESERVE = 10.0  # seconds of the timeout that a check may not spend on waiting
DEADLINE = 600.0  # seconds of uptime, used if the image does not set it
KILL_TIMEOUT = 3.0  # seconds until a killed check must have ended
PAUSE = 1.0  # seconds between rounds, at least
# A round and the pause after it take at least this many times the processor time of the round, so that the boot gets
# 90 % of a processor.
REST_FACTOR = 10.0
LONGEST_PAUSE = 10.0  # seconds between rounds, at most
OUTPUT = 2000  # characters of a check's output that are stored


@dataclass(frozen=True)
class CheckResult:
    """The result of one check; `seconds` is its duration."""

    name: str
    ok: bool
    output: str
    seconds: float


@dataclass(frozen=True)
class RoundResult:
    """The result of one round. `seconds` is the uptime at its end. The `final` result is the verdict on the boot."""

    healthy: bool
    final: bool
    seconds: float
    checks: tuple[CheckResult, ...]


def find_checks(system: System) -> list[Path]:
    """The checks, sorted by name. A check in /etc replaces the check of the same name in /usr."""
    checks: dict[str, Path] = {}
    for folder in map(system.path, FOLDERS):
        if folder.is_dir():
            checks |= {path.name: path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)}
    return [checks[name] for name in sorted(checks)]


def run_check(path: Path, timeout: float, patience: float = 0) -> CheckResult:
    """Run one check. After `timeout` seconds the check and its child processes are killed.

    A check that supports it waits up to `patience` seconds for success (EDGE_HEALTH_WAIT), which costs less processor
    time than running it again.
    """
    begin = time.monotonic()
    try:
        process = subprocess.Popen(
            [path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "EDGE_HEALTH_WAIT": f"{patience:.0f}"},
        )
    except OSError as error:
        return CheckResult(path.name, False, f"cannot be run: {error.strerror}", 0.0)
    try:
        output, _ = process.communicate(timeout=timeout)
        text, ok = output.decode(errors="replace").strip(), process.returncode == 0
    except subprocess.TimeoutExpired:
        # A process that hangs in the kernel or has left the session survives this. It must not delay the verdict.
        os.killpg(process.pid, signal.SIGKILL)
        try:
            output, _ = process.communicate(timeout=KILL_TIMEOUT)
        except subprocess.TimeoutExpired as still_running:
            output = still_running.output or b""
        text = f"no answer within {timeout:g} s\n{output.decode(errors='replace')}".strip()
        ok = False
    return CheckResult(path.name, ok, text[-OUTPUT:], round(time.monotonic() - begin, 3))


def run_round(system: System, *, everything: bool, timeout: float = CHECK_TIMEOUT) -> tuple[CheckResult, ...]:
    """Run the checks in order and stop at the first failure. With `everything`, run all checks in parallel."""
    if everything:
        # One after the other, several checks that hang would exceed the minute that `guard-trial` waits after the
        # deadline.
        return run_all(find_checks(system), timeout)
    results: dict[Path, CheckResult] = {}
    # A check may wait for a long time. The seed, which is applied meanwhile, may contain further checks.
    while path := next((check for check in find_checks(system) if check not in results), None):
        results[path] = run_check(path, timeout, max(0.0, timeout - CHECK_RESERVE))
        if not results[path].ok:
            break
    return tuple(sorted(results.values(), key=lambda result: result.name))


def run_all(paths: Sequence[Path], timeout: float) -> tuple[CheckResult, ...]:
    """Run checks in parallel, each for at most `timeout` seconds. The results have the order of `paths`."""
    results: dict[Path, CheckResult] = {}

    def run(path: Path) -> None:
        results[path] = run_check(path, timeout)

    threads = [threading.Thread(target=run, args=(path,), daemon=True) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tuple(results[path] for path in paths)


def store_result(system: System, result: RoundResult) -> None:
    """Write the result of a round to `RESULT_FILE`, which is on a tmpfs. Raises `OSError`."""
    write_file(system.path(RESULT_FILE), json.dumps(asdict(result), indent=2).encode() + b"\n")


def await_verdict(
    system: System, deadline: float, *, timeout: float = CHECK_TIMEOUT, pause: float = PAUSE
) -> RoundResult:
    """Run rounds until one passes or the uptime reaches `deadline` seconds, and return the result of the last round.

    The last round runs every check. Rounds are at least `pause` seconds apart. The result of every round is stored,
    except the verdict on a failed boot, which `judge_boot` stores.
    """
    while True:
        remaining, used_before, begin = deadline - system.uptime(), processor_time(), time.monotonic()
        last = remaining <= 0
        checks = run_round(system, everything=last, timeout=timeout if last else min(timeout, max(remaining, 1.0)))
        healthy = all(check.ok for check in checks)
        result = RoundResult(healthy, healthy or last, system.uptime(), checks)
        if healthy or not last:
            store_result(system, result)
        if result.final:
            return result
        log_failure(result)
        # A check that waits takes time, but no processor time.
        rest = REST_FACTOR * (processor_time() - used_before) - (time.monotonic() - begin)
        rest = min(rest, LONGEST_PAUSE)
        time.sleep(max(pause, min(rest, deadline - system.uptime())))


def log_failure(result: RoundResult) -> None:
    """Say in the journal what a boot is waiting for."""
    for check in result.checks:
        if not check.ok:
            print(f"after {result.seconds:.0f} s: {check.name}: {check.output or 'failed'}", flush=True)


def processor_time() -> float:
    """Processor time in seconds that ended child processes have used (times(2))."""
    times = os.times()
    return times.children_user + times.children_system


def verdict_line(system: System, verdict: RoundResult) -> str:
    """The line that the console shows at the end of a boot."""
    image = system.image()
    node = f"{image.name or '?'} {image.version or '?'} slot {system.argument('edge.slot') or '?'}"
    if verdict.healthy:
        return f"edge-osbuild: boot complete: {node} healthy after {verdict.seconds:.0f} s"
    failures = "; ".join(f"{check.name}: {check.output or 'failed'}" for check in verdict.checks if not check.ok)
    return f"edge-osbuild: boot failed: {node} not healthy after {verdict.seconds:.0f} s: " + " ".join(failures.split())


def store_failed_verdict(system: System, verdict: RoundResult) -> None:
    """Store a failed verdict on the data partition, so that it is known after the reboot."""

    def store() -> None:
        from osbuild.agent.update.health_verdict import store_failed

        try:
            store_failed(system, asdict(verdict))
        except OSError as error:
            print(f"edge-agent: the verdict cannot be stored: {error}", flush=True)

    run_with_timeout(store)


def judge_boot(system: System, deadline: float, reboot: Callable[[], None] = force_reboot) -> int:
    """Judge this boot: 0 if it is healthy, 1 if not. A failed boot on trial is rebooted while any slot has a try.

    Raises `Problem` if the reboot fails.
    """
    verdict = await_verdict(system, deadline)
    print_on_console(system, verdict_line(system, verdict))
    if verdict.healthy:
        return 0
    store_failed_verdict(system, verdict)
    boot = read_boot(system)
    if reason := boot.retry_reason:
        print_on_console(system, f"edge-osbuild: rebooting: {reason}")
        # A final result ends the watch of `guard-trial`. It is stored only after the reboot was requested: if this
        # program fails before, `guard-trial` reboots the trial.
        reboot()
        store_result(system, verdict)
        return 1
    store_result(system, verdict)
    reason = "no slot has a try left" if boot.on_trial else f"slot {boot.slot or '?'} was good before this boot"
    print_on_console(system, f"edge-osbuild: not healthy, but not rebooting: {reason}")
    return 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boot", action="store_true", help="judge this boot: run checks until the deadline, reboot a failed trial"
    )
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="uptime at which an unhealthy boot has failed (default: the image's)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    system = System()
    if options.boot:
        deadline = options.deadline
        if deadline is None:
            limit = system.image().health.deadline
            deadline = DEADLINE if limit is None else float(limit)
        return judge_boot(system, deadline)
    checks = run_round(system, everything=True)
    # Update the result for `edge-agent status`, but only a final result: `guard-trial` waits for a final result.
    if os.geteuid() == 0 and system.json(RESULT_FILE).get("final"):
        store_result(system, RoundResult(all(check.ok for check in checks), True, system.uptime(), checks))
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for line in result_lines(checks):
            print(line)
    return 0 if all(check.ok for check in checks) else 1


def result_lines(checks: tuple[CheckResult, ...]) -> list[str]:
    """The results as a table: state, name, output."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        first, *rest = check.output.splitlines() or [""]
        lines.append(f"{'ok' if check.ok else 'BAD':3} {check.name:{width}}  {first}".rstrip())
        lines += [f"{'':{width + 6}}{line}" for line in rest]
    return lines
