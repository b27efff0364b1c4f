"""What runs here, whether it is well, and why this slot."""

import argparse
import json
import platform
from dataclasses import asdict
from typing import Any

from osbuild.agent.boot.loader import count_tries, read_boot
from osbuild.agent.health import VERDICT_FILE
from osbuild.agent.seed.report import SeedReport, load_report
from osbuild.agent.system import System
from osbuild.shared.files import file_system_space

NETWORK = "/run/edge-osbuild/network.json"


def collect_status(system: System) -> dict[str, Any]:
    """Everything that `edge-agent status --json` prints. `uptime` is in seconds, `space` in bytes."""
    space = file_system_space(system.path("/var"))
    image = system.image()
    state = read_boot(system)
    health = system.json(VERDICT_FILE)
    problems = system.json(NETWORK).get("problems")
    return {
        "name": image.get("name"),
        "version": image.get("version"),
        "architecture": image.get("architecture"),
        "slot": state.slot,
        "root_hash": system.argument("roothash"),
        "kernel": system.text("/proc/sys/kernel/osrelease").strip() or platform.release(),
        "kubernetes": image.get("kubernetes") or None,
        "boot": {
            "entry": state.entry.file if state.entry else None,
            "state": state.entry.state if state.entry else "unknown",
            "left": state.entry.left if state.entry else None,
            "done": state.entry.done if state.entry else None,
            "counted": state.counted,
        },
        "why": state.explain(),
        "health": health or {"healthy": False, "final": False, "seconds": 0.0, "checks": []},
        "seed": asdict(load_report(system)),
        "network": {"problems": problems if isinstance(problems, list) else []},
        "uptime": system.uptime(),
        "space": {"/var": asdict(space) if space else None},
    }


def status_lines(found: dict[str, Any]) -> list[str]:
    """The same for people: short and aligned."""
    health = found["health"]
    rows = [
        ("image", f"{found['name'] or '?'} {found['version'] or '?'} ({found['architecture'] or '?'})"),
        ("slot", f"{found['slot'] or '?'}: {found['why']}"),
        ("boot", counter_summary(found["boot"])),
        ("root", found["root_hash"] or "?"),
        ("kernel", found["kernel"]),
        ("kubernetes", kubernetes_summary(found["kubernetes"])),
        ("up", format_duration(found["uptime"])),
        *((name, format_space(value)) for name, value in found["space"].items() if value),
        ("seed", seed_summary(found["seed"])),
        ("health", verdict_summary(health)),
    ]
    width = max(len(label) for label, _ in rows)
    text = [f"{label:{width}}  {value}" for label, value in rows]
    names = max((len(check["name"]) for check in health["checks"]), default=0)
    for check in health["checks"]:
        said = " ".join(check["output"].split())
        text.append(f"{'':{width}}  {'ok ' if check['ok'] else 'BAD'} {check['name']:{names}}  {said}".rstrip())
    problems = [*seed_lines(found["seed"]), *(f"network error: {line}" for line in found["network"]["problems"])]
    return [*text, "", *problems] if problems else text


def seed_summary(found: dict[str, Any]) -> str:
    """Where the seed is from, and how many things are wrong with it."""
    sizes = {kind: len(found[f"{kind}s"]) for kind in ("error", "warning")}
    counts = [f"{size} {kind}{'s' if size > 1 else ''}" for kind, size in sizes.items() if size]
    return ", ".join([found["source"] or "not applied yet", *counts])


def seed_lines(found: dict[str, Any]) -> list[str]:
    """What is wrong with the seed, and what was not looked at."""
    return [*SeedReport(**found).problem_lines(), *found["notes"]]


def counter_summary(entry: dict[str, Any]) -> str:
    if entry["state"] in ("good", "unknown"):
        return str(entry["state"])
    return f"{entry['state']}, {count_tries(entry['left'])} left, {entry['done']} done"


def kubernetes_summary(found: dict[str, Any] | None) -> str:
    if not found or found.get("role") in (None, "none"):
        return "none"
    return f"{found.get('distribution')} {found.get('version')}, {found['role']}"


def verdict_summary(health: dict[str, Any]) -> str:
    if health["healthy"]:
        return f"good, after {health['seconds']:.0f} s"
    if health["final"]:
        return "NOT GOOD"
    return f"not yet, {health['seconds']:.0f} s after start" if health["checks"] else "not known yet"


def format_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def format_space(space: dict[str, int]) -> str:
    return f"{space['free'] / 2**30:.1f} of {space['size'] / 2**30:.1f} GiB free"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    found = collect_status(System())
    print(json.dumps(found, indent=2) if options.json else "\n".join(status_lines(found)))
    return 0 if found["health"]["healthy"] else 1
