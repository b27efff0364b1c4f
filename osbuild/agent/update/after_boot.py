"""`edge-agent update boot`: runs at every boot, before Kubernetes starts.

It records the boot, writes the minimum version for RAUC, adapts the cluster data to the image, and determines the
result of the pending update. Records of updates may be missing or damaged; that must never stop a boot. Only cluster
data that could not be restored makes the command fail, because an older Kubernetes would damage them.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from osbuild.agent.update import boot_records, history, minimum_version, pending, records, update_state
from osbuild.agent.update.context import UpdateContext
from osbuild.agent.update.history import UpdateEvent
from osbuild.agent.update.pending import UpdateKind, UpdateStage
from osbuild.agent.update.progress import ProgressEvent
from osbuild.agent.update.update_state import UpdateState

NOTABLE_RESULTS = {"restored", "kept", "problem"}  # results of `reconcile_data` that the history records


def handle_boot(context: UpdateContext) -> int:
    """Handle this boot. Returns 0, or 1 if Kubernetes must not start because its data do not fit the image."""
    system = context.system
    log_failure("this boot cannot be recorded", lambda: boot_records.record_boot(system, context.read_boot()))
    log_failure("the minimum version for RAUC cannot be written", lambda: minimum_version.write_rauc_config(system))
    status, cluster_result = 0, None
    if context.cluster:
        try:
            cluster_result = context.cluster.reconcile_data(system)
        except Exception as error:  # of any kind: Kubernetes must not start then, but the rest of the boot continues
            cluster_result, status = {"problem": str(error)}, 1
    if cluster_result and (cluster_result.keys() & NOTABLE_RESULTS):
        log_failure(
            "the result for the cluster data cannot be recorded", lambda: record_cluster_result(context, cluster_result)
        )
    log_failure("the result of the last update cannot be determined", lambda: finish_pending(context, cluster_result))
    return status


def log_failure(message: str, action: Callable[[], object]) -> None:
    """Call `action`. Print a failure after `message`, and continue."""
    try:
        action()
    except Exception as error:
        print(f"edge-agent: {message}: {error}", file=sys.stderr)


def record_cluster_result(context: UpdateContext, result: dict[str, Any]) -> None:
    """Record the result for the cluster data in the pending update, or as an event of its own. Raises `OSError`."""
    # A power cut before `mark_recorded` makes `reconcile_data` report the same result recorded at the next boot.
    print(f"cluster: {json.dumps(result)}", flush=True)
    last = next(iter(history.read_history(context.system)[-1:]), {}).get("cluster")
    recorded = isinstance(last, dict) and "restored" in result and last.get("restored") == result["restored"]
    if update := pending.load_pending(context.system):
        pending.save_pending(context.system, replace(update, cluster={**update.cluster, **result}))
    elif not recorded:
        history.append_event(context.system, UpdateEvent.cluster, None, cluster=result)
    if context.cluster:
        context.cluster.mark_recorded(context.system)


def finish_pending(context: UpdateContext, cluster_result: dict[str, Any] | None) -> None:
    """Determine the result of the pending update, record it, and close the update if it has ended.

    `cluster_result` is the result for the cluster data in this boot. Raises `OSError`.
    """
    system, update = context.system, pending.load_pending(context.system)
    if update is None:
        records.discard_download(system)  # of an installation that ended before this boot
        return
    boot = context.read_boot()
    state = update_state.find_state(update, boot, context.boot_loader.next_slot(system))
    if state is UpdateState.waiting and update_state.was_skipped(update, records.read_boot_id(system)):
        state, update = UpdateState.rolled_back, replace(update, verdict=update_state.SKIPPED)
    report = context.progress.report_event
    if state is UpdateState.trial:
        if update.stage is not UpdateStage.switched:  # somebody else switched, such as `rauc status mark-active other`
            pending.save_pending(system, replace(update, stage=UpdateStage.switched))
        if abandoned := pending.abandoned_update(update):
            history.append_event(system, UpdateEvent.rolled_back, abandoned, why="manual rollback")
        report(ProgressEvent.trial, f"{update.title} is on trial")
    elif state is UpdateState.interrupted:
        history.append_event(
            system, UpdateEvent.interrupted, update, why="the device went down while the slot was written"
        )
        pending.clear_pending(system)
        report(
            ProgressEvent.interrupted,
            f"{update.title} was not installed: the device went down while the slot was written",
        )
    elif state is UpdateState.rolled_back:
        why = update.verdict or update_state.explain_rollback(context, update)
        # The reason is stored before the tries are removed, because it cannot be determined without them.
        pending.save_pending(system, replace(update, verdict=why))
        if any(entry.slot == update.target and entry.left != 0 for entry in boot.others):
            context.boot_loader.reject(system, update.target)
        history.append_event(
            system,
            UpdateEvent.rolled_back,
            update,
            why=why,
            cluster={**update.cluster, **(cluster_result or {})},
        )
        history.close_pending(system, update)
        report(ProgressEvent.rolled_back, f"{update.title} was rolled back: {why}")
    elif state is UpdateState.unswitched and update.stage is UpdateStage.switched:
        if update.kind is UpdateKind.update:
            pending.save_pending(system, replace(update, stage=UpdateStage.installed))
        else:
            history.append_event(system, UpdateEvent.interrupted, update, why="the device went down before the switch")
            history.close_pending(system, update)
        report(
            ProgressEvent.unswitched, f"{update.title} is installed but not switched to; run `edge-agent update switch`"
        )
    elif state is UpdateState.waiting:
        report(ProgressEvent.waiting, f"{update.title} will be tried at the next boot")
    elif state is UpdateState.unknown:
        report(ProgressEvent.unknown, f"the result of {update.title} is unknown: the boot entries cannot be read")
