"""`edge-agent update boot`: at every boot, before anything of Kubernetes runs.

Notes the boot, gives RAUC its floor, lets the cluster's data follow the image, and finds out what has become of the
update that is under way. What is written down of updates may be missing or wrong: that must never stop a boot. Only
data of the cluster that could not be brought back does, since an older Kubernetes would work on it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from osbuild.agent.update import boots, floor, history, outcome, pending, state
from osbuild.agent.update.node import Node

NOTABLE = {"restored", "kept", "problem"}  # what `reconcile` did that somebody may ask for later


def booted(node: Node) -> int:
    """0, or 1 where the cluster's data could not follow."""
    system = node.system
    careful("this boot can't be noted", lambda: boots.note(system, node.boot()))
    careful("RAUC's floor can't be written", lambda: floor.enforce(system))
    status, done = 0, None
    if node.cluster:
        try:
            done = node.cluster.reconcile(system)
        except Exception as error:  # whatever it is: Kubernetes must not start on such data, and all else must
            done, status = {"problem": str(error)}, 1
    if done and (done.keys() & NOTABLE):
        careful("what became of the cluster's data can't be kept", lambda: keep(node, done))
    careful("the last update can't be judged", lambda: judge(node, done))
    return status


def careful(what: str, act: Callable[[], object]) -> None:
    """Do it; say what went wrong, and go on."""
    try:
        act()
    except Exception as error:
        print(f"edge-agent: {what}: {error}", file=sys.stderr)


def keep(node: Node, done: dict[str, Any]) -> None:
    """Write down what became of the cluster's data: with the update that is under way, or as an event of its own.

    It comes again where a power cut was faster than `kept`.
    """
    print(f"cluster: {json.dumps(done)}", flush=True)
    last = next(iter(history.read(node.system)[-1:]), {}).get("cluster")
    again = isinstance(last, dict) and "restored" in done and last.get("restored") == done["restored"]
    if found := pending.load(node.system):
        pending.save(node.system, replace(found, cluster={**found.cluster, **done}))
    elif not again:
        history.append(node.system, "cluster", None, cluster=done)
    if node.cluster:
        node.cluster.kept(node.system)


def judge(node: Node, done: dict[str, Any] | None) -> None:
    """Find out what has become of the update that is under way, and bring it to its end where it has one.

    `done` is what became of the cluster's data in this boot.
    """
    system, found = node.system, pending.load(node.system)
    if found is None:
        state.discard(system)  # of an installation that was given up before the last boot, at the latest
        return
    boot = node.boot()
    what = outcome.outcome(found, boot, node.flow.primary(system))
    if what == outcome.WAITING and outcome.passed_over(found, state.boot_id(system)):
        what, found = outcome.ROLLED_BACK, replace(found, verdict=outcome.PASSED_OVER)
    say = node.report.event
    if what == outcome.TRIAL:
        if found.stage != pending.SWITCHED:  # somebody else told the boot loader: `rauc status mark-active other`
            pending.save(system, replace(found, stage=pending.SWITCHED))
        if gone := pending.given_up(found):
            history.append(system, "rolled-back", gone, why="by hand")
        say("trial", f"{found.title} is on trial")
    elif what == outcome.INTERRUPTED:
        history.append(system, "interrupted", found, why="the system went down while the slot was written")
        pending.clear(system)
        say("interrupted", f"{found.title} was not installed: the system went down while the slot was written")
    elif what == outcome.ROLLED_BACK:
        why = found.verdict or outcome.why(node, found)
        pending.save(system, replace(found, verdict=why))  # before the tries are taken away by which it is known
        if any(entry.slot == found.target and entry.left != 0 for entry in boot.others):
            node.flow.reject(system, found.target)
        history.append(system, "rolled-back", found, why=why, cluster={**found.cluster, **(done or {})})
        history.over(system, found)
        say("rolled-back", f"{found.title} was given up: {why}")
    elif what == outcome.UNSWITCHED and found.stage == pending.SWITCHED:
        if found.kind == "update":
            pending.save(system, replace(found, stage=pending.INSTALLED))
        else:
            history.append(system, "interrupted", found, why="the system went down before the switch")
            history.over(system, found)
        say("unswitched", f"{found.title} is installed and not switched to: `edge-agent update switch`")
    elif what == outcome.WAITING:
        say("waiting", f"{found.title} is to be tried at the next boot")
    elif what == outcome.UNKNOWN:
        say("unknown", f"what became of {found.title} is not known: the boot entries can't be read")
