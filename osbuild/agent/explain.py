"""Why this node is as it is, on one page: slot, tries, health, the last update, the last boots, RAUC's words."""

import argparse
import json
from typing import Any

from osbuild.agent import status
from osbuild.agent.update import boots, hints, history, install, journal, state, verdict
from osbuild.agent.update.node import Node, need_root, this

BOOTS, EVENTS, LINES = 8, 6, 15  # how many of each are on the page


def explain(node: Node) -> dict[str, Any]:
    """Everything that `edge-agent explain --json` prints."""
    from osbuild.agent.update.status import status as update

    system = node.system
    return {
        "node": status.status(system),
        "update": update(node),
        "verdict": verdict.read(system) or None,
        "history": history.read(system)[-EVENTS:],
        "boots": boots.read(system)[-BOOTS:],
        "hints": hints.hints(system, history.begun(system)),
        "rauc": [row["line"] for row in state.rows(system, install.LOG) if "line" in row] or journal.recent(),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    from osbuild.agent.update.status import lines as update

    text = [*status.lines(found["node"]), "", *update(found["update"])]
    if last := found["update"]["last"]:
        text += section("the last update", event(last))
    if said := found["verdict"]:
        head = f"slot {said.get('slot')}, {said.get('version')}, {said.get('time')}"
        text += section(f"the last boot that failed its checks ({head})", checks(verdict.checks(said)))
    text += section("events", [history.line(row) for row in found["history"]])
    text += section("boots", [boot(row) for row in found["boots"]])
    text += section("the machine says", found["hints"])
    text += section("RAUC at the last installation", found["rauc"][-LINES:])
    return text


def section(title: str, content: list[str]) -> list[str]:
    """Nothing where there is no content."""
    return ["", f"{title}:", *(f"  {line}" for line in content)] if content else []


def event(row: dict[str, Any]) -> list[str]:
    """One event in full: what was fetched, and what the cluster lost."""
    text = [history.line(row)]
    if facts := state.part(row, "facts"):
        shown = [
            f"{name} {value}" for name, value in facts.items() if not isinstance(value, dict) and value is not None
        ]
        text.append(", ".join(shown))
    if cluster := row.get("cluster"):
        text += [f"cluster: {line}" for line in json.dumps(cluster, indent=1).splitlines()[1:-1]]
    return text


def checks(found: list[dict[str, Any]]) -> list[str]:
    return [
        f"{'ok ' if check.get('ok') else 'BAD'} {check.get('name')}  {' '.join(str(check.get('output')).split())}"
        for check in found
    ]


def boot(row: dict[str, Any]) -> str:
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
    found = explain(this())
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines(found)))
    return 0
