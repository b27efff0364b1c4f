"""Health: runs the checks of the health folders until all pass, and decides what a boot that fails means.

A check is an executable; status 0 is good, and what it prints says why. This program writes the verdict to
/run/edge-osbuild/health.json. `boot-complete.target`, and with it systemd-bless-boot, waits for it.
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
VERDICT_FILE = "/run/edge-osbuild/health.json"
CHECK_TIMEOUT = 30.0
CHECK_RESERVE = 10.0  # seconds of that for the check itself, where it waits
KILL_TIMEOUT = 3.0  # seconds to end, once killed
PAUSE = 1.0  # seconds between rounds at least
REST_FACTOR = 9.0  # times what a round took of a processor: a boot that is under way needs the rest of it
LONGEST_PAUSE = 10.0  # seconds between rounds at most
OUTPUT = 2000  # characters of a check's output that are kept


@dataclass(frozen=True)
class CheckResult:
    """One check's result; `seconds` is how long it took."""

    name: str
    ok: bool
    output: str
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """All results of one round; `seconds` is the uptime at its end. `final` once nothing more will be tried."""

    healthy: bool
    final: bool
    seconds: float
    checks: tuple[CheckResult, ...]


def find_checks(system: System) -> list[Path]:
    """The checks in order of name; one in /etc replaces that of the same name in /usr."""
    found: dict[str, Path] = {}
    for folder in map(system.path, FOLDERS):
        if folder.is_dir():
            found |= {path.name: path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)}
    return [found[name] for name in sorted(found)]


def run_check(path: Path, timeout: float, patience: float = 0) -> CheckResult:
    """Run one check for at most `timeout` seconds; then it and all that it started is killed.

    It may wait `patience` seconds for what it checks (EDGE_HEALTH_WAIT): cheaper than to run it again and again.
    What hangs in the kernel does not end by that, nor what has left its session: neither may hold up the verdict.
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
        said, _ = process.communicate(timeout=timeout)
        text, ok = said.decode(errors="replace").strip(), process.returncode == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            said, _ = process.communicate(timeout=KILL_TIMEOUT)
        except subprocess.TimeoutExpired as late:
            said = late.output or b""
        text = f"no answer within {timeout:g} s\n{said.decode(errors='replace')}".strip()
        ok = False
    return CheckResult(path.name, ok, text[-OUTPUT:], round(time.monotonic() - begin, 3))


def run_round(system: System, *, everything: bool, timeout: float = CHECK_TIMEOUT) -> tuple[CheckResult, ...]:
    """Run the checks in order, and stop at the first that fails; `everything`: run them all at once.

    One after the other, those that hang would take longer than `guard-trial` waits after the deadline: a minute.
    """
    if everything:
        return run_all(find_checks(system), timeout)
    results = []
    for path in find_checks(system):
        results.append(run_check(path, timeout, max(0.0, timeout - CHECK_RESERVE)))
        if not results[-1].ok:
            break
    return tuple(results)


def run_all(paths: Sequence[Path], timeout: float) -> tuple[CheckResult, ...]:
    """Run checks at once, each for at most `timeout` seconds."""
    found: dict[Path, CheckResult] = {}

    def run(path: Path) -> None:
        found[path] = run_check(path, timeout)

    threads = [threading.Thread(target=run, args=(path,), daemon=True) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tuple(found[path] for path in paths)


def store_verdict(system: System, verdict: Verdict) -> None:
    """Write the verdict for `edge-agent status` and others; it is on a tmpfs."""
    write_file(system.path(VERDICT_FILE), json.dumps(asdict(verdict), indent=2).encode() + b"\n")


def await_verdict(system: System, deadline: float, *, timeout: float = CHECK_TIMEOUT, pause: float = PAUSE) -> Verdict:
    """Run rounds until one passes or the uptime is `deadline` seconds; the last round runs every check.

    Each is stored but the last of a boot that has failed: see `judge_boot`. Between them are at least `pause` seconds.
    """
    while True:
        left, used = deadline - system.uptime(), processor_time()
        last = left <= 0
        checks = run_round(system, everything=last, timeout=timeout if last else min(timeout, max(left, 1.0)))
        healthy = all(check.ok for check in checks)
        verdict = Verdict(healthy, healthy or last, system.uptime(), checks)
        if healthy or not last:
            store_verdict(system, verdict)
        if verdict.final:
            return verdict
        rest = min(REST_FACTOR * (processor_time() - used), LONGEST_PAUSE)
        time.sleep(max(pause, min(rest, deadline - system.uptime())))


def processor_time() -> float:
    """Seconds that processes which this one has started, and which have ended, have used."""
    times = os.times()
    return times.children_user + times.children_system


def verdict_line(system: System, verdict: Verdict) -> str:
    """The line on the console at the end of a boot."""
    image = system.image()
    node = f"{image.get('name', '?')} {image.get('version', '?')} slot {system.argument('edge.slot') or '?'}"
    if verdict.healthy:
        return f"edge-osbuild: boot complete: {node} healthy after {verdict.seconds:.0f} s"
    bad = "; ".join(f"{check.name}: {check.output or 'failed'}" for check in verdict.checks if not check.ok)
    return f"edge-osbuild: boot failed: {node} not healthy after {verdict.seconds:.0f} s: " + " ".join(bad.split())


def keep_failed_verdict(system: System, verdict: Verdict) -> None:
    """Keep a failed verdict over the reboot."""

    def keep() -> None:
        from osbuild.agent.update.health_verdict import store_failed

        try:
            store_failed(system, asdict(verdict))
        except OSError as error:
            print(f"edge-agent: the verdict can't be kept: {error}", flush=True)

    run_with_timeout(keep)


def judge_boot(system: System, deadline: float, restart: Callable[[], None] = force_reboot) -> int:
    """The verdict on this boot: 0 if healthy. A failed boot on trial is started again while that can help.

    Until a final verdict is stored `guard-trial` looks after this boot. So that comes once a reboot was asked for, or
    none is wanted: whatever fails here, a boot on trial does not go on by mistake.
    """
    verdict = await_verdict(system, deadline)
    print_on_console(system, verdict_line(system, verdict))
    if verdict.healthy:
        return 0
    keep_failed_verdict(system, verdict)
    state = read_boot(system)
    if reason := state.retry_reason:
        print_on_console(system, f"edge-osbuild: rebooting: {reason}")
        restart()
        store_verdict(system, verdict)
        return 1
    store_verdict(system, verdict)
    why = "no slot has a try left" if state.on_trial else f"slot {state.slot or '?'} was found good before"
    print_on_console(system, f"edge-osbuild: staying up, not healthy: {why}")
    return 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boot", action="store_true", help="judge this boot: run checks until the deadline, and reboot a failed trial"
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
            deadline = float(system.image().get("health", {}).get("deadline", 600))
        return judge_boot(system, deadline)
    checks = run_round(system, everything=True)
    # For `edge-agent status`. A boot that is not judged yet stays so: `guard-trial` reads there whether it is.
    if os.geteuid() == 0 and system.json(VERDICT_FILE).get("final"):
        store_verdict(system, Verdict(all(check.ok for check in checks), True, system.uptime(), checks))
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for line in result_lines(checks):
            print(line)
    return 0 if all(check.ok for check in checks) else 1


def result_lines(checks: tuple[CheckResult, ...]) -> list[str]:
    """The checks for people, names aligned."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        first, *rest = check.output.splitlines() or [""]
        lines.append(f"{'ok' if check.ok else 'BAD':3} {check.name:{width}}  {first}".rstrip())
        lines += [f"{'':{width + 6}}{line}" for line in rest]
    return lines
