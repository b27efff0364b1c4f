"""Orders to install an update, from the unprivileged part of the agent to the part that runs as root.

The unprivileged part writes an order file. systemd sees it (edge-fleet-install.path) and starts the other part.
"""

import json
import re
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from osbuild.agent import state_files
from osbuild.agent.errors import Problem
from osbuild.agent.fleet import cancellation
from osbuild.agent.fleet.action_record import ActionRecord
from osbuild.agent.fleet.outcome import UpdateOutcome, load_outcome
from osbuild.agent.system import System
from osbuild.shared.files import make_folder, write_file

ORDER_FILE = "/run/edge-fleet/order.json"
TAKEN_FILE = "/run/edge-fleet-outcome/taken.json"  # in a folder of root
ORDER_ID = re.compile(r"[0-9a-f-]{36}")  # a UUID
TYPES = {"id": str, "url": str, "only_download": bool}


@dataclass(frozen=True)
class InstallOrder:
    """An order to install the bundle at `url`, and to boot it unless `only_download`. `id` is that of the record."""

    id: str
    url: str
    only_download: bool = False


class OrderedInstaller:
    """Has updates installed by the part of the agent that runs as root."""

    def __init__(self, system: System) -> None:
        self._system = system

    def order(self, record: ActionRecord) -> None:
        """Write the order, unless root has it already. It is lost at a reboot, and written again. Raises `OSError`."""
        if not self.has_begun(record):
            order = InstallOrder(record.order, record.url, record.only_download)
            write_file(self._system.path(ORDER_FILE), json.dumps(asdict(order)).encode() + b"\n", 0o600)

    def cancel(self, record: ActionRecord) -> bool:
        """Take the order back. Return False if root has it."""
        self._system.path(ORDER_FILE).unlink(missing_ok=True)  # after this, root cannot take it any more
        if self.has_begun(record) or cancellation.is_switching(self._system, record.order):
            return False
        cancellation.forget_cancellation(self._system)
        return True

    def stop(self, record: ActionRecord) -> bool:
        """Ask root to stop carrying out the order. Return False if it is too late; otherwise `cancel` succeeds soon."""
        return self.outcome(record) is None and cancellation.request_cancellation(self._system, record.order)

    def has_begun(self, record: ActionRecord) -> bool:
        """Whether root carries the order out, or has done so since the last start of the device."""
        taken = state_files.read_object(self._system, TAKEN_FILE, TYPES, tuple(TYPES))
        return taken.get("id") == record.order or self.outcome(record) is not None

    def outcome(self, record: ActionRecord) -> UpdateOutcome | None:
        """Return how the update has ended; None if it has not."""
        return load_outcome(self._system, record.order)


def take_order(system: System, server: str) -> InstallOrder | None:
    """Take the order; None if there is none. Raises `Problem` if it is not one for this server.

    `forget_taken_order` lets the unprivileged part write it again, if it has no outcome.
    """
    taken = system.path(TAKEN_FILE)
    make_folder(taken.parent, 0o755)
    try:
        system.path(ORDER_FILE).rename(taken)  # at once, so that an order is either taken or cancelled
    except FileNotFoundError:
        return None
    row = state_files.read_object(system, TAKEN_FILE, TYPES, tuple(TYPES), links=False)
    if not row:
        taken.unlink(missing_ok=True)
        return None
    order = InstallOrder(row["id"], row["url"], row["only_download"])
    if not ORDER_ID.fullmatch(order.id):  # it becomes a part of the history
        raise Problem("the order has no valid id", where=ORDER_FILE)
    own, other = urlsplit(server), urlsplit(order.url)
    if own.scheme != "https" or (own.scheme, own.netloc) != (other.scheme, other.netloc):
        raise Problem("the order names a bundle of another server", where=ORDER_FILE)
    return order


def forget_taken_order(system: System) -> None:
    """Remove the order that was taken, when it has ended; one that was not taken too. Raises `OSError`."""
    # What has no outcome is written again, so nothing is lost, and systemd does not start again at once.
    system.path(ORDER_FILE).unlink(missing_ok=True)
    system.path(TAKEN_FILE).unlink(missing_ok=True)
