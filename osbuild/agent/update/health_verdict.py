"""The verdict on the last boot that failed its health checks, stored for after the reboot."""

from collections.abc import Mapping
from typing import Any

from osbuild.agent.system import System
from osbuild.agent.update import boot_records, records

FILE = "verdict.json"
TYPES = {**dict.fromkeys(("boot", "slot", "time", "version"), str), "checks": list}


def store_failed(system: System, verdict: Mapping[str, Any]) -> None:
    """Store a failed verdict in the form of /run/edge-osbuild/health.json. Raises `OSError`."""
    boot = {"boot": records.read_boot_id(system), "slot": system.argument("edge.slot"), "time": records.current_time()}
    records.save_object(system, FILE, {**boot, "version": system.image().version, **verdict})
    boot_records.record_verdict(system, False)


def read_failed(system: System) -> dict[str, Any]:
    """The last failed verdict; empty if there is none."""
    return records.load_object(system, FILE, TYPES)


def check_results(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the checks in a verdict; damaged ones are left out."""
    checks = verdict.get("checks")
    return [check for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []


def failure_reasons(verdict: dict[str, Any]) -> str:
    """The failed checks with their output, in one line."""
    failed = [check for check in check_results(verdict) if not check.get("ok")]
    return "; ".join(
        f"{check.get('name')}: {' '.join(str(check.get('output')).split()) or 'failed'}" for check in failed
    )
