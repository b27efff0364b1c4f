"""What the update server tells devices (DDI)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from osbuild.fleet.actions import UpdateAction
from osbuild.fleet.bundles import PublishedBundle
from osbuild.fleet.ddi.offer import UpdateOffer
from osbuild.fleet.devices import FleetDevice
from osbuild.fleet.states import ActionKind, ActionState

Document = dict[str, Any]
DAY = 24 * 3600
PART = "os"  # the type of the only chunk
# hawkBit's names for the states of actions, which are not in the specification of DDI.
HISTORY_STATES = {
    ActionState.waiting: "WAIT_FOR_CONFIRMATION", ActionState.running: "RUNNING", ActionState.cancelling: "CANCELING",
    ActionState.downloaded: "DOWNLOADED", ActionState.cancelled: "CANCELED", ActionState.finished: "FINISHED",
    ActionState.failed: "ERROR",
}  # fmt: skip


@dataclass(frozen=True)
class Links:
    """The addresses of one device's resources. `base` is that of its poll, without a slash at the end.

    `artifacts` is where the files of bundles are, by SHA-256; without it, they are resources of the device.
    """

    base: str
    artifacts: str | None = None

    def link(self, path: str) -> dict[str, str]:
        """Return a link to the resource at `path`."""
        return {"href": f"{self.base}/{path}"}


def format_sleep(seconds: int) -> str:
    """Return the time between two polls: HH:MM:SS below a day, ISO 8601 from a day on."""
    parts = {"H": seconds // 3600, "M": seconds // 60 % 60, "S": seconds % 60}
    if seconds >= DAY:
        return "PT" + "".join(f"{number}{unit}" for unit, number in parts.items() if number)
    return ":".join(f"{number:02}" for number in parts.values())


def poll_answer(device: FleetDevice, offer: UpdateOffer, links: Links) -> Document:
    """Return the answer to a poll: what the device must do."""
    todo: Document = {}
    action = offer.action
    if action is not None:
        if action.state is ActionState.cancelling:
            todo["cancelAction"] = links.link(f"cancelAction/{action.id}")
        elif action.state is ActionState.waiting:
            todo["confirmationBase"] = links.link(f"confirmationBase/{action.id}?c={action.kind}")
        else:
            # `c` changes when the answer at this address does, as in hawkBit.
            window = "" if offer.window_open is None else f"-{describe_window(offer.window_open)}"
            todo["deploymentBase"] = links.link(f"deploymentBase/{action.id}?c={action.kind}-{action.state}{window}")
    if device.installed_action is not None:
        todo["installedBase"] = links.link(f"installedBase/{device.installed_action}")
    if device.attributes_wanted:
        todo["configData"] = links.link("configData")
    if device.open_request is not None:  # not part of DDI: other clients ignore it
        todo["request"] = links.link(f"requests/{device.open_request}")
    return {"config": {"polling": {"sleep": format_sleep(offer.sleep)}}, "_links": todo}


def confirmations(device: FleetDevice, waiting: UpdateAction | None, links: Links) -> Document:
    """Return whether updates are confirmed automatically, and the one that waits for a confirmation."""
    verb = "deactivateAutoConfirm" if device.auto_confirm else "activateAutoConfirm"
    todo = {verb: links.link(f"confirmationBase/{verb}")}
    if waiting is not None:
        todo["confirmationBase"] = links.link(f"confirmationBase/{waiting.id}?c={waiting.kind}")
    return {"autoConfirm": {"active": device.auto_confirm}, "_links": todo}


def describe_window(is_open: bool) -> str:
    """Return DDI's word for an open or a closed maintenance window."""
    return "available" if is_open else "unavailable"


def deployment(
    action: UpdateAction, bundle: PublishedBundle, links: Links, *, window_open: bool | None = None
) -> Document:
    """Return the description of an update. `window_open` is None if it is not bound to maintenance windows."""
    handling = "attempt" if action.kind is ActionKind.soft else "forced"
    skipped = action.kind is ActionKind.download_only or window_open is False
    document: Document = {"download": handling, "update": "skip" if skipped else handling}
    if window_open is not None:
        document["maintenanceWindow"] = describe_window(window_open)
    document["chunks"] = [
        {"part": PART, "name": bundle.name, "version": bundle.version, "artifacts": [artifact(bundle, links)]}
    ]
    return {"id": str(action.id), "deployment": document}


def artifact(bundle: PublishedBundle, links: Links) -> Document:
    """Return the description of a bundle's file."""
    path = f"softwaremodules/{bundle.id}/artifacts/{quote(bundle.filename)}"
    elsewhere = None if links.artifacts is None else {"href": f"{links.artifacts}/{bundle.sha256}"}
    return {
        "filename": bundle.filename,
        "hashes": {"sha1": bundle.sha1, "md5": bundle.md5, "sha256": bundle.sha256},
        "size": bundle.size,
        "_links": {"download": elsewhere or links.link(path), "md5sum": links.link(f"{path}.MD5SUM")},
    }


def cancellation(action: UpdateAction) -> Document:
    """Return the order to cancel an action."""
    return {"id": str(action.id), "cancelAction": {"stopId": str(action.id)}}


def with_history(document: Document, action: UpdateAction, messages: Sequence[str]) -> Document:
    """Return a description of an update with messages that were reported about it, if there are any."""
    if not messages:
        return document
    return {**document, "actionHistory": {"status": HISTORY_STATES[action.state], "messages": list(messages)}}
