"""Why this node is as it is, on one page: slot, tries, health, the last update, the last boots, RAUC's words."""

import argparse
import json
from typing import Any

from osbuild.agent.commands import status
from osbuild.agent.update import boot_records, crash_evidence, health_verdict, history, install, rauc_journal, records
from osbuild.agent.update.context import UpdateContext, need_root, this_device

BOOTS, EVENTS, LINES = 8, 6, 15  # how many of each are on the page


def collect(node: UpdateContext) -> dict[str, Any]:
    """Everything that `edge-agent explain --json` prints."""
    from osbuild.agent.update.status import update_status as update

    system = node.system
    return {
        "node": status.collect_status(system),
        "update": update(node),
        "verdict": health_verdict.read_failed(system) or None,
        "history": history.read_history(system)[-EVENTS:],
        "boots": boot_records.read_boots(system)[-BOOTS:],
        "hints": crash_evidence.crash_hints(system, history.begin_of_last(system)),
        "rauc": [row["line"] for row in records.read_rows(system, install.LOG) if "line" in row]
        or rauc_journal.recent_lines(),
    }


def page_lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    from osbuild.agent.update.status import status_lines as update

    text = [*status.status_lines(found["node"]), "", *update(found["update"])]
    if last := found["update"]["last"]:
        text += titled_lines("the last update", event_lines(last))
    if said := found["verdict"]:
        head = f"slot {said.get('slot')}, {said.get('version')}, {said.get('time')}"
        text += titled_lines(
            f"the last boot that failed its checks ({head})", check_lines(health_verdict.check_results(said))
        )
    text += titled_lines("events", [history.event_line(row) for row in found["history"]])
    text += titled_lines("boots", [boot_line(row) for row in found["boots"]])
    text += titled_lines("the machine says", found["hints"])
    text += titled_lines("RAUC at the last installation", found["rauc"][-LINES:])
    return text


def titled_lines(title: str, content: list[str]) -> list[str]:
    """Nothing where there is no content."""
    return ["", f"{title}:", *(f"  {line}" for line in content)] if content else []


def event_lines(row: dict[str, Any]) -> list[str]:
    """One event in full: what was fetched, and what the cluster lost."""
    text = [history.event_line(row)]
    if metadata := records.object_below(row, "facts"):
        shown = [
            f"{name} {value}" for name, value in metadata.items() if not isinstance(value, dict) and value is not None
        ]
        text.append(", ".join(shown))
    if cluster := row.get("cluster"):
        text += [f"cluster: {line}" for line in json.dumps(cluster, indent=1).splitlines()[1:-1]]
    return text


def check_lines(found: list[dict[str, Any]]) -> list[str]:
    return [
        f"{'ok ' if check.get('ok') else 'BAD'} {check.get('name')}  {' '.join(str(check.get('output')).split())}"
        for check in found
    ]


def boot_line(row: dict[str, Any]) -> str:
    """One boot."""
    found = row.get("healthy")
    healthy = "good" if found is True else "NOT GOOD" if found is False else "no verdict"
    end = row.get("end") or "runs"
    tries = "" if row.get("left") is None else f", try {row.get('done')}"
    return f"{row.get('time')}  slot {row.get('slot')}  {row.get('version')}{tries}: {healthy}, {end}"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    need_root()
    found = collect(this_device())
    print(json.dumps(found, indent=2) if options.json else "\n".join(page_lines(found)))
    return 0
