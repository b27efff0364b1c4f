"""Orders to install an update, from the unprivileged part of the agent to the part that runs as root.

The unprivileged part writes an order file. systemd sees it (edge-fleet-install.path) and starts the other part.
"""

import json
import re
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from osbuild.agent import state_files
from osbuild.agent.errors import Problem
from osbuild.agent.fleet.action_record import ActionRecord
from osbuild.agent.fleet.outcome import UpdateOutcome, load_outcome
from osbuild.agent.system import System
from osbuild.shared.files import write_file

ORDER_FILE = "/run/edge-fleet/order.json"
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
        """Write the order. It is lost at a reboot, and written again. Raises `OSError`."""
        order = InstallOrder(record.order, record.url, record.only_download)
        write_file(self._system.path(ORDER_FILE), json.dumps(asdict(order)).encode() + b"\n", 0o600)

    def cancel(self, record: ActionRecord) -> bool:
        """Take the order back. Return whether that came before the installation."""
        try:
            self._system.path(ORDER_FILE).unlink()
        except FileNotFoundError:
            return False
        return True

    def outcome(self, record: ActionRecord) -> UpdateOutcome | None:
        """Return how the update has ended; None if it has not."""
        return load_outcome(self._system, record.order)


def take_order(system: System, server: str) -> InstallOrder | None:
    """Read and remove the order; None if there is none. Raises `Problem` if it is not one for this server."""
    path = system.path(ORDER_FILE)
    row = state_files.read_object(system, ORDER_FILE, TYPES, tuple(TYPES), links=False)
    path.unlink(missing_ok=True)
    if not row:
        return None
    order = InstallOrder(row["id"], row["url"], row["only_download"])
    if not ORDER_ID.fullmatch(order.id):  # it becomes a part of the history
        raise Problem("the order has no valid id", where=ORDER_FILE)
    own, other = urlsplit(server), urlsplit(order.url)
    if own.scheme != "https" or (own.scheme, own.netloc) != (other.scheme, other.netloc):
        raise Problem("the order names a bundle of another server", where=ORDER_FILE)
    return order
