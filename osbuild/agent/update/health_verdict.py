"""The last verdict of the health checks on a boot that failed, kept over the reboot that follows it."""

from collections.abc import Mapping
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import boot_records, records

FILE = "verdict.json"
TYPES = {**dict.fromkeys(("boot", "slot", "time", "version"), str), "checks": list}


def store_failed(system: System, verdict: Mapping[str, Any]) -> None:
    """Keep a failed verdict, as `edge-agent health --json` prints it. Raises `OSError`."""
    where = {"boot": records.read_boot_id(system), "slot": system.argument("edge.slot"), "time": records.current_time()}
    records.save_object(system, FILE, {**where, "version": system.image().get("version"), **verdict})
    boot_records.record_verdict(system, False)


def read_failed(system: System) -> dict[str, Any]:
    """The last one; empty where there is none."""
    return records.load_object(system, FILE, TYPES)


def check_results(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What each check said."""
    known = found.get("checks")
    return [check for check in known if isinstance(check, dict)] if isinstance(known, list) else []


def failure_reasons(found: dict[str, Any]) -> str:
    """Which checks failed and what they said, in one line."""
    bad = [check for check in check_results(found) if not check.get("ok")]
    return "; ".join(f"{check.get('name')}: {' '.join(str(check.get('output')).split()) or 'failed'}" for check in bad)
