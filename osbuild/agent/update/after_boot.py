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

from osbuild.agent.update import boot_records, history, minimum_version, outcome, pending, records
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.outcome import UpdateOutcome
from osbuild.agent.update.pending import UpdateKind, UpdateStage

NOTABLE_RESULTS = {"restored", "kept", "problem"}  # what `reconcile` did that somebody may ask for later


def handle_boot(node: UpdateContext) -> int:
    """0, or 1 where the cluster's data could not follow."""
    system = node.system
    log_failure("this boot can't be noted", lambda: boot_records.record_boot(system, node.read_boot()))
    log_failure("RAUC's floor can't be written", lambda: minimum_version.write_rauc_config(system))
    status, done = 0, None
    if node.cluster:
        try:
            done = node.cluster.reconcile_data(system)
        except Exception as error:  # whatever it is: Kubernetes must not start on such data, and all else must
            done, status = {"problem": str(error)}, 1
    if done and (done.keys() & NOTABLE_RESULTS):
        log_failure("what became of the cluster's data can't be kept", lambda: record_cluster_result(node, done))
    log_failure("the last update can't be judged", lambda: judge_pending(node, done))
    return status


def log_failure(what: str, act: Callable[[], object]) -> None:
    """Do it; say what went wrong, and go on."""
    try:
        act()
    except Exception as error:
        print(f"edge-agent: {what}: {error}", file=sys.stderr)


def record_cluster_result(node: UpdateContext, done: dict[str, Any]) -> None:
    """Write down what became of the cluster's data: with the update that is under way, or as an event of its own.

    It comes again where a power cut was faster than `kept`.
    """
    print(f"cluster: {json.dumps(done)}", flush=True)
    last = next(iter(history.read_history(node.system)[-1:]), {}).get("cluster")
    again = isinstance(last, dict) and "restored" in done and last.get("restored") == done["restored"]
    if update := pending.load_pending(node.system):
        pending.save_pending(node.system, replace(update, cluster={**update.cluster, **done}))
    elif not again:
        history.append_event(node.system, history.UpdateEvent.cluster, None, cluster=done)
    if node.cluster:
        node.cluster.mark_recorded(node.system)


def judge_pending(node: UpdateContext, done: dict[str, Any] | None) -> None:
    """Find out what has become of the update that is under way, and bring it to its end where it has one.

    `done` is what became of the cluster's data in this boot.
    """
    system, update = node.system, pending.load_pending(node.system)
    if update is None:
        records.discard_download(system)  # of an installation that was given up before the last boot, at the latest
        return
    boot = node.read_boot()
    what = outcome.find_outcome(update, boot, node.boot_loader.next_slot(system))
    if what is UpdateOutcome.waiting and outcome.was_skipped(update, records.read_boot_id(system)):
        what, update = UpdateOutcome.rolled_back, replace(update, verdict=outcome.SKIPPED)
    say = node.progress.report_event
    if what is UpdateOutcome.trial:
        if (
            update.stage is not UpdateStage.switched
        ):  # somebody else told the boot loader: `rauc status mark-active other`
            pending.save_pending(system, replace(update, stage=UpdateStage.switched))
        if gone := pending.abandoned_update(update):
            history.append_event(system, history.UpdateEvent.rolled_back, gone, why="by hand")
        say("trial", f"{update.title} is on trial")
    elif what is UpdateOutcome.interrupted:
        history.append_event(
            system, history.UpdateEvent.interrupted, update, why="the system went down while the slot was written"
        )
        pending.clear_pending(system)
        say("interrupted", f"{update.title} was not installed: the system went down while the slot was written")
    elif what is UpdateOutcome.rolled_back:
        why = update.verdict or outcome.explain_rollback(node, update)
        pending.save_pending(
            system, replace(update, verdict=why)
        )  # before the tries are taken away by which it is known
        if any(entry.slot == update.target and entry.left != 0 for entry in boot.others):
            node.boot_loader.reject(system, update.target)
        history.append_event(
            system, history.UpdateEvent.rolled_back, update, why=why, cluster={**update.cluster, **(done or {})}
        )
        history.close_pending(system, update)
        say("rolled-back", f"{update.title} was given up: {why}")
    elif what is UpdateOutcome.unswitched and update.stage is UpdateStage.switched:
        if update.kind is UpdateKind.update:
            pending.save_pending(system, replace(update, stage=UpdateStage.installed))
        else:
            history.append_event(
                system, history.UpdateEvent.interrupted, update, why="the system went down before the switch"
            )
            history.close_pending(system, update)
        say("unswitched", f"{update.title} is installed and not switched to: `edge-agent update switch`")
    elif what is UpdateOutcome.waiting:
        say("waiting", f"{update.title} is to be tried at the next boot")
    elif what is UpdateOutcome.unknown:
        say("unknown", f"what became of {update.title} is not known: the boot entries can't be read")
