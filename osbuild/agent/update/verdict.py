"""The last verdict of the health checks on a boot that failed, kept over the reboot that follows it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from osbuild.agent.system import System
from osbuild.agent.update import boots, state

if TYPE_CHECKING:
    from osbuild.agent.health import Verdict

FILE = "verdict.json"


def store(system: System, verdict: "Verdict") -> None:
    """Keep a failed verdict. Raises `OSError`."""
    where = {"boot": state.boot_id(system), "slot": system.argument("edge.slot"), "time": state.now()}
    state.save(system, FILE, {**where, "version": system.image().get("version"), **asdict(verdict)})
    boots.judged(system, False)


def read(system: System) -> dict[str, Any]:
    """The last one; empty where there is none."""
    return state.load(system, FILE)


def reasons(found: dict[str, Any]) -> str:
    """Which checks failed and what they said, in one line."""
    checks = found.get("checks") if isinstance(found.get("checks"), list) else []
    bad = [check for check in checks or [] if isinstance(check, dict) and not check.get("ok")]
    return "; ".join(f"{check.get('name')}: {' '.join(str(check.get('output')).split()) or 'failed'}" for check in bad)
