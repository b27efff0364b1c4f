"""`edge-agent explain`: one page with slots, health, the last update, the last boots and the log of RAUC."""

import argparse
import json
from typing import Any

from osbuild.agent.commands import status
from osbuild.agent.update import boot_records, crash_evidence, health_verdict, history, install, rauc_journal, records
from osbuild.agent.update.context import UpdateContext, need_root, this_device

BOOTS, EVENTS, LINES = 8, 6, 15  # numbers of boots, events and lines of RAUC on the page


def collect_report(context: UpdateContext) -> dict[str, Any]:
    """The JSON of `edge-agent explain --json`."""
    from osbuild.agent.update.status import update_status

    system = context.system
    return {
        "node": status.collect_status(system),
        "update": update_status(context),
        "verdict": health_verdict.read_failed(system) or None,
        "history": history.read_history(system)[-EVENTS:],
        "boots": boot_records.read_boots(system)[-BOOTS:],
        "hints": crash_evidence.crash_hints(system, history.start_of_last_update(system)),
        "rauc": [row["line"] for row in records.read_rows(system, install.LOG) if "line" in row]
        or rauc_journal.recent_lines(),
    }


def page_lines(report: dict[str, Any]) -> list[str]:
    """The report as text."""
    from osbuild.agent.update.status import status_lines

    text = [*status.status_lines(report["node"]), "", *status_lines(report["update"])]
    if last := report["update"]["last"]:
        text += titled_lines("the last update", event_lines(last))
    if verdict := report["verdict"]:
        details = f"slot {verdict.get('slot')}, {verdict.get('version')}, {verdict.get('time')}"
        text += titled_lines(
            f"the last boot that failed its health checks ({details})",
            check_lines(health_verdict.check_results(verdict)),
        )
    text += titled_lines("events", [history.event_line(row) for row in report["history"]])
    text += titled_lines("boots", [boot_line(row) for row in report["boots"]])
    text += titled_lines("traces of a crash", report["hints"])
    text += titled_lines("RAUC during the last installation", report["rauc"][-LINES:])
    return text


def titled_lines(title: str, content: list[str]) -> list[str]:
    """A title with indented lines; empty if there is no content."""
    return ["", f"{title}:", *(f"  {line}" for line in content)] if content else []


def event_lines(row: dict[str, Any]) -> list[str]:
    """One event with statistics and the result for the cluster."""
    text = [history.event_line(row)]
    if statistics := records.nested_object(row, "facts"):
        values = [
            f"{name} {value}" for name, value in statistics.items() if not isinstance(value, dict) and value is not None
        ]
        text.append(", ".join(values))
    if cluster := row.get("cluster"):
        text += [f"cluster: {line}" for line in json.dumps(cluster, indent=1).splitlines()[1:-1]]
    return text


def check_lines(checks: list[dict[str, Any]]) -> list[str]:
    return [
        f"{'ok ' if check.get('ok') else 'BAD'} {check.get('name')}  {' '.join(str(check.get('output')).split())}"
        for check in checks
    ]


def boot_line(row: dict[str, Any]) -> str:
    """One boot as a line of text."""
    healthy = row.get("healthy")
    verdict = "healthy" if healthy is True else "NOT HEALTHY" if healthy is False else "no verdict"
    end = row.get("end") or "running"
    tries = "" if row.get("left") is None else f", try {row.get('done')}"
    return f"{row.get('time')}  slot {row.get('slot')}  {row.get('version')}{tries}: {verdict}, {end}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    need_root()
    report = collect_report(this_device())
    print(json.dumps(report, indent=2) if options.json else "\n".join(page_lines(report)))
    return 0
