"""`edge-agent status`: image, slot, health, seed and network of this node."""

import argparse
import json
import platform
from dataclasses import asdict
from typing import Any

from osbuild.agent.boot.loader import count_tries, read_boot
from osbuild.agent.health import RESULT_FILE
from osbuild.agent.kubernetes.join_failure import read_failure
from osbuild.agent.seed.report import SeedReport, load_report
from osbuild.agent.system import System
from osbuild.shared.files import file_system_space
from osbuild.shared.records import record_to_json

NETWORK = "/run/edge-osbuild/network.json"


def collect_status(system: System) -> dict[str, Any]:
    """The JSON of `edge-agent status --json`. `uptime` is in seconds, `space` in bytes."""
    space = file_system_space(system.path("/var"))
    image = system.image()
    boot = read_boot(system)
    health = system.json(RESULT_FILE)
    problems = system.json(NETWORK).get("problems")
    return {
        "name": image.name,
        "version": image.version,
        "architecture": image.architecture,
        "slot": boot.slot,
        "root_hash": system.argument("roothash"),
        "kernel": system.text("/proc/sys/kernel/osrelease").strip() or platform.release(),
        "kubernetes": record_to_json(image.kubernetes) or None,
        "boot": {
            "entry": boot.entry.file if boot.entry else None,
            "state": boot.entry.state if boot.entry else "unknown",
            "left": boot.entry.left if boot.entry else None,
            "done": boot.entry.done if boot.entry else None,
            "counted": boot.counted,
        },
        "why": boot.explain(),
        "health": health or {"healthy": False, "final": False, "seconds": 0.0, "checks": []},
        "seed": asdict(load_report(system)),
        "network": {"problems": problems if isinstance(problems, list) else []},
        "join": join.lines() if (join := read_failure(system.path("/"))) else [],
        "uptime": system.uptime(),
        "space": {"/var": asdict(space) if space else None},
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """The status as a table of text, followed by problems of seed and network."""
    health = status["health"]
    rows = [
        ("image", f"{status['name'] or '?'} {status['version'] or '?'} ({status['architecture'] or '?'})"),
        ("slot", status["slot"] or "?"),
        ("why", status["why"]),
        ("boot", counter_summary(status["boot"])),
        ("root hash", status["root_hash"] or "?"),
        ("kernel", status["kernel"]),
        ("kubernetes", kubernetes_summary(status["kubernetes"])),
        ("up", format_duration(status["uptime"])),
        *((name, format_space(value)) for name, value in status["space"].items() if value),
        ("seed", seed_summary(status["seed"])),
        ("health", verdict_summary(health)),
    ]
    width = max(len(label) for label, _ in rows)
    text = [f"{label:{width}}  {value}" for label, value in rows]
    names = max((len(check["name"]) for check in health["checks"]), default=0)
    for check in health["checks"]:
        output = " ".join(check["output"].split())
        text.append(f"{'':{width}}  {'ok ' if check['ok'] else 'BAD'} {check['name']:{names}}  {output}".rstrip())
    problems = [*seed_lines(status["seed"]), *(f"network error: {line}" for line in status["network"]["problems"])]
    problems += status["join"]
    return [*text, "", *problems] if problems else text


def seed_summary(seed: dict[str, Any]) -> str:
    """The source of the seed, and the numbers of its errors and warnings."""
    sizes = {kind: len(seed[f"{kind}s"]) for kind in ("error", "warning")}
    counts = [f"{size} {kind}{'s' if size > 1 else ''}" for kind, size in sizes.items() if size]
    return ", ".join([seed["source"] or "not applied yet", *counts])


def seed_lines(seed: dict[str, Any]) -> list[str]:
    """Errors and warnings of the seed, and notes about media that were not used."""
    return [*SeedReport(**seed).problem_lines(), *seed["notes"]]


def counter_summary(entry: dict[str, Any]) -> str:
    if entry["state"] in ("good", "unknown"):
        return str(entry["state"])
    return f"{entry['state']}, {count_tries(entry['left'])} left, {entry['done']} used"


def kubernetes_summary(kubernetes: dict[str, Any] | None) -> str:
    if not kubernetes or kubernetes.get("role") in (None, "none"):
        return "none"
    return f"{kubernetes.get('distribution')} {kubernetes.get('version')}, {kubernetes['role']}"


def verdict_summary(health: dict[str, Any]) -> str:
    if health["healthy"]:
        return f"healthy after {health['seconds']:.0f} s"
    if health["final"]:
        return "NOT HEALTHY"
    return f"not healthy yet, {health['seconds']:.0f} s after start" if health["checks"] else "not checked yet"


def format_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    largest = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(largest) or "0 s"


def format_space(space: dict[str, int]) -> str:
    return f"{space['free'] / 2**30:.1f} of {space['size'] / 2**30:.1f} GiB free"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    status = collect_status(System())
    print(json.dumps(status, indent=2) if options.json else "\n".join(status_lines(status)))
    return 0 if status["health"]["healthy"] else 1
