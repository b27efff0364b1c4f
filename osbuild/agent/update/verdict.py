"""The last verdict of the health checks on a boot that failed, kept over the reboot that follows it."""

from collections.abc import Mapping
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import boots, state

FILE = "verdict.json"
TYPES = {**dict.fromkeys(("boot", "slot", "time", "version"), str), "checks": list}


def store(system: System, verdict: Mapping[str, Any]) -> None:
    """Keep a failed verdict, as `edge-agent health --json` prints it. Raises `OSError`."""
    where = {"boot": state.boot_id(system), "slot": system.argument("edge.slot"), "time": state.now()}
    state.save(system, FILE, {**where, "version": system.image().get("version"), **verdict})
    boots.judged(system, False)


def read(system: System) -> dict[str, Any]:
    """The last one; empty where there is none."""
    return state.load(system, FILE, TYPES)


def checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What each check said."""
    known = found.get("checks")
    return [check for check in known if isinstance(check, dict)] if isinstance(known, list) else []


def reasons(found: dict[str, Any]) -> str:
    """Which checks failed and what they said, in one line."""
    bad = [check for check in checks(found) if not check.get("ok")]
    return "; ".join(f"{check.get('name')}: {' '.join(str(check.get('output')).split()) or 'failed'}" for check in bad)
